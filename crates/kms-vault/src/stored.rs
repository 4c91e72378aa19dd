//! The KV secrets engine: its two versions, and what their bodies look like (spec 4.4 to 4.6).

use std::{borrow::Cow, collections::BTreeMap, time::SystemTime};

use kms_core::{Error, ErrorKind, Kek, KeyName, Result, SecretString};
use kms_http::json::unreadable;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;
use zeroize::{Zeroize, Zeroizing};

use crate::name::secret_id;

/// What an error about a stored value names.
const FIELD: &str = "field";

/// A version of the KV engine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum KvVersion {
    V1,
    V2,
}

/// A KV mount.
#[derive(Clone, Debug)]
pub(crate) struct Mount {
    /// Its path without slashes at the ends.
    pub(crate) path: String,
    pub(crate) version: KvVersion,
}

impl Mount {
    /// Where the secret is read and written.
    pub(crate) fn data(&self, name: &KeyName) -> String {
        match self.version {
            KvVersion::V1 => format!("{}/{}", self.path, secret_id(name)),
            KvVersion::V2 => format!("{}/data/{}", self.path, secret_id(name)),
        }
    }
}

/// The envelope of every answer.
#[derive(Deserialize)]
pub(crate) struct Envelope<D> {
    pub(crate) data: Option<D>,
}

/// The fields of a secret. Values stay where they are in the body, which is wiped.
type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// The data of a v2 read.
#[derive(Deserialize)]
struct Versioned<'a> {
    #[serde(borrow)]
    data: Option<Fields<'a>>,
    metadata: VersionMetadata,
}

/// What v2 says of one version.
#[derive(Debug, Deserialize)]
pub(crate) struct VersionMetadata {
    #[serde(default)]
    created_time: String,
    pub(crate) version: u64,
}

impl VersionMetadata {
    pub(crate) fn created(&self) -> Option<SystemTime> {
        time(&self.created_time)
    }
}

/// What v2 says of a secret.
#[derive(Debug, Deserialize)]
pub(crate) struct SecretMetadata {
    pub(crate) current_version: u64,
    #[serde(default)]
    created_time: String,
    #[serde(default)]
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

impl SecretMetadata {
    /// Whether there is a current version that can be read.
    pub(crate) fn is_live(&self) -> bool {
        // With `delete_version_after` the time of deletion is known from the start, and lies ahead.
        let deleted =
            |version: &VersionState| time(&version.deletion_time).is_some_and(|at| at <= SystemTime::now());
        self.current().is_some_and(|version| !deleted(version) && !version.destroyed)
    }

    /// When the secret was first stored.
    pub(crate) fn created(&self) -> Option<SystemTime> {
        time(&self.created_time)
    }

    /// When the current version was stored.
    pub(crate) fn updated(&self) -> Option<SystemTime> {
        time(&self.current()?.created_time)
    }

    /// The versions before `current` whose value is still there, deleted ones included.
    pub(crate) fn superseded(&self, current: u64) -> Vec<u64> {
        let numbers = self.versions.iter().filter(|(_, state)| !state.destroyed);
        numbers.filter_map(|(number, _)| number.parse().ok()).filter(|number| *number < current).collect()
    }

