#![doc = include_str!("../README.md")]

mod archive;
mod drill;
mod error;
mod file_key;
mod folder;
mod identities;
mod keys;
mod manifest;
mod open;
mod plugin;
mod recipients;
mod recovery;
mod restore;
mod sealed;
mod sidecar;
mod stream;
mod write;

pub use self::{
    drill::{Drill, HeaderReport, HeaderState, HeaderTest, KekState, KeyReport, LiveHeader},
    identities::Identities,
    keys::{SavedKey, Seen, all_names, read_keys},
    manifest::{About, HeaderEntry, KeyEntry, Manifest},
    open::{Escrow, keks_of},
    plugin::Person,
    recipients::Recipients,
    recovery::RecoveryKey,
    restore::{Restored, restore},
    sealed::{seal, unseal},
    sidecar::{Archive, DrillRecord, Sidecar},
    write::{Draft, HeaderCopy, Headers, Overwrite, Sharing, save},
};
