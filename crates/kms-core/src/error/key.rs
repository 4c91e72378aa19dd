//! The errors about a key that all providers share.

use super::{Error, ErrorKind, Existing};
use crate::name::KeyName;

impl Error {
    /// An [`ErrorKind::AlreadyExists`] with what is known of the stored KEK.
    pub fn already_exists(name: &KeyName, existing: Existing) -> Self {
        let message = match existing {
            Existing::Same => "the key exists, with the same KEK",
            Existing::Different => "the key exists, with another KEK",
            Existing::Unknown => "the key exists, and its KEK could not be compared",
        };
        let mut error = Self::new(ErrorKind::AlreadyExists, message).context("key", name.as_str());
        error.0.existing = Some(existing);
        error
    }

    /// An [`ErrorKind::AlreadyExists`] of [`undelete`](crate::KmsProvider::undelete): the key is there, so nothing is to be
    /// brought back.
    pub fn not_deleted(name: &KeyName) -> Self {
        let message = "the key exists, so it is not deleted; kms get reads it, and kms recover shows its older versions";
        let mut error = Self::new(ErrorKind::AlreadyExists, message).context("key", name.as_str());
        error.0.existing = Some(Existing::Unknown);
        error
    }

    /// An [`ErrorKind::Conflict`]: the key is no longer in the version that the caller has read.
    pub fn key_changed(name: &KeyName) -> Self {
        Self::new(ErrorKind::Conflict, "the key has changed since it was read").context("key", name.as_str())
    }

    /// An [`ErrorKind::NotFound`] about a key.
    pub fn key_not_found(name: &KeyName) -> Self {
        Self::new(ErrorKind::NotFound, "there is no such key").context("key", name.as_str())
    }
}
