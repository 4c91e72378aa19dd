//! Encodes and decodes the content of server objects: the bytes of the KEK, and attributes.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_core::{Error, ErrorKind, Kek, Result};
use zeroize::Zeroizing;

use crate::ttlv::{Field, Item, tag};

/// The cryptographic usage mask Export, as Rook sets it (rook-behaviour §6.4).
const EXPORT: i32 = 0x40;
/// The cryptographic algorithm AES, as Rook sets it. A KEK has no algorithm, but servers refuse a key without one.
const AES: u32 = 3;
/// The length that Rook declares for every key.
const ROOKS_LENGTH: i32 = 256;
/// The secret data type Password.
const PASSWORD: u32 = 1;
/// The name type Uninterpreted Text String.
const UNINTERPRETED: u32 = 1;

/// The states of an object (KMIP 1.4 §9.1.3.2.17).
pub(crate) mod state {
    pub(crate) const PRE_ACTIVE: u32 = 1;
    pub(crate) const ACTIVE: u32 = 2;
    pub(crate) const DEACTIVATED: u32 = 3;
    pub(crate) const DESTROYED: u32 = 5;
    pub(crate) const DESTROYED_COMPROMISED: u32 = 6;
}

/// The reasons of a revocation (KMIP 1.4 §9.1.3.2.19).
pub(crate) mod revocation {
    pub(crate) const SUPERSEDED: u32 = 5;
    pub(crate) const CESSATION_OF_OPERATION: u32 = 6;
}

/// Decodes the base64 text of a KEK to bytes, since KMIP stores bytes (rook-behaviour §6.4).
///
/// # Errors
///
/// `ConfigInvalid` if the text is not canonical base64: a read would return another text.
pub(crate) fn encode(kek: &Kek) -> Result<Zeroizing<Vec<u8>>> {
    let text = kek.expose_secret_bytes();
    let mut buffer = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    // The engine accepts only canonical padding without leftover bits.
    let length = STANDARD.decode_slice(text, &mut buffer).ok().filter(|length| *length > 0);
    let Some(length) = length else {
        return Err(Error::config(
            "the KEK is not canonical base64, and KMIP stores only the bytes that it encodes; use a KEK as Rook or \
             kms create makes it",
        ));
    };
    // Truncating moves nothing, so the whole buffer is wiped on drop.
    buffer.truncate(length);
    Ok(buffer)
}

/// Encodes bytes in base64, which is the text of the KEK.
///
/// # Errors
///
/// `Protocol` if the text is too long for a KEK.
pub(crate) fn decode(material: &[u8]) -> Result<Kek> {
    Kek::parse(STANDARD.encode(material)).map_err(|error| {
        Error::new(ErrorKind::Protocol, format!("the object on the server is not a KEK: {}", error.message()))
    })
}

/// The type of object in which to register a KEK.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Body {
    /// A symmetric key of format Raw that declares its true length.
    Raw,
    /// A symmetric key as Rook registers it: format Opaque, and a declared length of 256 (rook-behaviour §6.4).
    Rook,
    /// Secret data, for servers that do not support a symmetric key of this length.
    SecretData,
}

impl Body {
    /// The object type in a Register request.
    pub(crate) fn object_type(self) -> u32 {
        match self {
            Self::Raw | Self::Rook => object_type::SYMMETRIC_KEY,
            Self::SecretData => object_type::SECRET_DATA,
        }
    }

    /// The object in a Register request.
    pub(crate) fn field(self, material: &[u8]) -> Field<'_> {
        let format = match self {
            Self::Rook => key_format::OPAQUE,
            Self::Raw | Self::SecretData => key_format::RAW,
        };
        let bits = i32::try_from(material.len().saturating_mul(8)).unwrap_or(i32::MAX);
        let key_value = Field::structure(tag::KEY_VALUE, vec![Field::bytes(tag::KEY_MATERIAL, material)]);
        let mut block = vec![Field::enumeration(tag::KEY_FORMAT_TYPE, format), key_value];
        match self {
            Self::SecretData => {
                return Field::structure(
                    tag::SECRET_DATA,
                    vec![
                        Field::enumeration(tag::SECRET_DATA_TYPE, PASSWORD),
                        Field::structure(tag::KEY_BLOCK, block),
                    ],
                );
            }
            Self::Raw | Self::Rook => {
                let length = if self == Self::Rook { ROOKS_LENGTH } else { bits };
                block.push(Field::enumeration(tag::CRYPTOGRAPHIC_ALGORITHM, AES));
                block.push(Field::integer(tag::CRYPTOGRAPHIC_LENGTH, length));
            }
        }
        Field::structure(tag::SYMMETRIC_KEY, vec![Field::structure(tag::KEY_BLOCK, block)])
    }
}

