//! The names and versions of keys.

use std::{fmt, str::FromStr};

use crate::error::{Error, Result};

/// The length of the longest name, in bytes, as for a Kubernetes object.
const MAX_BYTES: usize = 253;

/// The name of a key: the name of the data PersistentVolumeClaim (PVC) of its OSD (rook-behaviour §0 and
/// rook-behaviour §2).
///
/// It has 1 to 253 letters, digits, `-`, `_` and `.`, and begins and ends with a letter or a digit.
/// This includes every name that Kubernetes allows for a PVC; each provider maps it to a name on its server.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyName(String);

impl KeyName {
    /// The length of the longest name, in bytes.
    pub const MAX_BYTES: usize = MAX_BYTES;

    /// Makes a name from a text, and checks it.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the text is not of the form above.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let problem = if name.is_empty() {
            Some("it is empty".to_owned())
        } else if name.len() > MAX_BYTES {
            Some(format!("it has {} bytes, at most {MAX_BYTES} are allowed", name.len()))
        } else if let Some(bad) =
            name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')))
        {
            Some(format!("{bad:?} is not a letter, a digit, '-', '_' or '.'"))
        } else if !name.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !name.ends_with(|c: char| c.is_ascii_alphanumeric())
        {
            Some("it has to begin and end with a letter or a digit".to_owned())
        } else {
            None
        };
        match problem {
            None => Ok(Self(name)),
            Some(problem) => Err(Error::config(format!(
                "the key name is not valid: {problem} (the name of a key is the name of the OSD's data PVC)"
            ))),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The version of a key that was read, for a write that depends on it.
///
/// Only the provider can interpret its text: a version number, a resource version, a fingerprint.
/// It never holds key material.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct KeyVersion(String);

impl KeyVersion {
    /// Makes a version from the text of the provider.
    pub fn new(version: impl Into<String>) -> Self {
        Self(version.into())
    }

    /// The version as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pvcs_are_taken_as_they_are() {
        let long = "a".repeat(253);
        for name in ["set1-data-0x7dwl", "a", "0", "my.set-data-1abcde", "Upper_Case", "a..b", &long] {
            assert_eq!(KeyName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn other_names_are_refused_with_the_reason() {
        let long = "a".repeat(254);
        for (name, why) in [
            ("", "empty"),
            (long.as_str(), "254 bytes"),
            ("a/b", "'/'"),
            ("../x", "'/'"),
            ("a b", "' '"),
            ("ä", "'ä'"),
            ("a\n", "'\\n'"),
            (".a", "begin and end"),
            ("a-", "begin and end"),
        ] {
            let error = KeyName::new(name).unwrap_err();
            assert!(error.to_string().contains(why), "{name:?}: {error}");
        }
    }
}
