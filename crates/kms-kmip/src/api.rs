//! Requests and responses (KMIP 1.4 §4, 7; 2.0 where attributes are written differently).

use std::fmt;

use kms_core::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use crate::{
    error::{Fault, Refusal, malformed},
    ttlv::{Field, Item, tag},
};

/// The cryptographic usage mask Export, as Rook sets it (spec 6.4).
const EXPORT: i32 = 0x40;
/// The cryptographic algorithm AES, as Rook sets it. A KEK has no algorithm, but a key without one is refused.
const AES: u32 = 3;
/// The length that Rook declares, whatever the key.
const ROOKS_LENGTH: i32 = 256;
/// The secret data type Password.
const PASSWORD: u32 = 1;
/// The revocation reason Cessation of Operation.
const CESSATION: u32 = 6;
/// The name type Uninterpreted Text String.
const UNINTERPRETED: u32 = 1;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Version {
    pub(crate) major: i32,
    pub(crate) minor: i32,
}

impl Version {
    pub(crate) const V1_0: Self = Self { major: 1, minor: 0 };
    pub(crate) const V1_1: Self = Self { major: 1, minor: 1 };
    pub(crate) const V1_4: Self = Self { major: 1, minor: 4 };
    pub(crate) const V2_0: Self = Self { major: 2, minor: 0 };
    pub(crate) const V2_1: Self = Self { major: 2, minor: 1 };

    /// Those that we speak, the best first: 1.4 is what Rook speaks.
    pub(crate) const ALL: [Self; 7] = [
        Self::V1_4,
        Self { major: 1, minor: 3 },
        Self { major: 1, minor: 2 },
        Self::V1_1,
        Self::V1_0,
        Self::V2_1,
        Self::V2_0,
    ];

    /// From 2.0 on an attribute is written under its own tag.
    fn has_own_tags(self) -> bool {
        self.major >= 2
    }

    fn field<'a>(self) -> Field<'a> {
        Field::structure(
            tag::PROTOCOL_VERSION,
            vec![
                Field::integer(tag::PROTOCOL_VERSION_MAJOR, self.major),
                Field::integer(tag::PROTOCOL_VERSION_MINOR, self.minor),
            ],
        )
    }

    fn of(item: &Item<'_>) -> Option<Self> {
        Some(Self {
            major: item.child(tag::PROTOCOL_VERSION_MAJOR)?.integer()?,
            minor: item.child(tag::PROTOCOL_VERSION_MINOR)?.integer()?,
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// An operation (KMIP 1.4 §9.1.3.2.27).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Operation {
    Register,
    Locate,
    Get,
    GetAttributes,
    Activate,
    Revoke,
    Destroy,
    Query,
    DiscoverVersions,
}

impl Operation {
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Register => 0x03,
            Self::Locate => 0x08,
            Self::Get => 0x0a,
            Self::GetAttributes => 0x0b,
            Self::Activate => 0x12,
            Self::Revoke => 0x13,
            Self::Destroy => 0x14,
            Self::Query => 0x18,
            Self::DiscoverVersions => 0x1e,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Register => "Register",
            Self::Locate => "Locate",
            Self::Get => "Get",
            Self::GetAttributes => "Get Attributes",
            Self::Activate => "Activate",
            Self::Revoke => "Revoke",
            Self::Destroy => "Destroy",
            Self::Query => "Query",
            Self::DiscoverVersions => "Discover Versions",
        }
    }

    /// Whether doing it twice does no more than doing it once.
    pub(crate) fn is_idempotent(self) -> bool {
        match self {
            Self::Locate | Self::Get | Self::GetAttributes | Self::Query | Self::DiscoverVersions => true,
            Self::Register | Self::Activate | Self::Revoke | Self::Destroy => false,
        }
    }
}

/// An attribute that is written. Several may be of the same kind.
pub(crate) enum Attribute<'a> {
    UsageMaskExport,
    Name(&'a str),
    ApplicationSpecific { namespace: &'a str, data: &'a str },
}

impl<'a> Attribute<'a> {
    fn name(&self) -> &'static str {
        match self {
            Self::UsageMaskExport => "Cryptographic Usage Mask",
            Self::Name(_) => "Name",
            Self::ApplicationSpecific { .. } => "Application Specific Information",
        }
    }

