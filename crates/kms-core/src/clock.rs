//! How far the clock of this host is from that of a server, and ages in words.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// Clocks that differ by less are as good as equal: servers show whole seconds, and a response takes some time.
const TOLERANCE: Duration = Duration::from_secs(60);

/// The difference between the clock of this host and that of a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClockDifference {
    seconds: u64,
    is_ahead: bool,
}

impl ClockDifference {
    /// The difference between two moments that should be the same one.
    pub fn between(ours: SystemTime, theirs: SystemTime) -> Self {
        match ours.duration_since(theirs) {
            Ok(ahead) => Self { seconds: ahead.as_secs(), is_ahead: true },
            Err(behind) => Self { seconds: behind.duration().as_secs(), is_ahead: false },
        }
    }

    /// Whether tokens and certificates may be used at a wrong time because of it.
    pub fn is_wrong(self) -> bool {
        self.seconds >= TOLERANCE.as_secs()
    }
}

impl fmt::Display for ClockDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.is_ahead { "ahead of" } else { "behind" };
        write!(f, "{} s {direction}", self.seconds)
    }
}

/// The time between two moments, in its largest unit: `12s`, `5m`, `7h`, `40d`.
pub fn age(now: SystemTime, then: SystemTime) -> String {
    // Our clock and the server's may differ: a time in the future counts as now.
    let seconds = now.duration_since(then).unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The clock of a server, as its last response has shown it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct ServerClock(Arc<Mutex<Option<Shown>>>);

/// A moment in three clocks.
#[derive(Clone, Debug)]
struct Shown {
    /// The moment as the response showed it.
    text: String,
    theirs: SystemTime,
    ours: SystemTime,
    monotonic: Instant,
}

impl ServerClock {
    /// Records the time that a response shows, at this moment. `text` is that time as the response has it, and `read`
    /// makes a time of it; a text that is no time is ignored.
    ///
    /// A server shows whole seconds: the first response that shows one comes closest to it, and the others say nothing new.
    pub fn record(&self, text: &str, read: impl FnOnce(&str) -> Option<SystemTime>) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.as_ref().is_some_and(|shown| shown.text == text) {
            return;
        }
        if let Some(theirs) = read(text) {
            let (ours, monotonic) = (SystemTime::now(), Instant::now());
            *shown = Some(Shown { text: text.to_owned(), theirs, ours, monotonic });
        }
    }

    /// The last difference; `None` if no response has shown the time of the server.
    pub fn difference(&self) -> Option<ClockDifference> {
        self.shown().map(|shown| ClockDifference::between(shown.ours, shown.theirs))
    }

    /// The time of the server now; `None` if no response has shown it. The time since that response is measured by the
    /// monotonic clock, so the result does not depend on the time that this host has.
    pub fn now(&self) -> Option<SystemTime> {
        self.shown().map(|shown| shown.theirs + shown.monotonic.elapsed())
    }

    fn shown(&self) -> Option<Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_one_unit() {
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (7_199, "1h"), (86_400 * 40, "40d")] {
            assert_eq!(age(then + Duration::from_secs(seconds), then), text);
        }
        assert_eq!(age(then, then + Duration::from_secs(5)), "0s");
    }

    #[test]
    fn a_wrong_clock_is_named_with_its_direction() {
        let theirs = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds: i64| {
            let by = Duration::from_secs(seconds.unsigned_abs());
            let ours = if seconds < 0 { theirs - by } else { theirs + by };
            let difference = ClockDifference::between(ours, theirs);
            (difference.is_wrong(), difference.to_string())
        };
        assert_eq!(at(600), (true, "600 s ahead of".to_owned()));
        assert_eq!(at(-60), (true, "60 s behind".to_owned()));
        assert!(!at(-59).0 && !at(59).0);
    }

    #[test]
    fn a_text_that_is_no_time_changes_nothing() {
        let clock = ServerClock::default();
        clock.record("soon", |_| None);
        assert_eq!((clock.difference(), clock.now()), (None, None));
        clock.record("1970", |_| Some(SystemTime::UNIX_EPOCH));
        clock.clone().record("soon", |_| None);
        assert!(clock.difference().is_some_and(ClockDifference::is_wrong));
        // Decades behind this host, and so is the time from it.
        let since = clock.now().unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert!(since < Duration::from_secs(3600), "{since:?}");
    }

    #[test]
    fn the_first_response_of_a_second_counts_and_the_next_second_again() {
        let clock = ServerClock::default();
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        clock.record("8:00", |_| at(8));
        clock.record("8:00", |_| panic!("nothing new"));
        clock.record("9:00", |text| (text == "9:00").then(|| at(9_000)).flatten());
        let now = clock.now().unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert!(now >= Duration::from_secs(9_000), "{now:?}");
    }
}
