//! The double's clock, and its random numbers.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::quirks::Pace;

/// A clock that a test can move.
pub(super) struct Clock {
    pace: Pace,
    /// The time at `since`, in milliseconds of the Unix epoch.
    at: u64,
    since: Instant,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Clock {
    pub(super) fn new(pace: Pace) -> Self {
        let at = millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        Self { pace, at, since: Instant::now() }
    }

    /// The time in milliseconds of the Unix epoch.
    pub(super) fn millis(&self) -> u64 {
        self.at + millis(self.since.elapsed() * self.pace.factor())
    }

    /// The time in whole seconds, as it stands in messages.
    pub(super) fn seconds(&self) -> i64 {
        (self.millis() / 1000).cast_signed()
    }

    /// Begins a request: takes over a changed pace, and takes a step.
    pub(super) fn request(&mut self, pace: Pace) {
        if pace != self.pace {
            (self.at, self.since) = (self.millis(), Instant::now());
            self.pace = pace;
        }
        if let Pace::Step(step) = pace {
            self.advance(step);
        }
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.at += millis(by);
    }
}

/// A random number.
pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
