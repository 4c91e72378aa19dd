#![doc = include_str!("../README.md")]

mod address;
mod api;
mod assertion;
mod auth;
mod builder;
mod certificate;
mod challenge;
mod config;
mod delete;
mod error;
mod get;
mod grant;
mod history;
mod list;
mod name;
mod pages;
mod probe;
mod provider;
mod put;
mod soft_delete;
mod stored;
mod transport;

pub use crate::{
    builder::AzureKeyVaultBuilder,
    config::{AzureConfigKey, STRICTER},
    provider::AzureKeyVault,
};

/// The name of this provider in messages and in `KMS_PROVIDER`.
pub const PROVIDER: &str = "azure-kv";
