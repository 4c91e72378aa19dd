//! The KMIP operations that we use: requests, responses, and this process's cache of objects.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Mutex, PoisonError},
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kms_core::{Kek, KeyName, Result};

use crate::{
    classify::Object,
    client::Client,
    error::{Class, ExchangeError, malformed, one_line},
    habits::{Batches, Habits},
    message::{Operation, Part, Version, identifier},
    stored::{Attribute, Attributes, Body, by_name, by_tag, decode, material, object_type},
    ttlv::{Field, Item, tag},
};

/// The longest identifier that is accepted. The specification sets no limit; real ones have up to 64 characters.
const MAX_IDENTIFIER: usize = 1024;
/// The maximum number of objects that one request asks for.
pub(crate) const BATCH: usize = 16;
/// The assumed size, in bytes, of the attributes of one object in a response.
const ATTRIBUTES_SIZE: usize = 2048;
/// The maximum number of cached objects.
const KNOWN_OBJECTS: usize = 20_000;

/// The request payload of Register.
pub(crate) fn register<'a>(
    version: Version,
    body: Body,
    material: &'a [u8],
    attributes: &[Attribute<'a>],
) -> Vec<Field<'a>> {
    let attributes = if version.has_own_tags() {
        by_tag(attributes)
    } else {
        Field::structure(tag::TEMPLATE_ATTRIBUTE, by_name(attributes))
    };
    vec![Field::enumeration(tag::OBJECT_TYPE, body.object_type()), attributes, body.field(material)]
}

fn revoke(uid: &str, reason: u32) -> Vec<Field<'_>> {
    vec![
        Field::text(tag::UNIQUE_IDENTIFIER, uid),
        Field::structure(
            tag::REVOCATION_REASON,
            vec![Field::enumeration(tag::REVOCATION_REASON_CODE, reason)],
        ),
    ]
}

/// The request payload of Modify Attribute, which replaces a name. `at`: the index of the old name.
fn rename<'a>(version: Version, uid: &'a str, at: i32, old: &'a str, new: &'a str) -> Vec<Field<'a>> {
    let mut fields = identifier(uid);
    if version.has_own_tags() {
        fields.push(Field::structure(tag::CURRENT_ATTRIBUTE, vec![Attribute::Name(old).tagged()]));
        fields.push(Field::structure(tag::NEW_ATTRIBUTE, vec![Attribute::Name(new).tagged()]));
    } else {
        fields.push(Attribute::Name(new).named(at));
    }
    fields
}

/// The request payload of Query, which asks for operations, object types and the vendor.
fn query() -> Vec<Field<'static>> {
    [1, 2, 3].into_iter().map(|function| Field::enumeration(tag::QUERY_FUNCTION, function)).collect()
}

/// The identifier in the response to Register.
///
/// # Errors
///
/// `Protocol` if the response has no identifier, or the identifier is too long.
pub(crate) fn unique_identifier(payload: &Item<'_>) -> Result<String> {
    let uid = payload.child(tag::UNIQUE_IDENTIFIER).and_then(|uid| checked_identifier(&uid));
    uid.ok_or_else(|| malformed("it has no identifier of the object"))
}

/// The identifier in an item. `None` if it is not a text, empty or too long.
pub(crate) fn checked_identifier(item: &Item<'_>) -> Option<String> {
    let uid = item.text().filter(|uid| !uid.is_empty() && uid.len() <= MAX_IDENTIFIER)?;
    Some(uid.to_owned())
}

/// The attributes in the response to Get Attributes.
///
/// # Errors
///
/// `Protocol` if the response is about another object, or about none: an object whose name the server withholds must not
/// count as absent.
pub(crate) fn described(payload: &Item<'_>, uid: &str) -> Result<Attributes> {
    check_object(payload, uid)?;
    let attributes = Attributes::of(payload);
    if payload.child(tag::UNIQUE_IDENTIFIER).is_none() && attributes == Attributes::default() {
        return Err(malformed("it describes no object"));
    }
    Ok(attributes)
}

/// The KEK in the response to Get.
///
/// # Errors
///
/// `Protocol` if the response is about another object, or the object is not a KEK.
pub(crate) fn kek(payload: &Item<'_>, uid: &str) -> Result<Kek> {
    check_object(payload, uid)?;
    decode(material(payload)?)
}

