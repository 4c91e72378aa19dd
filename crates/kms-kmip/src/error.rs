//! Maps the result reasons of KMIP servers, and failures of TLS and TCP, to error kinds.

use std::{error::Error as StdError, fmt::Write as _, io};

use kms_core::{Error, ErrorKind, Retry};
use kms_tls::{Handshakes, fault::fault};

/// The maximum number of characters of a server's message in an error.
const MAX_WORDS: usize = 200;

/// The result status Operation Failed (KMIP 1.4 §9.1.3.2.28).
const OPERATION_FAILED: u32 = 1;

/// Result reasons (KMIP 1.4 §9.1.3.2.29). Those from 0x19 on are of KMIP 2.0; newer servers use them at any version.
mod reason {
    pub(super) const ITEM_NOT_FOUND: u32 = 0x01;
    pub(super) const RESPONSE_TOO_LARGE: u32 = 0x02;
    pub(super) const AUTHENTICATION_NOT_SUCCESSFUL: u32 = 0x03;
    pub(super) const INVALID_MESSAGE: u32 = 0x04;
    pub(super) const OPERATION_NOT_SUPPORTED: u32 = 0x05;
    pub(super) const OPERATION_CANCELED: u32 = 0x09;
    pub(super) const ILLEGAL_OPERATION: u32 = 0x0b;
    pub(super) const PERMISSION_DENIED: u32 = 0x0c;
    pub(super) const OBJECT_ARCHIVED: u32 = 0x0d;
    pub(super) const KEY_VALUE_NOT_PRESENT: u32 = 0x13;
    pub(super) const ATTESTATION_REQUIRED: u32 = 0x14;
    pub(super) const ATTESTATION_FAILED: u32 = 0x15;
    pub(super) const SENSITIVE: u32 = 0x16;
    pub(super) const NOT_EXTRACTABLE: u32 = 0x17;
    pub(super) const OBJECT_ALREADY_EXISTS: u32 = 0x18;
    pub(super) const USAGE_LIMIT_EXCEEDED: u32 = 0x1a;
    pub(super) const BAD_PASSWORD: u32 = 0x25;
    pub(super) const INTERNAL_SERVER_ERROR: u32 = 0x2a;
    pub(super) const NON_UNIQUE_NAME: u32 = 0x35;
    pub(super) const OBJECT_DESTROYED: u32 = 0x36;
    pub(super) const OBJECT_NOT_FOUND: u32 = 0x37;
    pub(super) const NOT_AUTHORISED: u32 = 0x39;
    pub(super) const SERVER_LIMIT_EXCEEDED: u32 = 0x3a;
    pub(super) const UNSUPPORTED_PROTOCOL_VERSION: u32 = 0x3f;
    pub(super) const WRONG_KEY_LIFECYCLE_STATE: u32 = 0x43;
    pub(super) const PROTECTION_STORAGE_UNAVAILABLE: u32 = 0x44;
    pub(super) const GENERAL_FAILURE: u32 = 0x100;

    /// The name of a result reason in the specification.
    pub(super) fn name(reason: u32) -> Option<&'static str> {
        const NAMES: [&str; 0x19] = [
            "",
            "Item Not Found",
            "Response Too Large",
            "Authentication Not Successful",
            "Invalid Message",
            "Operation Not Supported",
            "Missing Data",
            "Invalid Field",
            "Feature Not Supported",
            "Operation Canceled By Requester",
            "Cryptographic Failure",
            "Illegal Operation",
            "Permission Denied",
            "Object Archived",
            "Index Out Of Bounds",
            "Application Namespace Not Supported",
            "Key Format Type Not Supported",
            "Key Compression Type Not Supported",
            "Encoding Option Error",
            "Key Value Not Present",
            "Attestation Required",
            "Attestation Failed",
            "Sensitive",
            "Not Extractable",
            "Object Already Exists",
        ];
        let later = match reason {
            USAGE_LIMIT_EXCEEDED => "Usage Limit Exceeded",
            0x1c => "Invalid Data Type",
            0x1f => "Unsupported Attribute",
            0x24 => "Bad Cryptographic Parameters",
            BAD_PASSWORD => "Bad Password",
            0x29 => "Incompatible Cryptographic Usage Mask",
            INTERNAL_SERVER_ERROR => "Internal Server Error",
            0x2c => "Invalid Attribute",
            0x2d => "Invalid Attribute Value",
            0x30 => "Invalid Object Type",
            NON_UNIQUE_NAME => "Non Unique Name Attribute",
            OBJECT_DESTROYED => "Object Destroyed",
            OBJECT_NOT_FOUND => "Object Not Found",
            NOT_AUTHORISED => "Not Authorised",
            SERVER_LIMIT_EXCEEDED => "Server Limit Exceeded",
            0x3d => "Unknown Tag",
            0x3e => "Unsupported Cryptographic Parameters",
            UNSUPPORTED_PROTOCOL_VERSION => "Unsupported Protocol Version",
            WRONG_KEY_LIFECYCLE_STATE => "Wrong Key Lifecycle State",
            PROTECTION_STORAGE_UNAVAILABLE => "Protection Storage Unavailable",
            GENERAL_FAILURE => "General Failure",
            _ => return NAMES.get(usize::try_from(reason).ok()?).copied().filter(|name| !name.is_empty()),
        };
        Some(later)
    }
}

