//! Sends one request and reads its response.

use std::{fmt, future::Future, pin::pin, sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use kms_core::{
    Error, ErrorKind, Result,
    layer::{limited, step_limit, waiting_for},
};
use kms_response::{ReceivedBody, WebPage};
use kms_tls::needs_proxy_credentials;
use url::Url;
use zeroize::Zeroizing;

use crate::{client::HttpClient, error::classify};

/// One request.
#[derive(Clone, Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// The address.
    pub url: Url,
    /// The headers. Headers with credentials are marked as sensitive.
    pub headers: HeaderMap,
    /// The body, wiped after the client has sent it.
    pub body: Body,
}

/// The body of a request. `Debug` does not show it.
#[derive(Clone, Default)]
pub struct Body(Bytes);

impl Body {
    /// Makes a body that is wiped when its last clone is dropped.
    pub fn secret(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(Bytes::from_owner(bytes))
    }

    /// The bytes, which may hold a secret.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether the request has no body.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.0.len())
    }
}

/// A response, whatever its status.
pub struct HttpResponse {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, wiped on drop.
    pub body: Zeroizing<Vec<u8>>,
}

impl HttpResponse {
    /// Returns a header as text; `None` if it is absent or not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// How long the server asks the client to wait: see [`kms_response::retry_after`].
    pub fn retry_after(&self) -> Option<Duration> {
        kms_response::retry_after(&self.headers)
    }

    /// The error for a web page. `None` if the response is not one: a KMS sends JSON.
    ///
    /// `names_page`: whether the error may quote the title of the page. It may not if the request held a key.
    pub fn page_error(&self, names_page: bool) -> Option<Error> {
        let error = WebPage::of(&self.body)?.error(self.status, names_page);
        Some(error.retry_after(self.retry_after()).context("status", self.status.as_u16().to_string()))
    }
}

impl fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers can hold tokens, bodies hold keys.
        let Self { status, headers, body } = self;
        f.debug_struct("HttpResponse")
            .field("status", status)
            .field("headers", &headers.len())
            .field("body_bytes", &body.len())
            .finish()
    }
}

/// Makes a header value that no log shows.
///
/// # Errors
///
/// `ConfigInvalid` if the text is not valid in a header; the error names it by `what` and does not show its value.
pub fn sensitive(what: &str, text: &str) -> Result<HeaderValue> {
    let visible = text.bytes().all(|byte| (0x21..0x7f).contains(&byte));
    match HeaderValue::from_str(text) {
        Ok(mut value) if visible => {
            value.set_sensitive(true);
            Ok(value)
        }
        _ => Err(Error::config(format!(
            "{what} has characters that cannot be in it: blanks, line breaks or others"
        ))),
    }
}

impl HttpClient {
    /// Sends one request and reads the whole response. It retries nothing and follows no redirect.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Timeout`, `Unauthenticated` (the server refused the client's certificate), `ConfigInvalid` (the
    /// client refused the server's certificate, or the proxy for this address is malformed) or `Protocol`.
    /// [`Error::retryable`] is `Always` if the request has certainly not reached the server.
    pub async fn send(&self, call: &Call) -> Result<HttpResponse> {
        waiting_for(|| endpoint(&call.url), pin!(self.exchange(call))).await
    }

    async fn exchange(&self, call: &Call) -> Result<HttpResponse> {
        let Call { method, url, headers, body } = call;
        let uses_proxy = self.proxy_for(url)?.is_some();
        let annotate = |error: Error| {
            let error = error.context("server", endpoint(url));
            // The unreachable host may be the proxy.
            if uses_proxy { error.context("proxy", "one is set, and may be the cause") } else { error }
        };
        let mut request = reqwest::Request::new(method.clone(), url.clone());
        request.headers_mut().clone_from(headers);
        kms_response::mark(request.headers_mut());
        *request.body_mut() = (!body.is_empty()).then(|| reqwest::Body::from(body.0.clone()));
        let mut response = self.in_time(url, pin!(self.client.execute(request))).await.map_err(annotate)?;
        self.has_answered.store(true, Relaxed);
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let mut body = ReceivedBody::of(&headers);
        while let Some(chunk) = self.in_time(url, pin!(response.chunk())).await.map_err(annotate)? {
            body.append(&chunk).map_err(annotate)?;
        }
        let body = body.into_bytes();
        if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            return Err(self.proxy_refuses(url, uses_proxy));
        }
        let response = HttpResponse { status, headers, body };
        kms_response::record_time(&self.clock, &response.headers);
        Ok(response)
    }

    /// The error for a status 407 of a proxy (RFC 9110 §15.5.8). The server has not got the request, and would not the next
    /// time.
    fn proxy_refuses(&self, url: &Url, uses_proxy: bool) -> Error {
        let setting = self.proxy_setting(url);
        let message = if uses_proxy {
            format!(
                "the proxy asks for credentials, or for others than ours (HTTP status 407): set them in {setting}, as \
                 http://USER:PASSWORD@PROXY"
            )
        } else {
            format!(
                "a proxy in between asks for credentials (HTTP status 407), and no proxy is set: set {setting} to its address \
                 with credentials, as http://USER:PASSWORD@PROXY"
            )
        };
        Error::new(ErrorKind::Unavailable, message).context("server", endpoint(url))
    }

    /// Waits for the server's next bytes.
    async fn in_time<T>(&self, url: &Url, call: impl Future<Output = reqwest::Result<T>>) -> Result<T> {
        let failed = |cause| {
            if needs_proxy_credentials(&cause) {
                return self.proxy_refuses(url, true);
            }
            classify(&cause, &self.tls.handshakes, self.has_answered.load(Relaxed))
        };
        let call = async { call.await.map_err(failed) };
        limited(step_limit(self.read_timeout()), call).await
    }
}

/// Returns scheme, host and port: the part of a URL that a message may show.
pub fn endpoint(url: &Url) -> String {
    url[..url::Position::BeforePath].split('@').next_back().map_or_else(String::new, |host| {
        if host.contains("://") { host.to_owned() } else { format!("{}://{host}", url.scheme()) }
    })
}