    fn tag(&self) -> u32 {
        match self {
            Self::UsageMaskExport => tag::CRYPTOGRAPHIC_USAGE_MASK,
            Self::Name(_) => tag::NAME,
            Self::ApplicationSpecific { .. } => tag::APPLICATION_SPECIFIC_INFORMATION,
        }
    }

    /// The value under the tag that the version asks for.
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
        }
    }

    /// As it stands in requests before 2.0. The second of a kind and those behind it need their index.
    fn named(&self, index: i32) -> Field<'a> {
        let mut fields = vec![Field::text(tag::ATTRIBUTE_NAME, self.name())];
        if index > 0 {
            fields.push(Field::integer(tag::ATTRIBUTE_INDEX, index));
        }
        fields.push(self.value(tag::ATTRIBUTE_VALUE));
        Field::structure(tag::ATTRIBUTE, fields)
    }
}

fn named<'a>(attributes: &[Attribute<'a>]) -> Vec<Field<'a>> {
    let before = |at: usize, tag| attributes.iter().take(at).filter(|other| other.tag() == tag).count();
    let index = |at, tag| i32::try_from(before(at, tag)).unwrap_or(i32::MAX);
    attributes.iter().enumerate().map(|(at, attribute)| attribute.named(index(at, attribute.tag()))).collect()
}

fn own_tags<'a>(attributes: &[Attribute<'a>]) -> Field<'a> {
    let fields = attributes.iter().map(|attribute| attribute.value(attribute.tag())).collect();
    Field::structure(tag::ATTRIBUTES, fields)
}

/// As what a KEK is registered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Body {
    /// A symmetric key of format Raw that declares its true length.
    Raw,
    /// What Rook writes: format Opaque, and a length of 256 whatever the key (spec 6.4).
    Rooks,
    /// Secret data, for servers that know no symmetric key of such a length.
    SecretData,
}

impl Body {
    fn object_type(self) -> u32 {
        match self {
            Self::Raw | Self::Rooks => object_type::SYMMETRIC_KEY,
            Self::SecretData => object_type::SECRET_DATA,
        }
    }

    fn field(self, material: &[u8]) -> Field<'_> {
        let format = match self {
            Self::Rooks => key_format::OPAQUE,
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
            Self::Raw | Self::Rooks => {
                let length = if self == Self::Rooks { ROOKS_LENGTH } else { bits };
                block.push(Field::enumeration(tag::CRYPTOGRAPHIC_ALGORITHM, AES));
                block.push(Field::integer(tag::CRYPTOGRAPHIC_LENGTH, length));
            }
        }
        Field::structure(tag::SYMMETRIC_KEY, vec![Field::structure(tag::KEY_BLOCK, block)])
    }
}

mod object_type {
    pub(super) const SYMMETRIC_KEY: u32 = 2;
    pub(super) const SECRET_DATA: u32 = 7;
    pub(super) const NAMES: [&str; 9] = [
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
}

mod key_format {
    pub(super) const RAW: u32 = 1;
    pub(super) const OPAQUE: u32 = 2;
}

pub(crate) fn discover(versions: &[Version]) -> Vec<Field<'static>> {
    versions.iter().map(|version| version.field()).collect()
}

pub(crate) fn register<'a>(
    version: Version,
    body: Body,
    material: &'a [u8],
    attributes: &[Attribute<'a>],
) -> Vec<Field<'a>> {
    let attributes = if version.has_own_tags() {
        own_tags(attributes)
    } else {
        Field::structure(tag::TEMPLATE_ATTRIBUTE, named(attributes))
    };
    vec![Field::enumeration(tag::OBJECT_TYPE, body.object_type()), attributes, body.field(material)]
}

/// The payload of Get, Get Attributes, Activate and Destroy.
pub(crate) fn identifier(uid: &str) -> Vec<Field<'_>> {
    vec![Field::text(tag::UNIQUE_IDENTIFIER, uid)]
}

pub(crate) fn locate<'a>(version: Version, filter: &[Attribute<'a>]) -> Vec<Field<'a>> {
    if version.has_own_tags() { vec![own_tags(filter)] } else { named(filter) }
}

