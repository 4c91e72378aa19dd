//! The provider against real OpenBao servers and a scripted HTTP server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod common;
mod conformance;
mod faults;
mod kubernetes_auth;
mod live;
mod raft;
