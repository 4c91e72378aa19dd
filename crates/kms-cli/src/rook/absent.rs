//! Replaces the Rook cluster in a build that cannot reach Kubernetes.

use kms_core::{Error, KeyName, Result};
use kms_kube::ClusterRef;

use crate::args::Global;

/// What files say of the cluster.
#[derive(Debug)]
pub(crate) struct Rook {
    enabled: bool,
}

impl Rook {
    /// The cluster whose `security` block has this `keyRotation.enabled`.
    pub(crate) fn new(enabled: Option<bool>) -> Self {
        Self { enabled: enabled.unwrap_or(false) }
    }

    /// The same, since no cluster can be reached.
    pub(crate) fn at(self, _global: &Global, _cluster: &ClusterRef) -> Self {
        self
    }

    /// The same, since a job of ours runs where there is Kubernetes.
    pub(crate) fn with_own_cron_job(self) -> Self {
        self
    }

    /// # Errors
    ///
    /// `ConfigInvalid` if `keyRotation.enabled` is true.
    #[expect(clippy::unused_async, reason = "the build with Kubernetes awaits")]
    pub(crate) async fn check_rotation(&self, _keys: &[&KeyName]) -> Result<()> {
        if self.enabled {
            return Err(Error::config(
                "keyRotation.enabled is true, so Rook rotates these keys too, and two rotations of one device can lose \
                 it: set it to false",
            )
            .context("override", "--even-if-rook-rotates"));
        }
        Ok(())
    }

    /// No Deployments.
    #[expect(clippy::unused_async, reason = "the build with Kubernetes awaits")]
    pub(crate) async fn deployments(&self, _only: Option<&KeyName>) -> Deployments {
        Deployments {}
    }
}

/// The Deployments of OSDs, which this build cannot read.
#[derive(Debug, Default)]
pub(crate) struct Deployments {}

impl Deployments {
    /// # Errors
    ///
    /// Never.
    #[expect(clippy::unnecessary_wraps, reason = "the build with Kubernetes compares")]
    pub(crate) fn confirms(&self, _name: &KeyName, _id: Option<u32>, _devices: usize) -> Result<bool> {
        Ok(false)
    }
}
