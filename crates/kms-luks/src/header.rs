//! The LUKS header.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
};

use kms_core::{Error, ErrorKind, Result};
use kms_rotation::{Blocked, KeySlot, Slot, SlotKdf, SlotTable, SlotToken};
use serde_json::{Map, Value};

use crate::room;

/// The longest salt that is kept, in characters. The salts of cryptsetup have 44.
const MOST_SALT: usize = 128;

/// The version of a LUKS header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum LuksVersion {
    /// LUKS1: eight slots, PBKDF2 only, no label.
    Luks1,
    /// LUKS2.
    Luks2,
}

impl LuksVersion {
    /// 1 or 2.
    pub const fn number(self) -> u8 {
        match self {
            Self::Luks1 => 1,
            Self::Luks2 => 2,
        }
    }
}

/// The header of a LUKS device: its [`SlotTable`], and what identifies the device. Holds no secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Header {
    pub(crate) identity: DiskIdentity,
    table: SlotTable,
}

impl Deref for Header {
    type Target = SlotTable;

    fn deref(&self) -> &SlotTable {
        &self.table
    }
}

impl From<Header> for SlotTable {
    fn from(header: Header) -> Self {
        header.table
    }
}

/// The identity of a device: the fields of the binary part of its header.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct DiskIdentity {
    pub(crate) version: LuksVersion,
    pub(crate) uuid: String,
    pub(crate) label: Option<String>,
    pub(crate) subsystem: Option<String>,
}

impl Header {
    /// The header of a LUKS1 device.
    pub(crate) fn luks1(identity: DiskIdentity, slots: impl IntoIterator<Item = KeySlot>) -> Self {
        let table = SlotTable::new(identity.uuid.clone(), slots, None);
        Self { identity, table }
    }

    /// The header of a LUKS2 device, from its metadata in JSON.
    ///
    /// # Errors
    ///
    /// `Protocol` if the metadata are malformed.
    pub(crate) fn luks2(identity: DiskIdentity, json: &[u8]) -> Result<Self> {
        // The error of the parser would quote the text.
        let root: Value = serde_json::from_slice(json).map_err(|_cause| broken("are not JSON"))?;
        let keyslots = object(&root, "keyslots").ok_or_else(|| broken("have no key slots"))?;
        let digests = object(&root, "digests").ok_or_else(|| broken("have no digests"))?;
        let bound = bound(digests, object(&root, "segments"));
        let mut tokens = tokens(&root)?;
        let mut slots = Vec::with_capacity(keyslots.len());
        for (name, value) in keyslots {
            let slot: Slot =
                name.parse().map_err(|_cause| broken("have a key slot whose name is not a slot number"))?;
            let kdf = kdf(value).ok_or_else(|| broken("have a key slot without its costs"))?;
            let salt = value.pointer("/kdf/salt").and_then(Value::as_str).unwrap_or_default();
            slots.push(KeySlot {
                slot,
                opens_data: bound.contains(name.as_str()) && !matches!(kdf, SlotKdf::Unknown(_)),
                kdf,
                salt: salt.chars().take(MOST_SALT).collect(),
                ignored: value.get("priority").and_then(Value::as_u64) == Some(0),
                tokens: tokens.remove(name.as_str()).unwrap_or_default(),
            });
        }
        if !tokens.is_empty() {
            return Err(broken("have a token for a key slot that does not exist"));
        }
        let table =
            SlotTable::new(identity.uuid.clone(), slots, blocked(&root)).with_room(room::has_room(&root));
        Ok(Self { identity, table })
    }

    /// The bytes of a whole LUKS2 header, from its metadata in JSON: both copies and the areas of the key slots.
    ///
    /// # Errors
    ///
    /// `Protocol` if the metadata are malformed.
    pub(crate) fn luks2_bytes(json: &[u8]) -> Result<u64> {
        let root: Value = serde_json::from_slice(json).map_err(|_cause| broken("are not JSON"))?;
        room::header_bytes(&root).ok_or_else(|| broken("do not have the sizes of the header"))
    }

    /// LUKS1 or LUKS2.
    pub fn version(&self) -> LuksVersion {
        self.identity.version
    }

    /// The label, if there is one.
    pub fn label(&self) -> Option<&str> {
        self.identity.label.as_deref()
    }

    /// The subsystem, if there is one.
    pub fn subsystem(&self) -> Option<&str> {
        self.identity.subsystem.as_deref()
    }
}

/// The names of the slots that hold the volume key of a segment. The segments that a re-encryption keeps as a backup do
/// not count.
fn bound<'a>(digests: &'a Map<String, Value>, segments: Option<&'a Map<String, Value>>) -> BTreeSet<&'a str> {
    let is_backup = |flag: &Value| flag.as_str().is_some_and(|flag| flag.starts_with("backup-"));
    let of_data = |segment: &Value| {
        let segment = segment.as_str().and_then(|name| segments?.get(name));
        !segment.is_some_and(|segment| list(segment, "flags").any(is_backup))
    };
    digests
        .values()
        .filter(|digest| list(digest, "segments").any(of_data))
        .flat_map(|digest| list(digest, "keyslots"))
        .filter_map(Value::as_str)
        .collect()
}

