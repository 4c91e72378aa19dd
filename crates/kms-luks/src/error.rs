//! The errors for the exit codes of cryptsetup, and for failed accesses to a device.

use std::{io, path::Path};

use kms_core::{Error, ErrorKind};

use crate::process::{CommandOutput, Ended};

/// The exit codes of cryptsetup (its manual page, "RETURN CODES").
pub(crate) mod code {
    /// Done.
    pub(crate) const DONE: i32 = 0;
    /// Wrong parameters, or any other failure.
    pub(crate) const FAILED: i32 = 1;
    /// No key with this passphrase.
    pub(crate) const WRONG_KEY: i32 = 2;
    /// Out of memory.
    pub(crate) const MEMORY: i32 = 3;
    /// No such device.
    pub(crate) const NO_DEVICE: i32 = 4;
    /// The device exists already, or is busy.
    pub(crate) const BUSY: i32 = 5;
}

/// The error of a failed call, from its exit code alone.
pub(crate) fn failed(answer: &CommandOutput) -> Error {
    let (kind, message) = match answer.ended {
        Ended::Code(code::WRONG_KEY) => (ErrorKind::Conflict, "the KEK opens no key slot of the device".to_owned()),
        Ended::Code(code::MEMORY) => (
            ErrorKind::Unexpected,
            "cryptsetup ran out of memory: the key derivation of a slot may need more than this host or container \
             has (kms slots DEVICE shows it)"
                .to_owned(),
        ),
        Ended::Code(code::NO_DEVICE) => {
            (ErrorKind::ConfigInvalid, "there is no such device, or cryptsetup has no permission to open it".to_owned())
        }
        Ended::Code(code::BUSY) => (ErrorKind::Conflict, "the device is in use".to_owned()),
        Ended::Code(code) => (ErrorKind::Unexpected, format!("cryptsetup failed with exit code {code}")),
        Ended::Signal(signal) => (
            ErrorKind::Unexpected,
            format!(
                "cryptsetup was ended by signal {signal}; if that is 9, the key derivation of a slot may need more \
                 memory than this host or container has (kms slots DEVICE shows it)"
            ),
        ),
    };
    let error = Error::new(kind, message);
    match answer.said() {
        Some(said) => error.context("cryptsetup", said),
        None => error,
    }
}

/// The error of a device that cannot be read or written.
pub(crate) fn not_read(cause: io::Error) -> Error {
    let (kind, message) = match cause.kind() {
        // Not `NotFound`: to a script, that is a key that does not exist.
        io::ErrorKind::NotFound => (ErrorKind::ConfigInvalid, "there is no such device"),
        io::ErrorKind::PermissionDenied => (
            ErrorKind::ConfigInvalid,
            "there is no permission to access the device: run as root, in a privileged container",
        ),
        _ => (ErrorKind::Unexpected, "the device cannot be accessed"),
    };
    Error::new(kind, message).source(cause)
}

/// Adds the path of the device to an error.
pub(crate) fn at(path: &Path) -> impl Fn(Error) -> Error + '_ {
    move |error| error.context("device", path.display().to_string())
}