/// A server's refusal of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal<'a> {
    pub(crate) status: u32,
    pub(crate) reason: Option<u32>,
    pub(crate) words: Option<&'a str>,
}

/// The meaning of a failed exchange for the caller.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Class {
    /// The object does not exist, or no longer exists.
    Gone,
    /// The object's state forbids the operation, or may forbid it: PyKMIP answers Permission Denied both for a wrong
    /// state and for another client's object.
    State,
    /// The server refuses the form of the object; it may accept another one.
    Form,
    /// The server does not support the operation, at least not in this protocol version.
    NoOperation,
    /// The server has refused for another reason.
    Refused,
    /// The connection was closed before the first byte of a response.
    Closed,
    /// The response is larger than we read.
    TooLarge,
    /// Any other failure.
    Other,
}

/// The context of an error that names the reason of a refusal.
const REASON: &str = "reason";
/// The context of an error that has the server's own words.
const WORDS: &str = "server said";

/// A failed exchange with a server: the error, and its class.
#[derive(Debug)]
pub(crate) struct ExchangeError {
    pub(crate) class: Class,
    pub(crate) error: Error,
}

impl From<Error> for ExchangeError {
    fn from(error: Error) -> Self {
        Self { class: Class::Other, error }
    }
}

impl From<ExchangeError> for Error {
    fn from(failed: ExchangeError) -> Self {
        failed.error
    }
}

/// The error for a key that other clients write again and again. No write of ours has become the KEK, so a retry is
/// safe.
pub(crate) fn busy() -> Error {
    Error::new(ErrorKind::Conflict, "other clients keep writing the same key").retry(Retry::Always)
}

impl ExchangeError {
    /// Whether the server refuses because of the state of the object, and not because of a missing right. Permission
    /// Denied can mean either, so its words decide.
    pub(crate) fn minds_the_state(&self) -> bool {
        let context = |name| self.error.contexts().find(|(known, _)| *known == name).map(|(_, value)| value);
        let words = context(WORDS).unwrap_or_default().to_lowercase();
        let is_ambiguous = context(REASON) == reason::name(reason::PERMISSION_DENIED);
        self.class == Class::State && (!is_ambiguous || words.contains("active") || words.contains("state"))
    }

