//! Errors of the Kubernetes API, as errors about a key.
//!
//! The table from HTTP statuses to kinds is in `kms_kube`.

use kms_core::{Error, ErrorKind, KeyName};
use kms_kube::{Cause, Failure};

/// The error for a failed request about the Secret of a key.
pub(crate) fn key_error(failure: Failure, name: &KeyName) -> Error {
    match failure.cause {
        Cause::Absent => Error::key_not_found(name),
        Cause::Changed => key_changed(),
        _ => failure.error,
    }
}

/// The error for a key in another version than the expected one.
pub(crate) fn key_changed() -> Error {
    Error::new(ErrorKind::Conflict, "the key has changed since it was read")
}
