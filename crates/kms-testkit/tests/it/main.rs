//! The doubles and the harness of real servers do what they say.
#![cfg(feature = "servers")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a panic is how a test fails"
)]

mod azure;
mod http;
mod ibmkp;
mod relay;
mod servers;
