#![doc = include_str!("../README.md")]

mod api;
mod builder;
mod client;
mod config;
mod delete;
mod error;
mod index;
mod name;
mod object;
mod probe;
mod provider;
mod put;
mod store;
mod ttlv;

pub use crate::{
    builder::KmipBuilder,
    config::KmipConfigKey,
    index::{IndexEntry, KeyIndex, MemoryIndex},
    provider::Kmip,
};

/// The name of this provider in messages.
pub const PROVIDER: &str = "kmip";

/// Reads a frame as the answer to every request that there is. For fuzzing; it must not panic, whatever the frame.
#[doc(hidden)]
pub fn read_any_answer(frame: &[u8]) -> usize {
    use api::Operation::{DiscoverVersions, Get, GetAttributes, Locate, Query, Register};

    let mut found = 0;
    for operation in [Register, Locate, Get, GetAttributes, Query, DiscoverVersions] {
        // The batch id of the recorded frames.
        let Ok(payload) = api::response(frame, operation, &[7; 16]) else { continue };
        found += 1;
        found += usize::from(api::unique_identifier(&payload).is_ok());
        found += api::located(&payload).len();
        found += api::versions(&payload).len();
        found += api::material(&payload).map_or(0, <[u8]>::len);
        found += api::Attributes::of(&payload).names.len();
        found += api::ServerInformation::of(&payload).operations.len();
    }
    found
}
