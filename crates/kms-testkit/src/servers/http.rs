//! The HTTP client of the harness: it sets up servers and inspects them without the code under test.

use std::{fmt, time::Duration};

use anyhow::{Context as _, Result, bail};
use reqwest::{
    Method,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::Value;

use crate::servers::pki::{Identity, Pki};

/// A client of one server.
#[derive(Clone)]
pub struct Http {
    client: reqwest::Client,
    base: String,
    headers: HeaderMap,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client: _, base, headers: _ } = self;
        f.debug_struct("Http").field("base", base).finish_non_exhaustive()
    }
}

/// The response of a server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body: JSON, or else its text as a string; null when it is empty.
    pub body: Value,
}

impl Reply {
    /// The body of a 2xx response.
    ///
    /// # Errors
    ///
    /// If the status is not 2xx; the message has the body.
    pub fn ok(self) -> Result<Value> {
        let Self { status, headers: _, body } = self;
        if !(200..300).contains(&status) {
            bail!("answer {status}: {body}");
        }
        Ok(body)
    }

    /// The string at `pointer` in the body.
    ///
    /// # Errors
    ///
    /// If the body has no string there.
    pub fn text(&self, pointer: &str) -> Result<String> {
        let Self { status, headers: _, body } = self;
        let text = body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        text.with_context(|| format!("no {pointer} in the answer {status}: {body}"))
    }

    /// The value of a header; `None` if it is absent or not text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Http {
    /// A client of the server at `base` (`https://host:port`) that trusts `ca` (PEM) and shows `identity`.
    ///
    /// # Errors
    ///
    /// If the PEM does not parse.
    pub fn new(base: impl Into<String>, ca: &str, identity: Option<&Identity>) -> Result<Self> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(Pki::client_config(ca, identity)?)
            .no_proxy()
            // Tests inspect redirects, so the client does not follow them.
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(60))
            .build()?;
        Ok(Self { client, base: base.into(), headers: HeaderMap::new() })
    }

    /// The base URL of the requests.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Returns the client for another server.
    #[must_use]
    pub fn at(&self, base: impl Into<String>) -> Self {
        Self { base: base.into(), ..self.clone() }
    }

    /// Returns the client with this header in each request.
    ///
    /// # Errors
    ///
    /// If the text cannot be sent in a header.
    pub fn with_header(mut self, name: &'static str, value: &str) -> Result<Self> {
        self.headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value)?);
        Ok(self)
    }

    /// Returns the client without this header.
    #[must_use]
    pub fn without_header(mut self, name: &'static str) -> Self {
        self.headers.remove(name);
        self
    }

    /// Sends one request; `path` follows the base and starts with a slash, a null `body` is no body.
    ///
    /// # Errors
    ///
    /// If there is no response.
    pub async fn send(&self, method: &str, path: &str, body: &Value) -> Result<Reply> {
        let body = (!body.is_null()).then(|| ("application/json", body.to_string()));
        self.send_as(method, path, body).await
    }

    /// Sends one request with a body of any content type.
    ///
    /// # Errors
    ///
    /// If there is no response.
    pub async fn send_as(
        &self,
        method: &str,
        path: &str,
        body: Option<(&'static str, String)>,
    ) -> Result<Reply> {
        let url = format!("{}{path}", self.base);
        let mut request =
            self.client.request(Method::from_bytes(method.as_bytes())?, &url).headers(self.headers.clone());
        if let Some((content_type, text)) = body {
            request = request.header(CONTENT_TYPE, content_type).body(text);
        }
        let response = request.send().await.with_context(|| format!("{method} {url}"))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.with_context(|| format!("read the answer to {method} {url}"))?;
        let body = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap_or(Value::String(text))
        };
        Ok(Reply { status, headers, body })
    }
}
