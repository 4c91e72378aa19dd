#![doc = include_str!("../README.md")]

mod answers;
mod api;
mod builder;
mod classify;
mod client;
mod config;
mod connection;
mod delete;
mod error;
mod find;
mod get;
mod habits;
mod history;
mod index;
mod label;
mod list;
mod locate;
mod message;
mod name;
mod named;
mod pool;
mod probe;
mod provider;
mod put;
mod stored;
mod superseded;
mod ttlv;

pub use crate::{
    builder::KmipBuilder,
    config::{KmipConfigKey, STRICTER},
    index::MemoryIndex,
    provider::Kmip,
};

/// The name of this provider in messages.
pub const PROVIDER: &str = "kmip";

/// Parses a frame as the response to each kind of request, for fuzzing. It must not panic on any frame.
#[doc(hidden)]
pub fn read_any_response(frame: &[u8]) -> usize {
    use message::Operation::{DiscoverVersions, Get, GetAttributes, Locate, Query, Register};

    let mut found = 0;
    for operation in [Register, Locate, Get, GetAttributes, Query, DiscoverVersions] {
        // The batch id of the recorded frames.
        let Some(Ok(payload)) = message::response(frame, &[(operation, [7; 16])], 0) else { continue };
        found += 1;
        found += usize::from(api::unique_identifier(&payload).is_ok());
        found += locate::located(&payload).map_or(0, |page| page.uids.len());
        found += message::versions(&payload).len();
        found += stored::material(&payload).map_or(0, <[u8]>::len);
        found += stored::Attributes::of(&payload).names.len();
        found += api::ServerInformation::of(&payload).operations.len();
    }
    found
}