/// The types of objects (KMIP 1.4 §9.1.3.2.12).
pub(crate) mod object_type {
    pub(crate) const SYMMETRIC_KEY: u32 = 2;
    pub(super) const SECRET_DATA: u32 = 7;
    const OPAQUE_OBJECT: u32 = 8;
    const NAMES: [&str; 9] = [
        "a certificate",
        "a symmetric key",
        "a public key",
        "a private key",
        "a split key",
        "a template",
        "secret data",
        "an opaque object",
        "a PGP key",
    ];

    /// The types that a KEK can have.
    pub(crate) const KEK_TYPES: [u32; 3] = [SYMMETRIC_KEY, SECRET_DATA, OPAQUE_OBJECT];

    /// Whether an object of this type may be a KEK. `None`: the server does not tell the type.
    pub(crate) fn may_be_kek(kind: Option<u32>) -> bool {
        kind.is_none_or(|kind| KEK_TYPES.contains(&kind))
    }

    /// The type in words, for errors.
    pub(crate) fn describe(kind: Option<u32>) -> &'static str {
        let at = kind.and_then(|kind| usize::try_from(kind).ok()?.checked_sub(1));
        at.and_then(|at| NAMES.get(at)).copied().unwrap_or("of an unknown type")
    }
}

mod key_format {
    pub(super) const RAW: u32 = 1;
    pub(super) const OPAQUE: u32 = 2;
}

/// Extracts the key material of an object. Ignores the declared length: Rook has written 128 and 256 for keys of 1,024
/// bits (rook-behaviour §6.4).
///
/// # Errors
///
/// `Protocol` with the reason if the object cannot be a KEK.
pub(crate) fn material<'a>(payload: &Item<'a>) -> Result<&'a [u8]> {
    let kind = payload.child(tag::OBJECT_TYPE).and_then(|kind| kind.enumeration());
    if let Some(object) = payload.child(tag::OPAQUE_OBJECT) {
        let bytes = object.child(tag::OPAQUE_DATA_VALUE).and_then(|value| value.bytes());
        return bytes.filter(|bytes| !bytes.is_empty()).ok_or_else(|| unusable("it is empty"));
    }
    let object = payload.child(tag::SYMMETRIC_KEY).or_else(|| payload.child(tag::SECRET_DATA));
    let Some(object) = object else {
        return Err(unusable(&format!("it is {}", object_type::describe(kind))));
    };
    let block = object.child(tag::KEY_BLOCK).ok_or_else(|| unusable("it has no key block"))?;
    let value = block.child(tag::KEY_VALUE);
    if block.child(tag::KEY_WRAPPING_DATA).is_some() || value.is_some_and(|value| !value.is_structure()) {
        return Err(unusable("it is wrapped by another key; make it exportable unwrapped"));
    }
    match block.child(tag::KEY_FORMAT_TYPE).and_then(|format| format.enumeration()) {
        Some(key_format::RAW | key_format::OPAQUE) => {}
        Some(format) => {
            return Err(unusable(&format!(
                "its key format is {format} (0x{format:02x}), and a KEK has Raw (1) or Opaque (2)"
            )));
        }
        None => return Err(unusable("it has no key format")),
    }
    let material = value
        .ok_or_else(|| unusable("the server does not return its value"))?
        .child(tag::KEY_MATERIAL)
        .ok_or_else(|| unusable("it has no key material"))?;
    if material.is_structure() {
        return Err(unusable("its key material is transparent (in parts), not plain bytes"));
    }
    material
        .bytes()
        .filter(|bytes| !bytes.is_empty())
        .ok_or_else(|| unusable("its key material is empty or not bytes"))
}

fn unusable(why: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("the object on the server is not a KEK: {why}"))
}

/// The attributes that we read from an object.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Attributes {
    pub(crate) names: Vec<String>,
    /// Application specific information: namespace and data.
    pub(crate) application: Vec<(String, String)>,
    pub(crate) groups: Vec<String>,
    pub(crate) object_type: Option<u32>,
    pub(crate) state: Option<u32>,
    /// The code of the revocation reason.
    pub(crate) revocation: Option<u32>,
    pub(crate) initial_date: Option<i64>,
}