/// Fails if the response is about another object than the request.
fn check_object(payload: &Item<'_>, uid: &str) -> Result<()> {
    match payload.child(tag::UNIQUE_IDENTIFIER).map(|item| item.text() == Some(uid)) {
        Some(false) => Err(malformed("it is about another object")),
        _ => Ok(()),
    }
}

/// The server's description of itself in the response to Query.
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
            vendor: vendor.map(one_line),
            operations: numbers(tag::OPERATION),
            object_types: numbers(tag::OBJECT_TYPE),
        }
    }

    /// Whether the server supports symmetric keys, the first choice of object type. `true` if the server lists no
    /// types.
    pub(crate) fn takes_symmetric_keys(&self) -> bool {
        self.object_types.is_empty() || self.object_types.contains(&object_type::SYMMETRIC_KEY)
    }
}

/// One server, and the cache of its objects.
pub(crate) struct Api {
    pub(crate) client: Client,
    /// `namespace/name` of the CephCluster that owns the keys.
    pub(crate) cluster: Option<String>,
    /// The cached objects. Their attributes do not change once they are set.
    known: Mutex<HashMap<String, Object>>,
    /// Objects that this process has replaced on a server that accepts no label for it.
    pub(crate) replaced: Mutex<BTreeMap<KeyName, Vec<String>>>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, cluster, known: _, replaced: _ } = self;
        f.debug_struct("Api").field("client", client).field("cluster", cluster).finish_non_exhaustive()
    }
}

impl Api {
    pub(crate) fn new(client: Client, cluster: Option<String>) -> Self {
        Self { client, cluster, known: Mutex::default(), replaced: Mutex::default() }
    }

    /// What this process has seen of the server.
    pub(crate) fn habits(&self) -> &Habits {
        &self.client.pool.habits
    }

    /// The attributes of an object.
    pub(crate) async fn attributes(&self, uid: &str) -> Result<Attributes, ExchangeError> {
        let payload = |_| identifier(uid);
        self.client.call(Operation::GetAttributes, payload, |payload| described(payload, uid)).await
    }

    /// Sends Activate or Destroy for an object.
    pub(crate) async fn change(&self, operation: Operation, uid: &str) -> Result<(), ExchangeError> {
        self.client.call(operation, |_| identifier(uid), |_| Ok(())).await
    }

    /// Revokes an object for a [reason](crate::stored::revocation).
    pub(crate) async fn revoke(&self, uid: &str, reason: u32) -> Result<(), ExchangeError> {
        self.client.call(Operation::Revoke, |_| revoke(uid, reason), |_| Ok(())).await
    }

    /// Replaces a name of an object. `at`: the index of the old name.
    pub(crate) async fn rename(&self, uid: &str, at: i32, old: &str, new: &str) -> Result<(), ExchangeError> {
        let payload = |version| rename(version, uid, at, old, new);
        let result = self.client.call(Operation::ModifyAttribute, payload, |_| Ok(())).await;
        if !matches!(
            &result,
            Err(ExchangeError { class: Class::Closed | Class::TooLarge | Class::Other, .. })
        ) {
            self.habits().set_renames(result.is_ok());
        }
        result
    }

    /// Requests the server's description of itself.
    pub(crate) async fn query(&self) -> Result<ServerInformation> {
        let read = |payload: &Item<'_>| Ok(ServerInformation::of(payload));
        Ok(self.client.call(Operation::Query, |_| query(), read).await?)
    }

    /// Reads an object. `None` if the server has no object with this identifier, or the object is destroyed.
    pub(crate) async fn object(&self, uid: &str) -> Result<Option<Object>> {
        Ok(self.described(uid).await?.map(|(object, _)| object))
    }

    /// Reads an object and its attributes. `None` if the server has no object with this identifier, or the object is
    /// destroyed.
    pub(crate) async fn described(&self, uid: &str) -> Result<Option<(Object, Attributes)>> {
        self.note(uid, self.attributes(uid).await)
    }

