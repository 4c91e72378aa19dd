//! Tests of rotation: on slots in memory, on real LUKS images, and through all schedules of a model.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and the model prints what it found"
)]

mod bench;
mod device_list;
mod memory;
mod model;
mod recover;
mod scene;
mod slot_store;
mod transitions;
mod virtual_time;
/// The tests on images with real LUKS headers.
mod devices {
    mod faults;
    mod grace;
    mod headers;
    mod overlap;
    mod rotate;
    mod stops;
}
