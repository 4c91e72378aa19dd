//! How a rotation is to be done.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use kms_core::UpdateRight;

/// How long the old KEK stays valid unless something else is asked for.
const GRACE: Duration = Duration::from_secs(600);
/// The longest time for which a write that was sent is taken to be still under way to its server.
const MOST_UNDER_WAY: Duration = Duration::from_secs(60);

/// How a rotation is to be done.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// How long the old KEK goes on opening the devices after the new one is stored, so that an OSD which has
    /// fetched the old one and not yet used it can start. Zero: not at all.
    pub grace: Duration,
    /// Whether to wait for the end of the grace. Otherwise the next run removes the old key slots.
    pub wait: bool,
    /// Whether only to finish what was begun, without making a new KEK.
    pub finish_only: bool,
    /// Whether superseded versions of the KEK in the KMS are destroyed or disabled at the end.
    pub destroy_superseded: bool,
    /// Whether to say only what would be done.
    pub dry_run: bool,
    /// What [`KmsProvider::may_update`](kms_core::KmsProvider::may_update) has said of this key, if it was asked
    /// already, for many keys at once.
    pub right: Option<UpdateRight>,
    clock: Clock,
}

/// Where the time of day comes from.
type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

impl Options {
    /// The same with another clock, which is compared with the times that the KMS notes.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    pub(crate) fn now(&self) -> SystemTime {
        (self.clock)()
    }

    /// How long to let pass before a KMS without atomic updates is taken to have got all that was sent to it.
    pub(crate) fn under_way(&self) -> Duration {
        self.grace.min(MOST_UNDER_WAY)
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
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { grace, wait, finish_only, destroy_superseded, dry_run, right, clock: _ } = self;
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
