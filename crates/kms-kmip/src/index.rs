//! The index, which maps each key to the server object that holds its KEK.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_core::{Error, ErrorKind, IndexEntry, KeyIndex, KeyName, Result};
use tracing::warn;
use zeroize::Zeroizing;

/// The longest identifier that is accepted from an index, in bytes.
const MAX_IDENTIFIER: usize = 1024;
/// The minimum length, in bytes, of a base64 text that is taken for a KEK. Identifiers in base64 have 16 to 32 bytes.
const KEK_BYTES: usize = 64;

/// An index in memory, for tests.
#[derive(Debug, Default)]
pub struct MemoryIndex {
    entries: Mutex<(u64, BTreeMap<KeyName, IndexEntry>)>,
}

impl MemoryIndex {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes an entry unconditionally, as another client could do.
    pub fn set(&self, name: &KeyName, uid: &str) {
        let mut guard = self.entries();
        let (count, entries) = &mut *guard;
        *count += 1;
        entries.insert(name.clone(), IndexEntry::new(uid, count.to_string()));
    }

    /// Removes an entry, as another client could do.
    pub fn remove(&self, name: &KeyName) {
        self.entries().1.remove(name);
    }

    fn entries(&self) -> MutexGuard<'_, (u64, BTreeMap<KeyName, IndexEntry>)> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn copy(entry: &IndexEntry) -> IndexEntry {
    IndexEntry::new(entry.uid.as_str(), entry.version.as_str())
}

/// Fails unless the entry has the expected version.
fn expect(name: &KeyName, found: Option<&IndexEntry>, version: &str) -> Result<()> {
    match found {
        None => Err(Error::key_not_found(name)),
        Some(entry) if entry.version != version => {
            Err(Error::new(ErrorKind::Conflict, "the entry of the key has changed since it was read"))
        }
        Some(_) => Ok(()),
    }
}

#[async_trait]
impl KeyIndex for MemoryIndex {
    async fn get(&self, name: &KeyName) -> Result<Option<IndexEntry>> {
        Ok(self.entries().1.get(name).map(copy))
    }

    async fn create(&self, name: &KeyName, uid: &str) -> Result<String> {
        let mut guard = self.entries();
        let (count, entries) = &mut *guard;
        if entries.contains_key(name) {
            return Err(Error::new(ErrorKind::AlreadyExists, "the key has an entry"));
        }
        *count += 1;
        entries.insert(name.clone(), IndexEntry::new(uid, count.to_string()));
        Ok(count.to_string())
    }

    async fn swap(&self, name: &KeyName, version: &str, uid: &str) -> Result<String> {
        let mut guard = self.entries();
        let (count, entries) = &mut *guard;
        expect(name, entries.get(name), version)?;
        *count += 1;
        entries.insert(name.clone(), IndexEntry::new(uid, count.to_string()));
        Ok(count.to_string())
    }

    async fn delete(&self, name: &KeyName, version: &str) -> Result<()> {
        let mut entries = self.entries();
        expect(name, entries.1.get(name), version)?;
        entries.1.remove(name);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<(KeyName, IndexEntry)>> {
        Ok(self.entries().1.iter().map(|(name, entry)| (name.clone(), copy(entry))).collect())
    }
}

/// The index of a provider, if it has one.
pub(crate) type Index<'a> = Option<&'a dyn KeyIndex>;

/// Reads the entry of a key. `None` if the key has no entry.
///
/// # Errors
///
/// `Protocol` if the entry holds a KEK in place of an identifier.
pub(crate) async fn entry(index: &dyn KeyIndex, name: &KeyName) -> Result<Option<IndexEntry>> {
    let entry = index.get(name).await?;
    if let Some(entry) = &entry {
        check_identifier(&entry.uid)?;
    }
    Ok(entry)
}

/// Creates an entry for an object without one.
///
/// # Errors
///
/// `Conflict` if another writer has created an entry.
pub(crate) async fn adopt(index: &dyn KeyIndex, name: &KeyName, uid: String) -> Result<IndexEntry> {
    let version = index.create(name, &uid).await.map_err(|error| as_conflict(error, name))?;
    warn!(key = %name, object = uid, "the object had no entry in the index, and has one now");
    Ok(IndexEntry::new(uid, version))
}

/// The error for an entry that another writer has created first.
pub(crate) fn as_conflict(error: Error, name: &KeyName) -> Error {
    if error.kind() == ErrorKind::AlreadyExists { Error::key_changed(name) } else { error }
}

/// The error for an entry whose object is absent from the server.
pub(crate) fn dangling(name: &KeyName, uid: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!(
            "the Secret of the key names an object that the server does not have: it was destroyed there, as Rook does \
             when it deletes the key, or this is another server. If the key was deleted, delete the Secret in the \
             namespace of the CephCluster: kubectl delete secret --selector pvc_name={name}"
        ),
    )
    .context("key", name.as_str())
    .context("object", uid)
}

