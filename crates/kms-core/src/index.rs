//! An index that maps each key to the object with its KEK on a server.
//!
//! If the server itself names its objects (KMIP), only an index can decide between two writers.

use std::fmt;

use async_trait::async_trait;
use zeroize::Zeroizing;

use crate::{KeyName, Result};

/// The entry of a key in an index.
#[non_exhaustive]
pub struct IndexEntry {
    /// The identifier of the object on the server. It is wiped on drop, since it may be a KEK by mistake
    /// (rook-behaviour W3).
    pub uid: Zeroizing<String>,
    /// The version of the entry when it was read, such as a resource version.
    pub version: String,
}

impl IndexEntry {
    /// Makes an entry.
    pub fn new(uid: impl Into<String>, version: impl Into<String>) -> Self {
        Self { uid: Zeroizing::new(uid.into()), version: version.into() }
    }
}

impl fmt::Debug for IndexEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uid: _, version } = self;
        f.debug_struct("IndexEntry").field("version", version).finish_non_exhaustive()
    }
}

/// Keeps the identifier of each key's object, with conditional writes. Rook does so in Secrets (rook-behaviour §6.6).
///
/// A read sees every write that ended before the read began.
#[async_trait]
pub trait KeyIndex: fmt::Debug + Send + Sync {
    /// Reads the entry of a key; `None` if it is absent.
    ///
    /// # Errors
    ///
    /// `Protocol` if the entry cannot be an identifier because it is empty or not text.
    async fn get(&self, name: &KeyName) -> Result<Option<IndexEntry>>;

    /// Writes the entry of a new key and returns its version.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if the key has an entry, whatever its contents: the index decides between two writers.
    async fn create(&self, name: &KeyName, uid: &str) -> Result<String>;

    /// Replaces the identifier if the entry is still in `version`, and returns the new version.
    ///
    /// The version changes even if the identifier stays the same: a provider makes the writes in flight fail this way
    /// before it destroys an object.
    ///
    /// # Errors
    ///
    /// `Conflict` if the entry has changed, `NotFound` if it is gone.
    async fn swap(&self, name: &KeyName, version: &str, uid: &str) -> Result<String>;

    /// Removes the entry if it is still in `version`.
    ///
    /// # Errors
    ///
    /// `Conflict` if the entry has changed, `NotFound` if it is gone.
    async fn delete(&self, name: &KeyName, version: &str) -> Result<()>;

    /// Lists all keys whose entry is marked as an identifier.
    ///
    /// # Errors
    ///
    /// Those of the store.
    async fn list(&self) -> Result<Vec<(KeyName, IndexEntry)>>;
}
