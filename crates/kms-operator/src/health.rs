//! Whether the operator works: what its HTTP server, its tests and its logs look at.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The number of errors that are kept.
const ERRORS: usize = 16;

/// Whether this replica acts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Role {
    /// It holds the Lease, and acts.
    Leading,
    /// Another replica holds the Lease, or none does.
    #[default]
    Standby,
}

/// The health of a replica. Clones share it.
#[derive(Clone, Debug)]
pub struct Health {
    state: Arc<Mutex<State>>,
    limit: Duration,
}

#[derive(Debug)]
struct State {
    /// The stores that are watched, and whether each has a complete list.
    synced: BTreeMap<String, bool>,
    role: Role,
    polled: Instant,
    /// When each loop ended its last pass, or began.
    reconciled: BTreeMap<String, Instant>,
    reconciles: u64,
    holder: Option<String>,
    /// The last errors, each once, the newest at the end.
    errors: VecDeque<String>,
}

impl Health {
    /// The health of a replica that starts now. A loop that does nothing for `limit` counts as stuck.
    pub fn new(limit: Duration) -> Self {
        let state = State {
            synced: BTreeMap::new(),
            role: Role::Standby,
            polled: Instant::now(),
            reconciled: BTreeMap::new(),
            reconciles: 0,
            holder: None,
            errors: VecDeque::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), limit }
    }

    /// Whether every store has a complete list. A standby is ready too.
    pub fn is_ready(&self) -> bool {
        let state = self.state();
        !state.synced.is_empty() && state.synced.values().all(|synced| *synced)
    }

    /// Whether the loops of the replica go on: that of the Lease, and that of each namespace. An API server that does not
    /// respond does not count, since a new start of the process would not help.
    pub fn is_live(&self) -> bool {
        let state = self.state();
        let recent = |at: &Instant| at.elapsed() < self.limit;
        recent(&state.polled) && state.reconciled.values().all(recent)
    }

    /// Whether this replica acts.
    pub fn role(&self) -> Role {
        self.state().role
    }

    /// The number of passes over a namespace since the start.
    pub fn reconciles(&self) -> u64 {
        self.state().reconciles
    }

    /// The replica that held the Lease when this one last looked.
    pub fn holder(&self) -> Option<String> {
        self.state().holder.clone()
    }

    /// The last error. It holds no secrets.
    pub fn last_error(&self) -> Option<String> {
        self.state().errors.back().cloned()
    }

    /// The last errors, each once, the newest at the end.
    pub fn errors(&self) -> Vec<String> {
        self.state().errors.iter().cloned().collect()
    }

    /// The stores that lack a complete list, such as `osdkeys of rook-ceph`.
    pub fn unsynced(&self) -> Vec<String> {
        let state = self.state();
        state.synced.iter().filter(|(_, synced)| !**synced).map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn expect_store(&self, name: &str) {
        self.state().synced.insert(name.to_owned(), false);
    }

    /// Expects passes over a namespace from now on: one that never ends its first pass is stuck too.
    pub(crate) fn expect_loop(&self, kube_namespace: &str) {
        self.state().reconciled.insert(kube_namespace.to_owned(), Instant::now());
    }

    pub(crate) fn store_synced(&self, name: &str) {
        self.state().synced.insert(name.to_owned(), true);
    }

    pub(crate) fn polled(&self, role: Role) {
        let mut state = self.state();
        state.polled = Instant::now();
        state.role = role;
    }

    pub(crate) fn saw_holder(&self, holder: &str) {
        self.state().holder = (!holder.is_empty()).then(|| holder.to_owned());
    }

    pub(crate) fn reconciled(&self, kube_namespace: &str) {
        let mut state = self.state();
        state.reconciles = state.reconciles.saturating_add(1);
        state.reconciled.insert(kube_namespace.to_owned(), Instant::now());
    }

    pub(crate) fn failed(&self, error: impl Into<String>) {
        let (error, mut state) = (error.into(), self.state());
        state.errors.retain(|known| *known != error);
        state.errors.push_back(error);
        if state.errors.len() > ERRORS {
            state.errors.pop_front();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_ready_once_every_store_is_complete() {
        let health = Health::new(Duration::from_secs(60));
        assert!(!health.is_ready());
        health.expect_store("a");
        health.expect_store("b");
        health.store_synced("a");
        assert_eq!((health.is_ready(), health.unsynced()), (false, vec!["b".to_owned()]));
        health.store_synced("b");
        assert!(health.is_ready());
        assert_eq!(health.role(), Role::Standby);
    }

    #[test]
    fn the_last_errors_are_kept_each_once() {
        let health = Health::new(Duration::from_secs(60));
        assert_eq!(health.last_error(), None);
        for number in 0..ERRORS + 4 {
            health.failed(number.to_string());
            health.failed("again");
        }
        assert_eq!((health.errors().len(), health.last_error().as_deref()), (ERRORS, Some("again")));
        assert_eq!(health.errors().iter().filter(|error| *error == "again").count(), 1);
    }

    #[test]
    fn a_loop_that_stands_still_is_not_live() {
        let limit = Duration::from_secs(60);
        // Each loop alone; one of them has not ended its first pass.
        let stuck: [fn(&mut State) -> &mut Instant; 3] = [
            |state| &mut state.polled,
            |state| state.reconciled.get_mut("rook-ceph").unwrap(),
            |state| state.reconciled.get_mut("other").unwrap(),
        ];
        for last in stuck {
            let health = Health::new(limit);
            health.expect_loop("rook-ceph");
            health.expect_loop("other");
            health.reconciled("rook-ceph");
            assert!(health.is_live());
            let mut state = health.state();
            let since = last(&mut state);
            *since = since.checked_sub(limit).unwrap();
            drop(state);
            assert!(!health.is_live());
        }
    }
}
