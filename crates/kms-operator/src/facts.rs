//! What the planner decides from: all that is known of a cluster at one moment.

use jiff::Timestamp;
use kms_core::KeyName;
use kms_rook::client::LastRotation;

use crate::{
    api::OsdKeyStatus,
    escrow::EscrowFacts,
    job::{JobFacts, JobState},
    rules::Rules,
};

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
    /// A PersistentVolumeClaim of its devices that is absent or being deleted.
    pub(crate) lost_claim: Option<String>,
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
    /// How many Jobs may run at a time for the KMS, over all clusters; `None` without a limit.
    pub(crate) limit: Option<usize>,
    /// How many of them run for other clusters; `None` while that is not known.
    pub(crate) elsewhere: Option<usize>,
    pub(crate) escrow: EscrowFacts,
    pub(crate) osds: Vec<OsdFacts>,
}

impl Facts {
    /// The Jobs that run here, those of escrows included.
    pub(crate) fn running(&self) -> usize {
        let of_osds = self.osds.iter().flat_map(|osd| &osd.jobs).map(|job| job.state);
        let states = of_osds.chain(self.escrow.jobs.iter().map(|job| job.state));
        states.filter(|state| *state == JobState::Active).count()
    }

    /// How many more Jobs the limit of the KMS allows.
    pub(crate) fn room(&self) -> usize {
        match (self.limit, self.elsewhere) {
            (None, _) => usize::MAX,
            (Some(_), None) => 0,
            (Some(limit), Some(elsewhere)) => limit.saturating_sub(elsewhere).saturating_sub(self.running()),
        }
    }
}