    /// Maps a result reason to an error and its class.
    ///
    /// Servers answer differently:
    ///
    /// - an unknown object, or an object of another client: Item Not Found, Object Not Found or (PyKMIP) Permission
    ///   Denied
    /// - a destroyed object: Item Not Found or Object Destroyed
    /// - the Destroy of an active object: Permission Denied or Wrong Key Lifecycle State
    pub(crate) fn refused(operation: &'static str, refusal: Refusal<'_>) -> Self {
        use Class::{Form, Gone, NoOperation, Refused, State};
        use ErrorKind::{NotFound, PermissionDenied, Protocol, Unauthenticated, Unavailable, Unexpected};

        let never = Retry::Never;
        let (class, kind, retry, what) = match refusal.reason {
            Some(reason::ITEM_NOT_FOUND | reason::OBJECT_NOT_FOUND) => {
                (Gone, NotFound, never, "the server has no such object")
            }
            Some(reason::OBJECT_DESTROYED) => (Gone, NotFound, never, "the object has been destroyed"),
            Some(reason::PERMISSION_DENIED) => (
                State,
                PermissionDenied,
                never,
                "the server denies permission (the object may belong to another client)",
            ),
            Some(reason::NOT_AUTHORISED) => {
                (Refused, PermissionDenied, never, "the server denies permission")
            }
            Some(reason::WRONG_KEY_LIFECYCLE_STATE) => {
                (State, PermissionDenied, never, "the state of the object forbids the operation")
            }
            Some(reason::SENSITIVE | reason::NOT_EXTRACTABLE | reason::KEY_VALUE_NOT_PRESENT) => {
                (Refused, PermissionDenied, never, "the server never returns this key")
            }
            Some(reason::OBJECT_ARCHIVED) => {
                (Refused, Unavailable, never, "the object is archived; recover it on the server")
            }
            Some(
                reason::AUTHENTICATION_NOT_SUCCESSFUL
                | reason::ATTESTATION_REQUIRED
                | reason::ATTESTATION_FAILED
                | reason::BAD_PASSWORD,
            ) => (Refused, Unauthenticated, never, "the server does not accept our identity"),
            Some(reason::OPERATION_NOT_SUPPORTED) => {
                (NoOperation, Protocol, never, "the server does not support the operation")
            }
            Some(reason::UNSUPPORTED_PROTOCOL_VERSION) => {
                (NoOperation, Protocol, never, "the server does not support this protocol version")
            }
            // PyKMIP also gives this reason for unknown versions and operations.
            Some(reason::INVALID_MESSAGE) => {
                (Form, Protocol, never, "the server does not understand the request")
            }
            Some(reason::RESPONSE_TOO_LARGE) => (Refused, Protocol, never, "the response would be too large"),
            Some(reason::SERVER_LIMIT_EXCEEDED | reason::USAGE_LIMIT_EXCEEDED) => {
                (Refused, ErrorKind::RateLimited, Retry::Always, "a limit of the server is reached")
            }
            Some(reason::INTERNAL_SERVER_ERROR | reason::PROTECTION_STORAGE_UNAVAILABLE) => {
                (Form, Unavailable, Retry::IfIdempotent, "the server cannot process the request now")
            }
            Some(reason::OPERATION_CANCELED) => {
                (Refused, Unavailable, Retry::IfIdempotent, "the server has cancelled the operation")
            }
            Some(reason::NON_UNIQUE_NAME | reason::OBJECT_ALREADY_EXISTS) => {
                (Form, ErrorKind::Conflict, never, "the server has an object of that name already")
            }
            // Servers give this reason for any failure without its own; PyKMIP also for a key of another length than
            // declared.
            Some(reason::GENERAL_FAILURE) | None => {
                (Form, Unexpected, Retry::IfIdempotent, "the server failed to process the request")
            }
            // Servers without a reason for a wrong state give this one.
            Some(reason::ILLEGAL_OPERATION) => {
                (State, Protocol, never, "the server does not allow the operation")
            }
            // All other reasons concern a field, an attribute, a format or a parameter.
            Some(_) => (Form, Protocol, never, "the server does not accept the request"),
        };
        // A refusal always has the status Operation Failed, since we send no asynchronous requests and ask for no undo.
        let (class, kind, what) = if refusal.status == OPERATION_FAILED {
            (class, kind, what)
        } else {
            (Refused, Protocol, "the server responds with an unexpected status")
        };
        let error = Error::new(kind, what)
            .retry(retry)
            .context("request", operation)
            .context("status", status(refusal.status))
            .context(REASON, described(refusal.reason));
        let words = refusal.words.map(one_line).filter(|words| !words.is_empty());
        let error = match words {
            Some(words) => error.context(WORDS, words),
            None => error,
        };
        Self { class, error }
    }
}

fn status(status: u32) -> String {
    match status {
        OPERATION_FAILED => "Operation Failed".to_owned(),
        2 => "Operation Pending".to_owned(),
        3 => "Operation Undone".to_owned(),
        other => format!("0x{other:x}"),
    }
}

fn described(reason: Option<u32>) -> String {
    match reason {
        None => "none".to_owned(),
        Some(number) => reason::name(number).map_or_else(|| format!("0x{number:x}"), ToOwned::to_owned),
    }
}

/// Puts a server's message on one line, without control characters, and truncates it.
pub(crate) fn one_line(words: &str) -> String {
    let mut line = String::new();
    for word in words.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().filter(|c| !is_invisible(*c)));
        if line.len() > MAX_WORDS * 4 {
            break;
        }
    }
    match line.char_indices().nth(MAX_WORDS) {
        Some((end, _)) => {
            line.truncate(end);
            let _ = write!(line, "…");
            line
        }
        None => line,
    }
}

/// Whether a character changes the direction of a text, or is invisible.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The error for a malformed response.
pub(crate) fn malformed(why: &'static str) -> Error {
    Error::new(ErrorKind::Protocol, format!("the server's response is malformed: {why}"))
}

/// The part of an exchange in which TLS or TCP fails, after the handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// Sending the request: the server cannot have received all of it.
    Request,
    /// Receiving the response: the server may have acted on the request.
    Response,
}

