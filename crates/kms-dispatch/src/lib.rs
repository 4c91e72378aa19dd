#![doc = include_str!("../README.md")]

#[cfg(feature = "azure")]
mod azure;
mod connect;
#[cfg(feature = "ibmkp")]
mod ibmkp;
#[cfg(feature = "kmip")]
mod kmip;
#[cfg(feature = "k8s-secret")]
mod kubernetes;
mod options;
mod provider;
#[cfg(feature = "vault")]
mod vault;

pub mod keys;

pub use crate::{
    connect::{check, connect},
    options::Options,
    provider::Provider,
};
