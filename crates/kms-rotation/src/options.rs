//! The options of a rotation.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use kms_core::UpdateRight;
use tokio::time::{Instant, sleep_until};

/// The default grace period.
const GRACE: Duration = Duration::from_secs(600);
/// The longest time that a write can be in flight to its server.
const MOST_IN_FLIGHT: Duration = Duration::from_secs(60);

/// The options of a rotation.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// The grace period: how long the old KEK opens the devices after the new one is stored, so that an OSD which has
    /// fetched the old KEK can start. With zero the old slots are removed at once.
    pub grace: Duration,
    /// Whether to wait for the end of the grace period. Otherwise the next run removes the old key slots.
    pub wait: bool,
    /// Whether only to finish an earlier rotation, without making a new KEK.
    pub finish_only: bool,
    /// Whether to destroy or disable superseded versions of the KEK in the KMS at the end.
    pub destroy_superseded: bool,
    /// Whether to report only what the rotation would do.
    pub dry_run: bool,
    /// The answer of [`KmsProvider::may_update`](kms_core::KmsProvider::may_update) for this key. `None` if the
    /// rotation has to ask.
    pub right: Option<UpdateRight>,
    clock: Clock,
    pub(crate) timer: Arc<dyn Timer>,
}

/// The source of the time of day.
type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The timer of the pauses of a rotation.
#[async_trait]
pub trait Timer: Send + Sync {
    /// The present moment, on a clock that is never set.
    fn now(&self) -> Instant;

    /// Returns at this moment or after it.
    async fn sleep_until(&self, end: Instant);
}

/// The timer of tokio.
pub(crate) struct TokioTimer;

#[async_trait]
impl Timer for TokioTimer {
    fn now(&self) -> Instant {
        Instant::now()
    }

    async fn sleep_until(&self, end: Instant) {
        sleep_until(end).await;
    }
}

impl Options {
    /// Sets the clock for the time of day, which the rotation compares with the times that the KMS records.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets the timer of the pauses.
    #[must_use]
    pub fn with_timer(mut self, timer: Arc<dyn Timer>) -> Self {
        self.timer = timer;
        self
    }

    pub(crate) fn now(&self) -> SystemTime {
        (self.clock)()
    }

    /// How long to wait for writes in flight to a KMS without compare-and-set.
    pub(crate) fn in_flight(&self) -> Duration {
        self.grace.min(MOST_IN_FLIGHT)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            grace: GRACE,
            wait: true,
            finish_only: false,
            destroy_superseded: false,
            dry_run: false,
            right: None,
            clock: Arc::new(SystemTime::now),
            timer: Arc::new(TokioTimer),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { grace, wait, finish_only, destroy_superseded, dry_run, right, clock: _, timer: _ } = self;
        f.debug_struct("Options")
            .field("grace", grace)
            .field("wait", wait)
            .field("finish_only", finish_only)
            .field("destroy_superseded", destroy_superseded)
            .field("dry_run", dry_run)
            .field("right", right)
            .finish_non_exhaustive()
    }
}
