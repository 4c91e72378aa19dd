//! Formats times.

use std::time::SystemTime;

/// Formats a time as RFC 3339, in UTC and whole seconds.
pub(crate) fn rfc3339(time: SystemTime) -> Option<String> {
    let time = jiff::Timestamp::try_from(time).ok()?;
    jiff::Timestamp::from_second(time.as_second()).ok().map(|time| time.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_is_in_utc_and_whole_seconds() {
        let then = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_900);
        assert_eq!(rfc3339(then).as_deref(), Some("1970-01-12T13:46:40Z"));
    }
}
