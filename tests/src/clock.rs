//! A clock for rotations that is faster than real time, so that no test waits for a grace period.

use std::time::Duration;

use async_trait::async_trait;
use kms_rotation::Timer;
use tokio::time::{Instant, sleep_until};

/// How many times faster than real time the clock is: a minute passes in half a second.
///
/// A grace period also covers writes that are in flight when a process is killed. Our servers are on the loopback, so
/// such a write arrives within some milliseconds, long before the end of half a second.
pub const HURRY: u32 = 120;

/// A timer whose time passes [`HURRY`] times as fast as real time.
#[derive(Clone, Copy, Debug)]
pub struct Hurried {
    begin: Instant,
}

impl Hurried {
    /// A timer that begins now.
    #[must_use]
    pub fn new() -> Self {
        Self { begin: Instant::now() }
    }

    /// The real time that a pause of this length takes.
    #[must_use]
    pub fn real(pause: Duration) -> Duration {
        pause / HURRY
    }
}

impl Default for Hurried {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Timer for Hurried {
    fn now(&self) -> Instant {
        self.begin + self.begin.elapsed() * HURRY
    }

    async fn sleep_until(&self, end: Instant) {
        sleep_until(self.begin + Self::real(end.saturating_duration_since(self.begin))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_minute_passes_in_half_a_second() {
        let (timer, begin) = (Hurried::new(), Instant::now());
        let end = timer.now() + Duration::from_secs(60);
        timer.sleep_until(end).await;
        assert!(timer.now() >= end);
        assert_eq!(begin.elapsed(), Duration::from_millis(500));
        // A moment that has passed.
        timer.sleep_until(begin).await;
        assert_eq!(begin.elapsed(), Duration::from_millis(500));
    }
}
