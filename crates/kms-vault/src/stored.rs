//! Encodes and decodes secrets of KV v1 and v2 (rook-behaviour §4.4, §4.5, §4.6).

use std::{borrow::Cow, cmp::Reverse, collections::BTreeMap, time::SystemTime};

use kms_core::{Error, ErrorKind, Kek, KeyName, KeyVersion, Result, SecretString};
use kms_http::json::unreadable;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;
use zeroize::{Zeroize, Zeroizing};

use crate::{api::data, name::secret_id};

/// The context that marks an error about a malformed stored value.
const FIELD: &str = "field";

/// The version of a KV secrets engine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum KvVersion {
    V1,
    V2,
}

/// The path of the secret of a key in a folder.
pub(crate) fn secret_path(folder: &str, name: &KeyName) -> String {
    format!("{folder}/{}", secret_id(name))
}

/// The fields of a secret. The values stay in the response body, which is wiped on drop.
type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// The `data` of a v2 read.
#[derive(Deserialize)]
struct Versioned<'a> {
    #[serde(borrow)]
    data: Option<Fields<'a>>,
    metadata: VersionMetadata,
}

/// The metadata of one version on v2.
#[derive(Debug, Deserialize)]
pub(crate) struct VersionMetadata {
    #[serde(default)]
    created_time: String,
    #[serde(default)]
    deletion_time: String,
    #[serde(default)]
    destroyed: bool,
    pub(crate) version: u64,
}

impl VersionMetadata {
    /// The time at which this version was stored.
    pub(crate) fn created(&self) -> Option<SystemTime> {
        time(&self.created_time)
    }
}

/// The metadata of a secret on v2.
#[derive(Debug, Deserialize)]
pub(crate) struct SecretMetadata {
    pub(crate) current_version: u64,
    #[serde(default)]
    created_time: String,
    versions: BTreeMap<String, VersionState>,
}

#[derive(Debug, Deserialize)]
struct VersionState {
    #[serde(default)]
    created_time: String,
    #[serde(default)]
    deletion_time: String,
    #[serde(default)]
    destroyed: bool,
}

impl VersionState {
    /// Whether the version is soft-deleted.
    fn is_deleted(&self) -> bool {
        // With `delete_version_after` every version has a deletion time from the start, in the future.
        time(&self.deletion_time).is_some_and(|at| at <= SystemTime::now())
    }
}

/// A version on v2 whose value still exists.
#[derive(Debug)]
pub(crate) struct PastVersion {
    pub(crate) number: u64,
    /// When the version was stored.
    pub(crate) stored: Option<SystemTime>,
    pub(crate) is_deleted: bool,
}

impl SecretMetadata {
    /// Checks that the current version is described: without its description, it would look deleted.
    ///
    /// # Errors
    ///
    /// `Protocol` if it is not.
    pub(crate) fn complete(self) -> Result<Self> {
        if self.current_version == 0 || self.current().is_some() {
            return Ok(self);
        }
        Err(Error::new(ErrorKind::Protocol, "the server's metadata do not describe the current version"))
    }

    /// Whether the current version can be read.
    pub(crate) fn is_live(&self) -> bool {
        self.current().is_some_and(|version| !version.is_deleted() && !version.destroyed)
    }

    /// The time at which the first version was stored.
    pub(crate) fn created(&self) -> Option<SystemTime> {
        time(&self.created_time)
    }

    /// The time at which the current version was stored.
    pub(crate) fn updated(&self) -> Option<SystemTime> {
        time(&self.current()?.created_time)
    }

    /// The versions before `current` whose value still exists, soft-deleted ones included.
    pub(crate) fn superseded(&self, current: u64) -> Vec<u64> {
        let numbers = self.versions.iter().filter(|(_, state)| !state.destroyed);
        numbers.filter_map(|(number, _)| number.parse().ok()).filter(|number| *number < current).collect()
    }

    /// The versions whose value still exists, the newest first.
    pub(crate) fn past(&self) -> Vec<PastVersion> {
        let mut past: Vec<_> = self
            .versions
            .iter()
            .filter(|(_, state)| !state.destroyed)
            .filter_map(|(number, state)| {
                let (number, stored) = (number.parse().ok()?, time(&state.created_time));
                Some(PastVersion { number, stored, is_deleted: state.is_deleted() })
            })
            .collect();
        past.sort_unstable_by_key(|version| Reverse(version.number));
        past
    }

    fn current(&self) -> Option<&VersionState> {
        self.versions.get(&self.current_version.to_string())
    }
}

