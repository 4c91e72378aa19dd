//! What the age format calls the file key: the key of one archive, which the header wraps for each recipient.
//!
//! A run that writes an archive keeps its file key until it has read the archive back. So the proof needs no identity,
//! and no recipient that the operator has not named. It leaves out one thing: that the identities unwrap the key, which a
//! drill proves.

use std::{cell::RefCell, collections::HashSet};

use age::{
    Callbacks, DecryptError, EncryptError, Identity, Recipient,
    secrecy::{ExposeSecret as _, SecretString},
};
use age_core::format::{FileKey, Stanza};
use tracing::warn;

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

/// Passes on what a plugin says, such as to touch a hardware key. It answers no question: there may be no person.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PluginMessages;

impl Callbacks for PluginMessages {
    fn display_message(&self, message: &str) {
        warn!("the age plugin says: {message}");
    }

    fn confirm(&self, message: &str, _: &str, _: Option<&str>) -> Option<bool> {
        self.display_message(message);
        None
    }

    fn request_public_string(&self, description: &str) -> Option<String> {
        self.display_message(description);
        None
    }

    fn request_passphrase(&self, description: &str) -> Option<SecretString> {
        self.display_message(description);
        None
    }
}
