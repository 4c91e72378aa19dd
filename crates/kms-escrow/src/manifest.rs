//! The manifest of an archive: what it holds, and where that comes from.

use jiff::Timestamp;
use kms_core::{Error, ErrorKind, KeyName, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::error::damaged;

/// The version of the format that this crate writes and reads.
pub(crate) const SCHEMA: u32 = 1;
/// The name of the manifest in an archive.
pub(crate) const MANIFEST: &str = "manifest.json";
/// The folders of the KEKs and of the headers in an archive.
const KEKS: &str = "keks";
const HEADERS: &str = "headers";
/// The longest UUID of a LUKS header, in characters.
const MOST_UUID: usize = 40;

/// The KMS and the cluster that an escrow is of.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct About {
    /// The name of the provider, such as `vault`.
    pub provider: String,
    /// The CephCluster as `NAMESPACE/NAME`, if known.
    pub cluster: Option<String>,
    /// The id of the Ceph cluster, if known.
    pub fsid: Option<String>,
}

impl About {
    /// What is known of a cluster.
    pub fn new(provider: impl Into<String>, cluster: Option<String>, fsid: Option<String>) -> Self {
        Self { provider: provider.into(), cluster, fsid }
    }
}

/// The manifest of an archive.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Manifest {
    schema: u32,
    /// The random id of the escrow, which all its files have.
    pub id: String,
    /// When the escrow was made.
    #[cfg_attr(test, schemars(with = "String"))]
    pub created: Timestamp,
    /// The KMS and the cluster.
    #[serde(flatten)]
    pub about: About,
    /// The KEKs in the archive, sorted by name.
    #[serde(default)]
    pub keys: Vec<KeyEntry>,
    /// The headers in the archive.
    #[serde(default)]
    pub headers: Vec<HeaderEntry>,
}

/// A KEK in an archive.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct KeyEntry {
    /// The name of the key.
    #[serde(serialize_with = "write_name", deserialize_with = "read_name")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub name: KeyName,
    /// Its file in the archive: the bytes of the passphrase and nothing else.
    pub(crate) file: String,
    /// The version in the KMS.
    pub version: String,
    /// When the key was first stored, if the KMS knows.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub created: Option<Timestamp>,
    /// When this version was stored, if the KMS knows.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub updated: Option<Timestamp>,
}

impl KeyEntry {
    pub(crate) fn new(
        name: KeyName,
        version: String,
        created: Option<Timestamp>,
        updated: Option<Timestamp>,
    ) -> Self {
        Self { file: format!("{KEKS}/{name}"), name, version, created, updated }
    }
}

/// A LUKS header in an archive.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct HeaderEntry {
    /// The name of the key of its OSD.
    #[serde(serialize_with = "write_name", deserialize_with = "read_name")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub name: KeyName,
    /// The device that it was read from.
    pub device: String,
    /// Its file in the archive, as `cryptsetup luksHeaderRestore` takes it.
    pub(crate) file: String,
    /// The version of LUKS: 1 or 2.
    pub luks: u8,
    /// The LUKS UUID.
    pub uuid: String,
    /// The key slots in use.
    pub slots: Vec<u8>,
    /// The slot that the KEK of the same escrow opens. `None` if it opens no slot.
    pub opened: Option<u8>,
    /// The size of the file in bytes.
    pub bytes: u64,
    /// The SHA-256 of the file, in hexadecimal digits.
    pub sha256: String,
}

impl HeaderEntry {
    /// The file of a header.
    ///
    /// # Errors
    ///
    /// `Protocol` if the UUID is not one: it comes from a disk, and becomes part of a path.
    pub(crate) fn file(name: &KeyName, uuid: &str) -> Result<String> {
        let is_uuid = !uuid.is_empty()
            && uuid.len() <= MOST_UUID
            && uuid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        if is_uuid {
            Ok(format!("{HEADERS}/{name}/{uuid}.luks"))
        } else {
            Err(Error::new(
                ErrorKind::Protocol,
                "the LUKS header has no valid UUID: set one (cryptsetup luksUUID)",
            ))
        }
    }
}

