//! The sources of KMS settings: files, a CephCluster in Kubernetes, or the environment of a pod.

mod cluster;
mod files;
mod pod;

use std::fmt;

use kms_core::{Result, SecretSource, SecuritySpec};
use kms_dispatch::Registry;
use kms_kube::{ClusterRef, DeviceSet};

pub(crate) use self::{
    cluster::ClusterSettings,
    files::{read_files, read_manifests},
    pod::{PodSettings, pod_environment},
};
use crate::{args::Global, environment::Environment, kubernetes::Kubernetes};

/// A `security` block, and the facts about the CephCluster that its source has.
pub(crate) trait Settings: fmt::Debug + Send + Sync {
    /// The `security` block.
    fn security(&self) -> &SecuritySpec;

    /// The CephCluster, if it is known.
    fn cluster(&self) -> Option<&ClusterRef>;

    /// Secrets from the same source.
    fn secrets(&self) -> Option<&dyn SecretSource>;

    /// Whether kms may read the Secrets of the cluster's namespace from Kubernetes.
    fn allows_kube_secrets(&self) -> bool;

    /// The device sets of the CephCluster; `None` if the source says nothing about its storage.
    fn device_sets(&self) -> Option<&[DeviceSet]> {
        None
    }

    /// `security.keyRotation.enabled`: whether Rook rotates keys. `None` if the source does not say it.
    fn key_rotation(&self) -> Option<bool> {
        None
    }

    /// The id of the Ceph cluster, if the source has it.
    fn fsid(&self) -> Option<&str> {
        None
    }

    /// Whether the CephCluster is being deleted.
    fn is_being_deleted(&self) -> bool {
        false
    }

    /// The end of the error message for an absent Secret: how to provide it.
    fn missing_secret_hint(&self) -> &'static str {
        ""
    }
}

/// Finds the settings: in the files given with `-f`, in the CephCluster given with `--cluster`, or in the environment.
///
/// # Errors
///
/// `ConfigInvalid` if no source has settings; otherwise the errors of the source.
pub(crate) async fn find(
    global: &Global,
    environment: &Environment,
    registry: &Registry,
    kubernetes: &Kubernetes,
) -> Result<Box<dyn Settings>> {
    let manifests = if global.files.is_empty() { None } else { Some(read_manifests(global, &[])?) };
    match (manifests, &global.cluster) {
        (Some(manifests), named) if manifests.security().is_some() => {
            Ok(Box::new(ClusterSettings::from_files(manifests, named.as_ref())?))
        }
        (manifests, Some(named)) => {
            Ok(Box::new(ClusterSettings::read(kubernetes, named).await?.with_manifests(manifests)))
        }
        (Some(manifests), None) => Ok(Box::new(ClusterSettings::of_files(manifests, None)?)),
        (None, None) => Ok(Box::new(PodSettings::read(environment, registry)?)),
    }
}
