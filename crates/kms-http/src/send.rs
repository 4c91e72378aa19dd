//! Sending one request, and telling apart what can go wrong on the way.

use std::{error::Error as StdError, fmt, io};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use kms_core::{Error, ErrorKind, Result, Retry};
use rustls::{AlertDescription, CertificateError};
use url::Url;
use zeroize::Zeroizing;

use crate::client::HttpClient;

/// The largest answer that is read, in bytes. A list of 100,000 keys has 10 MB.
const MAX_ANSWER: usize = 32 * 1024 * 1024;

/// One request.
#[derive(Clone, Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// The headers. Those with credentials are marked as sensitive.
    pub headers: HeaderMap,
    /// The body, wiped after it has been sent.
    pub body: Body,
}

/// The body of a request. It is not shown by `Debug`.
#[derive(Clone, Default)]
pub struct Body(Bytes);

impl Body {
    /// A body that is wiped when its last user is done with it.
    pub fn secret(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(Bytes::from_owner(bytes))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.0.len())
    }
}

/// An answer, whatever its status.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, wiped on drop.
    pub body: Zeroizing<Vec<u8>>,
}

impl Answer {
    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// How long the server asks us to wait. A date is not understood; servers of KMS send seconds.
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        self.header("retry-after")?.trim().parse().ok().map(std::time::Duration::from_secs)
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers can hold tokens, bodies hold keys.
        let Self { status, headers, body } = self;
        f.debug_struct("Answer")
            .field("status", status)
            .field("headers", &headers.len())
            .field("body_bytes", &body.len())
            .finish()
    }
}

/// A header value that no log shows.
///
/// # Errors
///
/// `ConfigInvalid` if the text cannot stand in a header; `what` names it, its value is not shown.
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
    /// Sends one request and reads its whole answer. Nothing is repeated, no redirect is followed.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Timeout`, `Unauthenticated` (our certificate was refused), `ConfigInvalid` (theirs was) or
    /// `Protocol`. [`Error::retryable`] is `Always` where the request has surely not reached the server.
    pub async fn send(&self, call: Call) -> Result<Answer> {
        let Call { method, url, headers, body } = call;
        let mut request = reqwest::Request::new(method, url);
        *request.headers_mut() = headers;
        *request.body_mut() = (!body.is_empty()).then(|| reqwest::Body::from(body.0));
        let result = async {
            let mut response = self.client.execute(request).await?;
            let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
            let mut body = Zeroizing::new(Vec::with_capacity(capacity(&headers)));
            while let Some(chunk) = response.chunk().await? {
                if body.len() + chunk.len() > MAX_ANSWER {
                    return Ok(Err(Error::new(
                        ErrorKind::Protocol,
                        format!("the answer has more than {MAX_ANSWER} bytes"),
                    )));
                }
                append(&mut body, &chunk);
            }
            Ok::<_, reqwest::Error>(Ok(Answer { status, headers, body }))
        };
        match result.await {
            Ok(answer) => answer,
            Err(cause) => {
                let server = cause.url().map(endpoint).unwrap_or_default();
                Err(fault(&cause).source(Cause::of(&cause)).context("server", server))
            }
        }
    }
}

/// Appends without leaving a copy behind where the buffer has to grow.
fn append(body: &mut Zeroizing<Vec<u8>>, chunk: &[u8]) {
    if body.capacity() - body.len() < chunk.len() {
        let mut larger = Vec::with_capacity((body.len() + chunk.len()).next_power_of_two());
        larger.extend_from_slice(body);
        *body = Zeroizing::new(larger);
    }
    body.extend_from_slice(chunk);
}

fn capacity(headers: &HeaderMap) -> usize {
    let length =
        headers.get(http::header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(1024).min(1024 * 1024)
}

/// Scheme, host and port: what may be shown of a URL.
pub fn endpoint(url: &Url) -> String {
    url[..url::Position::BeforePath].split('@').next_back().map_or_else(String::new, |host| {
        if host.contains("://") { host.to_owned() } else { format!("{}://{host}", url.scheme()) }
    })
}

/// The name of a host could not be found.
#[derive(Debug)]
pub(crate) struct UnknownHost {
    pub(crate) host: String,
    pub(crate) cause: io::Error,
}

impl fmt::Display for UnknownHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {:?} was not found", self.host)
    }
}