fn time(text: &str) -> Option<SystemTime> {
    text.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

/// The result of a read at the path of a secret.
pub(crate) enum Secret {
    /// A KEK; v1 has no metadata.
    Stored { kek: Kek, metadata: Option<VersionMetadata> },
    /// A secret whose value is the empty string. Rook treats such a path as free.
    Empty { version: Option<u64> },
    /// Only metadata: the last version is deleted or destroyed.
    Deleted {
        version: u64,
        /// Whether the version is destroyed, so that it cannot be brought back.
        destroyed: bool,
    },
    /// Nothing: no version was ever written, or all metadata is gone.
    Absent,
}

impl Secret {
    /// The version number that a conditional write on v2 has to name; 0 if no version exists.
    pub(crate) fn current_version(&self) -> u64 {
        match self {
            Self::Stored { metadata, .. } => metadata.as_ref().map_or(0, |metadata| metadata.version),
            Self::Deleted { version, .. } => *version,
            Self::Empty { version } => version.unwrap_or(0),
            Self::Absent => 0,
        }
    }
}

/// The version of a key on KV v1, which has no version numbers: the fingerprint of the KEK.
pub(crate) fn fingerprint(kek: &Kek) -> KeyVersion {
    KeyVersion::new(format!("fingerprint-{}", kek.fingerprint()))
}

/// Decodes the body of a successful v1 read. With `nested` the fields of the secret are in its field `data`.
pub(crate) fn decode_v1(name: &KeyName, body: &[u8], nested: bool) -> Result<Secret> {
    #[derive(Deserialize)]
    struct Nested<'a> {
        #[serde(borrow)]
        data: Fields<'a>,
    }

    let fields = if nested { data::<Nested<'_>>(body)?.data } else { data::<Fields<'_>>(body)? };
    Ok(match field(name, &fields)? {
        Some(kek) => Secret::Stored { kek, metadata: None },
        None => Secret::Empty { version: None },
    })
}

/// Decodes the body of a v2 read: of a success, or of a 404 that carries metadata.
pub(crate) fn decode_v2(name: &KeyName, body: &[u8]) -> Result<Secret> {
    let Versioned { data, metadata } = data::<Versioned<'_>>(body)?;
    let Some(fields) = data else {
        // Only the metadata say that the version is gone; a response whose data were taken out says nothing.
        if metadata.destroyed || !metadata.deletion_time.is_empty() {
            return Ok(Secret::Deleted { version: metadata.version, destroyed: metadata.destroyed });
        }
        return Err(Error::new(
            ErrorKind::Protocol,
            "the server's response has no data, although the version is not deleted",
        ));
    };
    Ok(match field(name, &fields)? {
        Some(kek) => Secret::Stored { kek, metadata: Some(metadata) },
        None => Secret::Empty { version: Some(metadata.version) },
    })
}

/// Whether the body of a read has the form of v2, which includes metadata.
///
/// The metadata decides, since a client that took a v1 mount for v2 may have written a secret with a field `data`.
pub(crate) fn has_v2_form(body: &[u8]) -> Result<bool> {
    #[derive(Deserialize)]
    struct Data {
        metadata: Option<IgnoredAny>,
    }

    Ok(data::<Data>(body)?.metadata.is_some())
}

/// Decodes the KEK of a secret: the field with the secret's own name. `None` if its value is the empty string.
fn field(name: &KeyName, fields: &Fields<'_>) -> Result<Option<Kek>> {
    let id = secret_id(name);
    let malformed = |why: &str| {
        Error::new(ErrorKind::Protocol, format!("the stored value is not a KEK: {why}"))
            .context("key", name.as_str())
            .context(FIELD, id.as_str())
    };
    let raw = fields.get(&id).ok_or_else(|| malformed("the secret has no field of its own name"))?.get();
    if !raw.starts_with('"') {
        return Err(malformed("the field is not a string"));
    }
    if raw == "\"\"" {
        return Ok(None);
    }
    Kek::from_stored(unquote(raw)?).map(Some).map_err(|error| malformed(error.message()))
}

/// Whether an error says that the stored value is not a KEK.
pub(crate) fn is_malformed(error: &Error) -> bool {
    error.kind() == ErrorKind::Protocol && error.contexts().any(|(name, _)| name == FIELD)
}

/// Unquotes a JSON string. A string without escapes, such as base64, is copied only into the secret.
fn unquote(raw: &str) -> Result<SecretString> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    match serde_json::from_str(raw).map_err(|cause| unreadable(&cause))? {
        Text(Cow::Borrowed(text)) => Ok(SecretString::from(text)),
        Text(Cow::Owned(mut text)) => {
            let secret = SecretString::from(text.as_str());
            text.zeroize();
            Ok(secret)
        }
    }
}