impl Attributes {
    /// Reads the attributes in a payload: by name before 2.0, by their own tags from 2.0 on.
    pub(crate) fn of(payload: &Item<'_>) -> Self {
        let mut found = Self::default();
        for attribute in payload.all(tag::ATTRIBUTE) {
            let name = attribute.child(tag::ATTRIBUTE_NAME).and_then(|name| name.text());
            let Some(value) = attribute.child(tag::ATTRIBUTE_VALUE) else { continue };
            match name {
                Some("Name") => found.add(tag::NAME, &value),
                Some("Application Specific Information") => {
                    found.add(tag::APPLICATION_SPECIFIC_INFORMATION, &value);
                }
                Some("Object Group") => found.add(tag::OBJECT_GROUP, &value),
                Some("Object Type") => found.add(tag::OBJECT_TYPE, &value),
                Some("State") => found.add(tag::STATE, &value),
                Some("Revocation Reason") => found.add(tag::REVOCATION_REASON, &value),
                Some("Initial Date") => found.add(tag::INITIAL_DATE, &value),
                _ => {}
            }
        }
        for value in payload.all(tag::ATTRIBUTES).flat_map(|attributes| attributes.children()) {
            found.add(value.tag(), &value);
        }
        found
    }

    fn add(&mut self, tag: u32, value: &Item<'_>) {
        let text = |tag| value.child(tag).and_then(|item: Item<'_>| item.text()).map(ToOwned::to_owned);
        match tag {
            tag::NAME => self.names.extend(text(tag::NAME_VALUE)),
            tag::APPLICATION_SPECIFIC_INFORMATION => {
                self.application.extend(text(tag::APPLICATION_NAMESPACE).zip(text(tag::APPLICATION_DATA)));
            }
            tag::OBJECT_GROUP => self.groups.extend(value.text().map(ToOwned::to_owned)),
            tag::OBJECT_TYPE => self.object_type = value.enumeration(),
            tag::STATE => self.state = value.enumeration(),
            tag::REVOCATION_REASON => {
                let code = value.child(tag::REVOCATION_REASON_CODE);
                self.revocation = code.and_then(|code: Item<'_>| code.enumeration());
            }
            tag::INITIAL_DATE => self.initial_date = value.date_time(),
            _ => {}
        }
    }
}

/// An attribute that we write or search for. A request may hold several of the same kind.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attribute<'a> {
    UsageMaskExport,
    Name(&'a str),
    ApplicationSpecific {
        namespace: &'a str,
        data: &'a str,
    },
    /// Two of them in a Locate are the bounds of a range (KMIP 1.4 §4.9).
    InitialDate(i64),
    ObjectType(u32),
    State(u32),
    ObjectGroup(&'a str),
}

impl<'a> Attribute<'a> {
    fn name(&self) -> &'static str {
        match self {
            Self::UsageMaskExport => "Cryptographic Usage Mask",
            Self::Name(_) => "Name",
            Self::ApplicationSpecific { .. } => "Application Specific Information",
            Self::InitialDate(_) => "Initial Date",
            Self::ObjectType(_) => "Object Type",
            Self::State(_) => "State",
            Self::ObjectGroup(_) => "Object Group",
        }
    }

    fn tag(&self) -> u32 {
        match self {
            Self::UsageMaskExport => tag::CRYPTOGRAPHIC_USAGE_MASK,
            Self::Name(_) => tag::NAME,
            Self::ApplicationSpecific { .. } => tag::APPLICATION_SPECIFIC_INFORMATION,
            Self::InitialDate(_) => tag::INITIAL_DATE,
            Self::ObjectType(_) => tag::OBJECT_TYPE,
            Self::State(_) => tag::STATE,
            Self::ObjectGroup(_) => tag::OBJECT_GROUP,
        }
    }

    /// The value under the tag that the protocol version requires.
    fn value(&self, tag: u32) -> Field<'a> {
        match *self {
            Self::UsageMaskExport => Field::integer(tag, EXPORT),
            Self::Name(name) => Field::structure(
                tag,
                vec![Field::text(tag::NAME_VALUE, name), Field::enumeration(tag::NAME_TYPE, UNINTERPRETED)],
            ),
            Self::ApplicationSpecific { namespace, data } => Field::structure(
                tag,
                vec![
                    Field::text(tag::APPLICATION_NAMESPACE, namespace),
                    Field::text(tag::APPLICATION_DATA, data),
                ],
            ),
            Self::InitialDate(seconds) => Field::date_time(tag, seconds),
            Self::ObjectType(code) | Self::State(code) => Field::enumeration(tag, code),
            Self::ObjectGroup(group) => Field::text(tag, group),
        }
    }

    /// The attribute in a request from 2.0 on.
    pub(crate) fn tagged(&self) -> Field<'a> {
        self.value(self.tag())
    }

