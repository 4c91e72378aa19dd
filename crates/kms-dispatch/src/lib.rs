#![doc = include_str!("../README.md")]

mod connect;
mod connector;
#[cfg(feature = "k8s-secret")]
mod index;
#[cfg(feature = "k8s-secret")]
mod kubernetes;
mod options;
mod provider;
mod provider_options;
mod registry;

pub mod keys;

pub use crate::{
    connect::{check, connect},
    options::Options,
    provider::Provider,
    registry::Registry,
};