/// Encodes the body of a v1 write: `{"<id>":"<kek>"}`.
pub(crate) fn encode_v1(name: &KeyName, kek: &Kek) -> Result<Zeroizing<Vec<u8>>> {
    let mut body = buffer(name, kek);
    write_fields(&mut body, name, kek)?;
    Ok(body)
}

/// Encodes the body of a v2 write: `{"data":{"<id>":"<kek>"}}`, and the version that has to be current.
pub(crate) fn encode_v2(name: &KeyName, kek: &Kek, cas: Option<u64>) -> Result<Zeroizing<Vec<u8>>> {
    let mut body = buffer(name, kek);
    body.extend_from_slice(b"{\"data\":");
    write_fields(&mut body, name, kek)?;
    if let Some(cas) = cas {
        body.extend_from_slice(format!(",\"options\":{{\"cas\":{cas}}}").as_bytes());
    }
    body.push(b'}');
    Ok(body)
}

/// Creates a buffer that never grows, since growing would leave copies of the KEK behind. An escaped character takes
/// six bytes.
fn buffer(name: &KeyName, kek: &Kek) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(Vec::with_capacity(128 + name.as_str().len() + 6 * kek.expose_secret_bytes().len()))
}

fn write_fields(body: &mut Zeroizing<Vec<u8>>, name: &KeyName, kek: &Kek) -> Result<()> {
    let failed = |_cause| Error::new(ErrorKind::Unexpected, "the request could not be encoded");
    body.push(b'{');
    serde_json::to_writer(&mut **body, &secret_id(name)).map_err(failed)?;
    body.push(b':');
    serde_json::to_writer(&mut **body, kek.expose_secret_text()?).map_err(failed)?;
    body.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> KeyName {
        KeyName::new("set1-data-0x7dwl").unwrap()
    }

    fn kek(secret: Secret) -> String {
        match secret {
            Secret::Stored { kek, .. } => kek.expose_secret_text().unwrap().to_owned(),
            Secret::Deleted { .. } | Secret::Empty { .. } | Secret::Absent => panic!("nothing found"),
        }
    }

    #[test]
    fn paths_and_bodies_are_those_of_rook() {
        let (name, kek) = (name(), Kek::parse("QUJD+/==").unwrap());
        assert_eq!(
            secret_path("rook/ver1", &name),
            "rook/ver1/rook-ceph-osd-encryption-key-set1-data-0x7dwl"
        );
        let fields = r#"{"rook-ceph-osd-encryption-key-set1-data-0x7dwl":"QUJD+/=="}"#;
        assert_eq!(String::from_utf8(encode_v1(&name, &kek).unwrap().to_vec()).unwrap(), fields);
        let plain = encode_v2(&name, &kek, None).unwrap();
        assert_eq!(String::from_utf8(plain.to_vec()).unwrap(), format!(r#"{{"data":{fields}}}"#));
        let guarded = encode_v2(&name, &kek, Some(3)).unwrap();
        let expected = format!(r#"{{"data":{fields},"options":{{"cas":3}}}}"#);
        assert_eq!(String::from_utf8(guarded.to_vec()).unwrap(), expected);
    }

    #[test]
    fn a_body_never_outgrows_its_buffer() {
        let kek = Kek::parse("\u{1}\"\\".repeat(Kek::MAX_BYTES / 3)).unwrap();
        let name = KeyName::new("n".repeat(253)).unwrap();
        let before = buffer(&name, &kek).capacity();
        assert_eq!(encode_v2(&name, &kek, Some(u64::MAX)).unwrap().capacity(), before);
    }

    #[test]
    fn answers_of_both_versions_are_read() {
        let v1 = br#"{"data":{"other":{"x":[1]},"rook-ceph-osd-encryption-key-set1-data-0x7dwl":"QUJD"},"warnings":null}"#;
        assert_eq!(kek(decode_v1(&name(), v1, false).unwrap()), "QUJD");
        let v2 = br#"{"data":{"data":{"rook-ceph-osd-encryption-key-set1-data-0x7dwl":"a\"\u0062"},
            "metadata":{"created_time":"2026-11-25T13:12:34.835233324Z","custom_metadata":null,"deletion_time":"","destroyed":false,"version":7}}}"#;
        match decode_v2(&name(), v2).unwrap() {
            Secret::Stored { kek, metadata: Some(metadata) } => {
                assert_eq!(kek.expose_secret_text().unwrap(), "a\"b");
                assert_eq!(metadata.version, 7);
                assert!(metadata.created().is_some());
            }
            _ => panic!("nothing found"),
        }
        let deleted = br#"{"data":{"data":null,"metadata":{"deletion_time":"2026-11-25T00:00:00Z","destroyed":false,"version":2}}}"#;
        assert!(matches!(
            decode_v2(&name(), deleted).unwrap(),
            Secret::Deleted { version: 2, destroyed: false }
        ));
        let nested = br#"{"data":{"data":{"rook-ceph-osd-encryption-key-set1-data-0x7dwl":"QUJD"}}}"#;
        assert_eq!(kek(decode_v1(&name(), nested, true).unwrap()), "QUJD");
        let empty = br#"{"data":{"rook-ceph-osd-encryption-key-set1-data-0x7dwl":""}}"#;
        assert!(matches!(decode_v1(&name(), empty, false).unwrap(), Secret::Empty { version: None }));
        let with_break = br#"{"data":{"rook-ceph-osd-encryption-key-set1-data-0x7dwl":"QUJD\n"}}"#;
        assert_eq!(kek(decode_v1(&name(), with_break, false).unwrap()), "QUJD\n");
        let forms = [v2.as_slice(), deleted, v1, nested].map(|body| has_v2_form(body).unwrap());
        assert_eq!(forms, [true, true, false, false]);
    }

    #[test]
    fn what_is_no_kek_is_an_error_that_does_not_quote_it() {
        let id = secret_id(&name());
        for (fields, why) in [
            (r#"{"other":"canary"}"#.to_owned(), "no field of its own name"),
            (format!(r#"{{"{id}":null}}"#), "not a string"),
            (format!(r#"{{"{id}":17}}"#), "not a string"),
            (format!(r#"{{"{id}":{{"canary":"canary"}}}}"#), "not a string"),
            (r#"["canary"]"#.to_owned(), "another form"),
            (r#"{"canary"#.to_owned(), "ends too early"),
        ] {
            let body = format!(r#"{{"data":{fields}}}"#);
            let Err(error) = decode_v1(&name(), body.as_bytes(), false) else { panic!("{fields} was read") };
            assert_eq!(error.kind(), ErrorKind::Protocol);
            assert!(error.to_string().contains(why), "{fields}: {error}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
    }

    #[test]
    fn a_response_without_data_says_nothing_about_the_key() {
        let kept = r#"{"data":{"data":null,"metadata":{"created_time":"","deletion_time":"","destroyed":false,"version":2}}}"#;
        let wrapped = r#"{"request_id":"r","data":null,"wrap_info":{"token":"canary","ttl":60}}"#;
        for (body, why) in [
            ("{}", "has no data"),
            (r#"{"data":null}"#, "has no data"),
            (wrapped, "control group"),
            ("", "ends too early"),
            ("<html>", "web page"),
            (kept, ""),
        ] {
            for (version, decoded) in [
                ("v1", decode_v1(&name(), body.as_bytes(), false)),
                ("v2", decode_v2(&name(), body.as_bytes())),
            ] {
                let Err(error) = decoded else { panic!("{version} has read {body}") };
                assert_eq!(error.kind(), ErrorKind::Protocol, "{version} {body}: {error}");
                assert!(error.to_string().contains(why), "{version} {body}: {error}");
                assert!(!format!("{error:?}").contains("canary"), "{error:?}");
            }
            assert!(body == kept || has_v2_form(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn superseded_versions_are_those_before_the_current_one_that_are_still_there() {
        let metadata: SecretMetadata = serde_json::from_str(
            r#"{"current_version":4,"oldest_version":1,"created_time":"2026-11-25T13:12:34Z","versions":{
                "1":{"created_time":"","deletion_time":"","destroyed":true},
                "2":{"created_time":"","deletion_time":"2026-11-25T13:12:34Z","destroyed":false},
                "3":{"created_time":"","deletion_time":"","destroyed":false},
                "4":{"created_time":"2026-11-25T14:12:34Z","deletion_time":"","destroyed":false}}}"#,
        )
        .unwrap();
        assert_eq!(metadata.superseded(4), [2, 3]);
        assert!(metadata.is_live());
        assert!(metadata.created() < metadata.updated());
        let later: SecretMetadata = serde_json::from_str(
            r#"{"current_version":1,"versions":{"1":{"created_time":"","deletion_time":"2999-01-01T00:00:00Z"}}}"#,
        )
        .unwrap();
        assert!(later.is_live(), "it will be deleted, and is not yet");
    }
}