    /// Adds an object to the cache, whose attributes have just been requested. `None` if the server has no object with
    /// this identifier, or the object is destroyed.
    pub(crate) fn note(
        &self,
        uid: &str,
        attributes: Result<Attributes, ExchangeError>,
    ) -> Result<Option<(Object, Attributes)>> {
        match attributes {
            Ok(attributes) => {
                let object = Object::new(uid, &attributes);
                // Some servers keep the attributes of a destroyed object. A destroyed object never comes back.
                let found = (!object.destroyed).then(|| (object.clone(), attributes));
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                if known.len() >= KNOWN_OBJECTS {
                    known.clear();
                }
                known.insert(uid.to_owned(), object);
                Ok(found)
            }
            Err(failed) if failed.class == Class::Gone => {
                self.forget(uid);
                Ok(None)
            }
            Err(failed) => Err(failed.error.context("object", uid)),
        }
    }

    /// Reads the objects with these identifiers, and leaves out absent ones.
    ///
    /// Unless `fresh` is set, a cached object is not requested again. Another client may have destroyed or superseded it
    /// since. A caller that reads a destroyed object learns that from the server. A superseded object is the KEK in the
    /// cache only while its successor is not cached, and a Locate by name does not find it.
    pub(crate) async fn objects(&self, uids: Vec<String>, fresh: bool) -> Result<Vec<Object>> {
        // Without batches, several connections are faster.
        let size = if self.habits().batches() == Batches::Unsupported { 1 } else { BATCH };
        let size = size.min(self.client.pool.limits.response / ATTRIBUTES_SIZE).max(1);
        let chunks: Vec<Vec<String>> = uids.chunks(size).map(<[String]>::to_vec).collect();
        let found = stream::iter(chunks)
            .map(|uids| async move { self.some_objects(&uids, fresh).await })
            .buffered(self.client.pool.limits.connections);
        found.try_collect::<Vec<_>>().await.map(|found| found.into_iter().flatten().collect())
    }

    async fn some_objects(&self, uids: &[String], fresh: bool) -> Result<Vec<Object>> {
        let mut found: HashMap<&str, Option<Object>> = HashMap::new();
        let mut missing: Vec<&str> = Vec::new();
        for uid in uids {
            match self.known.lock().unwrap_or_else(PoisonError::into_inner).get(uid) {
                Some(object) if object.destroyed => {}
                Some(object) if !fresh => _ = found.insert(uid, Some(object.clone())),
                _ => missing.push(uid),
            }
        }
        // The server stops at an object that is absent, so several requests may be necessary.
        let mut rest = missing.as_slice();
        while let Some(first) = rest.first() {
            let parts = |_| rest.iter().map(|uid| Part::about(Operation::GetAttributes, uid)).collect();
            let answers = self.client.all(parts).await;
            let attributes = |at, uid| answers.read(at, |payload| described(payload, uid));
            let read = rest.iter().enumerate().map_while(|(at, uid)| Some((*uid, attributes(at, uid)?)));
            let before = rest.len();
            for (uid, attributes) in read.collect::<Vec<_>>() {
                found.insert(uid, self.note(uid, attributes)?.map(|(object, _)| object));
                rest = rest.get(1..).unwrap_or_default();
            }
            if rest.len() == before {
                return Err(malformed("it does not describe the object").context("object", *first));
            }
        }
        Ok(uids.iter().filter_map(|uid| found.remove(uid.as_str()).flatten()).collect())
    }

