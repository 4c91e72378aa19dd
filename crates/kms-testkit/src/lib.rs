//! What providers of [`kms_core`] are tested with.
//!
//! - [`conformance`]: one suite that every provider has to pass, yours too.
//! - [`ledger`]: the exceptions from it that are known, each with its reason.
//! - [`fake`]: a provider that fails on demand, and servers of HTTP and KMIP that do what real ones
//!   cannot be made to do.
//! - `luks`: images with real LUKS headers, and Rook's rotation on them (feature `servers`).
//! - [`leak`]: looks for secrets in logs and in whatever is printed.
//!
//! ```
//! use std::sync::Arc;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let provider = Arc::new(kms_core::memory::Memory::new());
//! kms_conformance::suite(provider).await.assert_ok();
//! # }
//! ```

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "this crate is only ever run by tests, and a panic is how a test fails"
)]

// For tests that still name the suite by its old path.
pub use kms_conformance as conformance;
pub use kms_conformance::leak;

pub mod fake;
pub mod ledger;
#[cfg(feature = "servers")]
pub mod luks;
#[cfg(feature = "servers")]
pub mod servers;
