//! Classifies the failures between this process and a server by kind of error.

use std::{error::Error as StdError, fmt, io};

use kms_core::{Error, ErrorKind, Retry};
use rustls::{AlertDescription, CertificateError};

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

pub(crate) fn unknown_host(host: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the name {host:?} could not be resolved"))
        .retry(Retry::Always)
}

/// The text of the innermost cause. The outer errors of the HTTP library quote whole URLs.
#[derive(Debug)]
pub(crate) struct Cause(String);

impl Cause {
    pub(crate) fn of(error: &reqwest::Error) -> Self {
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

/// Maps each failure of a connection to a kind and a `Retry`.
pub(crate) fn classify(error: &reqwest::Error) -> Error {
    // Without a connection the client has not sent the request.
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
    // In TLS 1.3 the client completes the handshake before the server has checked the client certificate.
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
                refused("it asks for a client certificate, and the settings have no client certificate")
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
