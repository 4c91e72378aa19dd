//! The private test harness of this workspace. Implementers need `kms-conformance` only.
//!
//! - [`answers`]: our answers beside those of Go's library.
//! - [`doctor`]: what `kms doctor` reports, as tests name it.
//! - [`fake`]: a provider that fails on demand; with the feature `servers` also doubles of Key Vault, Key Protect and KMIP
//!   servers, and an HTTP server that sends scripted bytes.
//! - `figures`: what tests count, for the page of figures (feature `servers`).
//! - [`ledger`]: our providers' exceptions from the conformance suite, each with its reason.
//! - `luks`: images with real LUKS headers, and Rook's rotation on them (feature `servers`).
//! - [`schema`]: JSON Schemas of documents, compared with `docs/schema`.
//! - [`warnings`]: the warnings that an operation logs.
//! - `servers`: real servers, certificates and processes (feature `servers`).

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::result_large_err,
    clippy::unwrap_used,
    reason = "this crate is only ever run by tests, and a panic is how a test fails"
)]

pub mod answers;
pub mod doctor;
pub mod fake;
#[cfg(feature = "servers")]
pub mod figures;
pub mod ledger;
#[cfg(feature = "servers")]
pub mod luks;
pub mod schema;
#[cfg(feature = "servers")]
pub mod servers;
pub mod warnings;
