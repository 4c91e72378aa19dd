//! The errors that say that an OSD does not start from a device, told apart from those of a check that could not be made.

use std::{error::Error as StdError, fmt};

use kms_core::{Error, ErrorKind};

/// What was seen of a device that keeps its OSD from starting. It is the cause of the error that says so.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// The device has no LUKS header that can be used: it was overwritten, or both of its copies are damaged.
    Header,
    /// The key slots were tried, and the KEK of the KMS does not open the device.
    Kek,
}

impl Refusal {
    /// What an error of [`verify`](crate::verify()) or [`rotate`](crate::rotate()) says was seen of a device. `None` if
    /// nothing follows from the error about the device and the KEK.
    pub fn of(error: &Error) -> Option<Self> {
        error.source()?.downcast_ref::<Self>().copied()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "an OSD does not start from this device",
            Self::Kek => "an OSD does not start with this KEK",
        })
    }
}

impl StdError for Refusal {}

/// The error of a device that the KEK of the KMS does not open.
pub(crate) fn refusal(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Conflict, message).source(Refusal::Kek)
}

/// The error of a device that the KEK of the KMS opens no slot of.
pub(crate) fn no_slot() -> Error {
    refusal(
        "the KEK that the KMS holds opens no key slot of the device: nothing was changed (is it the device of this \
         key? was another KEK stored? kms recover tries every KEK that the KMS still has)",
    )
}
