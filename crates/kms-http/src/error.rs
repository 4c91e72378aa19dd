//! Classifies the failures between this process and a server by kind of error.

use std::{error::Error as StdError, fmt, io};

use kms_core::{Error, ErrorKind, Retry};
use kms_tls::{Handshakes, fault::fault, unknown_host};

/// An error: the name of a host was not found.
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

/// The text of the innermost cause. The outer errors of the HTTP library quote whole URLs.
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

/// Maps each failure of a connection to a kind and a `Retry`. `has_answered`: whether the client has ever had a response.
pub(crate) fn classify(error: &reqwest::Error, handshakes: &Handshakes, has_answered: bool) -> Error {
    // Without a connection the client has not sent the request.
    let retry = if error.is_connect() { Retry::Always } else { Retry::IfIdempotent };
    if let Some(tls) = find::<rustls::Error>(error) {
        return fault(tls, handshakes, retry);
    }
    let may_be_refused = handshakes.has_been_asked() && !has_answered;
    below_tls(error, retry, may_be_refused).source(Cause::of(error))
}

/// Maps the failures of names, TCP and HTTP. `may_be_refused`: whether the server may have refused our certificate.
fn below_tls(error: &reqwest::Error, retry: Retry, may_be_refused: bool) -> Error {
    let unavailable = |message: &'static str| Error::new(ErrorKind::Unavailable, message).retry(retry);

    if let Some(unknown) = find::<UnknownHost>(error) {
        return unknown_host(&unknown.host);
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
    // In TLS 1.3 the client completes the handshake before the server has checked the client certificate.
    if may_be_refused {
        return unavailable(
            "the connection was lost before the answer was complete, after the server asked for a client certificate (a \
             server that refuses our client certificate, or misses one, often looks like this on TLS 1.3)",
        );
    }
    unavailable("the connection was lost before the answer was complete")
}

/// Finds the first error of a type among the causes. `io::Error` hides its inner error from the chain, so this looks
/// inside too.
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
