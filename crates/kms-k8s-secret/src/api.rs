//! What goes over the wire.
//!
//! Requests are made by `kube` and sent through its client, but the bodies are ours: `kube` copies an answer about,
//! logs the whole of it when it does not parse, and drops the `Retry-After` header; the `Secret` of `k8s-openapi`
//! shows its data in `Debug` and leaves it in memory.

use std::{collections::BTreeMap, fmt, io, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request,
    header::{ACCEPT, CONTENT_LENGTH, RETRY_AFTER},
};
use http_body_util::BodyExt as _;
use k8s_openapi::{
    api::core::v1,
    apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta},
};
use kms_core::{Error, ErrorKind, Kek};
use kube::{
    client::Body,
    core::{
        Resource as _, Status,
        params::{DeleteParams, GetParams, ListParams, PostParams, Preconditions},
    },
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    FIELD_MANAGER, PROVIDER,
    connect::Connection,
    error::{Failure, Target, answered, unanswered, unreadable},
};

/// The largest answer that is read. A Secret has at most 1 MiB, a page of a list is far smaller than this.
const MAX_ANSWER: usize = 32 * 1024 * 1024;

/// The first buffer for an answer of unknown size.
const SMALL_ANSWER: usize = 8 * 1024;

/// How many objects a page of a list has.
pub(crate) const PAGE: u32 = 200;

/// The media type by which the server leaves the data of an object out of its answer.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// A text in base64, wiped on drop.
pub(crate) struct Base64(Zeroizing<String>);

impl Base64 {
    pub(crate) fn of(kek: &Kek) -> Self {
        Self::encode(kek.expose_secret())
    }

    pub(crate) fn encode(plain: &str) -> Self {
        let bytes = plain.as_bytes();
        // Of the exact size: a growing buffer would leave copies behind.
        let mut text = Zeroizing::new(String::with_capacity(bytes.len().div_ceil(3) * 4));
        STANDARD.encode_string(bytes, &mut text);
        Self(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// What it stands for, in a buffer of the exact size; `None` if it is no base64.
    pub(crate) fn decoded(&self) -> Option<Vec<u8>> {
        let mut buffer = Zeroizing::new(vec![0; base64::decoded_len_estimate(self.0.len())]);
        let length = STANDARD.decode_slice(self.0.as_bytes(), &mut buffer).ok()?;
        buffer.get(..length).map(<[u8]>::to_vec)
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Base64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text in base64")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Base64, E> {
                Ok(Base64(Zeroizing::new(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

/// A Secret. Its data is wiped on drop and shown by no formatter.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Secret {
    #[serde(default)]
    pub(crate) api_version: String,
    #[serde(default)]
    pub(crate) kind: String,
    pub(crate) metadata: ObjectMeta,
    #[serde(default, rename = "type")]
    pub(crate) kind_of_secret: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) immutable: Option<bool>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) data: BTreeMap<String, Base64>,
}

/// Go writes an empty list or map as null, which the server does for a list without its objects' data.
fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Any object without what is special about its kind.
#[derive(Deserialize)]
pub(crate) struct Object {
    #[serde(default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
}

/// A page of a list of objects without their data.
#[derive(Deserialize)]
pub(crate) struct Page {
    #[serde(default)]
    pub(crate) metadata: ListMeta,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) items: Vec<Object>,
}

/// The Secrets of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Secrets {
    pub(crate) connection: Connection,
    pub(crate) kube_namespace: String,
}

impl Secrets {
    /// Reads a Secret. Without a resource version in the request, the API server reads from its storage by a
    /// majority, so that every write before is seen.
    pub(crate) async fn read(&self, name: &str) -> Result<Secret, Failure> {
        let request = self.requests().get(name, &GetParams::default());
        exchange(&self.connection, request, None, &self.target("get", Some(name), &[])).await
    }

    /// Creates a Secret and gives the metadata that it got.
    pub(crate) async fn create(&self, name: &str, secret: &Secret) -> Result<Object, Failure> {
        let request = self.requests().create(&post_params(), Vec::new()).map(metadata_only);
        let hidden: Vec<_> = secret.data.values().collect();
        let target = self.target("create", Some(name), &hidden);
        exchange(&self.connection, request, Some(json(secret)?), &target).await
    }

    /// Replaces a Secret, if it is still the one and the version that `secret` has in its metadata. `before` is the
    /// value that it has no more.
    pub(crate) async fn replace(
        &self,
        name: &str,
        secret: &Secret,
        before: Option<&Base64>,
    ) -> Result<Object, Failure> {
        let request = self.requests().replace(name, &post_params(), Vec::new()).map(metadata_only);
        let hidden: Vec<_> = secret.data.values().chain(before).collect();
        let target = self.target("update", Some(name), &hidden);
        exchange(&self.connection, request, Some(json(secret)?), &target).await
    }

    /// Deletes a Secret that was read, if it is still the same one, whatever its version. The answer is a `Status`, or
    /// the object if something holds it back.
    pub(crate) async fn delete(&self, name: &str, secret: &Secret) -> Result<Object, Failure> {
        self.delete_if(name, secret, None).await
    }

    /// Deletes a Secret that was read, if it is still the same one in the same version.
    pub(crate) async fn delete_unchanged(&self, name: &str, secret: &Secret) -> Result<Object, Failure> {
        self.delete_if(name, secret, secret.metadata.resource_version.clone()).await
    }

    async fn delete_if(
        &self,
        name: &str,
        secret: &Secret,
        resource_version: Option<String>,
    ) -> Result<Object, Failure> {
        let uid = secret.metadata.uid.clone();
        let params = DeleteParams::default().preconditions(Preconditions { resource_version, uid });
        let hidden: Vec<_> = secret.data.values().collect();
        let request = self.requests().delete(name, &params).map(metadata_only);
        exchange(&self.connection, request, None, &self.target("delete", Some(name), &hidden)).await
    }

    /// A page of the Secrets of a type that have a label, without their data.
    pub(crate) async fn page(&self, kind: &str, label: &str, from: Option<&str>) -> Result<Page, Failure> {
        let mut params = ListParams::default().fields(&format!("type={kind}")).labels(label).limit(PAGE);
        params.continue_token = from.map(str::to_owned);
        let request = self.requests().list_metadata(&params);
        exchange(&self.connection, request, None, &self.target("list", None, &[])).await
    }

    fn requests(&self) -> kube::core::Request {
        kube::core::Request::new(v1::Secret::url_path(&(), Some(&self.kube_namespace)))
    }

    fn target<'a>(
        &'a self,
        verb: &'static str,
        name: Option<&'a str>,
        hidden: &'a [&'a Base64],
    ) -> Target<'a> {
        Target {
            verb,
            group: "",
            resource: "secrets",
            kube_namespace: Some(&self.kube_namespace),
            name,
            hidden,
        }
    }
}

