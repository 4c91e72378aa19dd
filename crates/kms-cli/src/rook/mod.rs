//! What the Rook cluster shows before a rotation: whether Rook rotates too, and which devices an OSD has.

#[cfg(not(feature = "k8s-secret"))]
mod absent;
#[cfg(feature = "k8s-secret")]
mod live;

#[cfg(not(feature = "k8s-secret"))]
pub(crate) use self::absent::{Deployments, Rook};
#[cfg(feature = "k8s-secret")]
pub(crate) use self::live::{Deployments, Rook};