/// The tokens, by the names of the slots that they refer to.
fn tokens(root: &Value) -> Result<BTreeMap<&str, Vec<SlotToken>>> {
    let mut found: BTreeMap<&str, Vec<SlotToken>> = BTreeMap::new();
    for (number, token) in object(root, "tokens").into_iter().flatten() {
        let number = number.parse().map_err(|_cause| broken("have a token whose name is not a number"))?;
        let kind = token.get("type").and_then(Value::as_str).map(clean);
        let kind = kind.ok_or_else(|| broken("have a token without a type"))?;
        for slot in list(token, "keyslots") {
            let slot =
                slot.as_str().ok_or_else(|| broken("have a token with a malformed list of key slots"))?;
            found.entry(slot).or_default().push(SlotToken { number, kind: kind.clone() });
        }
    }
    Ok(found)
}

/// The mandatory requirement that keeps the key slots from being changed. A re-encryption counts first.
fn blocked(root: &Value) -> Option<Blocked> {
    let mandatory = root.pointer("/config/requirements/mandatory").and_then(Value::as_array);
    let mut names = mandatory.into_iter().flatten().filter_map(Value::as_str);
    if names.clone().any(|name| name.contains("reencrypt")) {
        return Some(Blocked::Reencryption);
    }
    names.next().map(|name| Blocked::Requirement(clean(name)))
}

fn kdf(keyslot: &Value) -> Option<SlotKdf> {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(clean);
    let kind = text(keyslot, "type")?;
    if kind != "luks2" {
        return Some(SlotKdf::Unknown(kind));
    }
    let kdf = keyslot.get("kdf")?;
    let number = |name: &str| kdf.get(name).and_then(Value::as_u64);
    let name = text(kdf, "type")?;
    Some(match name.as_str() {
        "pbkdf2" => SlotKdf::Pbkdf2 { hash: text(kdf, "hash")?, iterations: number("iterations")? },
        "argon2i" | "argon2id" => SlotKdf::Argon2 {
            passes: number("time")?,
            memory_kib: number("memory")?,
            threads: number("cpus")?,
            variant: name,
        },
        _ => SlotKdf::Unknown(name),
    })
}

fn object<'a>(value: &'a Value, name: &str) -> Option<&'a Map<String, Value>> {
    value.get(name).and_then(Value::as_object)
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

/// Text from a disk without control characters, cut to 64 characters.
pub(crate) fn clean(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn broken(how: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("the metadata of the LUKS2 header {how}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> DiskIdentity {
        DiskIdentity { version: LuksVersion::Luks2, uuid: "u".to_owned(), label: None, subsystem: None }
    }

    fn parsed(json: &str) -> Result<Header> {
        Header::luks2(identity(), json.as_bytes())
    }

    const GOOD: &str = r#"{"keyslots": {
        "0": {"type": "luks2", "kdf": {"type": "pbkdf2", "hash": "sha256", "iterations": 1000, "salt": "x"}},
        "1": {"type": "luks2", "kdf": {"type": "argon2id", "time": 4, "memory": 32, "cpus": 1}},
        "2": {"type": "reencrypt", "mode": "reencrypt"},
        "31": {"type": "luks2", "kdf": {"type": "scrypt"}}},
        "tokens": {},
        "digests": {"0": {"keyslots": ["0", "31"], "segments": ["0"]}, "1": {"keyslots": ["1"], "segments": []}},
        "config": {"requirements": {"mandatory": ["online-reencrypt-v2"]}}}"#;

    #[test]
    fn slots_are_read_with_their_costs_and_whether_they_open_data() {
        let header = parsed(GOOD).unwrap();
        let slots: Vec<_> = header
            .slots()
            .map(|slot| (slot.slot.number(), slot.kdf.name(), slot.kdf.cost(), slot.opens_data))
            .collect();
        assert_eq!(
            slots,
            [
                (0, "pbkdf2", 1000, true),
                (1, "argon2id", 128, false),
                (2, "reencrypt", u64::MAX, false),
                (31, "scrypt", u64::MAX, false),
            ]
        );
        assert!(header.is_reencrypting());
        assert_eq!(header.foreign().count(), 2);
    }

    #[test]
    fn malformed_metadata_are_refused_without_quoting_them() {
        let cases = [
            "",
            "canary",
            "[]",
            "{}",
            r#"{"keyslots": []}"#,
            r#"{"keyslots": {}}"#,
            r#"{"keyslots": {"canary": {}}, "digests": {}}"#,
            r#"{"keyslots": {"32": {"type": "luks2"}}, "digests": {}}"#,
            r#"{"keyslots": {"0": null}, "digests": {}}"#,
            r#"{"keyslots": {"0": {"type": "luks2"}}, "digests": {}}"#,
            r#"{"keyslots": {"0": {"type": "luks2", "kdf": {"type": "pbkdf2", "hash": "x", "iterations": -1}}}, "digests": {}}"#,
            r#"{"keyslots": {"0": {"type": "luks2", "kdf": {"type": "pbkdf2", "hash": 1, "iterations": 1}}}, "digests": {}}"#,
            r#"{"keyslots": {"0": {"type": "luks2", "kdf": {"type": "argon2id", "time": 1e99, "memory": 1, "cpus": 1}}}, "digests": {}}"#,
        ];
        for json in cases {
            let error = parsed(json).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{json}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
        assert!(parsed(&"[".repeat(1 << 20)).is_err());
    }

    #[test]
    fn no_damage_to_the_metadata_makes_the_parser_panic() {
        for at in 0..GOOD.len() {
            for byte in [b'"', b'0', b'{', b'}', b'[', b',', 0xff] {
                let mut bytes = GOOD.as_bytes().to_vec();
                bytes[at] = byte;
                let _any = Header::luks2(identity(), &bytes);
            }
            let _any = Header::luks2(identity(), &GOOD.as_bytes()[..at]);
        }
    }

    #[test]
    fn text_from_a_disk_moves_no_cursor() {
        assert_eq!(clean("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