impl Manifest {
    pub(crate) fn new(id: &str, created: Timestamp, about: &About) -> Self {
        let (keys, headers) = (Vec::new(), Vec::new());
        Self { schema: SCHEMA, id: id.to_owned(), created, about: about.clone(), keys, headers }
    }

    /// Parses a manifest.
    ///
    /// # Errors
    ///
    /// `Unsupported` for a newer format; `Protocol` if the text is not a manifest.
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        check_schema(text)?;
        let parsed: Self =
            serde_json::from_slice(text).map_err(|_cause| damaged("its manifest is malformed"))?;
        for key in &parsed.keys {
            if key.file != format!("{KEKS}/{}", key.name) {
                return Err(damaged("its manifest names a file that is not that of the key"));
            }
        }
        for header in &parsed.headers {
            if header.file != HeaderEntry::file(&header.name, &header.uuid)? {
                return Err(damaged("its manifest names a file that is not that of the header"));
            }
        }
        Ok(parsed)
    }

    pub(crate) fn text(&self) -> Result<Vec<u8>> {
        json(self)
    }
}

/// Writes a document of an escrow.
pub(crate) fn json(document: &impl Serialize) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(document).map_err(|cause| {
        Error::new(ErrorKind::Unexpected, "a document of the escrow cannot be written").source(cause)
    })?;
    text.push(b'\n');
    Ok(text)
}

/// Refuses a document of a newer format.
pub(crate) fn check_schema(text: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    struct Head {
        schema: u32,
    }
    let head: Head =
        serde_json::from_slice(text).map_err(|_cause| damaged("a document of it is malformed"))?;
    if head.schema == SCHEMA {
        return Ok(());
    }
    let message =
        format!("the escrow has format {}, and this kms reads format {SCHEMA}: use a newer kms", head.schema);
    Err(Error::new(ErrorKind::Unsupported, message))
}

fn write_name<S: Serializer>(name: &KeyName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}

fn read_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KeyName, D::Error> {
    KeyName::new(String::deserialize(deserializer)?).map_err(|error| D::Error::custom(error.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schemas_of_the_documents_are_up_to_date() {
        use crate::sidecar::{DrillRecord, Sidecar};
        use kms_testkit::schema::{check, of};
        check("escrow-manifest", &of::<Manifest>("manifest.json of an escrow"));
        check("escrow-sidecar", &of::<Sidecar>("escrow.json of an escrow"));
        check("escrow-drill-record", &of::<DrillRecord>("drill.json of an escrow"));
    }

    fn manifest() -> Manifest {
        let mut manifest = Manifest::new("id", Timestamp::UNIX_EPOCH, &About::new("vault", None, None));
        manifest.keys.push(KeyEntry::new("a".parse().unwrap(), "3".to_owned(), None, None));
        manifest
    }

    #[test]
    fn a_manifest_reads_as_it_was_written() {
        let manifest = manifest();
        assert_eq!(Manifest::parse(&manifest.text().unwrap()).unwrap(), manifest);
    }

    #[test]
    fn a_manifest_of_a_newer_format_or_with_foreign_paths_is_refused() {
        let text = String::from_utf8(manifest().text().unwrap()).unwrap();
        for (from, to, kind) in [
            ("\"schema\": 1", "\"schema\": 2", ErrorKind::Unsupported),
            ("keks/a", "../a", ErrorKind::Protocol),
            ("\"a\"", "\"../a\"", ErrorKind::Protocol),
            ("{", "", ErrorKind::Protocol),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            assert_eq!(Manifest::parse(changed.as_bytes()).unwrap_err().kind(), kind, "{from}");
        }
    }

    #[test]
    fn a_uuid_from_a_disk_does_not_leave_its_folder() {
        let name: KeyName = "a".parse().unwrap();
        let good = HeaderEntry::file(&name, "6f1c9a0e-0000-4000-8000-0123456789ab").unwrap();
        assert_eq!(good, "headers/a/6f1c9a0e-0000-4000-8000-0123456789ab.luks");
        for uuid in ["", "..", "../../etc/passwd", "a/b", &"a".repeat(41)] {
            assert!(HeaderEntry::file(&name, uuid).is_err(), "{uuid}");
        }
    }
}