    fn current(&self) -> Option<&VersionState> {
        self.versions.get(&self.current_version.to_string())
    }
}

/// The keys of a list.
#[derive(Deserialize)]
pub(crate) struct Listed {
    pub(crate) keys: Vec<String>,
}

fn time(text: &str) -> Option<SystemTime> {
    text.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

/// What a read of a secret has come to.
pub(crate) enum Read {
    Found {
        kek: Kek,
        version: Option<VersionMetadata>,
    },
    /// The secret is there and its value is the empty text: Rook takes that for a place that is still free.
    Empty {
        version: Option<u64>,
    },
    /// The name was written once, and its last version is deleted or destroyed.
    Deleted {
        version: u64,
    },
    Absent,
}

/// Reads the answer of a successful read of v1.
pub(crate) fn parse_v1(name: &KeyName, body: &[u8]) -> Result<Read> {
    let envelope: Envelope<&RawValue> = serde_json::from_slice(body).map_err(|cause| unreadable(&cause))?;
    let Some(data) = envelope.data else { return Ok(Read::Absent) };
    let fields: Fields<'_> = serde_json::from_str(data.get()).map_err(|cause| unreadable(&cause))?;
    Ok(match field(name, &fields)? {
        Some(kek) => Read::Found { kek, version: None },
        None => Read::Empty { version: None },
    })
}

/// Reads the answer of a read of v2: that of a success, or of a 404 with a body.
pub(crate) fn parse_v2(name: &KeyName, body: &[u8]) -> Result<Read> {
    let envelope: Envelope<&RawValue> = serde_json::from_slice(body).map_err(|cause| unreadable(&cause))?;
    let Some(data) = envelope.data else { return Ok(Read::Absent) };
    let versioned: Versioned<'_> = serde_json::from_str(data.get()).map_err(|cause| unreadable(&cause))?;
    match versioned.data {
        Some(fields) => Ok(match field(name, &fields)? {
            Some(kek) => Read::Found { kek, version: Some(versioned.metadata) },
            None => Read::Empty { version: Some(versioned.metadata.version) },
        }),
        None => Ok(Read::Deleted { version: versioned.metadata.version }),
    }
}

/// Whether a body is that of a v2 read: it says of which version. A v1 secret can look like one otherwise, if somebody
/// has written it there in the belief that the mount is v2. `None` if it is neither.
pub(crate) fn shows_v2(body: &[u8]) -> Option<bool> {
    #[derive(Deserialize)]
    struct Data {
        metadata: Option<IgnoredAny>,
    }

    let envelope = serde_json::from_slice::<Envelope<Data>>(body).ok()?;
    envelope.data.map(|data| data.metadata.is_some())
}

/// The KEK among the fields of a secret: the field that has the secret's own name. `None` if that is empty.
fn field(name: &KeyName, fields: &Fields<'_>) -> Result<Option<Kek>> {
    let id = secret_id(name);
    let malformed = |what: &str| {
        Error::new(ErrorKind::Protocol, format!("what is stored is no KEK: {what}"))
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

/// Whether an error says that something is stored which is no KEK.
pub(crate) fn is_malformed(error: &Error) -> bool {
    error.kind() == ErrorKind::Protocol && error.contexts().any(|(name, _)| name == FIELD)
}

/// The text of a JSON string. Without escapes, as base64 is, no copy is made on the way.
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

/// The body of a v1 write: `{"<id>":"<kek>"}`.
pub(crate) fn body_v1(name: &KeyName, kek: &Kek) -> Result<Zeroizing<Vec<u8>>> {
    let mut body = buffer(name, kek);
    fields(&mut body, name, kek)?;
    Ok(body)
}

/// The body of a v2 write: `{"data":{"<id>":"<kek>"}}`, with the version that has to be there.
pub(crate) fn body_v2(name: &KeyName, kek: &Kek, cas: Option<u64>) -> Result<Zeroizing<Vec<u8>>> {
    let mut body = buffer(name, kek);
    body.extend_from_slice(b"{\"data\":");
    fields(&mut body, name, kek)?;
    if let Some(cas) = cas {
        body.extend_from_slice(format!(",\"options\":{{\"cas\":{cas}}}").as_bytes());
    }
    body.push(b'}');
    Ok(body)
}

/// A buffer that need not grow: growing would leave copies of the KEK behind. An escaped character takes six bytes.
fn buffer(name: &KeyName, kek: &Kek) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(Vec::with_capacity(128 + name.as_str().len() + 6 * kek.expose_secret().len()))
}

fn fields(body: &mut Zeroizing<Vec<u8>>, name: &KeyName, kek: &Kek) -> Result<()> {
    let failed = |_cause| Error::new(ErrorKind::Unexpected, "the request could not be written");
    body.push(b'{');
    serde_json::to_writer(&mut **body, &secret_id(name)).map_err(failed)?;
    body.push(b':');
    serde_json::to_writer(&mut **body, kek.expose_secret()).map_err(failed)?;
    body.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> KeyName {
        KeyName::new("set1-data-0x7dwl").unwrap()
    }

    fn kek(read: Read) -> String {
        match read {
            Read::Found { kek, .. } => kek.expose_secret().to_owned(),
            Read::Deleted { .. } | Read::Empty { .. } | Read::Absent => panic!("nothing found"),
        }
    }

    #[test]
    fn paths_and_bodies_are_those_of_rook() {
        let (name, kek) = (name(), Kek::parse("QUJD+/==").unwrap());
        let v1 = Mount { path: "rook/ver1".to_owned(), version: KvVersion::V1 };
        let v2 = Mount { path: "rook".to_owned(), version: KvVersion::V2 };
        assert_eq!(v1.data(&name), "rook/ver1/rook-ceph-osd-encryption-key-set1-data-0x7dwl");
        assert_eq!(v2.data(&name), "rook/data/rook-ceph-osd-encryption-key-set1-data-0x7dwl");
        let fields = r#"{"rook-ceph-osd-encryption-key-set1-data-0x7dwl":"QUJD+/=="}"#;
        assert_eq!(String::from_utf8(body_v1(&name, &kek).unwrap().to_vec()).unwrap(), fields);
        let plain = body_v2(&name, &kek, None).unwrap();
        assert_eq!(String::from_utf8(plain.to_vec()).unwrap(), format!(r#"{{"data":{fields}}}"#));
        let guarded = body_v2(&name, &kek, Some(3)).unwrap();
        let expected = format!(r#"{{"data":{fields},"options":{{"cas":3}}}}"#);
        assert_eq!(String::from_utf8(guarded.to_vec()).unwrap(), expected);
    }

    #[test]
    fn a_body_never_outgrows_its_buffer() {
        let kek = Kek::parse("\u{1}\"\\".repeat(Kek::MAX_BYTES / 3)).unwrap();
        let name = KeyName::new("n".repeat(253)).unwrap();
        let before = buffer(&name, &kek).capacity();
        assert_eq!(body_v2(&name, &kek, Some(u64::MAX)).unwrap().capacity(), before);
    }

    #[test]
    fn answers_of_both_versions_are_read() {
        let v1 = br#"{"data":{"other":{"x":[1]},"rook-ceph-osd-encryption-key-set1-data-0x7dwl":"QUJD"},"warnings":null}"#;
        assert_eq!(kek(parse_v1(&name(), v1).unwrap()), "QUJD");
        let v2 = br#"{"data":{"data":{"rook-ceph-osd-encryption-key-set1-data-0x7dwl":"a\"\u0062"},
            "metadata":{"created_time":"2026-11-25T13:12:34.835233324Z","custom_metadata":null,"deletion_time":"","destroyed":false,"version":7}}}"#;
        match parse_v2(&name(), v2).unwrap() {
            Read::Found { kek, version: Some(metadata) } => {
                assert_eq!(kek.expose_secret(), "a\"b");
                assert_eq!(metadata.version, 7);
                assert!(metadata.created().is_some());
            }
            _ => panic!("nothing found"),
        }
        let deleted = br#"{"data":{"data":null,"metadata":{"deletion_time":"2026-11-25T00:00:00Z","destroyed":false,"version":2}}}"#;
        assert!(matches!(parse_v2(&name(), deleted).unwrap(), Read::Deleted { version: 2 }));
        assert!(matches!(parse_v2(&name(), br#"{"data":null}"#).unwrap(), Read::Absent));
        let empty = br#"{"data":{"rook-ceph-osd-encryption-key-set1-data-0x7dwl":""}}"#;
        assert!(matches!(parse_v1(&name(), empty).unwrap(), Read::Empty { version: None }));
        let with_break = br#"{"data":{"rook-ceph-osd-encryption-key-set1-data-0x7dwl":"QUJD\n"}}"#;
        assert_eq!(kek(parse_v1(&name(), with_break).unwrap()), "QUJD\n");
        assert_eq!([shows_v2(v2), shows_v2(deleted), shows_v2(v1)], [Some(true), Some(true), Some(false)]);
        assert_eq!(shows_v2(b"no JSON"), None);
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
            let Err(error) = parse_v1(&name(), body.as_bytes()) else { panic!("{fields} was read") };
            assert_eq!(error.kind(), ErrorKind::Protocol);
            assert!(error.to_string().contains(why), "{fields}: {error}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
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
