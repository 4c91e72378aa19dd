//! What the age format calls the file key: the key of one archive, which the header wraps for each recipient.
//!
//! A run that writes an archive keeps its file key until it has read the archive back. So the proof needs no identity,
//! and no recipient that the operator has not named. It leaves out one thing: that the identities unwrap the key, which a
//! drill proves.

use std::{cell::RefCell, collections::HashSet};

use age::{DecryptError, EncryptError, Identity, Recipient, secrecy::ExposeSecret as _};
use age_core::format::{FileKey, Stanza};

/// A recipient that notes the file key before it wraps it.
pub(crate) struct Noting<'a> {
    pub(crate) recipient: &'a dyn Recipient,
    pub(crate) noted: &'a RefCell<Option<FileKey>>,
}

impl Recipient for Noting<'_> {
    fn wrap_file_key(&self, file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        self.noted.replace(Some(duplicate(file_key)));
        self.recipient.wrap_file_key(file_key)
    }
}

/// An identity that knows the file key of one archive.
pub(crate) struct Noted(pub(crate) FileKey);

impl Identity for Noted {
    fn unwrap_stanza(&self, _: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        Some(Ok(duplicate(&self.0)))
    }
}

fn duplicate(file_key: &FileKey) -> FileKey {
    FileKey::init_with_mut(|copy| copy.copy_from_slice(file_key.expose_secret()))
}
