//! The SDK's transport: every request of the SDK goes through `kms-http`, and what is no success becomes our error
//! here, where status, headers and body are all at hand.

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::{
    Bytes,
    http::{
        AsyncRawResponse, Body, ClientOptions, HttpClient as SdkHttpClient, Method as SdkMethod, Request,
        RetryOptions, StatusCode as SdkStatus, Transport as SdkTransport,
        headers::{HeaderName as SdkName, HeaderValue as SdkValue, Headers},
    },
};
use kms_core::{Error, ErrorKind, Result};
use kms_http::{
    Answer, Call, HttpClient,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    send,
};
use tracing::debug;
use url::Url;
use zeroize::Zeroizing;

use crate::{
    auth::Auth,
    error::{from_answer, from_entra, wrapped},
    grant::normal,
};

/// Options of an SDK client that sends through `transport`: nothing is repeated by the SDK.
pub(crate) fn options(transport: impl SdkHttpClient + 'static) -> ClientOptions {
    ClientOptions {
        retry: RetryOptions::none(),
        transport: Some(SdkTransport::new(Arc::new(transport))),
        ..ClientOptions::default()
    }
}

/// To Entra ID, or to the service that gives tokens to managed identities.
#[derive(Clone, Debug)]
pub(crate) struct ToEntra {
    pub(crate) http: HttpClient,
    /// Whether it is the latter, whose answers the SDK reads in another form.
    pub(crate) managed: bool,
}

#[async_trait]
impl SdkHttpClient for ToEntra {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let mut answer = sent(&self.http, request, request.url()).await.map_err(wrapped)?;
        debug!(status = answer.status.as_u16(), "asked for a token");
        if !answer.status.is_success() {
            return Err(wrapped(from_entra(&answer)));
        }
        if !self.managed {
            answer.body = normal(&answer.body).map_err(wrapped)?;
        }
        Ok(response(answer))
    }
}

/// To the vault.
#[derive(Debug)]
pub(crate) struct ToVault {
    pub(crate) http: HttpClient,
    pub(crate) vault: Url,
    pub(crate) auth: Arc<Auth>,
}

#[async_trait]
impl SdkHttpClient for ToVault {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        // The SDK follows the links of a list wherever they lead, with our token. A vault that is reached by another
        // name than its own writes its own into them; it is meant, and nobody else.
        let mut url = self.vault.clone();
        url.set_path(request.url().path());
        url.set_query(request.url().query());
        let token = request.headers().get_optional_str(&azure_core::http::headers::AUTHORIZATION);
        let mut answer = sent(&self.http, request, &url).await.map_err(wrapped)?;
        let status = answer.status;
        debug!(
            method = request.method().as_ref(),
            path = request.url().path(),
            status = status.as_u16(),
            request_id = answer.header("x-ms-request-id"),
            "asked the vault"
        );
        match (status, token) {
            (StatusCode::UNAUTHORIZED, token) => {
                if let Some(token) = token {
                    self.auth.refused(token, from_answer(&answer, request.method() == SdkMethod::Put));
                }
                // The SDK answers a challenge by itself, if it is in the one form that it reads.
                let scope = self.auth.challenged(&answer.headers);
                if let Ok(header) = HeaderValue::from_str(&format!("Bearer scope=\"{scope}\"")) {
                    answer.headers.insert(header::WWW_AUTHENTICATE, header);
                }
            }
            (_, Some(token)) => self.auth.accepted(token),
            _ => {}
        }
        if status.is_success() || status == StatusCode::UNAUTHORIZED {
            return Ok(response(answer));
        }
        Err(wrapped(from_answer(&answer, request.method() == SdkMethod::Put)))
    }
}

async fn sent(http: &HttpClient, request: &Request, url: &Url) -> Result<Answer> {
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
        Body::Bytes(bytes) => send::Body::secret(Zeroizing::new(bytes.to_vec())),
        Body::SeekableStream(_) => return Err(wrong()),
    };
    http.send(Call { method, url: url.clone(), headers, body }).await
}

fn response(answer: Answer) -> AsyncRawResponse {
    let Answer { status, headers, body } = answer;
    let mut found = Headers::new();
    for (name, value) in &headers {
        if let Ok(value) = value.to_str() {
            found.insert(SdkName::from(name.as_str().to_owned()), SdkValue::from(value.to_owned()));
        }
    }
    // Wiped when the last one who holds it is done.
    AsyncRawResponse::from_bytes(SdkStatus::from(status.as_u16()), found, Bytes::from_owner(body))
}
