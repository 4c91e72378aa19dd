//! The SDK's transport: sends every request of the SDK through `kms-http`. It converts an unsuccessful response to our
//! error here, where status, headers and body are all available.

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::{
    Bytes,
    http::{
        AsyncRawResponse, Body, ClientOptions, HttpClient as SdkHttpClient, Request, RetryOptions,
        StatusCode as SdkStatus, Transport as SdkTransport,
        headers::{HeaderName as SdkName, HeaderValue as SdkValue, Headers},
    },
};
use kms_core::{Error, ErrorKind, Result};
use kms_http::{
    Call, HttpClient, HttpResponse,
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    send::Body as CallBody,
};
use tracing::debug;
use url::Url;
use zeroize::Zeroizing;

use crate::{
    error::{from_entra, wrapped},
    grant::normalize,
};

/// Options of an SDK client that sends through `transport` and does not retry.
pub(crate) fn options(transport: impl SdkHttpClient + 'static) -> ClientOptions {
    ClientOptions {
        retry: RetryOptions::none(),
        transport: Some(SdkTransport::new(Arc::new(transport))),
        ..ClientOptions::default()
    }
}

/// The SDK's transport to Entra ID, or to the metadata service that issues tokens for managed identities.
#[derive(Clone, Debug)]
pub(crate) struct ToEntra {
    pub(crate) http: HttpClient,
    /// Whether the server is the metadata service, whose responses the SDK reads in another form.
    pub(crate) managed: bool,
    /// The path of the authority, without a slash at its end. The SDK leaves it out of its addresses.
    pub(crate) path: String,
}

#[async_trait]
impl SdkHttpClient for ToEntra {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let mut url = request.url().clone();
        if !self.managed && !self.path.is_empty() {
            url.set_path(&format!("{}{}", self.path, request.url().path()));
        }
        let mut answer = send(&self.http, request, &url).await.map_err(wrapped)?;
        debug!(status = answer.status.as_u16(), "asked for a token");
        if !answer.status.is_success() {
            return Err(wrapped(from_entra(&answer)));
        }
        if !self.managed {
            answer.body = normalize(&answer.body).map_err(wrapped)?;
        }
        Ok(response(answer))
    }
}

/// Sends a request of the SDK to `url`.
pub(crate) async fn send(http: &HttpClient, request: &Request, url: &Url) -> Result<HttpResponse> {
    let wrong = || Error::new(ErrorKind::Unexpected, "the SDK's request cannot be sent");
    let mut headers = HeaderMap::new();
    for (name, value) in request.headers().iter() {
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).map_err(|_cause| wrong())?;
        let mut value = HeaderValue::from_str(value.as_str()).map_err(|_cause| wrong())?;
        value.set_sensitive(name == header::AUTHORIZATION);
        headers.insert(name, value);
    }
    let method = Method::from_bytes(request.method().as_ref().as_bytes()).map_err(|_cause| wrong())?;
    let body = match request.body() {
        Body::Bytes(bytes) => CallBody::secret(Zeroizing::new(bytes.to_vec())),
        Body::SeekableStream(_) => return Err(wrong()),
    };
    http.send(&Call { method, url: url.clone(), headers, body }).await
}

/// Converts a response to the SDK's form.
pub(crate) fn response(answer: HttpResponse) -> AsyncRawResponse {
    let HttpResponse { status, headers, body } = answer;
    let mut found = Headers::new();
    for (name, value) in &headers {
        if let Ok(value) = value.to_str() {
            found.insert(SdkName::from(name.as_str().to_owned()), SdkValue::from(value.to_owned()));
        }
    }
    // The body is wiped when its last holder drops it.
    AsyncRawResponse::from_bytes(SdkStatus::from(status.as_u16()), found, Bytes::from_owner(body))
}
