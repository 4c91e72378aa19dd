//! Headers of responses: how long to wait, and how far the clocks are apart.

use std::time::Duration;

use http::{
    HeaderMap,
    header::{DATE, HeaderName, RETRY_AFTER},
};
use k8s_openapi::jiff::{Timestamp, fmt::rfc2822::DateTimeParser};

/// Clocks that differ by less are as good as equal.
const SKEW: Duration = Duration::from_secs(60);

/// The time that `Retry-After` asks for. The API server sends seconds, a load balancer before it may send a date.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = text(headers, &RETRY_AFTER)?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = date(headers, &DATE).unwrap_or_else(Timestamp::now);
    Some(Duration::try_from(date(headers, &RETRY_AFTER)?.duration_since(now)).unwrap_or_default())
}

/// How wrong the clock of this host is, measured by the API server's. `None` if they agree, or the server shows no time.
pub(crate) fn clock_skew(headers: &HeaderMap, now: Timestamp) -> Option<String> {
    let theirs = date(headers, &DATE)?;
    let skew = now.duration_since(theirs);
    if skew.unsigned_abs() < SKEW {
        return None;
    }
    let direction = if skew.is_positive() { "ahead of" } else { "behind" };
    Some(format!(
        "the clock of this host is {} s {direction} the API server's, so it renews its token at the wrong time; set it \
         right",
        skew.unsigned_abs().as_secs()
    ))
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text(headers, name)?).ok()
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    Some(headers.get(name)?.to_str().ok()?.trim())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        let wait =
            |text| retry_after(&headers(&[(DATE, "Wed, 21 Oct 2015 07:27:00 GMT"), (RETRY_AFTER, text)]));
        assert_eq!(wait("1"), Some(Duration::from_secs(1)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:26:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("-1"), None);
        assert_eq!(wait("soon"), None);
    }

    #[test]
    fn a_wrong_clock_is_named_with_its_direction() {
        let at = |text: &'static str| {
            let now: Timestamp = "2015-10-21T07:28:00Z".parse().unwrap();
            clock_skew(&headers(&[(DATE, text)]), now)
        };
        assert_eq!(at("Wed, 21 Oct 2015 07:28:30 GMT"), None);
        assert_eq!(at("yesterday"), None);
        assert!(at("Wed, 21 Oct 2015 07:18:00 GMT").unwrap().contains("600 s ahead of"));
        assert!(at("Wed, 21 Oct 2015 07:38:00 GMT").unwrap().contains("600 s behind"));
    }
}
