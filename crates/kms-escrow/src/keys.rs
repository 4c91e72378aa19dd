//! The KEKs of a KMS, read for an escrow.

use std::{fmt, time::SystemTime};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use kms_core::{Freshness, Kek, KeyName, KmsProvider, Result};

use crate::manifest::KeyEntry;

/// How many KEKs are read at a time.
const PARALLEL: usize = 8;

/// A KEK that goes into an escrow.
pub struct SavedKey {
    pub(crate) entry: KeyEntry,
    pub(crate) kek: Kek,
}

impl fmt::Debug for SavedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entry, kek: _ } = self;
        f.debug_struct("SavedKey").field("entry", entry).finish_non_exhaustive()
    }
}

impl SavedKey {
    /// The entry of the manifest: name, version and times.
    pub fn entry(&self) -> &KeyEntry {
        &self.entry
    }

    /// The KEK.
    pub fn kek(&self) -> &Kek {
        &self.kek
    }
}

/// The names of all keys of a KMS, sorted.
///
/// # Errors
///
/// `Incomplete` if the server does not list every key: an escrow of a part would be taken for one of everything. Other
/// errors of the list.
pub async fn all_names(kms: &dyn KmsProvider) -> Result<Vec<KeyName>> {
    let mut names: Vec<_> = kms.list().map_ok(|key| key.name).try_collect().await?;
    names.sort();
    names.dedup();
    Ok(names)
}

/// Receives how many of how many things have ended.
pub type Seen<'a> = &'a (dyn Fn(usize, usize) + Send + Sync);

/// Reads the KEKs of these names, fresh. The result is sorted by name. `seen` receives the end of each read.
///
/// # Errors
///
/// The error of the first KEK that cannot be read: a key that is left out without a word is lost.
pub async fn read_keys(kms: &dyn KmsProvider, names: &[KeyName], seen: Seen<'_>) -> Result<Vec<SavedKey>> {
    let read = stream::iter(names).map(|name| async move {
        let stored = kms.get(name, Freshness::Fresh).await?;
        let (created, updated) = (stored.created.and_then(second), stored.updated.and_then(second));
        let entry = KeyEntry::new(name.clone(), stored.version.to_string(), created, updated);
        Ok(SavedKey { entry, kek: stored.kek })
    });
    let mut read = read.buffer_unordered(PARALLEL);
    let mut keys = Vec::with_capacity(names.len());
    while let Some(key) = read.next().await {
        keys.push(key?);
        seen(keys.len(), names.len());
    }
    keys.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
    keys.dedup_by(|a, b| a.entry.name == b.entry.name);
    Ok(keys)
}

/// A time in whole seconds. `None` if it is out of range.
pub(crate) fn second(time: SystemTime) -> Option<Timestamp> {
    let time = Timestamp::try_from(time).ok()?;
    Timestamp::from_second(time.as_second()).ok()
}
