//! A host of OSDs in a virtual machine: real device-mapper, cold boots, the power cut off.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod guest;
