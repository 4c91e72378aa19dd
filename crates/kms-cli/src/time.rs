//! Formats times.

use std::time::SystemTime;

/// Formats a time as RFC 3339, in UTC and whole seconds.
pub(crate) fn rfc3339(time: SystemTime) -> Option<String> {
    let time = jiff::Timestamp::try_from(time).ok()?;
    jiff::Timestamp::from_second(time.as_second()).ok().map(|time| time.to_string())
}

/// The time between two moments, in its largest unit: `12s`, `5m`, `7h`, `40d`.
pub(crate) fn age(now: SystemTime, then: SystemTime) -> String {
    // Our clock and the server's may differ: a time in the future counts as now.
    let seconds = now.duration_since(then).unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_age_has_one_unit() {
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (7_199, "1h"), (86_400 * 40, "40d")] {
            assert_eq!(age(then + Duration::from_secs(seconds), then), text);
        }
        assert_eq!(age(then, then + Duration::from_secs(5)), "0s");
        assert_eq!(rfc3339(then).as_deref(), Some("1970-01-12T13:46:40Z"));
    }
}
