//! The seam between the controller and what people see: everything is computed from these at the moment of a request, so
//! that there is no second state.

use std::{collections::BTreeSet, fmt, sync::Arc};

use jiff::Timestamp;

use crate::api::{KeyPolicy, OsdKey};

/// What the controller knows.
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// The objects of all keys.
    fn keys(&self) -> Vec<Arc<OsdKey>>;

    /// The policies.
    fn policies(&self) -> Vec<Arc<KeyPolicy>>;

    /// The Deployments of all encrypted OSDs, with and without an object of their key.
    fn deployments(&self) -> Vec<DeploymentRef>;

    /// How this replica is.
    fn state(&self) -> ReplicaState;

    /// The time that ages are measured at.
    fn now(&self) -> Timestamp;
}

/// The name of a Deployment.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct DeploymentRef {
    /// Its namespace.
    pub kube_namespace: String,
    /// Its name in the namespace.
    pub name: String,
}

/// How one replica of the operator is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ReplicaState {
    /// The reason why the process should be restarted; `None` if it works.
    pub dead: Option<String>,
    /// The reason why the replica is not ready, such as stores that are not filled; `None` if it is. A standby is ready.
    pub unready: Option<String>,
    /// Whether this replica leads.
    pub is_leader: bool,
    /// The name of the replica that leads, if one is known.
    pub leader: Option<String>,
}

/// The Deployments of encrypted OSDs whose key has no object, in order.
pub(crate) fn without_key(source: &dyn Source, keys: &[Arc<OsdKey>]) -> BTreeSet<DeploymentRef> {
    let known: BTreeSet<(&str, &str)> =
        keys.iter().map(|key| (kube_namespace(key), key.spec.deployment.as_str())).collect();
    let mut all: BTreeSet<_> = source.deployments().into_iter().collect();
    all.retain(|found| !known.contains(&(found.kube_namespace.as_str(), found.name.as_str())));
    all
}

/// The namespace of a key.
pub(crate) fn kube_namespace(key: &OsdKey) -> &str {
    key.metadata.namespace.as_deref().unwrap_or_default()
}

/// The name of a key, which is that of its object.
pub(crate) fn key_name(key: &OsdKey) -> &str {
    key.metadata.name.as_deref().unwrap_or_default()
}

/// A time of a status; `None` if it is absent or not in RFC 3339.
pub(crate) fn time(text: Option<&String>) -> Option<Timestamp> {
    text?.parse().ok()
}
