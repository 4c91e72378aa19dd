#![doc = include_str!("../README.md")]

mod address;
mod api;
mod auth;
mod builder;
mod config;
mod error;
mod key;
mod list;
mod name;
mod probe;
mod provider;
mod store;
mod update;

pub use crate::{builder::IbmKeyProtectBuilder, config::IbmKpConfigKey, provider::IbmKeyProtect};

/// The name of this provider in messages, and what `KMS_PROVIDER` calls it.
pub const PROVIDER: &str = "ibmkeyprotect";