/// The error for a failure of TLS or TCP.
///
/// Only an alert of the server blames our certificate. A connection that is merely closed may have a front end at its
/// other end whose server is down.
pub(crate) fn transport(cause: &io::Error, step: Step, handshakes: &Handshakes) -> Error {
    let retry = if step == Step::Response { Retry::IfIdempotent } else { Retry::Always };
    if let Some(tls) = tls_cause(cause) {
        return fault(tls, handshakes, retry);
    }
    let message = match step {
        Step::Request => "the connection was lost before the request was sent",
        Step::Response => "the connection was lost before the response was complete",
    };
    Error::new(ErrorKind::Unavailable, message).retry(retry).source(Text(cause.to_string()))
}

/// Whether the peer has closed the connection without a TLS error.
pub(crate) fn is_end(cause: &io::Error) -> bool {
    tls_cause(cause).is_none()
        && matches!(
            cause.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::NotConnected
        )
}

fn tls_cause(cause: &io::Error) -> Option<&rustls::Error> {
    cause.get_ref()?.downcast_ref()
}

/// The text of a cause, since errors have to be `Clone`.
#[derive(Debug)]
struct Text(String);

impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Text {}

/// The error for an expired time limit, with the setting that raises the limit.
pub(crate) fn timed_out(what: &str, limit: std::time::Duration, setting: &str, retry: Retry) -> Error {
    Error::new(ErrorKind::Timeout, format!("{what} within {limit:?} ({setting})")).retry(retry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_meaning() {
        use ErrorKind::*;
        for (reason, class, kind, retry) in [
            (Some(0x01), Class::Gone, NotFound, Retry::Never),
            (Some(0x36), Class::Gone, NotFound, Retry::Never),
            (Some(0x37), Class::Gone, NotFound, Retry::Never),
            (Some(0x03), Class::Refused, Unauthenticated, Retry::Never),
            (Some(0x0c), Class::State, PermissionDenied, Retry::Never),
            (Some(0x43), Class::State, PermissionDenied, Retry::Never),
            (Some(0x39), Class::Refused, PermissionDenied, Retry::Never),
            (Some(0x04), Class::Form, Protocol, Retry::Never),
            (Some(0x05), Class::NoOperation, Protocol, Retry::Never),
            (Some(0x07), Class::Form, Protocol, Retry::Never),
            (Some(0x0f), Class::Form, Protocol, Retry::Never),
            (Some(0x35), Class::Form, Conflict, Retry::Never),
            (Some(0x3a), Class::Refused, RateLimited, Retry::Always),
            (Some(0x100), Class::Form, Unexpected, Retry::IfIdempotent),
            (Some(0x7fff_ffff), Class::Form, Protocol, Retry::Never),
            (None, Class::Form, Unexpected, Retry::IfIdempotent),
        ] {
            let failed = ExchangeError::refused("Get", Refusal { status: 1, reason, words: None });
            assert_eq!(
                (failed.class, failed.error.kind(), failed.error.retryable()),
                (class, kind, retry),
                "{reason:?}: {}",
                failed.error
            );
        }
        let odd = ExchangeError::refused("Get", Refusal { status: 2, reason: Some(1), words: None });
        assert_eq!((odd.class, odd.error.kind()), (Class::Refused, Protocol));
    }

    #[test]
    fn status_reason_and_the_servers_words_are_shown_in_one_short_line() {
        let words = format!("Could\tnot\r\nlocate\u{1b}[31m object\u{202e} 7 {}", "x".repeat(500));
        let refusal = Refusal { status: 1, reason: Some(0x0c), words: Some(&words) };
        let error = ExchangeError::refused("Destroy", refusal).error.to_string();
        for part in [
            "request: Destroy",
            "status: Operation Failed",
            "reason: Permission Denied",
            "Could not locate [31m object 7 x",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!error.contains(char::is_control) && error.len() < 450, "{error}");
        let refusal = Refusal { status: 1, reason: Some(0x8000_0001), words: None };
        let error = ExchangeError::refused("Get", refusal).error.to_string();
        assert!(error.contains("reason: 0x80000001"), "{error}");
    }

    #[test]
    fn failures_below_tls_are_told_apart() {
        let none = Handshakes::default();
        let lost = transport(&io::ErrorKind::ConnectionReset.into(), Step::Request, &none);
        assert_eq!((lost.kind(), lost.retryable()), (ErrorKind::Unavailable, Retry::Always));
        let tls = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::NoCertificatesPresented);
        assert_eq!(transport(&tls, Step::Response, &none).kind(), ErrorKind::Protocol);
    }
}
