//! Tests of whole escrows.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod drills;
mod escrows;
mod place;
mod restores;
