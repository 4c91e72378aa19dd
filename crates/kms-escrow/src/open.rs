//! Reads an escrow.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use age::Identity;
use kms_core::{Kek, KeyName, Result};
use zeroize::Zeroizing;

use crate::{
    Identities, SavedKey,
    archive::{ArchiveReader, Sum},
    error::{at, damaged},
    manifest::{HeaderEntry, MANIFEST, Manifest},
    sidecar::{Archive, Sidecar},
};

/// An escrow in a folder.
#[derive(Clone, Debug)]
pub struct Escrow {
    folder: PathBuf,
    sidecar: Sidecar,
}

impl Escrow {
    /// Opens the escrow in a folder. Reads the document without secrets, and no archive.
    ///
    /// # Errors
    ///
    /// As [`Sidecar::read`].
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        let sidecar = Sidecar::read(&folder)?;
        Ok(Self { folder, sidecar })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The document without secrets.
    pub fn sidecar(&self) -> &Sidecar {
        &self.sidecar
    }

    /// Checks that the archives have the sizes and digests of the document. Needs no identity.
    ///
    /// # Errors
    ///
    /// `Protocol` if an archive is not the one that was written; `ConfigInvalid` if it cannot be read.
    pub fn check_files(&self) -> Result<()> {
        let Sidecar { keks, headers, .. } = &self.sidecar;
        for archive in [Some(keks), headers.as_ref()].into_iter().flatten() {
            let path = self.folder.join(&archive.file);
            let sum = Sum::of_file(&path)?;
            if sum.bytes != archive.bytes || sum.sha256 != archive.sha256 {
                return Err(at(&path)(damaged("the archive is not the one that was written")));
            }
        }
        Ok(())
    }

    /// Decrypts the KEKs, sorted by name.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if no identity decrypts the archive, or if it cannot be read; `Protocol` if it is damaged.
    pub fn keks(&self, identities: &Identities) -> Result<Vec<SavedKey>> {
        let path = self.folder.join(&self.sidecar.keks.file);
        let (manifest, keys) = read_keks(&path, &identities.list())?;
        self.check(&manifest, &self.sidecar.keks, &path)?;
        Ok(keys)
    }

    /// Decrypts the LUKS headers, and hands each to `each`, with the name of its key and its UUID. One header at a time is
    /// in memory. Returns the entries of the manifest, which stands last. Empty if the escrow has no headers.
    ///
    /// # Errors
    ///
    /// As [`keks`](Self::keks). `each` may have seen headers of a damaged archive then, so what it decides counts only if
    /// this succeeds. Errors of `each`.
    pub async fn headers(
        &self,
        identities: &Identities,
        each: impl AsyncFnMut(&KeyName, &str, &[u8]) -> Result<()>,
    ) -> Result<Vec<HeaderEntry>> {
        let Some(archive) = &self.sidecar.headers else { return Ok(Vec::new()) };
        let path = self.folder.join(&archive.file);
        let manifest = read_headers(&path, &identities.list(), each).await?;
        self.check(&manifest, archive, &path)?;
        Ok(manifest.headers)
    }

    /// Checks that an archive belongs to the document.
    fn check(&self, manifest: &Manifest, archive: &Archive, path: &Path) -> Result<()> {
        let entries = manifest.keys.len() + manifest.headers.len();
        if manifest.id == self.sidecar.id && entries == archive.entries {
            Ok(())
        } else {
            Err(at(path)(damaged("the archive belongs to another escrow")))
        }
    }
}

/// The KEKs of several escrows for one device: first those of the key `name`, then all others, since a cluster that was
/// made anew may have another name for the same device. The folder says where each comes from.
///
/// # Errors
///
/// As [`Escrow::open`] and [`Escrow::keks`].
pub fn keks_of(
    name: &KeyName,
    folders: &[PathBuf],
    identities: &Identities,
) -> Result<Vec<(PathBuf, SavedKey)>> {
    let mut found = Vec::new();
    for folder in folders {
        let keys = Escrow::open(folder)?.keks(identities)?;
        found.extend(keys.into_iter().map(|key| (folder.clone(), key)));
    }
    found.sort_by_key(|(_, key)| key.entry.name != *name);
    Ok(found)
}

/// Reads an archive of KEKs.
pub(crate) fn read_keks(path: &Path, identities: &[&dyn Identity]) -> Result<(Manifest, Vec<SavedKey>)> {
    let read = || {
        let mut reader = ArchiveReader::open(path, identities)?;
        let mut manifest = None;
        let mut keks: BTreeMap<String, Zeroizing<Vec<u8>>> = BTreeMap::new();
        for member in reader.members()? {
            let (file, bytes) = member?;
            if file == MANIFEST {
                manifest = Some(Manifest::parse(&bytes)?);
            } else if keks.insert(file, bytes).is_some() {
                return Err(damaged("a file is twice in its archive"));
            }
        }
        reader.finish()?;
        let manifest = manifest.ok_or_else(|| damaged("its archive has no manifest"))?;
        let mut keys = Vec::with_capacity(manifest.keys.len());
        for entry in &manifest.keys {
            let mut bytes =
                keks.remove(&entry.file).ok_or_else(|| damaged("a KEK of its manifest is missing"))?;
            let kek = Kek::from_stored_bytes(std::mem::take(&mut *bytes))
                .map_err(|error| error.context("key", entry.name.as_str()))?;
            keys.push(SavedKey { entry: entry.clone(), kek });
        }
        if !keks.is_empty() {
            return Err(damaged("its archive has a file that its manifest does not name"));
        }
        keys.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
        Ok((manifest, keys))
    };
    read().map_err(at(path))
}

/// Reads an archive of headers, one header at a time.
pub(crate) async fn read_headers(
    path: &Path,
    identities: &[&dyn Identity],
    mut each: impl AsyncFnMut(&KeyName, &str, &[u8]) -> Result<()>,
) -> Result<Manifest> {
    let read = async {
        let mut reader = ArchiveReader::open(path, identities)?;
        let mut manifest: Option<Manifest> = None;
        let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
        for member in reader.members()? {
            let (file, bytes) = member?;
            if file == MANIFEST {
                manifest = Some(Manifest::parse(&bytes)?);
                continue;
            }
            let (name, uuid) =
                parts(&file).ok_or_else(|| damaged("its archive has a file that is not a header"))?;
            each(&name, uuid, &bytes).await?;
            if sums.insert(file.clone(), Sum::of(&bytes)).is_some() {
                return Err(damaged("a file is twice in its archive"));
            }
        }
        reader.finish()?;
        let manifest = manifest.ok_or_else(|| damaged("its archive has no manifest"))?;
        for HeaderEntry { file, bytes, sha256, .. } in &manifest.headers {
            let sum = sums.remove(file).ok_or_else(|| damaged("a header of its manifest is missing"))?;
            if sum.bytes != *bytes || sum.sha256 != *sha256 {
                return Err(damaged("a header is not the one of its manifest"));
            }
        }
        if !sums.is_empty() {
            return Err(damaged("its archive has a file that its manifest does not name"));
        }
        Ok(manifest)
    };
    read.await.map_err(at(path))
}

/// The name and the UUID in the path of a header.
fn parts(file: &str) -> Option<(KeyName, &str)> {
    let (folder, uuid) = file.strip_suffix(".luks")?.rsplit_once('/')?;
    let name = KeyName::new(folder.rsplit_once('/')?.1).ok()?;
    (HeaderEntry::file(&name, uuid).ok()? == file).then_some((name, uuid))
}
