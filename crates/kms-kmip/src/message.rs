//! The frame of a request and of its response: version, operation, batch item (KMIP 1.4 §7).

use std::fmt;

use kms_core::Result;
use zeroize::Zeroizing;

use crate::{
    error::{ExchangeError, Refusal, malformed},
    ttlv::{Field, Item, tag},
};

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

    /// All versions that we support, the preferred one first. Rook uses 1.4.
    pub(crate) const ALL: [Self; 7] = [
        Self::V1_4,
        Self { major: 1, minor: 3 },
        Self { major: 1, minor: 2 },
        Self::V1_1,
        Self::V1_0,
        Self::V2_1,
        Self::V2_0,
    ];

    /// Whether each attribute has a tag of its own, which is the case from 2.0 on.
    pub(crate) fn has_own_tags(self) -> bool {
        self.major >= 2
    }

    /// Whether a Locate may have an offset, which is the case from 1.3 on.
    pub(crate) fn has_offset(self) -> bool {
        self.major >= 2 || self.minor >= 3
    }

    /// The version as a field of a message.
    pub(crate) fn field<'a>(self) -> Field<'a> {
        Field::structure(
            tag::PROTOCOL_VERSION,
            vec![
                Field::integer(tag::PROTOCOL_VERSION_MAJOR, self.major),
                Field::integer(tag::PROTOCOL_VERSION_MINOR, self.minor),
            ],
        )
    }

    /// Reads a version from an item. `None` if the item is not a version.
    pub(crate) fn of(item: &Item<'_>) -> Option<Self> {
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
    ModifyAttribute,
    Activate,
    Revoke,
    Destroy,
    Query,
    DiscoverVersions,
}

impl Operation {
    /// The number of the operation in messages.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Register => 0x03,
            Self::Locate => 0x08,
            Self::Get => 0x0a,
            Self::GetAttributes => 0x0b,
            Self::ModifyAttribute => 0x0e,
            Self::Activate => 0x12,
            Self::Revoke => 0x13,
            Self::Destroy => 0x14,
            Self::Query => 0x18,
            Self::DiscoverVersions => 0x1e,
        }
    }

    /// The name of the operation in the specification.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Register => "Register",
            Self::Locate => "Locate",
            Self::Get => "Get",
            Self::GetAttributes => "Get Attributes",
            Self::ModifyAttribute => "Modify Attribute",
            Self::Activate => "Activate",
            Self::Revoke => "Revoke",
            Self::Destroy => "Destroy",
            Self::Query => "Query",
            Self::DiscoverVersions => "Discover Versions",
        }
    }

    /// Whether the operation changes nothing, so that it may be sent twice.
    pub(crate) fn is_idempotent(self) -> bool {
        match self {
            Self::Locate | Self::Get | Self::GetAttributes | Self::Query | Self::DiscoverVersions => true,
            Self::Register | Self::ModifyAttribute | Self::Activate | Self::Revoke | Self::Destroy => false,
        }
    }
}

/// The request payload of Discover Versions, which lists these versions.
pub(crate) fn discover(versions: &[Version]) -> Vec<Field<'static>> {
    versions.iter().map(|version| version.field()).collect()
}

/// The versions in the response to Discover Versions.
pub(crate) fn versions(payload: &Item<'_>) -> Vec<Version> {
    payload.all(tag::PROTOCOL_VERSION).filter_map(|item| Version::of(&item)).collect()
}

/// Joins versions for a message: the first 16, or "none".
pub(crate) fn join(versions: &[Version]) -> String {
    if versions.is_empty() {
        return "none".to_owned();
    }
    versions.iter().take(16).map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The identifier of a batch item, which the response repeats.
pub(crate) type BatchId = [u8; 16];

/// One operation of a request.
pub(crate) struct Part<'a> {
    pub(crate) operation: Operation,
    payload: Vec<Field<'a>>,
    pub(crate) object: Subject<'a>,
}

/// The object that an operation is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Subject<'a> {
    /// Any object.
    Any,
    /// The object with this identifier.
    Known(&'a str),
    /// The object of the operation before (the ID placeholder, KMIP 1.4 §4).
    Before,
}

/// The request payload of Get, Get Attributes, Activate and Destroy.
pub(crate) fn identifier(uid: &str) -> Vec<Field<'_>> {
    vec![Field::text(tag::UNIQUE_IDENTIFIER, uid)]
}

impl<'a> Part<'a> {
    pub(crate) fn new(operation: Operation, payload: Vec<Field<'a>>) -> Self {
        Self { operation, payload, object: Subject::Any }
    }

    /// An operation on the object with this identifier.
    pub(crate) fn about(operation: Operation, uid: &'a str) -> Self {
        Self { operation, payload: identifier(uid), object: Subject::Known(uid) }
    }

