//! Tests of key slots and mappings on real LUKS headers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod common;
mod devices;
mod evidence;
mod format;
mod header_copies;
mod locks;
mod open;
mod program;
mod slots;
mod traps;
