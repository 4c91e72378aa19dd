//! The Kubernetes API, as far as the commands need it.

#[cfg(not(feature = "k8s-secret"))]
mod absent;
#[cfg(feature = "k8s-secret")]
mod live;

use kms_core::SecuritySpec;
use kms_kube::{ClusterRef, DeviceSet};

#[cfg(not(feature = "k8s-secret"))]
pub(crate) use self::absent::Kubernetes;
#[cfg(feature = "k8s-secret")]
pub(crate) use self::live::Kubernetes;

/// A CephCluster as Kubernetes has it now.
#[derive(Debug)]
pub(crate) struct LiveCluster {
    /// Its name with its uid.
    pub(crate) reference: ClusterRef,
    pub(crate) security: SecuritySpec,
    /// `None` if the spec has no storage.
    pub(crate) device_sets: Option<Vec<DeviceSet>>,
    pub(crate) deleting: bool,
}
