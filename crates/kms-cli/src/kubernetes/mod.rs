//! The part of the Kubernetes API that the commands use.

#[cfg(not(feature = "k8s-secret"))]
mod absent;
#[cfg(feature = "k8s-secret")]
mod live;

#[cfg(not(feature = "k8s-secret"))]
pub(crate) use self::absent::Kubernetes;
#[cfg(feature = "k8s-secret")]
pub(crate) use self::live::Kubernetes;

/// What is recorded at a CephCluster.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Record {
    /// An escrow of all its keys was made.
    Escrow,
    /// A drill of an escrow has succeeded.
    Drill,
}
