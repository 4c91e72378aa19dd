//! The documents beside the archives, which hold no secret: who can decrypt what, and when it was proven.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use kms_core::Result;
use serde::{Deserialize, Serialize};

use crate::{
    error::{at, damaged, not_read},
    manifest::{About, SCHEMA, check_schema},
};

/// The names of the files of an escrow.
pub(crate) const SIDECAR: &str = "escrow.json";
pub(crate) const DRILL: &str = "drill.json";
pub(crate) const KEKS: &str = "keks.tar.age";
pub(crate) const HEADERS: &str = "headers.tar.age";

/// The document that names the recipients and dates of an escrow. It has no secret, no name of a key and no digest of a
/// KEK.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Sidecar {
    pub(crate) schema: u32,
    /// The random id of the escrow.
    pub id: String,
    /// When the escrow was made.
    #[cfg_attr(test, schemars(with = "String"))]
    pub created: Timestamp,
    /// The KMS and the cluster.
    #[serde(flatten)]
    pub about: About,
    /// The archive of KEKs.
    pub keks: Archive,
    /// The archive of LUKS headers, if the escrow has one.
    pub headers: Option<Archive>,
}

/// An archive of an escrow.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Archive {
    /// The name of the file.
    pub file: String,
    /// The recipients whose identities decrypt it.
    pub recipients: Vec<String>,
    /// How many KEKs or headers it has.
    pub entries: usize,
    /// The size of the encrypted file in bytes.
    pub bytes: u64,
    /// The SHA-256 of the encrypted file, in hexadecimal digits.
    pub sha256: String,
}

impl Sidecar {
    pub(crate) fn new(
        id: &str,
        created: Timestamp,
        about: &About,
        keks: Archive,
        headers: Option<Archive>,
    ) -> Self {
        Self { schema: SCHEMA, id: id.to_owned(), created, about: about.clone(), keks, headers }
    }

    /// Reads the document of an escrow. Reads nothing else.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the folder is not an escrow; `Unsupported` for a newer format; `Protocol` if the document is
    /// malformed.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(SIDECAR);
        let text = fs::read(&path).map_err(not_read(&path))?;
        let parsed = check_schema(&text).and_then(|()| {
            serde_json::from_slice(&text).map_err(|_cause| damaged("its document is malformed"))
        });
        let sidecar: Self = parsed.map_err(at(&path))?;
        // The names become paths.
        let archives =
            [Some((&sidecar.keks, KEKS)), sidecar.headers.as_ref().map(|headers| (headers, HEADERS))];
        if archives.into_iter().flatten().any(|(archive, name)| archive.file != name) {
            return Err(at(&path)(damaged("its document names other files")));
        }
        Ok(sidecar)
    }
}

/// The result of the last drill, beside the archives.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct DrillRecord {
    schema: u32,
    /// The id of the escrow.
    pub id: String,
    /// When the drill ended.
    #[cfg_attr(test, schemars(with = "String"))]
    pub drilled: Timestamp,
    /// Whether everything would come back.
    pub ok: bool,
}

impl DrillRecord {
    /// The record of a drill that has ended now.
    pub fn new(sidecar: &Sidecar, drilled: Timestamp, ok: bool) -> Self {
        Self { schema: SCHEMA, id: sidecar.id.clone(), drilled, ok }
    }

    /// Reads the record of the last drill. `None` if there was none since the escrow was made.
    ///
    /// # Errors
    ///
    /// As [`Sidecar::read`].
    pub fn read(folder: &Path, sidecar: &Sidecar) -> Result<Option<Self>> {
        let path = Self::path(folder);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(not_read(&path)(cause)),
        };
        let parsed = check_schema(&text).and_then(|()| {
            serde_json::from_slice(&text).map_err(|_cause| damaged("the record of its drill is malformed"))
        });
        parsed.map_err(at(&path)).map(|record: Self| Some(record).filter(|record| record.id == sidecar.id))
    }

    pub(crate) fn path(folder: &Path) -> PathBuf {
        folder.join(DRILL)
    }
}
