//! The tests of this crate, in one program.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a panic is how a test fails"
)]

mod common;
mod cronjob;
mod discover;
mod env;
#[cfg(feature = "client")]
mod live;
#[cfg(feature = "client")]
mod rbac;
mod rotation;
#[cfg(feature = "client")]
mod schedules;
