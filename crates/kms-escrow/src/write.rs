//! Writes an escrow, and reads it back.

use std::{fmt, fmt::Write as _, path::Path, path::PathBuf, time::SystemTime};

use age::Identity;
use jiff::Timestamp;
use kms_core::{Error, ErrorKind, KeyName, KmsProvider, Result};

use crate::{
    About, Archive, Identities, Recipients, SavedKey, Sidecar,
    archive::{ArchiveWriter, Sum, Written},
    error::{at, damaged},
    folder::{Staging, write_document},
    keys::{read_keys, second},
    manifest::{HeaderEntry, MANIFEST, Manifest, json},
    open::{read_headers, read_keks},
    sidecar::{HEADERS, KEKS, SIDECAR},
};

pub use crate::folder::Overwrite;

/// The random bytes in the id of an escrow.
const ID_BYTES: usize = 16;

/// Whether one identity may decrypt KEKs and headers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Sharing {
    /// It may not: a KEK and a header of the same time open the disk for ever, whatever a rotation does.
    #[default]
    Separate,
    /// It may.
    Together,
}

/// A LUKS header that goes into an escrow.
#[derive(Clone)]
pub struct HeaderCopy {
    /// The name of the key of its OSD.
    pub name: KeyName,
    /// The device that it was read from.
    pub device: String,
    /// The version of LUKS: 1 or 2.
    pub luks: u8,
    /// The LUKS UUID.
    pub uuid: String,
    /// The key slots in use.
    pub slots: Vec<u8>,
    /// The header, as `cryptsetup luksHeaderBackup` writes it.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for HeaderCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, device, luks, uuid, slots, bytes: _ } = self;
        let mut shown = f.debug_struct("HeaderCopy");
        shown.field("name", name).field("device", device).field("luks", luks).field("uuid", uuid);
        shown.field("slots", slots).finish_non_exhaustive()
    }
}

/// An escrow that is not complete yet. Dropping it removes what was written.
#[derive(Debug)]
pub struct Draft {
    staging: Staging,
    id: String,
    created: Timestamp,
    about: About,
    keks: Option<Archive>,
    headers: Option<Archive>,
}

/// Writes an escrow of these keys to a new folder, and reads it back. Returns the keys as well: a caller that then deletes
/// one compares it first, since it may have changed.
///
/// # Errors
///
/// Errors of reading the KEKs; as [`Draft::begin`] and [`Draft::add_keys`].
pub async fn save(
    kms: &dyn KmsProvider,
    names: &[KeyName],
    recipients: &Recipients,
    folder: &Path,
    about: About,
) -> Result<(Sidecar, Vec<SavedKey>)> {
    let mut draft = Draft::begin(folder, about, Overwrite::Never)?;
    let keys = read_keys(kms, names, &|_, _| ()).await?;
    draft.add_keys(&keys, recipients, &Identities::default())?;
    Ok((draft.commit()?, keys))
}

impl Draft {
    /// Begins an escrow. Until [`commit`](Self::commit), it is in a hidden folder beside the final one.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the folder exists and must not be replaced; `Unexpected` if the system refuses a file.
    pub fn begin(folder: &Path, about: About, overwrite: Overwrite) -> Result<Self> {
        let staging = Staging::beside(folder, overwrite)?;
        let mut random = [0_u8; ID_BYTES];
        getrandom::fill(&mut random).map_err(|cause| {
            let error = Error::new(ErrorKind::Unexpected, "the operating system gave no random bytes");
            error.context("cause", cause.to_string())
        })?;
        let mut id = String::with_capacity(2 * ID_BYTES);
        for byte in random {
            // Writing into a string cannot fail.
            let _ = write!(id, "{byte:02x}");
        }
        let created = second(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH);
        Ok(Self { staging, id, created, about, keks: None, headers: None })
    }

