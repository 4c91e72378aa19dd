//! Errors of files and of the age format.

use std::{io, path::Path};

use age::{DecryptError, EncryptError};
use kms_core::{Error, ErrorKind};

/// Adds the path of a file or folder to an error.
pub(crate) fn at(path: &Path) -> impl Fn(Error) -> Error + '_ {
    move |error| error.context("path", path.display().to_string())
}

/// The error of a file that cannot be written. It is not `PermissionDenied`, which is about the KMS.
pub(crate) fn not_written(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    move |cause| at(path)(Error::new(ErrorKind::Unexpected, "the escrow cannot be written").source(cause))
}

/// The error of a file that cannot be read. It is not `NotFound`, which scripts take for an absent key.
pub(crate) fn not_read(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    move |cause| match cause.kind() {
        io::ErrorKind::NotFound => {
            at(path)(Error::config("the escrow lacks a file, or the path is not an escrow").source(cause))
        }
        // The age format and the tar report damage this way.
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            at(path)(damaged("it is cut off, or was changed").source(cause))
        }
        _ => at(path)(Error::config("the escrow cannot be read").source(cause)),
    }
}

/// The error of an archive that has not what it should have.
pub(crate) fn damaged(how: impl AsRef<str>) -> Error {
    Error::new(ErrorKind::Protocol, format!("the escrow is damaged: {}", how.as_ref()))
}

/// The error of an encryption. The recipients are at fault, or their plugin.
pub(crate) fn not_encrypted(cause: EncryptError) -> Error {
    match cause {
        EncryptError::IncompatibleRecipients { .. } => Error::config(
            "the recipients cannot be combined: post-quantum recipients need a file without the others",
        ),
        EncryptError::MissingRecipients => Error::config("there are no recipients"),
        other => Error::config("the escrow cannot be encrypted to these recipients").source(other),
    }
}

/// The error of a decryption.
pub(crate) fn not_decrypted(cause: DecryptError) -> Error {
    match cause {
        DecryptError::NoMatchingKeys => Error::config(
            "no identity that was given decrypts the archive: give the identity of one of its recipients (kms escrow list)",
        ),
        DecryptError::Plugin(_) | DecryptError::PluginResolve(_) => {
            Error::config("the plugin of an identity failed").source(cause)
        }
        // The age library reports a plugin that has ended in this way; no read of a file does.
        DecryptError::Io(ended) if ended.kind() == io::ErrorKind::ConnectionAborted => {
            Error::config("the plugin of an identity ended: give it the right PIN or answer").source(ended)
        }
        DecryptError::UnknownFormat => damaged("the archive is not in the age format"),
        other => damaged("the archive cannot be decrypted").source(other),
    }
}
