//! Tests of rotation: on slots in memory, on real LUKS images, and through all schedules of a model.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod bench;
/// On images with real LUKS headers.
mod devices {
    mod faults;
    mod grace;
    mod rotate;
    mod stops;
}
