//! Errors of the Kubernetes API, as errors about a key.
//!
//! The table from HTTP statuses to kinds is in `kms_kube`.

use kms_core::{Error, KeyName};
use kms_kube::{Cause, Failure};

/// The error for a failed request about the Secret of a key.
pub(crate) fn key_error(failure: Failure, name: &KeyName) -> Error {
    match failure.cause {
        Cause::Absent => Error::key_not_found(name),
        Cause::Changed => Error::key_changed(name),
        _ => failure.error,
    }
}
