//! Stand-ins for situations that a real server cannot produce.

#[cfg(feature = "servers")]
pub mod azure;
#[cfg(feature = "servers")]
pub mod cloud;
#[cfg(feature = "servers")]
pub mod http;
#[cfg(feature = "servers")]
pub mod ibmkp;
#[cfg(feature = "servers")]
pub mod kmip;
mod scripted;

pub use self::scripted::{Call, InjectedFault, Operation, Scripted};
