//! Headers of responses: how long to wait, and the time of the server.

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap,
    header::{DATE, HeaderName, RETRY_AFTER},
};
use k8s_openapi::jiff::{Timestamp, fmt::rfc2822::DateTimeParser};

/// The time that `Retry-After` asks for. The API server sends seconds, a load balancer before it may send a date.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = text(headers, &RETRY_AFTER)?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = date(headers, &DATE).unwrap_or_else(Timestamp::now);
    Some(Duration::try_from(date(headers, &RETRY_AFTER)?.duration_since(now)).unwrap_or_default())
}

/// The time that the API server shows. `None` if it shows none.
pub(crate) fn server_time(headers: &HeaderMap) -> Option<SystemTime> {
    date(headers, &DATE).map(SystemTime::from)
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
    fn a_wait_is_seconds_or_a_date_and_the_time_of_the_server_a_date() {
        let wait =
            |text| retry_after(&headers(&[(DATE, "Wed, 21 Oct 2015 07:27:00 GMT"), (RETRY_AFTER, text)]));
        assert_eq!(wait("1"), Some(Duration::from_secs(1)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:26:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("-1"), None);
        assert_eq!(wait("soon"), None);
        let of = |text| server_time(&headers(&[(DATE, text)]));
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_420);
        assert_eq!((of("Wed, 21 Oct 2015 07:27:00 GMT"), of("yesterday")), (Some(time), None));
    }
}