pub(crate) fn revoke(uid: &str) -> Vec<Field<'_>> {
    vec![
        Field::text(tag::UNIQUE_IDENTIFIER, uid),
        Field::structure(
            tag::REVOCATION_REASON,
            vec![Field::enumeration(tag::REVOCATION_REASON_CODE, CESSATION)],
        ),
    ]
}

/// Asks for operations, object types and who the server is.
pub(crate) fn query() -> Vec<Field<'static>> {
    [1, 2, 3].into_iter().map(|function| Field::enumeration(tag::QUERY_FUNCTION, function)).collect()
}

/// A whole request of one item, as Rook frames it (spec 6.3).
pub(crate) fn request(
    version: Version,
    operation: Operation,
    batch_id: &[u8],
    payload: Vec<Field<'_>>,
) -> Zeroizing<Vec<u8>> {
    let header =
        Field::structure(tag::REQUEST_HEADER, vec![version.field(), Field::integer(tag::BATCH_COUNT, 1)]);
    let item = Field::structure(
        tag::BATCH_ITEM,
        vec![
            Field::enumeration(tag::OPERATION, operation.code()),
            Field::bytes(tag::UNIQUE_BATCH_ITEM_ID, batch_id),
            Field::structure(tag::REQUEST_PAYLOAD, payload),
        ],
    );
    Field::structure(tag::REQUEST_MESSAGE, vec![header, item]).encode()
}

/// The payload of the answer to a request, if it succeeded.
///
/// The status counts before anything else: servers leave operation and batch id out where they refuse, and their own
/// words must not be lost over that (spec W15). The version of an answer is not looked at, since errors come with
/// that of the request or with 1.0, whatever was spoken.
pub(crate) fn response<'a>(
    frame: &'a [u8],
    operation: Operation,
    batch_id: &[u8],
) -> Result<Item<'a>, Fault> {
    let message = Item::parse(frame).map_err(|cause| malformed("it is no TTLV").source(cause))?;
    if message.tag() != tag::RESPONSE_MESSAGE {
        return Err(malformed("it is no response").into());
    }
    let item = message.child(tag::BATCH_ITEM).ok_or_else(|| malformed("it has no item"))?;
    let status = item
        .child(tag::RESULT_STATUS)
        .and_then(|status| status.enumeration())
        .ok_or_else(|| malformed("its item has no status"))?;
    if status != 0 {
        let reason = item.child(tag::RESULT_REASON).and_then(|reason| reason.enumeration());
        let words = item.child(tag::RESULT_MESSAGE).and_then(|words| words.text());
        return Err(Fault::refused(operation, Refusal { status, reason, words }));
    }
    if message.all(tag::BATCH_ITEM).count() != 1 {
        return Err(malformed("it has several items, for one that was asked for").into());
    }
    let answered = item.child(tag::OPERATION).map(|answered| answered.enumeration());
    if answered.is_some_and(|answered| answered != Some(operation.code())) {
        return Err(malformed("it is the answer to another operation").into());
    }
    let id = item.child(tag::UNIQUE_BATCH_ITEM_ID).map(|id| id.bytes());
    if id.is_some_and(|id| id != Some(batch_id)) {
        return Err(malformed("it is the answer to another request").into());
    }
    // An operation without anything to say may leave the payload out.
    Ok(item.child(tag::RESPONSE_PAYLOAD).unwrap_or(item))
}

pub(crate) fn versions(payload: &Item<'_>) -> Vec<Version> {
    payload.all(tag::PROTOCOL_VERSION).filter_map(|item| Version::of(&item)).collect()
}

/// The longest identifier that is taken. The specification has no limit; real ones have up to 64 characters.
const MAX_IDENTIFIER: usize = 1024;

pub(crate) fn unique_identifier(payload: &Item<'_>) -> Result<String> {
    let uid = payload.child(tag::UNIQUE_IDENTIFIER).and_then(|uid| uid.text());
    match uid {
        Some(uid) if !uid.is_empty() && uid.len() <= MAX_IDENTIFIER => Ok(uid.to_owned()),
        _ => Err(malformed("it has no identifier of the object")),
    }
}

