#![doc = include_str!("../README.md")]

mod api;
mod auth;
mod builder;
mod config;
mod delete;
mod error;
mod get;
mod history;
mod list;
mod mount;
mod name;
mod probe;
mod provider;
mod put;
mod stored;

pub use crate::{
    builder::VaultBuilder,
    config::{STRICTER, VaultConfigKey},
    provider::Vault,
};

/// The name of this provider in messages.
pub const PROVIDER: &str = "vault";
