//! What the operator sees of the keys, for metrics and for people. It holds no key material.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::api::{OsdKeyStatus, Window};

/// The clusters that the operator has taken over, by namespace. A reader gets the newest one from the channel.
pub type Views = watch::Receiver<Arc<BTreeMap<String, ClusterView>>>;

/// One CephCluster.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct ClusterView {
    /// Its name.
    pub name: String,
    /// The KMS, as in `KMS_PROVIDER`.
    pub provider: Option<String>,
    /// The name of the KeyPolicy that holds for it.
    pub policy: Option<String>,
    /// When rotations may begin there, as the KeyPolicy says; `None` for always.
    pub window: Option<Window>,
    /// The schedule of its rotations, unless an obstacle keeps it from being known.
    pub schedule: Option<String>,
    /// Whether every action is stopped there.
    pub is_paused: bool,
    /// Why the operator does not rotate its keys.
    pub obstacle: Option<String>,
    /// Its keys, by name.
    pub keys: BTreeMap<String, KeyView>,
    /// The Deployments of OSDs that could not be parsed, and why.
    pub faults: BTreeMap<String, String>,
    /// Its escrows.
    pub escrow: EscrowView,
    /// The token of the KMS in its settings, as the last Job has seen it; `None` if no Job has looked it up.
    pub token: Option<TokenView>,
}

/// A token of the KMS in the settings of a CephCluster.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct TokenView {
    /// The KMS, as in `KMS_PROVIDER`.
    pub provider: String,
    /// When it ends; `None` if it never does.
    pub expires: Option<Timestamp>,
    /// Whether it can be renewed. No Job renews it.
    pub renewable: bool,
}

/// The escrows of a CephCluster.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct EscrowView {
    /// When the last escrow of all keys was made.
    pub made: Option<Timestamp>,
    /// When a drill last succeeded.
    pub drilled: Option<Timestamp>,
    /// When the operator makes the next one; `None` if it makes none.
    pub next: Option<Timestamp>,
    /// The escrows of the operator that failed since the last one.
    pub failed: u32,
    /// Why there is no escrow that should be there.
    pub problem: Option<String>,
}

/// The key of one OSD.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct KeyView {
    /// The number of the OSD.
    pub osd: u32,
    /// The name of its Deployment.
    pub deployment: String,
    /// The UID of its Deployment.
    pub deployment_uid: Option<String>,
    /// The failure domain of its node.
    pub domain: Option<String>,
    /// What the `OsdKey` shows.
    pub status: OsdKeyStatus,
}

/// The writers' side of [`Views`].
#[derive(Clone, Debug)]
pub(crate) struct Publisher(watch::Sender<Arc<BTreeMap<String, ClusterView>>>);

impl Publisher {
    pub(crate) fn new() -> (Self, Views) {
        let (sender, views) = watch::channel(Arc::default());
        (Self(sender), views)
    }

    /// Replaces the view of a namespace; `None` if the operator has taken over no cluster there.
    pub(crate) fn publish(&self, kube_namespace: &str, view: Option<ClusterView>) {
        self.0.send_if_modified(|views| {
            if views.get(kube_namespace) == view.as_ref() {
                return false;
            }
            let mut all = BTreeMap::clone(views);
            match view {
                Some(view) => all.insert(kube_namespace.to_owned(), view),
                None => all.remove(kube_namespace),
            };
            *views = Arc::new(all);
            true
        });
    }
}
