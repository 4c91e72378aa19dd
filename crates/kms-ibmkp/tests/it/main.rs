//! The provider against the double of IAM and Key Protect.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod clients;
mod common;
mod conformance;
mod faults;
mod keys;
mod superseded;
mod update;
