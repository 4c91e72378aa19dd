//! Kubernetes Secrets that settings name, and their sources.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretSlice, SecretString};

use crate::{Error, ErrorKind, Result};

/// The data of one Secret.
pub struct SecretData {
    name: String,
    entries: BTreeMap<String, SecretSlice<u8>>,
}

impl SecretData {
    /// An empty Secret.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), entries: BTreeMap::new() }
    }

    /// Adds an entry, and returns the Secret; the last entry of a key wins.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<SecretSlice<u8>>) -> Self {
        self.insert(key, value);
        self
    }

    /// Adds an entry; the last entry of a key wins.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<SecretSlice<u8>>) {
        self.entries.insert(key.into(), value.into());
    }

    /// The name of the Secret.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The keys of the entries.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The bytes of an entry, unchanged.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the entry is missing or empty; the error names the Secret, the key and the existing keys.
    pub fn bytes(&self, key: &str) -> Result<&[u8]> {
        match self.entries.get(key).map(|value| value.expose_secret()) {
            Some([]) => Err(self.problem(format!("key {key:?} of Secret {:?} is empty", self.name))),
            Some(value) => Ok(value),
            None if self.entries.is_empty() => {
                Err(self.problem(format!("Secret {:?} has no key {key:?}; it has no data at all", self.name)))
            }
            None => {
                let keys = self.keys().collect::<Vec<_>>().join(", ");
                Err(self.problem(format!("Secret {:?} has no key {key:?}; it has: {keys}", self.name)))
            }
        }
    }

    /// The text of an entry without white space around it: a token, an API key, a PEM text.
    ///
    /// A line break at the end is common, since `echo` writes one. The sample token in Rook's documentation has one.
    ///
    /// # Errors
    ///
    /// Those of [`bytes`](Self::bytes), and `ConfigInvalid` if the entry is not UTF-8 or is only white space.
    pub fn text(&self, key: &str) -> Result<SecretString> {
        match std::str::from_utf8(self.bytes(key)?).map(str::trim) {
            Ok("") => Err(self.problem(format!("key {key:?} of Secret {:?} is empty", self.name))),
            Ok(text) => Ok(SecretString::from(text)),
            Err(_) => Err(self.problem(format!("key {key:?} of Secret {:?} is not UTF-8 text", self.name))),
        }
    }

    fn problem(&self, message: String) -> Error {
        Error::config(message)
    }
}

impl fmt::Debug for SecretData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, entries } = self;
        f.debug_struct("SecretData").field("name", name).field("keys", &entries.keys()).finish()
    }
}

/// A source of the Secrets that a `security` block names.
#[async_trait]
pub trait SecretSource: fmt::Debug + Send + Sync {
    /// Reads the Secret of this name.
    ///
    /// # Errors
    ///
    /// `NotFound` if the Secret is absent, `PermissionDenied` if the account may not read it; other errors of the
    /// source.
    async fn secret(&self, name: &str) -> Result<SecretData>;
}

#[async_trait]
impl<S: SecretSource + ?Sized> SecretSource for Box<S> {
    async fn secret(&self, name: &str) -> Result<SecretData> {
        (**self).secret(name).await
    }
}

/// A source whose Secrets are in memory.
#[derive(Debug, Default)]
pub struct SecretMap {
    secrets: BTreeMap<String, SecretData>,
    origin: String,
}

impl SecretMap {
    /// Makes an empty source. `origin` says in messages where the Secrets come from.
    pub fn new(origin: impl Into<String>) -> Self {
        Self { secrets: BTreeMap::new(), origin: origin.into() }
    }

    /// Adds a Secret; the last Secret of a name wins.
    pub fn insert(&mut self, secret: SecretData) {
        self.secrets.insert(secret.name.clone(), secret);
    }

    /// Whether the source has a Secret of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.secrets.contains_key(name)
    }
}

#[async_trait]
impl SecretSource for SecretMap {
    async fn secret(&self, name: &str) -> Result<SecretData> {
        let found = self.secrets.get(name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("Secret {name:?} was not found in {}", self.origin))
        })?;
        let copy = SecretData::new(&found.name);
        Ok(found.entries.iter().fold(copy, |copy, (key, value)| {
            copy.with(key, SecretSlice::from(value.expose_secret().to_vec()))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_text_loses_the_line_break_that_echo_writes() {
        let mut map = SecretMap::new("a test");
        map.insert(SecretData::new("t").with("token", b"s.abc\n".to_vec()));
        let secret = map.secret("t").await.unwrap();
        assert_eq!(secret.text("token").unwrap().expose_secret(), "s.abc");
        assert_eq!(secret.bytes("token").unwrap(), b"s.abc\n");
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let mut map = SecretMap::new("the files given by -f");
        map.insert(SecretData::new("t").with("Token", b"canary".to_vec()).with("blank", b" \n".to_vec()));
        let secret = map.secret("t").await.unwrap();
        let error = secret.text("token").unwrap_err().to_string();
        assert_eq!(error, r#"Secret "t" has no key "token"; it has: Token, blank"#);
        assert_eq!(secret.text("blank").unwrap_err().to_string(), r#"key "blank" of Secret "t" is empty"#);
        let error = map.secret("nosuch").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), r#"Secret "nosuch" was not found in the files given by -f"#);
        assert!(!format!("{map:?}{secret:?}").contains("canary"));
    }
}
