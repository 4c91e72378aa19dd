//! The core of the key-management system (KMS) providers that keep the key encryption keys (KEKs) of encrypted Ceph
//! OSDs.
//!
//! An encrypted OSD is a LUKS device, and the KEK is the passphrase of its key slot.
//! This crate has the [`KmsProvider`] trait that each KMS implements, the types of its arguments and results, the
//! [layers](layer) that give every provider the same retries, time limits and traces, and the typed form of the
//! `security` block of a CephCluster.
//!
//! The crate does no I/O and knows no provider: no HTTP, no TLS, no JSON.
//! The provider crates make the connections, and `kms-dispatch` picks the provider that a `security` block names.
//!
//! ```
//! use kms_core::{Kek, KeyName, KmsProviderExt, memory::Memory};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> kms_core::Result<()> {
//! let kms = Memory::new();
//! let name: KeyName = "set1-data-0x7dwl".parse()?;
//! // The first caller creates the KEK, and every caller gets the same one.
//! let ours = kms.ensure(&name, Kek::generate()?).await?;
//! let theirs = kms.ensure(&name, Kek::generate()?).await?;
//! assert!(ours.stored.kek.ct_eq(&theirs.stored.kek));
//! # Ok(())
//! # }
//! ```

pub mod builder;
pub mod capability;
pub mod clock;
pub mod config;
pub mod error;
pub mod history;
pub mod index;
pub mod kek;
pub mod layer;
pub mod locks;
pub mod memory;
pub mod name;
pub mod options;
pub mod provider;
pub mod proxy;
pub mod secret;
pub mod security;
pub mod token_life;
pub mod trace;

pub use crate::{
    builder::ProviderBuilder,
    capability::{Capability, Guarantee, UpdateRight},
    clock::ClockDifference,
    error::{Error, ErrorKind, Existing, Result, Retry, WriteOutcome},
    history::{HistoryMode, KekState, PastKek},
    index::{IndexEntry, KeyIndex},
    kek::Kek,
    locks::KeyLocks,
    name::{KeyName, KeyVersion},
    options::{DeleteMode, Freshness, PutMode},
    provider::{
        Details, Ensured, KeyExchange, KeyInfo, KeyState, KeyStream, KmsProvider, KmsProviderExt, Probe,
        Stored,
    },
    proxy::ProxyRules,
    secret::{SecretData, SecretSource},
    security::{ConnectionDetails, KeyRotationSpec, KmsSpec, SecuritySpec},
    trace::Trace,
};
pub use secrecy::{ExposeSecret, SecretString};
