//! The part of the Kubernetes API that the commands use.

#[cfg(not(feature = "k8s-secret"))]
mod absent;
#[cfg(feature = "k8s-secret")]
mod live;

#[cfg(not(feature = "k8s-secret"))]
pub(crate) use self::absent::Kubernetes;
#[cfg(feature = "k8s-secret")]
pub(crate) use self::live::Kubernetes;
