//! One request to the API server and its response.
//!
//! `kube` builds and sends the requests. This module reads and writes the bodies, because `kube` copies a response
//! several times, logs a whole response that it cannot parse, and drops the `Retry-After` header.

use std::{collections::HashSet, io};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use kms_core::{Error, ErrorKind, Retry};
use kms_response::{ReceivedBody, WebPage, retry_after};
use kube::{client::Body, core::params::PostParams};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    connect::Connection,
    error::{Failure, Target, unreadable, unrefused, unsuccessful},
    names::FIELD_MANAGER,
};

/// How often a list is read from its beginning. It starts again once if the token of a page expires.
pub const LIST_ROUNDS: usize = 2;

/// The number of objects on a page of a list.
pub(crate) const PAGE: u32 = 200;

/// The fields that objects of all kinds have.
#[derive(Deserialize)]
#[non_exhaustive]
pub struct Object {
    /// The kind, which is `Status` where the server responds without an object.
    #[serde(default)]
    pub kind: String,
    /// The metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
}

impl Object {
    /// Checks that a response is an object or a `Status`: the API server names the kind of both.
    pub(crate) fn checked(self, target: &Target<'_>) -> Result<Self, Failure> {
        if self.kind.is_empty() { Err(unreadable("names no kind", target)) } else { Ok(self) }
    }
}

/// A page of a list. Its parts are required: JSON without them does not say that there are no objects.
#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
#[non_exhaustive]
pub struct Page<T> {
    metadata: ListMeta,
    // Go writes an empty list as null. The function makes the field required.
    #[serde(deserialize_with = "Option::deserialize")]
    items: Option<Vec<T>>,
}

impl<T> Page<T> {
    /// The objects of this page, and the token of the next one, which may be empty. `tokens` holds the tokens of this
    /// list so far.
    ///
    /// The token is `Incomplete` if the page does not show where the list goes on: it repeats a token, or more objects
    /// remain and it has none.
    pub fn into_parts(self, tokens: &mut HashSet<String>) -> (Vec<T>, Result<Option<String>, Error>) {
        let ListMeta { continue_, remaining_item_count, .. } = self.metadata;
        let next = match continue_.filter(|token| !token.is_empty()) {
            Some(token) if !tokens.insert(token.clone()) => {
                Err(incomplete("the API server sends the same page of the list again and again"))
            }
            None if remaining_item_count.is_some_and(|count| count > 0) => {
                Err(incomplete("the API server says that the list goes on, and not where"))
            }
            next => Ok(next),
        };
        (self.items.unwrap_or_default(), next)
    }
}

/// The error of a list of which a part is missing.
pub(crate) fn incomplete(why: &'static str) -> Error {
    Error::new(
        ErrorKind::Incomplete,
        format!("objects may be missing, since {why}; try again, and check the proxies in between"),
    )
}

/// Creates an object that asks the API server a question, such as what an account may do.
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

/// Reads the object at a path.
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

/// Sends one request and reads the response.
pub(crate) async fn exchange<T: DeserializeOwned>(
    connection: &Connection,
    request: Result<Request<Vec<u8>>, kube::core::request::Error>,
    body: Option<Bytes>,
    target: &Target<'_>,
) -> Result<T, Failure> {
    let request = request
        .map_err(|cause| Error::new(ErrorKind::Unexpected, "the request could not be built").source(cause))?;
    let mut request = request.map(|own| body.map_or_else(|| Body::from(own), Body::from));
    kms_response::mark(request.headers_mut());
    let response = connection.client().send(request).await.map_err(|error| {
        let Failure { cause, error } = unrefused(error, target);
        let error = match connection.server() {
            Some(server) => error.context("server", server),
            None => error,
        };
        Failure { cause, error }
    })?;
    let (parts, body) = response.into_parts();
    connection.warnings.show(&parts.headers);
    let text = collect(body, &parts.headers, target).await?;
    if !parts.status.is_success() {
        let wait = retry_after(&parts.headers);
        let Failure { cause, error } = unsuccessful(parts.status, wait, &text, target);
        let wrong = connection.clock().filter(|clock| clock.is_wrong());
        let error = match wrong.filter(|_| error.kind() == ErrorKind::Unauthenticated) {
            Some(wrong) => error.context(
                "clock",
                format!(
                    "the clock of this host is {wrong} the API server's, so it renews its token at the wrong time; set it \
                     right"
                ),
            ),
            None => error,
        };
        return Err(Failure { cause, error });
    }
    serde_json::from_slice(&text).map_err(|cause| {
        if let Some(page) = WebPage::of(&text) {
            // The outcome of a write is unknown until it is read back.
            let error = page.error(parts.status, target.hidden.is_empty()).retry(Retry::IfIdempotent);
            return target.add_to(error).into();
        }
        // serde quotes the text that it does not understand, which may be key material.
        let what = match cause.classify() {
            serde_json::error::Category::Eof => "ends too early",
            serde_json::error::Category::Data => "is not an object of the requested kind",
            _ => "is not JSON",
        };
        let failure = unreadable(what, target);
        let at = format!("line {}, column {}", cause.line(), cause.column());
        Failure { error: failure.error.context("at", at), ..failure }
    })
}

/// Reads a body into a buffer that is wiped on drop.
async fn collect(
    mut body: Body,
    headers: &HeaderMap,
    target: &Target<'_>,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut received = ReceivedBody::of(headers);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| unrefused(error, target))?;
        let Ok(data) = frame.into_data() else { continue };
        // The outcome of a write is unknown until it is read back.
        received.append(&data).map_err(|error| target.add_to(error.retry(Retry::IfIdempotent)))?;
        // This fails if the HTTP client still holds a part of the same buffer. Then the buffer is not wiped.
        if let Ok(mut data) = data.try_into_mut() {
            data.as_mut().zeroize();
        }
    }
    Ok(received.into_bytes())
}

/// Serializes a body into a buffer of the exact size, which is wiped once it has been sent.
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

    let unwritable = || Error::new(ErrorKind::Unexpected, "the request could not be serialized");
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
