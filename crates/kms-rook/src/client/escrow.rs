//! Records escrows and drills at the CephCluster, where the operator sees them. The record holds no key material.

use kms_core::Result;
use kms_kube::Objects;
use serde_json::json;

use super::{RookNamespace, switch::CephClusterResource};
use crate::names::{DRILLED_AT, ESCROWED_AT};

/// What is recorded at a CephCluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ClusterRecord {
    /// An escrow of all its keys was made.
    Escrow,
    /// A drill has proven that an escrow brings back every key of the KMS.
    Drill,
}

impl ClusterRecord {
    const fn annotation(self) -> &'static str {
        match self {
            Self::Escrow => ESCROWED_AT,
            Self::Drill => DRILLED_AT,
        }
    }
}

impl RookNamespace {
    /// Records at a CephCluster when something of this kind happened, in RFC 3339. An earlier record is replaced.
    ///
    /// The call changes the metadata of the CephCluster and not its spec, so Rook does nothing.
    ///
    /// # Errors
    ///
    /// `NotFound` if the CephCluster is absent; `PermissionDenied` if the account may not patch it; otherwise errors of the
    /// connection.
    pub async fn record_at_cluster(&self, cluster: &str, record: ClusterRecord, at: &str) -> Result<()> {
        let objects: Objects<CephClusterResource> = self.objects()?;
        let change = json!({"metadata": {"annotations": {record.annotation(): at}}});
        self.retry("annotate the CephCluster", || objects.merge(cluster, &change)).await
    }
}
