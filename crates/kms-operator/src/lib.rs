#![doc = include_str!("../README.md")]

// The cluster of the tests names this crate as a test outside of it does.
#[cfg(test)]
extern crate self as kms_operator;

pub mod api;
mod events;
pub mod metrics;
mod page;
pub mod serve;
mod source;
#[cfg(test)]
#[path = "../tests/it/fixed.rs"]
mod test_data;

pub use crate::{
    events::events,
    source::{DeploymentRef, ReplicaState, Source},
};
