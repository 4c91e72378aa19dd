//! Key resources of Key Protect: decodes responses, and encodes the body of an import.

use std::{fmt, time::SystemTime};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_core::{Error, ErrorKind, ExposeSecret, Kek, KeyState, KeyVersion, Result, SecretString, Stored};
use kms_http::HttpResponse;
use kms_http::json::parse;
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};
use zeroize::Zeroizing;

use crate::{
    error::CORRELATION_ID,
    name::{Names, hash, superseded_alias},
};

/// The media type of a key, in headers and bodies.
pub(crate) const KEY_TYPE: &str = "application/vnd.ibm.kms.key+json";

/// The prefix of the tag that names the cluster of a key. The hash of the cluster's name follows, since a tag has at
/// most 30 characters.
const CLUSTER_TAG: &str = "kms-cluster.";
const CLUSTER_DIGITS: usize = 18;
/// The prefix of the tag that names the predecessor of a key. The hash of its id follows.
const AFTER_TAG: &str = "kms-after.";
const AFTER_DIGITS: usize = 20;
/// The tag of a payload that encodes the KEK's text in base64, because the text itself is not base64.
const TEXT_TAG: &str = "kms-payload.text";
/// The prefix of every tag that this crate writes.
const OUR_TAGS: &str = "kms-";
/// The maximum length of a description, in characters.
const DESCRIPTION: usize = 240;

/// The state of a disabled key.
const SUSPENDED: i64 = 2;
/// The state of a key whose expiration date has passed.
const DEACTIVATED: i64 = 3;
/// The state of a destroyed key.
const DESTROYED: i64 = 5;

/// The envelope of every response. `resources` may be absent.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Envelope {
    #[serde(default)]
    metadata: Option<Collection>,
    #[serde(default)]
    pub(crate) resources: Option<Vec<Key>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Collection {
    /// Whether the search did not examine every key.
    #[serde(default)]
    incomplete_search: Option<bool>,
    /// The number of resources in this response (IBM's API reference). Other services may give that of all keys.
    #[serde(default)]
    collection_total: Option<u64>,
}

/// A key. Any field may be absent.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Key {
    #[serde(default)]
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) name: Option<String>,
    #[serde(default)]
    pub(crate) description: Option<String>,
    #[serde(default)]
    aliases: Option<Vec<String>>,
    // IBM's Go client writes this field with a capital letter.
    #[serde(default, alias = "Tags")]
    tags: Option<Vec<String>>,
    #[serde(default)]
    state: Option<i64>,
    #[serde(default)]
    deleted: Option<bool>,
    #[serde(default)]
    extractable: Option<bool>,
    #[serde(default)]
    creation_date: Option<String>,
    #[serde(default)]
    deletion_date: Option<String>,
    #[serde(default)]
    payload: Option<Payload>,
    /// The correlation id of the request that returned this key, for errors.
    #[serde(skip)]
    pub(crate) correlation_id: String,
}