pub(crate) fn located(payload: &Item<'_>) -> Vec<String> {
    payload
        .all(tag::UNIQUE_IDENTIFIER)
        .filter_map(|uid| uid.text())
        .filter(|uid| !uid.is_empty() && uid.len() <= MAX_IDENTIFIER)
        .map(ToOwned::to_owned)
        .collect()
}

/// The key material of an object. Any declared length will do: Rook has written 128 and 256 for 1,024 (spec 6.4).
pub(crate) fn material<'a>(payload: &Item<'a>) -> Result<&'a [u8]> {
    let kind = payload.child(tag::OBJECT_TYPE).and_then(|kind| kind.enumeration());
    if let Some(object) = payload.child(tag::OPAQUE_OBJECT) {
        let bytes = object.child(tag::OPAQUE_DATA_VALUE).and_then(|value| value.bytes());
        return bytes.filter(|bytes| !bytes.is_empty()).ok_or_else(|| unusable("it is empty"));
    }
    let object = payload.child(tag::SYMMETRIC_KEY).or_else(|| payload.child(tag::SECRET_DATA));
    let Some(object) = object else {
        let kind = kind.and_then(|kind| usize::try_from(kind).ok()?.checked_sub(1));
        let kind = kind.and_then(|at| object_type::NAMES.get(at)).copied().unwrap_or("of an unknown kind");
        return Err(unusable(&format!("it is {kind}")));
    };
    let block = object.child(tag::KEY_BLOCK).ok_or_else(|| unusable("it has no key block"))?;
    let value = block.child(tag::KEY_VALUE);
    if block.child(tag::KEY_WRAPPING_DATA).is_some() || value.is_some_and(|value| !value.is_structure()) {
        return Err(unusable("it is wrapped by another key, and has to be exportable as it is"));
    }
    match block.child(tag::KEY_FORMAT_TYPE).and_then(|format| format.enumeration()) {
        Some(key_format::RAW | key_format::OPAQUE) => {}
        Some(format) => {
            return Err(unusable(&format!(
                "its key format is {format} (0x{format:02x}), and only Raw (1) and Opaque (2) can be a KEK"
            )));
        }
        None => return Err(unusable("it has no key format")),
    }
    let material = value
        .ok_or_else(|| unusable("the server does not give its value out"))?
        .child(tag::KEY_MATERIAL)
        .ok_or_else(|| unusable("it has no key material"))?;
    if material.is_structure() {
        return Err(unusable("its key material is transparent (in parts), and has to be plain bytes"));
    }
    material
        .bytes()
        .filter(|bytes| !bytes.is_empty())
        .ok_or_else(|| unusable("its key material is empty or no bytes"))
}

fn unusable(why: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("the object on the server is no KEK: {why}"))
}

/// The attributes of an object, as far as they matter.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Attributes {
    pub(crate) names: Vec<String>,
    /// Namespace and data.
    pub(crate) application: Vec<(String, String)>,
    pub(crate) state: Option<u32>,
    pub(crate) initial_date: Option<i64>,
}

impl Attributes {
    /// Reads both ways of writing them: by name before 2.0, by their own tags from then on.
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
                Some("State") => found.add(tag::STATE, &value),
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
            tag::STATE => self.state = value.enumeration(),
            tag::INITIAL_DATE => self.initial_date = value.date_time(),
            _ => {}
        }
    }
}

/// What a server says of itself.
#[derive(Debug, Default)]
pub(crate) struct ServerInformation {
    pub(crate) vendor: Option<String>,
    pub(crate) operations: Vec<u32>,
    pub(crate) object_types: Vec<u32>,
}

