//! Settings from a CephCluster in Kubernetes.

use kms_core::{Result, SecretSource, SecuritySpec};
use kms_kube::{ClusterRef, DeviceSet};
use kms_source::Manifests;

use crate::{
    kubernetes::{Kubernetes, LiveCluster},
    settings::Settings,
};

/// Settings of a CephCluster, and the Secrets that were given in files beside it.
#[derive(Debug)]
pub(crate) struct ClusterSettings {
    cluster: LiveCluster,
    manifests: Option<Manifests>,
}

impl ClusterSettings {
    /// Reads the CephCluster from Kubernetes.
    pub(crate) async fn read(kubernetes: &Kubernetes, named: &ClusterRef) -> Result<Self> {
        Ok(Self { cluster: kubernetes.cluster(named).await?, manifests: None })
    }

    /// Adds Secrets from files.
    pub(super) fn with_manifests(mut self, manifests: Option<Manifests>) -> Self {
        self.manifests = manifests;
        self
    }
}

impl Settings for ClusterSettings {
    fn security(&self) -> &SecuritySpec {
        &self.cluster.security
    }

    fn cluster(&self) -> Option<&ClusterRef> {
        Some(&self.cluster.reference)
    }

    fn secrets(&self) -> Option<&dyn SecretSource> {
        self.manifests.as_ref().map(|manifests| manifests as _)
    }

    fn allows_kube_secrets(&self) -> bool {
        true
    }

    fn device_sets(&self) -> Option<&[DeviceSet]> {
        self.cluster.device_sets.as_deref()
    }

    fn is_being_deleted(&self) -> bool {
        self.cluster.deleting
    }
}