    /// Whether an object is in the cache.
    pub(crate) fn knows(&self, uid: &str) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains_key(uid)
    }

    /// Removes an object from the cache.
    pub(crate) fn forget(&self, uid: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use kms_core::ErrorKind;

    use super::*;
    use crate::message::{discover, request, versions};

    /// Batch item id 00..0f, as in the vectors of rook-behaviour §6.7.
    const ID: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    const DISCOVER: &str = "42007801000000a04200770100000038420069010000002042006a0200000004000000010000000042006b0200000004000000040000000042000d0200000004000000010000000042000f010000005842005c05000000040000001e000000004200930800000010000102030405060708090a0b0c0d0e0f4200790100000028420069010000002042006a0200000004000000010000000042006b02000000040000000400000000";
    const GET: &str = "42007801000000884200770100000038420069010000002042006a0200000004000000010000000042006b0200000004000000040000000042000d0200000004000000010000000042000f010000004042005c05000000040000000a000000004200930800000010000102030405060708090a0b0c0d0e0f420079010000001042009407000000066162633132330000";
    const REGISTER_PREFIX: &str = "42007801000001984200770100000038420069010000002042006a0200000004000000010000000042006b0200000004000000040000000042000d0200000004000000010000000042000f010000015042005c050000000400000003000000004200930800000010000102030405060708090a0b0c0d0e0f4200790100000120420057050000000400000002000000004200910100000038420008010000003042000a070000001843727970746f67726170686963205573616765204d61736b42000b0200000004000000400000000042008f01000000c842004001000000c04200420500000004000000020000000042004501000000884200430800000080";
    const REGISTER_SUFFIX: &str = "4200280500000004000000030000000042002a02000000040000010000000000";

    fn single(operation: Operation, payload: Vec<Field<'_>>) -> zeroize::Zeroizing<Vec<u8>> {
        request(Version::V1_4, vec![Part::new(operation, payload)], &[ID])
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn a_response_about_another_object_is_refused() {
        let check = |fields| {
            let bytes = Field::structure(tag::RESPONSE_PAYLOAD, fields).encode();
            check_object(&Item::parse(&bytes).unwrap(), "1")
        };
        check(vec![]).unwrap();
        check(vec![Field::text(tag::UNIQUE_IDENTIFIER, "1")]).unwrap();
        let error = check(vec![Field::text(tag::UNIQUE_IDENTIFIER, "2")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
    }

    #[test]
    fn an_object_without_attributes_needs_its_identifier_in_the_response() {
        let read = |fields| {
            let bytes = Field::structure(tag::RESPONSE_PAYLOAD, fields).encode();
            described(&Item::parse(&bytes).unwrap(), "1").map(drop)
        };
        read(vec![Field::text(tag::UNIQUE_IDENTIFIER, "1")]).unwrap();
        assert_eq!(read(vec![]).unwrap_err().kind(), ErrorKind::Protocol);
    }

    #[test]
    fn a_name_is_modified_by_index_before_2_0_and_by_value_from_then_on() {
        let bytes =
            |version| Field::structure(tag::REQUEST_PAYLOAD, rename(version, "7", 1, "old", "new")).encode();
        let old = bytes(Version::V1_4);
        let attribute = Item::parse(&old).unwrap().child(tag::ATTRIBUTE).unwrap();
        assert_eq!(attribute.child(tag::ATTRIBUTE_INDEX).unwrap().integer(), Some(1));
        let value = attribute.child(tag::ATTRIBUTE_VALUE).unwrap();
        assert_eq!(value.child(tag::NAME_VALUE).unwrap().text(), Some("new"));
        let new = bytes(Version::V2_0);
        let payload = Item::parse(&new).unwrap();
        for (holder, text) in [(tag::CURRENT_ATTRIBUTE, "old"), (tag::NEW_ATTRIBUTE, "new")] {
            let name = payload.child(holder).unwrap().child(tag::NAME).unwrap();
            assert_eq!(name.child(tag::NAME_VALUE).unwrap().text(), Some(text));
        }
    }

    #[test]
    fn rooks_discover_is_written_byte_for_byte() {
        let bytes = single(Operation::DiscoverVersions, discover(&[Version::V1_4]));
        assert_eq!(hex(&bytes), DISCOVER);
        assert_eq!(bytes.len(), 168);
    }

    #[test]
    fn rooks_get_and_destroy_are_written_byte_for_byte() {
        let bytes = single(Operation::Get, identifier("abc123"));
        assert_eq!(hex(&bytes), GET);
        let bytes = single(Operation::Destroy, identifier("abc123"));
        let destroy = GET.replace("42005c05000000040000000a", "42005c050000000400000014");
        assert_eq!(hex(&bytes), destroy);
        assert_eq!(bytes.len(), 144);
    }

    #[test]
    fn rooks_register_is_written_byte_for_byte() {
        let material: Vec<u8> = (0..128).collect();
        let payload = register(Version::V1_4, Body::Rook, &material, &[Attribute::UsageMaskExport]);
        let bytes = single(Operation::Register, payload);
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
        // The response to Get holds the object as Rook registers it: Opaque, length 256.
        assert_eq!(crate::stored::material(&payload).unwrap(), material);
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
}
