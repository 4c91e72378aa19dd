//! The identities that decrypt an archive.

use std::{fmt, sync::Arc};

use age::{Identity, IdentityFile};
use kms_core::{Error, Result};

use crate::{
    error::not_decrypted,
    plugin::{Person, PluginMessages},
};

/// The first bytes of a file in the age format, and of one in its text form.
const ENCRYPTED: [&[u8]; 2] = [b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE-----"];

/// The secret keys that decrypt an archive.
#[derive(Default)]
pub struct Identities(Vec<Box<dyn Identity + Send + Sync>>);

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(identities) = self;
        write!(f, "Identities({})", identities.len())
    }
}

impl Identities {
    /// Parses the text of an identity file, as `age -i` takes it: `AGE-SECRET-KEY-…` and the identities of plugins, whose
    /// programs must be installed. A plugin that asks a question gets no answer.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if a line is not an identity, if there is no identity, if a plugin is missing, or if the file is
    /// itself encrypted. The error has no part of the text.
    pub fn parse(text: &[u8]) -> Result<Self> {
        Self::parse_with(text, PluginMessages::default())
    }

    /// The same, with a person who answers the questions of plugins when an archive is decrypted.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn parse_asking(text: &[u8], person: Arc<dyn Person>) -> Result<Self> {
        Self::parse_with(text, PluginMessages { person: Some(person) })
    }

    fn parse_with(text: &[u8], messages: PluginMessages) -> Result<Self> {
        if ENCRYPTED.iter().any(|start| text.starts_with(start)) {
            return Err(Error::config(
                "the identity is encrypted: decrypt it into a pipe, and give - or the pipe",
            ));
        }
        // The parser's own error has the number of the line, and not the line.
        let file = IdentityFile::from_buffer(text).map_err(|cause| {
            Error::config("the identity file has a line that is not an identity").source(cause)
        })?;
        let identities = file.with_callbacks(messages).into_identities().map_err(not_decrypted)?;
        if identities.is_empty() {
            return Err(Error::config("the file has no identity"));
        }
        Ok(Self(identities))
    }

    /// Adds those of another file.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Whether there are no identities.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn list(&self) -> Vec<&dyn Identity> {
        self.0.iter().map(|identity| &**identity as &dyn Identity).collect()
    }
}
