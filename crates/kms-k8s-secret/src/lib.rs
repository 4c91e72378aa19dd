#![doc = include_str!("../README.md")]

mod api;
mod auth;
mod builder;
mod cluster;
mod connect;
mod error;
mod identifiers;
mod name;
mod objects;
mod patience;
mod probe;
mod provider;
mod secrets;

pub use crate::{
    builder::{KubernetesSecretBuilder, Owner},
    cluster::{CephClusterInfo, ceph_cluster},
    connect::{ConnectOptions, Connection, connect},
    identifiers::{Identifier, IdentifierStore},
    name::secret_name,
    objects::{Objects, Write},
    patience::repeated,
    provider::{KMIP_ANNOTATION, KubernetesSecret},
    secrets::KubernetesSecretSource,
};

/// The name of the provider in messages.
pub const PROVIDER: &str = "k8s-secret";

/// As whom the API server knows us where it notes who has set a field.
pub const FIELD_MANAGER: &str = "rook-kms";
