#![doc = include_str!("../README.md")]

mod builder;
mod delete;
mod error;
mod get;
mod index;
mod list;
mod name;
mod probe;
mod provider;
mod put;
mod stored;

pub use crate::{
    builder::KubernetesSecretBuilder, index::IdentifierStore, name::secret_name, provider::KubernetesSecret,
    stored::KMIP_ANNOTATION,
};

/// The name of the provider in messages.
pub const PROVIDER: &str = "k8s-secret";