/// Fails if the index holds a KEK in place of an identifier (rook-behaviour W3).
///
/// Rook stores KEKs and identifiers in Secrets of the same name and form. A cluster that was switched from Kubernetes
/// Secrets to KMIP has KEKs there. The client must never send such a KEK to the server.
pub(crate) fn check_identifier(uid: &str) -> Result<()> {
    if uid.is_empty() {
        return Err(Error::new(
            ErrorKind::Protocol,
            "the Secret of the key is empty and holds no identifier",
        ));
    }
    let is_kek = STANDARD.decode(uid).map(Zeroizing::new).is_ok_and(|bytes| {
        // A hash in hexadecimal can be read as base64 too.
        let hexadecimal = uid.bytes().all(|byte| byte.is_ascii_hexdigit());
        bytes.len() == 128 || (bytes.len() >= KEK_BYTES && !hexadecimal)
    });
    if is_kek {
        return Err(Error::new(
            ErrorKind::Protocol,
            "the Secret of the key holds a KEK and no identifier of a KMIP object: the key was stored while the \
             cluster kept its keys in Kubernetes Secrets. The KEK is unchanged and was not sent to the server. Switch the \
             cluster back to Kubernetes Secrets; or save the KEK with kms get and the former settings, remove the \
             Secret, and store the KEK with kms put",
        ));
    }
    if uid.len() > MAX_IDENTIFIER || uid.chars().any(char::is_control) {
        return Err(Error::new(
            ErrorKind::Protocol,
            "the Secret of the key holds a text that cannot be an identifier of a KMIP object",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kms_core::Kek;

    use super::*;

    #[test]
    fn identifiers_are_distinguished_from_keks() {
        let uuid = "550e8400-e29b-41d4-a716-446655440000";
        let (hash, short) = ("ab".repeat(64), "c2hvcnQ=");
        for uid in ["1", "abc123", uuid, &uuid.replace('-', ""), &hash, short, "id with spaces"] {
            check_identifier(uid).unwrap();
        }
        let kek = Kek::generate().unwrap();
        let other = STANDARD.encode([7; 64]);
        let long = "x-".repeat(600);
        for uid in [kek.expose_secret_text().unwrap(), &other, "", "a\nb", &long] {
            let error = check_identifier(uid).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol);
            assert!(uid.is_empty() || !error.to_string().contains(uid));
        }
        assert!(
            !format!("{:?}", IndexEntry::new(kek.expose_secret_text().unwrap(), "1"))
                .contains(kek.expose_secret_text().unwrap())
        );
    }

    #[tokio::test]
    async fn an_entry_is_written_only_in_the_version_that_was_read() {
        let index = MemoryIndex::new();
        let name = KeyName::new("a").unwrap();
        let first = index.create(&name, "1").await.unwrap();
        assert_eq!(index.create(&name, "2").await.unwrap_err().kind(), ErrorKind::AlreadyExists);
        let second = index.swap(&name, &first, "1").await.unwrap();
        assert_ne!(first, second);
        assert_eq!(index.swap(&name, &first, "2").await.unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(index.delete(&name, &first).await.unwrap_err().kind(), ErrorKind::Conflict);
        index.delete(&name, &second).await.unwrap();
        assert_eq!(index.delete(&name, &second).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
