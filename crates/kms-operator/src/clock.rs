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

/// A time without fractions of a second, as in metadata of Kubernetes.
pub(crate) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    /// The files of Rust code below a folder.
    fn sources(folder: &Path) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(sources(&path));
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
            }
        }
        found
    }

    #[test]
    fn no_code_of_the_operator_reads_the_time_of_the_host() {
        let files = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
        assert!(files.len() > 15, "{}", files.len());
        for (file, text) in files {
            for reader in ["SystemTime", "Timestamp", "Zoned", "Utc", "Local"] {
                let call = format!("{reader}::now(");
                assert!(!text.contains(&call), "{file} calls {call}): decide by Clock::now");
            }
        }
    }
}
