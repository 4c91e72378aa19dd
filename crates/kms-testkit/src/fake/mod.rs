//! Stand-ins for what a real server cannot be made to do.

#[cfg(feature = "doubles")]
pub mod azure;
pub mod http;
#[cfg(feature = "doubles")]
pub mod ibmkp;
#[cfg(feature = "servers")]
pub mod kmip;
mod scripted;

pub use self::scripted::{Call, Fault, Operation, Scripted};
