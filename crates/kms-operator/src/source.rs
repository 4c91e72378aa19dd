//! The seam between the controller and what people see: everything is computed from these at the moment of a request, so
//! that there is no second state.

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::Timestamp;

use crate::{
    clock::Clock,
    health::{Health, Role},
    view::{ClusterView, Views},
};

/// What the controller knows.
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// The clusters that the operator has taken over, by namespace.
    fn clusters(&self) -> Arc<BTreeMap<String, ClusterView>>;

    /// How this replica is.
    fn state(&self) -> ReplicaState;

    /// The time that ages are measured at, which is that of the API server; `None` before its first response.
    fn now(&self) -> Option<Timestamp>;
}

/// How one replica of the operator is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ReplicaState {
    /// The reason why the process should be restarted; `None` if it works.
    pub dead: Option<String>,
    /// The reason why the replica is not ready; `None` if it is. A standby is ready.
    pub unready: Option<String>,
    /// Whether this replica leads.
    pub is_leader: bool,
    /// The name of the replica that held the Lease when this one last looked.
    pub holder: Option<String>,
    /// The last error, if there was one. It holds no secrets, and names of objects, so probes do not show it.
    pub last_error: Option<String>,
}

/// A running replica.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) views: Views,
    pub(crate) health: Health,
    pub(crate) clock: Clock,
}

impl Source for Replica {
    fn clusters(&self) -> Arc<BTreeMap<String, ClusterView>> {
        Arc::clone(&self.views.borrow())
    }

    fn state(&self) -> ReplicaState {
        let Self { views: _, health, clock: _ } = self;
        let unready = || match health.unsynced() {
            stores if stores.is_empty() => "no watch has begun".to_owned(),
            stores => format!("not read yet: {}", stores.join(", ")),
        };
        ReplicaState {
            dead: (!health.is_live()).then(|| "a loop stands still".to_owned()),
            unready: (!health.is_ready()).then(unready),
            is_leader: health.role() == Role::Leading,
            holder: health.holder(),
            last_error: health.last_error(),
        }
    }

    fn now(&self) -> Option<Timestamp> {
        self.clock.now()
    }
}

/// A time of a status; `None` if it is absent or not in RFC 3339.
pub(crate) fn time(text: Option<&String>) -> Option<Timestamp> {
    text?.parse().ok()
}