    /// Writes the archive of KEKs, reads it back from the disk and compares each KEK.
    ///
    /// With identities, they decrypt it as in a drill. Without, this run's own copy of the archive's key does, which
    /// leaves the wrapping for the recipients unproven.
    ///
    /// # Errors
    ///
    /// `NotFound` without keys; `ConfigInvalid` if the archive cannot be encrypted to the recipients, or the identities do
    /// not decrypt it; `Unexpected` if the system refuses a file; `Protocol` if the disk returns something else.
    pub fn add_keys(
        &mut self,
        keys: &[SavedKey],
        recipients: &Recipients,
        identities: &Identities,
    ) -> Result<()> {
        if keys.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "there are no keys to save"));
        }
        let path = self.staging.file(KEKS);
        let mut manifest = Manifest::new(&self.id, self.created, &self.about);
        manifest.keys = keys.iter().map(|key| key.entry.clone()).collect();
        let mut writer = ArchiveWriter::create(&path, recipients, self.created)?;
        writer.add(MANIFEST, &manifest.text()?)?;
        for key in keys {
            writer.add(&key.entry.file, key.kek.expose_secret_bytes())?;
        }
        let written = writer.finish()?;
        let (manifest_then, keys_then) = read_keks(&path, &proving(&written, identities))?;
        let equal = |(key, then): (&SavedKey, &SavedKey)| key.entry == then.entry && key.kek.ct_eq(&then.kek);
        let same = manifest == manifest_then
            && keys.len() == keys_then.len()
            && keys.iter().zip(&keys_then).all(equal);
        self.keks = Some(archive(KEKS, &path, recipients, keys.len(), written, same)?);
        Ok(())
    }

    /// Begins the archive of LUKS headers.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if a recipient of the KEKs would decrypt the headers too, and `sharing` does not allow that;
    /// otherwise as [`add_keys`](Self::add_keys).
    pub fn add_headers<'a>(
        &'a mut self,
        recipients: &'a Recipients,
        sharing: Sharing,
    ) -> Result<Headers<'a>> {
        let of_keks = self.keks.as_ref().map(|archive| archive.recipients.as_slice()).unwrap_or_default();
        let both = recipients.names().iter().find(|name| of_keks.contains(name));
        if let (Some(name), Sharing::Separate) = (both, sharing) {
            return Err(Error::config(
                "KEKs and headers would have a recipient in common, whose identity opens the disks for ever, also after \
                 each KEK was replaced: name other recipients for the headers, or accept it with --together",
            )
            .context("recipient", name));
        }
        let path = self.staging.file(HEADERS);
        let manifest = Manifest::new(&self.id, self.created, &self.about);
        let writer = ArchiveWriter::create(&path, recipients, self.created)?;
        Ok(Headers { draft: &mut self.headers, path, recipients, manifest, writer: Box::new(writer) })
    }

    /// Writes the document without secrets, and gives the folder its name. From then on the escrow exists.
    ///
    /// # Errors
    ///
    /// `Unexpected` if the system refuses it; `ConfigInvalid` if the final folder has changed meanwhile.
    pub fn commit(self) -> Result<Sidecar> {
        let Self { staging, id, created, about, keks, headers } = self;
        let keks = keks.ok_or_else(|| Error::new(ErrorKind::NotFound, "there are no keys to save"))?;
        let sidecar = Sidecar::new(&id, created, &about, keks, headers);
        write_document(&staging.file(SIDECAR), &json(&sidecar)?)?;
        staging.commit()?;
        Ok(sidecar)
    }
}

/// The archive of headers of a [`Draft`], which is being written.
pub struct Headers<'a> {
    draft: &'a mut Option<Archive>,
    path: PathBuf,
    recipients: &'a Recipients,
    manifest: Manifest,
    writer: Box<ArchiveWriter>,
}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Headers").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}

impl Headers<'_> {
    /// Writes a header. `opened` is the slot that the KEK of this escrow opens, if it opens one.
    ///
    /// # Errors
    ///
    /// `Protocol` if the UUID of the header is not valid, or occurs twice for one key; `Unexpected` if the system refuses
    /// a write.
    pub fn add(&mut self, copy: &HeaderCopy, opened: Option<u8>) -> Result<()> {
        let HeaderCopy { name, device, luks, uuid, slots, bytes } = copy;
        let file = HeaderEntry::file(name, uuid)?;
        if self.manifest.headers.iter().any(|known| known.file == file) {
            return Err(Error::new(
                ErrorKind::Protocol,
                "two devices have the same LUKS UUID: one is a copy of the other",
            )
            .context("key", name.as_str())
            .context("device", device));
        }
        self.writer.add(&file, bytes)?;
        let sum = Sum::of(bytes);
        self.manifest.headers.push(HeaderEntry {
            name: name.clone(),
            device: device.clone(),
            file,
            luks: *luks,
            uuid: uuid.clone(),
            slots: slots.clone(),
            opened,
            bytes: sum.bytes,
            sha256: sum.sha256,
        });
        Ok(())
    }

    /// Ends the archive, and reads it back as [`Draft::add_keys`] does.
    ///
    /// # Errors
    ///
    /// As [`Draft::add_keys`].
    pub async fn finish(self, identities: &Identities) -> Result<()> {
        let Self { draft, path, recipients, manifest, mut writer } = self;
        writer.add(MANIFEST, &manifest.text()?)?;
        let written = writer.finish()?;
        let then = read_headers(&path, &proving(&written, identities), async |_, _, _| Ok(())).await?;
        *draft =
            Some(archive(HEADERS, &path, recipients, manifest.headers.len(), written, manifest == then)?);
        Ok(())
    }
}

/// The identities that read an archive back.
fn proving<'a>(written: &'a Written, identities: &'a Identities) -> Vec<&'a dyn Identity> {
    if identities.is_empty() { vec![&written.file_key] } else { identities.list() }
}

/// The entry of an archive that was read back.
fn archive(
    file: &str,
    path: &Path,
    recipients: &Recipients,
    entries: usize,
    written: Written,
    same: bool,
) -> Result<Archive> {
    let Sum { bytes, sha256 } = Sum::of_file(path)?;
    if !same || bytes != written.sum.bytes || sha256 != written.sum.sha256 {
        return Err(at(path)(damaged("the disk returned something else than was written")));
    }
    Ok(Archive { file: file.to_owned(), recipients: recipients.names().to_vec(), entries, bytes, sha256 })
}
