#![doc = include_str!("../README.md")]

mod connect;
mod connector;
#[cfg(feature = "k8s-secret")]
mod index;
#[cfg(feature = "k8s-secret")]
mod kubernetes;
#[cfg(any(feature = "azure", feature = "ibmkp", feature = "kmip", feature = "vault"))]
mod legacy;
mod options;
mod provider;
mod registry;

pub mod keys;

pub use crate::{
    connect::{check, connect},
    options::Options,
    provider::Provider,
    registry::Registry,
};