impl StdError for UnknownHost {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.cause)
    }
}

pub(crate) fn unknown_host(host: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the name {host:?} could not be resolved"))
        .retry(Retry::Always)
}

/// The innermost cause, as text: the errors of the HTTP library quote whole URLs.
#[derive(Debug)]
struct Cause(String);

impl Cause {
    fn of(error: &reqwest::Error) -> Self {
        let mut innermost: &dyn StdError = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        if std::ptr::eq(innermost, std::ptr::from_ref(error) as *const dyn StdError) {
            return Self("the request could not be sent".to_owned());
        }
        Self(innermost.to_string())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Cause {}

/// The one table from what happened on the way to (kind, retry).
fn fault(error: &reqwest::Error) -> Error {
    // Before a connection stands, no request has gone out.
    let retry = if error.is_connect() { Retry::Always } else { Retry::IfIdempotent };
    let unavailable = |message: &'static str| Error::new(ErrorKind::Unavailable, message).retry(retry);

    if let Some(unknown) = find::<UnknownHost>(error) {
        return unknown_host(&unknown.host);
    }
    if let Some(tls) = find::<rustls::Error>(error) {
        return tls_fault(tls, retry);
    }
    if error.is_timeout() {
        let message = if error.is_connect() {
            "no connection within the time limit"
        } else {
            "no answer within the time limit"
        };
        return Error::new(ErrorKind::Timeout, message).retry(retry);
    }
    if let Some(io) = find::<io::Error>(error) {
        match io.kind() {
            io::ErrorKind::ConnectionRefused => {
                return unavailable("the connection was refused: nothing listens there");
            }
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                return unavailable("there is no way to the host");
            }
            _ => {}
        }
    }
    if error.is_connect() {
        return unavailable("the connection was closed while it was made");
    }
    if error.is_builder() {
        return Error::config("the request cannot be built");
    }
    // On TLS 1.3 the client believes the handshake to be done before the server has seen its certificate.
    unavailable(
        "the connection was lost before the answer was complete (on TLS 1.3 a server that refuses our client \
         certificate, or misses one, often looks like this)",
    )
}

fn tls_fault(tls: &rustls::Error, retry: Retry) -> Error {
    let theirs = |why: &str| Error::config(format!("the server's certificate is refused: {why}"));
    match tls {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::UnknownIssuer => {
                theirs("it is not signed by a CA that we trust; check the CA certificate in the settings")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => theirs("it has expired"),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                theirs("it is not valid yet; check the clock")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                theirs("it is for another name; use that name in the address, or set the TLS server name")
            }
            _ => theirs("it is not valid"),
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => {
                refused("it asks for a client certificate, and none is set")
            }
            AlertDescription::UnknownCA => refused("our client certificate is of a CA that it does not know"),
            AlertDescription::CertificateExpired => refused("our client certificate has expired"),
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied => refused("it does not accept our client certificate"),
            AlertDescription::HandshakeFailure => {
                refused("TLS handshake failed (a missing client certificate looks like this on TLS 1.2)")
            }
            _ => Error::new(ErrorKind::Protocol, "the server ended the TLS connection with an alert")
                .retry(retry),
        },
        rustls::Error::InvalidMessage(_) => {
            Error::config("the server does not speak TLS on this port; is the address meant to be http?")
        }
        _ => Error::new(ErrorKind::Unavailable, "TLS failed").retry(retry),
    }
}

fn refused(why: &str) -> Error {
    Error::new(ErrorKind::Unauthenticated, format!("the server refused the TLS connection: {why}"))
}

/// The first error of a type among the causes. `io::Error` hides what it wraps from the chain, so look inside too.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(current) = next {
        if let Some(found) = current.downcast_ref::<T>() {
            return Some(found);
        }
        if let Some(inner) = current.downcast_ref::<io::Error>().and_then(io::Error::get_ref)
            && let Some(found) = find::<T>(inner)
        {
            return Some(found);
        }
        next = current.source();
    }
    None
}
