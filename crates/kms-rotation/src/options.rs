//! The options of a rotation.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use kms_core::UpdateRight;
use tokio::time::{Instant, sleep_until};

use crate::{SightStore, Unchanged, Unkept};

/// The default grace period.
const GRACE: Duration = Duration::from_secs(600);
/// The longest time that a write which was sent can be on its way, and the shortest time for which slots must have been
/// unchanged before a leftover goes.
///
/// 20 s is the time limit of an attempt (`kms_core::layer::LayerOptions`), so no client of ours sends longer. A server
/// may work on a request whose client is gone: Vault for 90 s (`default_max_request_duration`), which is the longest of
/// the servers that we know. Rook's calls of cryptsetup have the same limit of 90 s each (rook-behaviour §8.8).
const IN_FLIGHT: Duration = Duration::from_secs(120);

/// The options of a rotation.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// The grace period: how long the old KEK opens the devices after the new one is stored, so that an OSD which has
    /// fetched the old KEK can start. With zero the old slots are removed at once.
    ///
    /// Two minutes is the least with a KMS that has no compare-and-set, and for leftover slots of other runs, since a
    /// write of another program may still be on its way.
    pub grace: Duration,
    /// Whether key slots that an earlier rotation has left stay for the grace period of that rotation, where the host has
    /// [kept](SightStore) it, instead of for [`grace`](Self::grace).
    pub inherit_grace: bool,
    /// Whether to wait for the end of the grace period. Otherwise a later run removes the old key slots.
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
    pub(crate) sights: Arc<dyn SightStore>,
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
    /// Sets the clock for the time of day. No slot is removed on what it says.
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

    /// Sets the memory from one run to the next. Without it, a run that does not wait removes no leftover slots.
    #[must_use]
    pub fn with_sights(mut self, sights: Arc<dyn SightStore>) -> Self {
        self.sights = sights;
        self
    }

    pub(crate) fn now(&self) -> SystemTime {
        (self.clock)()
    }

    /// The grace period, but no shorter than a write can be on its way.
    pub(crate) fn safe_grace(&self) -> Duration {
        self.grace.max(IN_FLIGHT)
    }

    /// How long slots must have stayed unchanged that the host knows of.
    pub(crate) fn needed(&self, known: Option<Unchanged>) -> Duration {
        let inherited = known.filter(|_| self.inherit_grace).map(|known| known.grace);
        inherited.unwrap_or(self.grace).max(IN_FLIGHT)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            grace: GRACE,
            inherit_grace: false,
            wait: true,
            finish_only: false,
            destroy_superseded: false,
            dry_run: false,
            right: None,
            clock: Arc::new(SystemTime::now),
            timer: Arc::new(TokioTimer),
            sights: Arc::new(Unkept),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            grace,
            inherit_grace,
            wait,
            finish_only,
            destroy_superseded,
            dry_run,
            right,
            clock: _,
            timer: _,
            sights: _,
        } = self;
        f.debug_struct("Options")
            .field("grace", grace)
            .field("inherit_grace", inherit_grace)
            .field("wait", wait)
            .field("finish_only", finish_only)
            .field("destroy_superseded", destroy_superseded)
            .field("dry_run", dry_run)
            .field("right", right)
            .finish_non_exhaustive()
    }
}