impl ServerInformation {
    pub(crate) fn of(payload: &Item<'_>) -> Self {
        let numbers = |tag| payload.all(tag).filter_map(|item: Item<'_>| item.enumeration()).collect();
        let vendor = payload.child(tag::VENDOR_IDENTIFICATION).and_then(|vendor| vendor.text());
        Self {
            vendor: vendor.map(crate::error::one_line),
            operations: numbers(tag::OPERATION),
            object_types: numbers(tag::OBJECT_TYPE),
        }
    }

    /// Whether a KEK can be registered as what we try first, where the server tells.
    pub(crate) fn takes_symmetric_keys(&self) -> bool {
        self.object_types.is_empty() || self.object_types.contains(&object_type::SYMMETRIC_KEY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Batch item id 00..0f, as in the vectors of spec 6.7.
    const ID: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    const DISCOVER: &str = "42007801000000a04200770100000038420069010000002042006a0200000004000000010000000042006b0200000004000000040000000042000d0200000004000000010000000042000f010000005842005c05000000040000001e000000004200930800000010000102030405060708090a0b0c0d0e0f4200790100000028420069010000002042006a0200000004000000010000000042006b02000000040000000400000000";
    const GET: &str = "42007801000000884200770100000038420069010000002042006a0200000004000000010000000042006b0200000004000000040000000042000d0200000004000000010000000042000f010000004042005c05000000040000000a000000004200930800000010000102030405060708090a0b0c0d0e0f420079010000001042009407000000066162633132330000";
    const REGISTER_PREFIX: &str = "42007801000001984200770100000038420069010000002042006a0200000004000000010000000042006b0200000004000000040000000042000d0200000004000000010000000042000f010000015042005c050000000400000003000000004200930800000010000102030405060708090a0b0c0d0e0f4200790100000120420057050000000400000002000000004200910100000038420008010000003042000a070000001843727970746f67726170686963205573616765204d61736b42000b0200000004000000400000000042008f01000000c842004001000000c04200420500000004000000020000000042004501000000884200430800000080";
    const REGISTER_SUFFIX: &str = "4200280500000004000000030000000042002a02000000040000010000000000";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn rooks_discover_is_written_byte_for_byte() {
        let bytes = request(Version::V1_4, Operation::DiscoverVersions, &ID, discover(&[Version::V1_4]));
        assert_eq!(hex(&bytes), DISCOVER);
        assert_eq!(bytes.len(), 168);
    }

    #[test]
    fn rooks_get_and_destroy_are_written_byte_for_byte() {
        let bytes = request(Version::V1_4, Operation::Get, &ID, identifier("abc123"));
        assert_eq!(hex(&bytes), GET);
        let bytes = request(Version::V1_4, Operation::Destroy, &ID, identifier("abc123"));
        let destroy = GET.replace("42005c05000000040000000a", "42005c050000000400000014");
        assert_eq!(hex(&bytes), destroy);
        assert_eq!(bytes.len(), 144);
    }

    #[test]
    fn rooks_register_is_written_byte_for_byte() {
        let material: Vec<u8> = (0..128).collect();
        let payload = register(Version::V1_4, Body::Rooks, &material, &[Attribute::UsageMaskExport]);
        let bytes = request(Version::V1_4, Operation::Register, &ID, payload);
        assert_eq!(hex(&bytes), format!("{REGISTER_PREFIX}{}{REGISTER_SUFFIX}", hex(&material)));
        assert_eq!(bytes.len(), 416);
    }

    #[test]
    fn rooks_vectors_are_read() {
        let bytes = unhex(DISCOVER);
        let message = Item::parse(&bytes).unwrap();
        let header = message.child(tag::REQUEST_HEADER).unwrap();
        assert_eq!(Version::of(&header.child(tag::PROTOCOL_VERSION).unwrap()), Some(Version::V1_4));
        let item = message.child(tag::BATCH_ITEM).unwrap();
        assert_eq!(item.child(tag::UNIQUE_BATCH_ITEM_ID).unwrap().bytes(), Some(&ID[..]));
        assert_eq!(versions(&item.child(tag::REQUEST_PAYLOAD).unwrap()), [Version::V1_4]);

        let bytes = unhex(GET);
        let payload = Item::parse(&bytes).unwrap().child(tag::BATCH_ITEM).unwrap();
        let payload = payload.child(tag::REQUEST_PAYLOAD).unwrap();
        assert_eq!(unique_identifier(&payload).unwrap(), "abc123");

        let material: Vec<u8> = (0..128).map(|byte| byte ^ 0xff).collect();
        let bytes = unhex(&format!("{REGISTER_PREFIX}{}{REGISTER_SUFFIX}", hex(&material)));
        let payload = Item::parse(&bytes).unwrap().child(tag::BATCH_ITEM).unwrap();
        let payload = payload.child(tag::REQUEST_PAYLOAD).unwrap();
        // The object stands in a Get's answer as it stands in Rook's Register: Opaque, length 256.
        assert_eq!(super::material(&payload).unwrap(), material);
    }

    #[test]
    fn attributes_have_an_index_before_2_0_and_tags_of_their_own_from_then_on() {
        let attributes = [
            Attribute::Name("first"),
            Attribute::UsageMaskExport,
            Attribute::Name("second"),
            Attribute::ApplicationSpecific { namespace: "rook-kms", data: "a/b" },
        ];
        let fields = register(Version::V1_4, Body::Raw, &[1; 16], &attributes);
        let bytes = Field::structure(tag::REQUEST_PAYLOAD, fields).encode();
        let payload = Item::parse(&bytes).unwrap();
        let template = payload.child(tag::TEMPLATE_ATTRIBUTE).unwrap();
        let indices: Vec<_> = template
            .children()
            .map(|item| item.child(tag::ATTRIBUTE_INDEX).and_then(|i| i.integer()))
            .collect();
        assert_eq!(indices, [None, None, Some(1), None]);
        let expected = Attributes {
            names: vec!["first".to_owned(), "second".to_owned()],
            application: vec![("rook-kms".to_owned(), "a/b".to_owned())],
            ..Attributes::default()
        };
        assert_eq!(Attributes::of(&template), expected);

        let fields = register(Version::V2_0, Body::Raw, &[1; 16], &attributes);
        let bytes = Field::structure(tag::REQUEST_PAYLOAD, fields).encode();
        let payload = Item::parse(&bytes).unwrap();
        assert!(payload.child(tag::TEMPLATE_ATTRIBUTE).is_none());
        assert_eq!(Attributes::of(&payload), expected);
    }

    /// A response of one item.
    fn answer(fields: Vec<Field<'_>>) -> Zeroizing<Vec<u8>> {
        Field::structure(tag::RESPONSE_MESSAGE, vec![Field::structure(tag::BATCH_ITEM, fields)]).encode()
    }

    #[test]
    fn a_refusal_is_told_even_without_operation_and_batch_id() {
        let bytes = answer(vec![
            Field::enumeration(tag::RESULT_STATUS, 1),
            Field::enumeration(tag::RESULT_REASON, 4),
            Field::text(tag::RESULT_MESSAGE, "no\nway"),
        ]);
        let error = Error::from(response(&bytes, Operation::Get, &ID).unwrap_err()).to_string();
        assert!(error.contains("no way") && error.contains("Invalid Message"), "{error}");
    }

    #[test]
    fn an_answer_to_something_else_is_refused() {
        let ok = || Field::enumeration(tag::RESULT_STATUS, 0);
        let cases = [
            (vec![], "no status"),
            (vec![ok(), Field::enumeration(tag::OPERATION, 3)], "another operation"),
            (vec![ok(), Field::text(tag::OPERATION, "Get")], "another operation"),
            (vec![ok(), Field::bytes(tag::UNIQUE_BATCH_ITEM_ID, b"other")], "another request"),
        ];
        for (fields, why) in cases {
            let error = Error::from(response(&answer(fields), Operation::Get, &ID).unwrap_err());
            assert_eq!(error.kind(), ErrorKind::Protocol);
            assert!(error.to_string().contains(why), "{error}");
        }
        assert!(response(&answer(vec![ok()]), Operation::Get, &ID).is_ok());
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
            (Field::enumeration(tag::OBJECT_TYPE, 99), "of an unknown kind"),
            (Field::structure(tag::SYMMETRIC_KEY, vec![]), "no key block"),
            (key(vec![]), "no key format"),
            (key(vec![raw()]), "does not give its value out"),
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
            (key(vec![raw(), value(Field::text(tag::KEY_MATERIAL, "x"))]), "no bytes"),
            (key(vec![raw(), Field::structure(tag::KEY_VALUE, vec![])]), "no key material"),
        ];
        for (field, why) in cases {
            let bytes = Field::structure(tag::RESPONSE_PAYLOAD, vec![field]).encode();
            let error = material(&Item::parse(&bytes).unwrap()).unwrap_err();
            assert!(error.to_string().contains(why), "{why}: {error}");
        }
    }
}
