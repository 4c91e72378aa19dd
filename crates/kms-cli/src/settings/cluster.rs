//! Settings from a CephCluster, which comes from Kubernetes or from the files given with `-f`.

use kms_core::{Error, Result, SecretSource, SecuritySpec};
use kms_kube::{CephCluster, ClusterRef, DeviceSet};
use kms_source::Manifests;

use crate::{kubernetes::Kubernetes, settings::Settings};

/// The settings of a CephCluster, and the Secrets from files.
#[derive(Debug)]
pub(crate) struct ClusterSettings {
    cluster: CephCluster,
    manifests: Option<Manifests>,
    /// Whether the user or the pod names the cluster. If so, the reachable Kubernetes is the one that has it.
    is_named: bool,
}

impl ClusterSettings {
    /// Reads the CephCluster from Kubernetes.
    pub(crate) async fn read(kubernetes: &Kubernetes, named: &ClusterRef) -> Result<Self> {
        Ok(Self { cluster: kubernetes.cluster(named).await?, manifests: None, is_named: true })
    }

    /// Takes the CephCluster from documents. `named` is the cluster given with `--cluster`.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the documents hold another CephCluster.
    pub(super) fn from_files(mut manifests: Manifests, named: Option<&ClusterRef>) -> Result<Self> {
        let mut cluster = manifests.take_cluster().unwrap_or_default();
        if let (Some(document), Some(named)) = (&cluster.reference, named)
            && document != named
        {
            return Err(Error::config(format!(
                "the CephCluster in the files is {}/{}, and --cluster names another one",
                document.kube_namespace, document.name
            )));
        }
        cluster.reference = named.cloned().or(cluster.reference);
        Ok(Self { cluster, manifests: Some(manifests), is_named: named.is_some() })
    }

    /// Takes the CephCluster from documents that must have one. `named` is the cluster given with `--cluster`.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the documents have neither a CephCluster nor a `security` block, or another CephCluster.
    pub(crate) fn of_files(manifests: Manifests, named: Option<&ClusterRef>) -> Result<Self> {
        if manifests.security().is_none() {
            return Err(Error::config(
                "the files given with -f have no CephCluster and no security block: add one, or name the CephCluster \
                 with --cluster",
            ));
        }
        Self::from_files(manifests, named)
    }

    /// Adds Secrets from files.
    pub(super) fn with_manifests(mut self, manifests: Option<Manifests>) -> Self {
        self.manifests = manifests;
        self
    }
}

impl Settings for ClusterSettings {
    fn security(&self) -> &SecuritySpec {
        &self.cluster.spec.security
    }

    fn cluster(&self) -> Option<&ClusterRef> {
        self.cluster.reference.as_ref()
    }

    fn secrets(&self) -> Option<&dyn SecretSource> {
        self.manifests.as_ref().map(|manifests| manifests as _)
    }

    /// Only if the cluster was named: with files, kms may run without access to the Kubernetes of the cluster.
    fn allows_kube_secrets(&self) -> bool {
        self.is_named
    }

    fn device_sets(&self) -> Option<&[DeviceSet]> {
        self.cluster.spec.device_sets.as_deref()
    }

    fn fsid(&self) -> Option<&str> {
        self.cluster.fsid.as_deref()
    }

    fn key_rotation(&self) -> Option<bool> {
        Some(self.cluster.spec.security.key_rotation.enabled)
    }

    fn is_being_deleted(&self) -> bool {
        self.cluster.deleting
    }

    fn missing_secret_hint(&self) -> &'static str {
        if self.is_named {
            ""
        } else {
            ": add it with -f, or say where Secrets are (--secrets-dir, --cluster)"
        }
    }
}
