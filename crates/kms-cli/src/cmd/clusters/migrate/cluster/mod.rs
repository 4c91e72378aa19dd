//! The CephCluster in Kubernetes whose KMS is switched.

#[cfg(not(feature = "k8s-secret"))]
mod absent;
#[cfg(feature = "k8s-secret")]
mod accounts;
#[cfg(feature = "k8s-secret")]
mod live;

#[cfg(not(feature = "k8s-secret"))]
pub(super) use self::absent::Live;
#[cfg(feature = "k8s-secret")]
pub(super) use self::live::Live;
