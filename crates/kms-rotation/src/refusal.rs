//! The errors that say that the KEK does not open a device, told apart from those of a check that could not be made.

use std::{error::Error as StdError, fmt};

use kms_core::{Error, ErrorKind};

/// The cause of an error that says that the KEK does not open a device, by which [`is_refusal`] knows it.
#[derive(Debug)]
struct Refusal;

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an OSD does not start with this KEK")
    }
}

impl StdError for Refusal {}

/// Whether an error of [`verify`](crate::verify()) or [`rotate`](crate::rotate()) says that the key slots of a device were
/// tried, and that the KEK of the KMS does not open the device. Of any other error nothing follows about the KEK.
pub fn is_refusal(error: &Error) -> bool {
    error.source().is_some_and(|cause| cause.is::<Refusal>())
}

/// The error of a device that the KEK of the KMS does not open.
pub(crate) fn refusal(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Conflict, message).source(Refusal)
}

/// The error of a device that the KEK of the KMS opens no slot of.
pub(crate) fn no_slot() -> Error {
    refusal(
        "the KEK that the KMS holds opens no key slot of the device: nothing was changed (is it the device of this \
         key? was another KEK stored? kms recover tries every KEK that the KMS still has)",
    )
}