/// Creates an object that is a question to the API server, such as a review of the own rights.
pub(crate) async fn review<T>(
    connection: &Connection,
    question: &T,
    target: &Target<'_>,
) -> Result<T, Failure>
where
    T: kube::core::Resource<DynamicType = ()> + Serialize + DeserializeOwned,
{
    let request = kube::core::Request::new(T::url_path(&(), None)).create(&PostParams::default(), Vec::new());
    exchange(connection, request, Some(json(question)?), target).await
}

/// Reads what is at a path.
pub(crate) async fn read<T: DeserializeOwned>(
    connection: &Connection,
    path: &str,
    target: &Target<'_>,
) -> Result<T, Failure> {
    let request = Request::get(path).body(Vec::new()).map_err(kube::core::request::Error::BuildRequest);
    exchange(connection, request, None, target).await
}

pub(crate) fn post_params() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

fn metadata_only(mut request: Request<Vec<u8>>) -> Request<Vec<u8>> {
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static(METADATA_ONLY));
    request
}

/// Sends one request and reads its answer.
pub(crate) async fn exchange<T: DeserializeOwned>(
    connection: &Connection,
    request: Result<Request<Vec<u8>>, kube::core::request::Error>,
    body: Option<Bytes>,
    target: &Target<'_>,
) -> Result<T, Failure> {
    let request = request.map_err(|cause| {
        Error::new(ErrorKind::Unexpected, "the request could not be formed").source(cause).provider(PROVIDER)
    })?;
    let request = request.map(|own| body.map_or_else(|| Body::from(own), Body::from));
    let response = connection.client().send(request).await.map_err(|error| {
        let Failure { cause, error } = unanswered(error, target);
        let error = match connection.server() {
            Some(server) => error.context("server", server),
            None => error,
        };
        Failure { cause, error }
    })?;
    let (parts, body) = response.into_parts();
    let expected = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let text = collect(body, expected, target).await?;
    if !parts.status.is_success() {
        let status = serde_json::from_slice::<Status>(&text).ok().filter(|status| status.code != 0);
        return Err(answered(parts.status, retry_after(&parts.headers), status.as_ref(), target));
    }
    serde_json::from_slice(&text).map_err(|cause| {
        // The text of the cause quotes what it does not understand, which may be key material.
        let what = match cause.classify() {
            serde_json::error::Category::Eof => "ends too early",
            serde_json::error::Category::Data => "is no object of the kind that was asked for",
            _ => "is no JSON",
        };
        let failure = unreadable(what, target);
        let at = format!("line {}, column {}", cause.line(), cause.column());
        Failure { error: failure.error.context("at", at), ..failure }
    })
}

