#![doc = include_str!("../README.md")]

mod address;
mod api;
mod auth;
mod builder;
mod config;
mod delete;
mod error;
mod get;
mod history;
mod list;
mod name;
mod pages;
mod probe;
mod provider;
mod put;
mod stored;

pub use crate::{
    builder::IbmKeyProtectBuilder,
    config::{IbmKpConfigKey, STRICTER},
    provider::IbmKeyProtect,
};

/// The name of this provider in messages and in `KMS_PROVIDER`.
pub const PROVIDER: &str = "ibmkeyprotect";
