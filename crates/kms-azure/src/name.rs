//! Maps the name of a key to the name of its secret in Key Vault, and back.
//!
//! Rook writes `rook-ceph-osd-encryption-key-<PVC>` (rook-behaviour §7.3). Key Vault accepts 1 to 127 letters, digits
//! and dashes, and ignores case. A key whose name does not fit gets a secret with a name of the form
//! `<prefix><beginning>--x<hash>`; a tag and the value hold the full name. Rook cannot store a key under such a name,
//! so no key of Rook is affected.

use kms_core::KeyName;
use sha2::{Digest, Sha256};

/// The prefix that Rook puts before the name of the PVC.
pub(crate) const PREFIX: &str = "rook-ceph-osd-encryption-key-";
/// The tag with the full name of a key whose secret has a hashed name.
pub(crate) const NAME_TAG: &str = "rook-kms-name";
/// The maximum length of a secret's name.
const MAX_SECRET: usize = 127;
/// The separator before the hash.
const MARK: &str = "--x";
/// The number of hexadecimal digits of the hash: 160 bits.
const HASH_DIGITS: usize = 40;
/// The number of characters of a name that stay readable before the hash.
const READABLE: usize = MAX_SECRET - PREFIX.len() - MARK.len() - HASH_DIGITS;

/// The names of a key in Key Vault.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Names {
    /// The name of the secret.
    pub(crate) secret: String,
    /// The field of the value that holds the KEK.
    pub(crate) field: String,
    /// The value of the tag [`NAME_TAG`]; `None` if the secret's name holds the whole name.
    pub(crate) tag: Option<String>,
}

impl Names {
    pub(crate) fn of(name: &KeyName) -> Self {
        let text = name.as_str();
        let field = format!("{PREFIX}{text}");
        if is_plain(text) {
            return Self { secret: field.clone(), field, tag: None };
        }
        let readable: String = text
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .take(READABLE)
            .collect();
        let secret = format!("{PREFIX}{readable}{MARK}{}", hash(text));
        Self { secret, field, tag: Some(text.to_owned()) }
    }
}

/// The name of the key in a secret with this name and tag [`NAME_TAG`]; `None` if the secret is not a key of ours.
pub(crate) fn key_name(secret: &str, tag: Option<&str>) -> Option<KeyName> {
    let text = secret.strip_prefix(PREFIX)?;
    let text = if is_plain(text) { text } else { tag? };
    KeyName::new(text).ok().filter(|found| Names::of(found).secret == secret)
}

/// Whether Key Vault accepts the name unchanged, and the name cannot collide with another one.
fn is_plain(text: &str) -> bool {
    PREFIX.len() + text.len() <= MAX_SECRET
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'-'))
        && !is_marked(text)
}

/// Whether a name has the form of our hashed names.
fn is_marked(text: &str) -> bool {
    text.rsplit_once(MARK).is_some_and(|(_, hash)| {
        hash.len() == HASH_DIGITS && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn hash(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(HASH_DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(text: &str) -> Names {
        Names::of(&KeyName::new(text).unwrap())
    }

    #[test]
    fn names_that_rook_can_write_stay_as_they_are() {
        for text in ["set1-data-0x7dwl", "a", "0", "a--b", "x--x0123", &"x".repeat(98)] {
            let names = names(text);
            assert_eq!(names.secret, format!("{PREFIX}{text}"));
            assert_eq!((names.field, names.tag), (names.secret, None));
        }
    }

    #[test]
    fn every_name_has_a_secret_of_its_own_and_leads_back() {
        let mut texts: Vec<String> =
            ["my.set-data-1abcde", "my-set-data-1abcde", "my_set-data-1abcde", "My-set-data-1abcde", "a..b"]
                .map(String::from)
                .to_vec();
        for length in [98, 99, 127, 128, 253] {
            texts.extend(["a", "b", "A", "0"].map(|last| format!("{}{last}", "x".repeat(length - 1))));
        }
        // A hashed name may itself be the name of a key, which is another key.
        let ours = names("a.b").secret;
        texts.push(ours[PREFIX.len()..].to_owned());
        let mut seen = BTreeSet::new();
        for text in texts {
            let Names { secret, field, tag } = names(&text);
            assert!(secret.len() <= MAX_SECRET, "{secret}");
            assert!(secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{secret}");
            // Key Vault ignores case.
            assert!(seen.insert(secret.to_lowercase()), "{text}: {secret}");
            assert_eq!(field, format!("{PREFIX}{text}"));
            assert_eq!(key_name(&secret, tag.as_deref()).unwrap().as_str(), text);
        }
    }

    #[test]
    fn secrets_of_other_programs_are_not_ours() {
        let ours = names("a.b").secret;
        assert_eq!(key_name("another-secret", Some("a")), None);
        assert_eq!(key_name(&ours, None), None);
        assert_eq!(key_name(&ours, Some("a.c")), None);
        assert_eq!(key_name(PREFIX, Some("a")), None);
    }

    #[test]
    fn a_hashed_name_does_not_change() {
        // printf a.b | sha256sum | cut -c1-40
        assert_eq!(names("a.b").secret, format!("{PREFIX}a-b--x{}", hash("a.b")));
        assert_eq!(hash("a"), "ca978112ca1bbdcafac231b39a23dc4da786eff8");
    }
}
