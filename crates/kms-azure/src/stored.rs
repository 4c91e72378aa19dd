//! Encodes and decodes the content of a secret: the KEK in Rook's form, byte for byte, and two tags.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use kms_core::{Error, ErrorKind, ExposeSecret, Kek, Result, SecretString};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::name::{NAME_TAG, Names};

/// The largest value that Key Vault stores, in bytes.
const MAX_VALUE: usize = 25_000;
/// The tag with the [`State`] of a version.
pub(crate) const STATE_TAG: &str = "rook-kms-state";

/// The progress of a version's creation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// Written, but not yet compared with the versions of concurrent creators.
    New,
    /// The version that all concurrent creators have agreed on.
    Kept,
    /// Written by an update, an overwrite, or Rook.
    Plain,
}

impl State {
    /// Parses the value of the tag [`STATE_TAG`].
    pub(crate) fn of(tag: Option<&str>) -> Self {
        match tag {
            Some("new") => Self::New,
            Some("kept") => Self::Kept,
            _ => Self::Plain,
        }
    }
}

/// The tags and the content type that operators have given a version. Our own tags are not among them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Labels {
    tags: BTreeMap<String, String>,
    content_type: Option<String>,
}

impl Labels {
    pub(crate) fn of(tags: &BTreeMap<String, Option<String>>, content_type: Option<&str>) -> Self {
        let of_operators = |(name, value): (&String, &Option<String>)| {
            let own = [STATE_TAG, NAME_TAG].contains(&name.as_str());
            (!own).then(|| Some((name.clone(), value.clone()?))).flatten()
        };
        Self {
            tags: tags.iter().filter_map(of_operators).collect(),
            content_type: content_type.map(str::to_owned),
        }
    }

    pub(crate) fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// The largest number of bytes that the labels take as JSON: an escaped character takes six.
    pub(crate) fn size(&self) -> usize {
        let tags = self.tags.iter().map(|(name, value)| name.len() + value.len() + 1);
        6 * (tags.sum::<usize>() + self.content_type().map_or(0, str::len))
    }
}

/// The tags of a version: those of operators, and our own.
pub(crate) fn tags<'a>(names: &'a Names, state: State, labels: &'a Labels) -> BTreeMap<&'a str, &'a str> {
    let mut tags: BTreeMap<_, _> =
        labels.tags.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    match state {
        State::New => tags.insert(STATE_TAG, "new"),
        State::Kept => tags.insert(STATE_TAG, "kept"),
        State::Plain => None,
    };
    if let Some(name) = &names.tag {
        tags.insert(NAME_TAG, name.as_str());
    }
    tags
}

/// Encodes the value of a secret: `{"rook-ceph-osd-encryption-key-<PVC>":"<KEK>"}`, as Go's `json.Marshal` writes it
/// (rook-behaviour §7.3).
///
/// # Errors
///
/// `ConfigInvalid` if the KEK is not text, or if the value is larger than Key Vault stores.
pub(crate) fn encode(names: &Names, kek: &Kek) -> Result<Zeroizing<String>> {
    let unwritable = || Error::new(ErrorKind::Unexpected, "the KEK cannot be written as JSON");
    let kek = kek.expose_secret_text()?;
    // Leave room for every escape, so that the buffer never grows and leaves no copy behind.
    let mut json = Zeroizing::new(Vec::with_capacity(names.field.len() + 6 * kek.len() + 8));
    serde_json::to_writer(&mut *json, &BTreeMap::from([(names.field.as_str(), kek)]))
        .map_err(|_cause| unwritable())?;
    let json = std::str::from_utf8(&json).map_err(|_cause| unwritable())?;
    let mut text = Zeroizing::new(String::with_capacity(6 * json.len()));
    for c in json.chars() {
        // Go escapes these five characters, serde_json does not.
        match c {
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '&' => text.push_str("\\u0026"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            c => text.push(c),
        }
    }
    if text.len() > MAX_VALUE {
        return Err(Error::config(format!(
            "the KEK takes {} bytes as JSON, and Key Vault stores at most {MAX_VALUE}",
            text.len()
        )));
    }
    Ok(text)
}

/// Decodes the KEK in a value: the field of Rook's object, or the whole value if it is not a JSON object
/// (rook-behaviour §7.3).
///
/// # Errors
///
/// `Protocol` if the object has no such field, or the text is not a valid KEK.
pub(crate) fn decode(names: &Names, value: &SecretString) -> Result<Kek> {
    let text = value.expose_secret();
    let Ok(fields) = serde_json::from_str::<BTreeMap<Cow<'_, str>, &RawValue>>(text) else {
        return parse(value.clone());
    };
    let field = fields.get(names.field.as_str()).ok_or_else(|| {
        Error::new(
            ErrorKind::Protocol,
            "the secret holds a JSON object without the field of this key: it belongs to another key, or to another \
             program",
        )
    })?;
    match serde_json::from_str::<Secret>(field.get()) {
        Ok(Secret(kek)) => parse(kek),
        Err(_) => Err(Error::new(ErrorKind::Protocol, "the secret's field for the KEK is not a string")),
    }
}

