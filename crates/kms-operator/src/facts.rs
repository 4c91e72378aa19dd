//! What the planner decides from: all that is known of a cluster at one moment.

use jiff::Timestamp;
use kms_core::KeyName;
use kms_rook::client::LastRotation;

use crate::{api::OsdKeyStatus, job::JobFacts, rules::Rules};

/// One encrypted OSD.
#[derive(Clone, Debug)]
pub(crate) struct OsdFacts {
    pub(crate) id: u32,
    /// The name of its key.
    pub(crate) key: KeyName,
    /// When its Deployment was created.
    pub(crate) created: Option<Timestamp>,
    /// The last rotation that its Deployment records.
    pub(crate) last: Option<LastRotation>,
    pub(crate) node: Option<String>,
    /// The failure domain of its node.
    pub(crate) domain: Option<String>,
    /// Whether its `OsdKey` stops actions.
    pub(crate) is_paused: bool,
    /// The value of the annotation `rotate-now` of its `OsdKey`.
    pub(crate) asked: Option<String>,
    /// The generation of its `OsdKey`.
    pub(crate) generation: i64,
    /// The stored status of its `OsdKey`.
    pub(crate) status: OsdKeyStatus,
    /// The Jobs of the operator for it.
    pub(crate) jobs: Vec<JobFacts>,
}

/// Why the operator does not rotate the keys of a cluster that it has taken over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Obstacle {
    /// Rook rotates them.
    RookRotates(String),
    /// A setting of the cluster or of the policy is not valid, or the provider cannot replace a key.
    Invalid(String),
}

/// A cluster at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The time of the API server.
    pub(crate) now: Timestamp,
    /// The KMS, as in `KMS_PROVIDER`.
    pub(crate) provider: Option<String>,
    pub(crate) rules: Result<Rules, Obstacle>,
    /// Whether the cluster or a policy stops every action.
    pub(crate) is_paused: bool,
    /// When the last escrow of all keys was made, as the CephCluster records it.
    pub(crate) escrowed: Option<Timestamp>,
    pub(crate) osds: Vec<OsdFacts>,
}