/// Key material. Both the response body and this copy are wiped on drop.
struct Payload(SecretString);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Payload(..)")
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Payload;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("key material")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Payload, E> {
                Ok(Payload(SecretString::from(text)))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl Envelope {
    pub(crate) fn of(answer: &HttpResponse) -> Result<Self> {
        parse(&answer.body)
    }

    /// Whether the search did not examine every key.
    pub(crate) fn is_incomplete_search(&self) -> bool {
        self.metadata.as_ref().and_then(|collection| collection.incomplete_search) == Some(true)
    }

    /// The number of keys that the response gives. 0 if it gives none.
    pub(crate) fn total(&self) -> usize {
        let total = self.metadata.as_ref().and_then(|collection| collection.collection_total);
        total.map_or(0, |total| usize::try_from(total).unwrap_or(usize::MAX))
    }

    /// The envelope of a list.
    ///
    /// # Errors
    ///
    /// `Protocol` if the list is missing. Only a response that gives 0 as the number of its resources may leave them out.
    pub(crate) fn listed(self) -> Result<Self> {
        let total = self.metadata.as_ref().and_then(|collection| collection.collection_total);
        if self.resources.is_none() && total != Some(0) {
            return Err(Error::new(ErrorKind::Protocol, "the response holds no list of keys"));
        }
        Ok(self)
    }

    /// The first key.
    ///
    /// # Errors
    ///
    /// `Protocol` if there is no key or its id is empty.
    pub(crate) fn first(self) -> Result<Key> {
        let key = self.resources.unwrap_or_default().into_iter().next();
        key.filter(|key| !key.id.is_empty()).ok_or_else(|| {
            Error::new(ErrorKind::Protocol, "the response holds no key (its resources are empty)")
        })
    }
}

impl Key {
    pub(crate) fn tags(&self) -> &[String] {
        self.tags.as_deref().unwrap_or_default()
    }

    pub(crate) fn has_alias(&self, alias: &str) -> bool {
        self.aliases.iter().flatten().any(|known| known == alias)
    }

    /// Whether the key has no alias but those of its name and its mark. A key with any other alias belongs to another
    /// program.
    pub(crate) fn has_only_our_aliases(&self, names: &Names) -> bool {
        let mark = superseded_alias(&self.id);
        self.aliases.iter().flatten().all(|alias| [&names.alias, &names.next, &mark].contains(&alias))
    }

    /// Whether the key may hold a KEK of this name: it is extractable, and does not belong to another program.
    pub(crate) fn is_candidate(&self, names: &Names) -> bool {
        self.is_extractable() && self.has_only_our_aliases(names)
    }

    /// Whether the key shows the alias that marks it as superseded. A service may hide aliases; then only a look-up of
    /// that alias tells.
    pub(crate) fn is_marked(&self) -> bool {
        self.has_alias(&superseded_alias(&self.id))
    }

    pub(crate) fn is_destroyed(&self) -> bool {
        self.deleted == Some(true) || self.state == Some(DESTROYED)
    }

    /// What a list marks at the key.
    pub(crate) fn mark(&self) -> Option<KeyState> {
        match self.state {
            Some(SUSPENDED) => Some(KeyState::Disabled),
            Some(DEACTIVATED) => Some(KeyState::Expired),
            _ => None,
        }
    }

    /// Whether the key can hold a KEK. Key Protect never returns the material of a root key.
    pub(crate) fn is_extractable(&self) -> bool {
        self.extractable != Some(false)
    }

    /// Whether this crate has written the key, and not Rook.
    pub(crate) fn is_tagged(&self) -> bool {
        self.tags().iter().any(|tag| tag.starts_with(OUR_TAGS))
    }

    /// The hash in the cluster tag. `None` if the key has no cluster tag.
    pub(crate) fn cluster(&self) -> Option<&str> {
        self.tags().iter().find_map(|tag| tag.strip_prefix(CLUSTER_TAG))
    }

    /// Whether this key is the successor of the key with that id.
    pub(crate) fn comes_after(&self, id: &str) -> bool {
        let mark = after(id);
        self.tags().contains(&mark)
    }

    /// Fails if the key is marked as another cluster's. Keys of Rook and of clients without a cluster name have no
    /// mark.
    pub(crate) fn check_owner(&self, cluster: Option<&Cluster>) -> Result<()> {
        match (self.cluster(), cluster) {
            (None, _) => Ok(()),
            (Some(mark), Some(cluster)) if cluster.mark == mark => Ok(()),
            (Some(_), Some(_)) => {
                Err(self.foreign("the key belongs to another cluster that shares this instance"))
            }
            (Some(_), None) => Err(self.foreign(
                "the key belongs to a cluster, and this client has no cluster name; set the cluster name",
            )),
        }
    }

    /// Fails for a read if the key is marked as another cluster's. A client without a cluster name may read every key.
    pub(crate) fn check_reader(&self, cluster: Option<&Cluster>) -> Result<()> {
        if cluster.is_none() { Ok(()) } else { self.check_owner(cluster) }
    }

    fn foreign(&self, message: &'static str) -> Error {
        let description: String = self.description.as_deref().unwrap_or("none").chars().take(200).collect();
        Error::new(ErrorKind::PermissionDenied, message)
            .context("id", &self.id)
            .context(CORRELATION_ID, &self.correlation_id)
            .context("description", description.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    pub(crate) fn created(&self) -> Option<SystemTime> {
        time(self.creation_date.as_deref()?)
    }

    /// The sort key that orders keys from old to new: time of deletion, then time of creation, then id.
    pub(crate) fn age(&self) -> (Option<SystemTime>, Option<SystemTime>, &str) {
        (self.deletion_date.as_deref().and_then(time), self.created(), &self.id)
    }

    pub(crate) fn version(&self) -> KeyVersion {
        KeyVersion::new(&self.id)
    }

    /// The KEK. A key without material is an error, never an empty KEK.
    pub(crate) fn kek(&self) -> Result<Kek> {
        let none = || {
            Error::new(
                ErrorKind::Protocol,
                "the key holds no material: it is a root key, disabled, or the API key may not read it",
            )
            .context("id", &self.id)
            .context(CORRELATION_ID, &self.correlation_id)
        };
        let Payload(payload) = self.payload.as_ref().ok_or_else(none)?;
        if payload.expose_secret().is_empty() {
            return Err(none());
        }
        let kek = if self.tags().iter().any(|tag| tag == TEXT_TAG) {
            let wrong = |_cause| Error::new(ErrorKind::Protocol, "the key's material is not base64");
            Kek::from_stored_bytes(decoded(payload.expose_secret()).map_err(wrong)?)
        } else {
            Kek::from_stored(payload.clone())
        };
        // The stored material is invalid, not a setting, so the kind is `Protocol`, not `ConfigInvalid`.
        kek.map_err(|error| {
            Error::new(ErrorKind::Protocol, error.message().to_owned())
                .context("id", &self.id)
                .context(CORRELATION_ID, &self.correlation_id)
        })
    }

    pub(crate) fn stored(&self) -> Result<Stored> {
        let created = self.created();
        // A successor is younger than the first key of its name, whose time is unknown.
        let first = if self.tags().iter().any(|tag| tag.starts_with(AFTER_TAG)) { None } else { created };
        Ok(Stored::new(self.kek()?, self.version()).with_times(first, created))
    }
}

fn time(text: &str) -> Option<SystemTime> {
    text.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

fn after(id: &str) -> String {
    format!("{AFTER_TAG}{}", hash("after", id, AFTER_DIGITS))
}

fn decoded(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    // A buffer that grows would leave unwiped copies behind.
    let mut bytes = Vec::with_capacity(text.len());
    STANDARD.decode_vec(text, &mut bytes)?;
    Ok(bytes)
}

/// The cluster that owns the keys: its name for descriptions, and its hash for tags.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Cluster {
    name: String,
    pub(crate) mark: String,
}

impl Cluster {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), mark: hash("cluster", name, CLUSTER_DIGITS) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// Whether the payload of a key is the text of the KEK itself, which Rook reads: Key Protect takes base64 only.
pub(crate) fn is_verbatim(kek: &Kek) -> bool {
    let bytes = kek.expose_secret_text().ok().and_then(|text| decoded(text).map(Zeroizing::new).ok());
    bytes.is_some_and(|bytes| !bytes.is_empty())
}

/// Encodes the body of a request that imports a KEK as a standard key (rook-behaviour §5).
///
/// Without a cluster, with a name that is a valid alias and a KEK that is base64, the body equals Rook's byte for byte.
/// Anything else goes into `description` and `tags`, in the positions of IBM's Go client; Rook reads neither field.
pub(crate) fn import_body(
    names: &Names,
    kek: &Kek,
    cluster: Option<&Cluster>,
    alias: &str,
    successor_of: Option<&str>,
) -> Result<Zeroizing<Vec<u8>>> {
    let verbatim = is_verbatim(kek);
    let payload = Zeroizing::new(if verbatim {
        kek.expose_secret_text()?.to_owned()
    } else {
        STANDARD.encode(kek.expose_secret_bytes())
    });
    let mut tags = names.tags.clone();
    tags.extend(cluster.map(|cluster| format!("{CLUSTER_TAG}{}", cluster.mark)));
    tags.extend(successor_of.map(after));
    tags.extend((!verbatim).then(|| TEXT_TAG.to_owned()));
    let json = |value: &str| {
        serde_json::to_string(value)
            .map_err(|_cause| Error::new(ErrorKind::Unexpected, "the request could not be encoded"))
    };
    let mut head = format!(
        r#"{{"metadata":{{"collectionType":"{KEY_TYPE}","collectionTotal":1}},"resources":[{{"name":{}"#,
        json(&names.alias)?
    );
    if let Some(cluster) = cluster {
        let text: String = format!("KEK of a Ceph OSD in cluster {}", cluster.name);
        let text: String = text.chars().take(DESCRIPTION).collect();
        head.push_str(&format!(r#","description":{}"#, json(&text)?));
    }
    head.push_str(&format!(r#","type":"{KEY_TYPE}""#));
    if !tags.is_empty() {
        let tags = tags.iter().map(|tag| json(tag)).collect::<Result<Vec<_>>>()?.join(",");
        head.push_str(&format!(r#","tags":[{tags}]"#));
    }
    head.push_str(&format!(r#","aliases":[{}],"extractable":true,"payload":""#, json(alias)?));
    let tail = r#""}]}"#;
    let mut body = Zeroizing::new(Vec::with_capacity(head.len() + payload.len() + tail.len()));
    // Base64 needs no escapes.
    for part in [&head, payload.as_str(), tail] {
        body.extend_from_slice(part.as_bytes());
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use kms_core::KeyName;

    use super::*;

    fn names(text: &str) -> Names {
        Names::of(&KeyName::new(text).unwrap())
    }

    fn kek(text: &str) -> Kek {
        Kek::parse(text.to_owned()).unwrap()
    }

    fn body(
        names: &Names,
        kek: &Kek,
        cluster: Option<&Cluster>,
        alias: &str,
        before: Option<&str>,
    ) -> String {
        String::from_utf8(import_body(names, kek, cluster, alias, before).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn the_body_of_a_create_is_that_of_rook() {
        let names = names("set1-data-0x7dwl");
        assert_eq!(
            body(&names, &kek("QUJD+/8="), None, &names.alias, None),
            r#"{"metadata":{"collectionType":"application/vnd.ibm.kms.key+json","collectionTotal":1},"resources":[{"name":"set1-data-0x7dwl","type":"application/vnd.ibm.kms.key+json","aliases":["set1-data-0x7dwl"],"extractable":true,"payload":"QUJD+/8="}]}"#
        );
    }

    #[test]
    fn description_and_tags_name_the_cluster_and_a_text_payload() {
        let (names, cluster) = (names("pvc-1"), Cluster::new("rook-ceph/my \"cluster\""));
        let body = body(&names, &kek("no base64"), Some(&cluster), &names.next, Some("id-1"));
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        let key = &json["resources"][0];
        assert_eq!(key["description"], "KEK of a Ceph OSD in cluster rook-ceph/my \"cluster\"");
        assert_eq!(key["aliases"][0], names.next);
        assert_eq!(key["payload"], "bm8gYmFzZTY0");
        let key: Key = serde_json::from_value(key.clone()).unwrap();
        assert_eq!(key.cluster(), Some(cluster.mark.as_str()));
        assert!(key.comes_after("id-1") && !key.comes_after("id-2") && key.is_tagged());
        assert_eq!(key.kek().unwrap().expose_secret_text().unwrap(), "no base64");
        assert!(key.tags().iter().all(|tag| tag.len() <= 30), "{:?}", key.tags());
        assert!(!format!("{key:?}").contains("bm8g"));
    }

    #[test]
    fn a_key_without_material_is_never_an_empty_kek() {
        for json in [
            r#"{"id":"i","state":1}"#,
            r#"{"id":"i","state":1,"payload":null}"#,
            r#"{"id":"i","state":1,"payload":""}"#,
            r#"{"id":"i","state":1,"payload":"can*ary","tags":["kms-payload.text"]}"#,
        ] {
            let error = serde_json::from_str::<Key>(json).unwrap().kek().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{json}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
    }

    #[test]
    fn a_list_may_be_left_out_only_if_the_response_says_that_it_is_empty() {
        for (json, is_list) in [
            (r#"{"metadata":{"collectionTotal":0}}"#, true),
            (r#"{"metadata":{"collectionTotal":0},"resources":null}"#, true),
            (r#"{"resources":[]}"#, true),
            (r#"{"metadata":{"collectionTotal":1}}"#, false),
            (r#"{"metadata":null,"resources":null}"#, false),
            ("{}", false),
            ("[]", false),
        ] {
            let envelope: Envelope = serde_json::from_str(json).unwrap();
            match envelope.listed() {
                Ok(_) => assert!(is_list, "{json}"),
                Err(error) => {
                    assert!(!is_list, "{json}");
                    assert_eq!(error.kind(), ErrorKind::Protocol, "{json}");
                }
            }
        }
    }

    #[test]
    fn empty_resources_are_an_error() {
        for json in ["{}", r#"{"resources":null}"#, r#"{"resources":[]}"#, r#"{"resources":[{}]}"#] {
            let envelope: Envelope = serde_json::from_str(json).unwrap();
            assert_eq!(envelope.first().unwrap_err().kind(), ErrorKind::Protocol, "{json}");
        }
    }
}
