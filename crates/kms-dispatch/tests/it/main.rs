//! `check` and `connect` without a server.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is how a test fails")]

mod connect;
mod fixtures;
mod registry;
#[cfg(all(feature = "azure", feature = "ibmkp", feature = "kmip", feature = "vault"))]
mod settings;