/// Whether the KEK in a value is the empty string, which Rook overwrites (rook-behaviour §2).
pub(crate) fn is_blank(names: &Names, value: &SecretString) -> bool {
    let text = value.expose_secret();
    let field = || {
        let fields = serde_json::from_str::<BTreeMap<Cow<'_, str>, &RawValue>>(text).ok()?;
        Some(fields.get(names.field.as_str())?.get() == "\"\"")
    };
    text.is_empty() || field().unwrap_or(false)
}

fn parse(text: SecretString) -> Result<Kek> {
    Kek::from_stored(text).map_err(|error| {
        Error::new(ErrorKind::Protocol, format!("the secret does not hold a KEK: {}", error.message()))
    })
}

/// A string that is wiped on drop and never displayed.
pub(crate) struct Secret(pub(crate) SecretString);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(SecretString::from(text)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Names {
        Names::of(&text.parse().unwrap())
    }

    fn stored(text: &str) -> String {
        encode(&names("set1-data-0"), &Kek::parse(text.to_owned()).unwrap()).unwrap().to_string()
    }

    #[test]
    fn a_value_is_what_go_writes() {
        assert_eq!(stored("YWJj+/="), r#"{"rook-ceph-osd-encryption-key-set1-data-0":"YWJj+/="}"#);
        // json.Marshal(map[string]string{"k": "<&>\u2028\x01\"\\\u00fc\x7f\b"})
        assert_eq!(
            stored("<&>\u{2028}\u{1}\"\\ü\u{7f}\u{8}x"),
            "{\"rook-ceph-osd-encryption-key-set1-data-0\":\"\\u003c\\u0026\\u003e\\u2028\\u0001\\\"\\\\ü\u{7f}\\bx\"}"
        );
    }

    #[test]
    fn rooks_object_and_a_raw_value_are_read() {
        let read = |text: &str| decode(&names("a"), &SecretString::from(text));
        for (text, expected) in [
            (r#"{"rook-ceph-osd-encryption-key-a":"YWJj"}"#, "YWJj"),
            (r#" { "x" : 1, "rook-ceph-osd-encryption-key-a" : "\u003cYWJj" } "#, "<YWJj"),
            ("YWJj", "YWJj"),
            ("1234", "1234"),
            ("[1]", "[1]"),
            // The line break is part of the passphrase.
            ("YWJj\n", "YWJj\n"),
            (r#"{"rook-ceph-osd-encryption-key-a":"YWJj\n"}"#, "YWJj\n"),
        ] {
            assert_eq!(read(text).unwrap().expose_secret_text().unwrap(), expected);
        }
        for text in [
            r#"{"rook-ceph-osd-encryption-key-b":"canary"}"#,
            r#"{"rook-ceph-osd-encryption-key-a":["canary"]}"#,
            r#"{"rook-ceph-osd-encryption-key-a":""}"#,
            "",
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{text}");
            assert!(!format!("{error}{error:?}").contains("canary"));
        }
    }

    #[test]
    fn only_the_empty_string_is_blank() {
        let blank = |text: &str| is_blank(&names("a"), &SecretString::from(text));
        for text in
            ["", r#"{"rook-ceph-osd-encryption-key-a":""}"#, r#"{"x":1,"rook-ceph-osd-encryption-key-a":""}"#]
        {
            assert!(blank(text), "{text}");
        }
        for text in [
            "{}",
            " ",
            "null",
            r#"{"rook-ceph-osd-encryption-key-b":""}"#,
            r#"{"rook-ceph-osd-encryption-key-a":null}"#,
            r#"{"rook-ceph-osd-encryption-key-a":" "}"#,
        ] {
            assert!(!blank(text), "{text}");
        }
    }

    #[test]
    fn every_kek_comes_back() {
        for text in ["\u{1}".repeat(3000), "<".repeat(4000), "ü\n\"x".to_owned()] {
            let value = SecretString::from(stored(&text));
            assert_eq!(decode(&names("set1-data-0"), &value).unwrap().expose_secret_text().unwrap(), text);
        }
        assert!(encode(&names("a"), &Kek::parse("\u{1}".repeat(8000)).unwrap()).is_err());
    }
}