    /// An operation on the object of the operation before it in the same request.
    pub(crate) fn chained(operation: Operation) -> Self {
        Self { operation, payload: Vec::new(), object: Subject::Before }
    }
}

/// Encodes a request with a batch item for each operation, framed as Rook frames it (rook-behaviour §6.3).
///
/// The header has neither Batch Order Option nor Batch Error Continuation Option: a server that does not support them
/// refuses the whole request (KMIP 1.4 §6.12, §6.13). Without them a server stops at the first failure, and before 2.0
/// may choose the order, so each response is checked for the object that it is about.
pub(crate) fn request(version: Version, parts: Vec<Part<'_>>, ids: &[BatchId]) -> Zeroizing<Vec<u8>> {
    let count = i32::try_from(parts.len()).unwrap_or(i32::MAX);
    let header =
        Field::structure(tag::REQUEST_HEADER, vec![version.field(), Field::integer(tag::BATCH_COUNT, count)]);
    let items = parts.into_iter().zip(ids).map(|(Part { operation, payload, object: _ }, id)| {
        Field::structure(
            tag::BATCH_ITEM,
            vec![
                Field::enumeration(tag::OPERATION, operation.code()),
                Field::bytes(tag::UNIQUE_BATCH_ITEM_ID, id),
                Field::structure(tag::REQUEST_PAYLOAD, payload),
            ],
        )
    });
    Field::structure(tag::REQUEST_MESSAGE, std::iter::once(header).chain(items).collect()).encode()
}

/// Parses the response to a request with these operations, and returns the payload for the operation `at`. `None` if the
/// response has no item for it: the server stops at the first failure.
///
/// It reads the status before anything else: a refusal may lack operation and batch id, and the server's message must
/// not be lost because of that (rook-behaviour W15). It ignores the version of a response: error responses have the
/// version of the request, or 1.0, whatever was negotiated.
///
/// # Errors
///
/// The error for the server's refusal; `Protocol` if the response is malformed or belongs to another request.
pub(crate) fn response<'a>(
    frame: &'a [u8],
    asked: &[(Operation, BatchId)],
    at: usize,
) -> Option<Result<Item<'a>, ExchangeError>> {
    let items = match items(frame) {
        Ok(items) => items,
        Err(error) => return Some(Err(error)),
    };
    let (operation, id) = asked.get(at)?;
    let id_of = |item: &Item<'a>| item.child(tag::UNIQUE_BATCH_ITEM_ID).and_then(|id| id.bytes());
    // Some servers leave the ids out; others may answer in another order.
    let item = items.iter().find(|item| id_of(item) == Some(id)).or_else(|| {
        let is_of_another = |item: &&Item<'a>| asked.iter().any(|(_, id)| id_of(item) == Some(id));
        items.get(at).filter(|item| !is_of_another(item))
    })?;
    Some(payload(*item, *operation, id, items.len() > asked.len()))
}

/// Whether a response is a refusal that names none of the operations, which may mean the request as a whole.
pub(crate) fn is_anonymous(frame: &[u8]) -> bool {
    let names = |item: &Item<'_>| {
        [tag::OPERATION, tag::UNIQUE_BATCH_ITEM_ID].iter().any(|tag| item.child(*tag).is_some())
    };
    items(frame).is_ok_and(|items| !items.iter().any(names))
}

/// The batch items of a response.
fn items(frame: &[u8]) -> Result<Vec<Item<'_>>, ExchangeError> {
    let message = Item::parse(frame).map_err(|cause| malformed("it is not TTLV").source(cause))?;
    if message.tag() != tag::RESPONSE_MESSAGE {
        return Err(malformed("it is not a response message").into());
    }
    let items: Vec<_> = message.all(tag::BATCH_ITEM).collect();
    if items.is_empty() {
        return Err(malformed("it has no batch item").into());
    }
    Ok(items)
}

/// The payload in a batch item. `is_crowded`: whether the response has more items than the request.
fn payload<'a>(
    item: Item<'a>,
    operation: Operation,
    batch_id: &BatchId,
    is_crowded: bool,
) -> Result<Item<'a>, ExchangeError> {
    let status = item
        .child(tag::RESULT_STATUS)
        .and_then(|status| status.enumeration())
        .ok_or_else(|| malformed("its batch item has no status"))?;
    if status != 0 {
        let reason = item.child(tag::RESULT_REASON).and_then(|reason| reason.enumeration());
        let words = item.child(tag::RESULT_MESSAGE).and_then(|words| words.text());
        return Err(ExchangeError::refused(operation.as_str(), Refusal { status, reason, words }));
    }
    if is_crowded {
        return Err(malformed("it has more batch items than the request").into());
    }
    let answered = item.child(tag::OPERATION).map(|answered| answered.enumeration());
    if answered.is_some_and(|answered| answered != Some(operation.code())) {
        return Err(malformed("it is the response to another operation").into());
    }
    let id = item.child(tag::UNIQUE_BATCH_ITEM_ID).map(|id| id.bytes());
    if id.is_some_and(|id| id != Some(batch_id)) {
        return Err(malformed("it is the response to another request").into());
    }
    // A response with an empty payload may leave the payload out.
    Ok(item.child(tag::RESPONSE_PAYLOAD).unwrap_or(item))
}

