//! The tests of this crate, in one program.

#![expect(
    clippy::unwrap_used,
    reason = "the lint exempts test functions, but not the functions that they share"
)]

mod common;
mod conformance;
mod live;
mod wire;