    /// The attribute in a request before 2.0. The second and later attributes of a kind have an index.
    pub(crate) fn named(&self, index: i32) -> Field<'a> {
        let mut fields = vec![Field::text(tag::ATTRIBUTE_NAME, self.name())];
        if index > 0 {
            fields.push(Field::integer(tag::ATTRIBUTE_INDEX, index));
        }
        fields.push(self.value(tag::ATTRIBUTE_VALUE));
        Field::structure(tag::ATTRIBUTE, fields)
    }
}

/// Attributes in a request before 2.0. The bounds of a range of dates have no index: an object has only one Initial Date.
pub(crate) fn by_name<'a>(attributes: &[Attribute<'a>]) -> Vec<Field<'a>> {
    let before = |at: usize, tag| {
        let same = |other: &&Attribute<'a>| tag != tag::INITIAL_DATE && other.tag() == tag;
        attributes.iter().take(at).filter(same).count()
    };
    let index = |at, tag| i32::try_from(before(at, tag)).unwrap_or(i32::MAX);
    attributes.iter().enumerate().map(|(at, attribute)| attribute.named(index(at, attribute.tag()))).collect()
}

/// Attributes in a request from 2.0 on.
pub(crate) fn by_tag<'a>(attributes: &[Attribute<'a>]) -> Field<'a> {
    let fields = attributes.iter().map(Attribute::tagged).collect();
    Field::structure(tag::ATTRIBUTES, fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kek_is_the_canonical_base64_of_its_bytes() {
        let kek = Kek::generate().unwrap();
        let bytes = encode(&kek).unwrap();
        assert_eq!(bytes.len(), 128);
        assert!(decode(&bytes).unwrap().ct_eq(&kek));
        assert_eq!(*encode(&Kek::parse("QUI=").unwrap()).unwrap(), b"AB");
    }

    #[test]
    fn any_other_text_is_refused_without_being_shown() {
        for text in ["canary-passphrase!", "QUI", "QUJ=", "QUI==", "QU I=", "_-8=", "====", "QUI=\u{a0}"] {
            let error = encode(&Kek::parse(text).unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{text}");
            assert!(!error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn what_is_no_kek_is_refused_with_the_reason() {
        let key = |fields: Vec<Field<'static>>| {
            Field::structure(tag::SYMMETRIC_KEY, vec![Field::structure(tag::KEY_BLOCK, fields)])
        };
        let raw = || Field::enumeration(tag::KEY_FORMAT_TYPE, 1);
        let value = |field| Field::structure(tag::KEY_VALUE, vec![field]);
        let cases = [
            (Field::enumeration(tag::OBJECT_TYPE, 4), "it is a private key"),
            (Field::enumeration(tag::OBJECT_TYPE, 99), "of an unknown type"),
            (Field::structure(tag::SYMMETRIC_KEY, vec![]), "no key block"),
            (key(vec![]), "no key format"),
            (key(vec![raw()]), "does not return its value"),
            (key(vec![Field::enumeration(tag::KEY_FORMAT_TYPE, 7)]), "key format is 7 (0x07)"),
            (key(vec![raw(), Field::bytes(tag::KEY_VALUE, b"wrapped")]), "wrapped"),
            (
                key(vec![
                    raw(),
                    value(Field::bytes(tag::KEY_MATERIAL, b"x")),
                    Field::structure(tag::KEY_WRAPPING_DATA, vec![]),
                ]),
                "wrapped",
            ),
            (key(vec![raw(), value(Field::structure(tag::KEY_MATERIAL, vec![]))]), "transparent"),
            (key(vec![raw(), value(Field::bytes(tag::KEY_MATERIAL, b""))]), "empty"),
            (key(vec![raw(), value(Field::text(tag::KEY_MATERIAL, "x"))]), "not bytes"),
            (key(vec![raw(), Field::structure(tag::KEY_VALUE, vec![])]), "no key material"),
        ];
        for (field, why) in cases {
            let bytes = Field::structure(tag::RESPONSE_PAYLOAD, vec![field]).encode();
            let error = material(&Item::parse(&bytes).unwrap()).unwrap_err();
            assert!(error.to_string().contains(why), "{why}: {error}");
        }
    }
}