/// The server's time in the header of a response, in seconds since 1970. `None` if it is absent or zero: some servers
/// send zero with an error.
pub(crate) fn time_stamp(frame: &[u8]) -> Option<i64> {
    let message = Item::parse(frame).ok()?;
    let time = message.child(tag::RESPONSE_HEADER)?.child(tag::TIME_STAMP)?.date_time();
    time.filter(|seconds| *seconds > 0)
}

#[cfg(test)]
mod tests {
    use kms_core::{Error, ErrorKind};

    use super::*;

    const ID: BatchId = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    /// The payload of a response to one Get.
    fn single(frame: &[u8]) -> Result<Item<'_>, ExchangeError> {
        response(frame, &[(Operation::Get, ID)], 0).unwrap()
    }

    /// A response with one batch item.
    fn answer(fields: Vec<Field<'_>>) -> Zeroizing<Vec<u8>> {
        Field::structure(tag::RESPONSE_MESSAGE, vec![Field::structure(tag::BATCH_ITEM, fields)]).encode()
    }

    #[test]
    fn a_refusal_is_reported_even_without_operation_and_batch_id() {
        let bytes = answer(vec![
            Field::enumeration(tag::RESULT_STATUS, 1),
            Field::enumeration(tag::RESULT_REASON, 4),
            Field::text(tag::RESULT_MESSAGE, "no\nway"),
        ]);
        let error = Error::from(single(&bytes).unwrap_err()).to_string();
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
            let error = Error::from(single(&answer(fields)).unwrap_err());
            assert_eq!(error.kind(), ErrorKind::Protocol);
            assert!(error.to_string().contains(why), "{error}");
        }
        assert!(single(&answer(vec![ok()])).is_ok());
    }

    /// A response with these batch items.
    fn batch(items: Vec<Vec<Field<'_>>>) -> Zeroizing<Vec<u8>> {
        let items = items.into_iter().map(|fields| Field::structure(tag::BATCH_ITEM, fields));
        Field::structure(tag::RESPONSE_MESSAGE, items.collect()).encode()
    }

    #[test]
    fn the_responses_of_a_batch_are_found_by_their_ids_or_else_by_their_place() {
        let asked = [(Operation::Get, [1; 16]), (Operation::GetAttributes, [2; 16])];
        let ok = || Field::enumeration(tag::RESULT_STATUS, 0);
        let failed = || Field::enumeration(tag::RESULT_STATUS, 1);
        let id = |of: usize| Field::bytes(tag::UNIQUE_BATCH_ITEM_ID, &asked[of].1);
        let found = |items| {
            let bytes = batch(items);
            [0, 1].map(|at| response(&bytes, &asked, at).map(|result| result.is_ok()))
        };
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(found(vec![vec![ok(), id(0)], vec![ok(), id(1)]]), [yes, yes]);
        assert_eq!(found(vec![vec![ok(), id(1)], vec![failed(), id(0)]]), [no, yes]);
        assert_eq!(found(vec![vec![ok()], vec![failed()]]), [yes, no]);
        assert_eq!(found(vec![vec![failed()]]), [no, None]);
        assert_eq!(found(vec![vec![ok(), id(1)]]), [None, yes]);
        // A server that mixes up the two, and one that answers more than was asked.
        let operation = |operation: Operation| Field::enumeration(tag::OPERATION, operation.code());
        let mixed = vec![vec![ok(), operation(asked[1].0)], vec![ok(), operation(asked[0].0)]];
        assert_eq!(found(mixed), [no, no]);
        assert_eq!(found(vec![vec![ok()], vec![ok()], vec![ok()]]), [no, no]);
        assert_eq!(found(vec![vec![ok(), Field::bytes(tag::UNIQUE_BATCH_ITEM_ID, b"?")]]), [no, None]);
    }

    #[test]
    fn a_refusal_that_names_no_operation_is_anonymous() {
        let failed = || Field::enumeration(tag::RESULT_STATUS, 1);
        assert!(is_anonymous(&batch(vec![vec![failed()]])));
        assert!(!is_anonymous(&batch(vec![vec![failed(), Field::bytes(tag::UNIQUE_BATCH_ITEM_ID, &ID)]])));
        assert!(!is_anonymous(&batch(vec![vec![Field::enumeration(tag::OPERATION, 10), failed()]])));
    }
}
