//! The time by which the operator decides: that of the API server.
//!
//! Nothing in this crate reads the time of the host, so replicas whose hosts differ by an hour decide alike.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use kms_core::clock::ServerClock;
use kms_kube::Connection;

/// The clock of the API server. Clones share it.
#[derive(Clone, Debug)]
pub struct Clock {
    server: ServerClock,
    /// Seconds that are added.
    shift: Arc<AtomicI64>,
}

impl Clock {
    /// The clock that the responses to a connection show.
    pub fn of(connection: &Connection) -> Self {
        Self { server: connection.server_clock(), shift: Arc::default() }
    }

    /// Moves the clock ahead. It is for tests, which would wait for schedules and back-offs otherwise.
    pub fn advance(&self, by: Duration) {
        self.shift.fetch_add(i64::try_from(by.as_secs()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// The time now; `None` before the first response.
    pub fn now(&self) -> Option<Timestamp> {
        let shown = Timestamp::try_from(self.server.now()?).ok()?;
        shown.checked_add(SignedDuration::from_secs(self.shift.load(Ordering::SeqCst))).ok()
    }
}