/// Reads a body into a buffer that is wiped on drop.
async fn collect(
    mut body: Body,
    expected: Option<usize>,
    target: &Target<'_>,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut buffer = Zeroizing::new(Vec::with_capacity(expected.unwrap_or(SMALL_ANSWER).min(MAX_ANSWER)));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| unanswered(error, target))?;
        let Ok(data) = frame.into_data() else { continue };
        let needed = buffer.len().saturating_add(data.len());
        if needed > MAX_ANSWER {
            return Err(unreadable("is too long", target));
        }
        if needed > buffer.capacity() {
            // By hand, since a growing Vec does not wipe what it leaves.
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.saturating_mul(2)));
            larger.extend_from_slice(&buffer);
            buffer = larger;
        }
        buffer.extend_from_slice(&data);
        // It can be wiped unless the HTTP client still holds a part of the same buffer.
        if let Ok(mut data) = data.try_into_mut() {
            data.as_mut().zeroize();
        }
    }
    Ok(buffer)
}

/// A body in a buffer of the exact size that is wiped when it has been sent.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<Bytes, Failure> {
    struct Length(usize);

    impl io::Write for Length {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.saturating_add(bytes.len());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let unwritable =
        || Error::new(ErrorKind::Unexpected, "the request could not be written").provider(PROVIDER);
    let mut length = Length(0);
    if serde_json::to_writer(&mut length, value).is_err() {
        return Err(unwritable().into());
    }
    let mut buffer = Zeroizing::new(Vec::with_capacity(length.0));
    if serde_json::to_writer(&mut *buffer, value).is_err() {
        return Err(unwritable().into());
    }
    Ok(Bytes::from_owner(buffer))
}

/// The seconds of a `Retry-After`; the API server never writes the form with a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kek_is_written_as_rook_writes_it_and_read_back() {
        for text in ["QUJD", "a", "ab", "ein Satz ß"] {
            let encoded = Base64::of(&Kek::parse(text).unwrap());
            assert_eq!(encoded.as_str(), STANDARD.encode(text));
            assert_eq!(encoded.decoded().unwrap(), text.as_bytes());
        }
        assert!(serde_json::from_str::<Base64>(r#""no base64!""#).unwrap().decoded().is_none());
    }

    #[test]
    fn a_secret_goes_back_as_it_came() {
        let text = r#"{"apiVersion":"v1","kind":"Secret","metadata":{"annotations":{"a":"b"},"labels":{"c":"d"},"managedFields":[{"fieldsV1":{"f:data":{}},"manager":"m"}],"name":"s","ownerReferences":[{"apiVersion":"v","blockOwnerDeletion":true,"controller":true,"kind":"k","name":"n","uid":"u"}],"resourceVersion":"1","uid":"u"},"type":"t","immutable":true,"data":{"k":"QQ==","other":"Qg=="}}"#;
        let secret: Secret = serde_json::from_str(text).unwrap();
        let before: serde_json::Value = serde_json::from_str(text).unwrap();
        let after: serde_json::Value = serde_json::from_slice(&json(&secret).unwrap()).unwrap();
        assert_eq!(before, after);
    }

    #[test]
    fn a_secret_without_data_is_read() {
        for text in [r#"{"metadata":{}}"#, r#"{"metadata":{},"data":null}"#] {
            assert!(serde_json::from_str::<Secret>(text).unwrap().data.is_empty());
        }
    }

    #[test]
    fn a_wait_is_a_number_of_seconds() {
        let wait = |text: &'static str| {
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]))
        };
        assert_eq!(wait("1"), Some(Duration::from_secs(1)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), None);
        assert_eq!(wait("-1"), None);
    }
}
