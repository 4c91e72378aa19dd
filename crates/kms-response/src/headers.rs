//! Headers of responses: how long to wait, and the time of the server.

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap,
    header::{DATE, HeaderName, RETRY_AFTER},
};
use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use kms_core::clock::ServerClock;

/// How long the server asks the client to wait (`Retry-After`, RFC 9110 §10.2.3): seconds, or a date, as gateways send
/// it. `None` if the header is absent or malformed.
///
/// A date in the past is no wait. The server's own clock decides, if the response shows it.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = text(headers, &RETRY_AFTER)?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = http_date(text)?;
    let now = date(headers).unwrap_or_else(Timestamp::now);
    Some(Duration::try_from(until.duration_since(now)).unwrap_or_default())
}

/// Records the time of the server, in whole seconds (`Date`), if the response shows it.
pub fn record_time(clock: &ServerClock, headers: &HeaderMap) {
    if let Some(text) = text(headers, &DATE) {
        clock.record(text, |text| http_date(text).map(SystemTime::from));
    }
}

fn date(headers: &HeaderMap) -> Option<Timestamp> {
    http_date(text(headers, &DATE)?)
}

/// Parses a date of HTTP, such as `Sun, 06 Nov 1994 08:49:37 GMT`. `None` for the obsolete forms.
fn http_date(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text).ok()
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
        assert_eq!(wait(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:26:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("-1"), None);
        assert_eq!(wait("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
        // Without the server's time, our clock measures a date.
        let ours = |text| retry_after(&headers(&[(RETRY_AFTER, text)]));
        assert_eq!(ours("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let clock = ServerClock::default();
        record_time(&clock, &headers(&[(DATE, "yesterday")]));
        assert_eq!(clock.now(), None);
        record_time(&clock, &headers(&[(DATE, "Wed, 21 Oct 2015 07:27:00 GMT")]));
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_420);
        let since = clock.now().unwrap().duration_since(time).unwrap();
        assert!(since < Duration::from_secs(3600), "{since:?}");
    }
}
