//! Maps the name of a key to its alias in Key Protect, and back.
//!
//! Rook uses the name of the PVC as the key's name and as its alias (rook-behaviour §5).
//! An alias has 2 to 90 letters, digits, `-` and `_`, and is neither a UUID nor a word of the API.
//! Names that are not valid aliases get an alias of the form `<beginning>_<hash>`; the key's tags hold the full name.
//! The name of a PVC has no underscore, so every name that Rook can write stays as it is.

use kms_core::KeyName;
use sha2::{Digest, Sha256};

/// The permitted lengths of an alias and of a key's name.
const LENGTHS: std::ops::RangeInclusive<usize> = 2..=90;
/// The number of hexadecimal digits of the hash in an alias: 160 bits.
const HASH_DIGITS: usize = 40;
/// The number of characters of the name at the beginning of an alias with a hash.
const READABLE: usize = 40;
/// The number of bytes of a name in one tag, which has at most 30 characters.
const CHUNK: usize = 18;
/// The prefix of the tags that hold a name, before a number of two digits and a dot.
const NAME_TAG: &str = "kms-name-";

/// Words that follow `/keys/` in the API, which no alias may be.
const RESERVED: [&str; 16] = [
    "allowed_ip",
    "key",
    "keys",
    "metadata",
    "policies",
    "policy",
    "registration",
    "registrations",
    "rewrap",
    "ring",
    "rings",
    "rotate",
    "unwrap",
    "version",
    "versions",
    "wrap",
];

/// The names that a key has in Key Protect.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Names {
    /// The name of the key.
    pub(crate) key: KeyName,
    /// The alias of the key, which is also its name in Key Protect.
    pub(crate) alias: String,
    /// The alias of the key's successor while an update is in flight.
    pub(crate) next: String,
    /// The tags that hold the name if the alias does not.
    pub(crate) tags: Vec<String>,
}

impl Names {
    pub(crate) fn of(name: &KeyName) -> Self {
        let text = name.as_str();
        let (alias, tags) = if is_alias(text) && !is_marked(text) {
            (text.to_owned(), Vec::new())
        } else {
            let readable: String = text
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' })
                .take(READABLE)
                .collect();
            (format!("{readable}_{}", hash("name", text, HASH_DIGITS)), name_tags(text))
        };
        let next = format!("next_{}", hash("next", &alias, HASH_DIGITS));
        Self { key: name.clone(), alias, next, tags }
    }
}

/// The alias that marks the key with this id as superseded. Key Protect cannot change the description or the tags of a
/// key, and can disable root keys only, so an alias is the one mark that an existing standard key can get.
pub(crate) fn superseded_alias(id: &str) -> String {
    format!("superseded_{}", hash("superseded", id, HASH_DIGITS))
}

/// Maps name and tags of a key in Key Protect to our name of the key. `None` if the key is not a KEK of this program.
pub(crate) fn key_name(name: &str, tags: &[String]) -> Option<KeyName> {
    if !is_marked(name) {
        return KeyName::new(name).ok().filter(|found| Names::of(found).alias == name);
    }
    let mut chunks: Vec<&str> = tags.iter().filter_map(|tag| tag.strip_prefix(NAME_TAG)).collect();
    chunks.sort_unstable();
    let text: String = chunks.into_iter().filter_map(|chunk| chunk.get(3..)).collect();
    KeyName::new(text).ok().filter(|found| Names::of(found).alias == name)
}

/// Hashes a text, and truncates the hash to this number of hexadecimal digits.
pub(crate) fn hash(purpose: &str, text: &str, digits: usize) -> String {
    let digest = Sha256::new().chain_update(purpose).chain_update([0]).chain_update(text).finalize();
    let mut hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.truncate(digits);
    hex
}

fn name_tags(text: &str) -> Vec<String> {
    // The names of keys are ASCII, so each chunk is valid UTF-8.
    let chunks = text.as_bytes().chunks(CHUNK).map(String::from_utf8_lossy);
    chunks.enumerate().map(|(at, chunk)| format!("{NAME_TAG}{at:02}.{chunk}")).collect()
}

/// Whether Key Protect accepts this as an alias.
fn is_alias(text: &str) -> bool {
    LENGTHS.contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        && !is_uuid(text)
        && !RESERVED.iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// Whether this has the form of an alias with a hash.
fn is_marked(text: &str) -> bool {
    text.rsplit_once('_').is_some_and(|(_, hash)| {
        hash.len() == HASH_DIGITS && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

pub(crate) fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
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
        for text in ["set1-data-0x7dwl", "ab", "a1", &"x".repeat(90), "keys-0", "version-data-0abcde"] {
            let Names { alias, tags, .. } = names(text);
            assert_eq!((alias.as_str(), tags.len()), (text, 0));
        }
    }

    #[test]
    fn every_name_has_a_valid_alias_of_its_own_and_leads_back() {
        let long = "x".repeat(252);
        let mut texts: Vec<String> = RESERVED.iter().map(|word| (*word).to_owned()).collect();
        texts.extend(
            ["a", "my.set-data-1abcde", "my-set-data-1abcde", "Keys", "a..b", "x_y", "x.y", "x-y"]
                .map(String::from),
        );
        texts.push("02fd6835-6001-4482-a892-13bd2085f75d".to_owned());
        texts.extend([format!("{long}a"), format!("{long}b"), "y".repeat(91), "y".repeat(90)]);
        // An alias with a hash may itself be the name of a key, which is another key.
        texts.extend([names("a.b").alias, names("a.b").next, names("a").next]);
        let mut seen = BTreeSet::new();
        for text in texts {
            let Names { alias, next, tags, .. } = names(&text);
            assert!(is_alias(&alias) && is_alias(&next), "{text}: {alias} {next}");
            assert!(seen.insert(alias.clone()) && seen.insert(next.clone()), "{text}: {alias}");
            assert!(tags.len() <= 20 && tags.iter().all(|tag| tag.len() <= 30), "{tags:?}");
            let mut shuffled = tags.clone();
            shuffled.reverse();
            assert_eq!(key_name(&alias, &shuffled).unwrap().as_str(), text);
            assert_eq!(key_name(&next, &tags), None);
        }
    }

    #[test]
    fn a_hashed_alias_does_not_change() {
        assert_eq!(
            names("my.set-data-1abcde").alias,
            format!("my-set-data-1abcde_{}", hash("name", "my.set-data-1abcde", 40))
        );
        // printf 'name\0a' | sha256sum | cut -c1-40
        assert_eq!(names("a").alias, "a_10781cae2ea4ba4a33e4d5f01f95c188a253647f");
    }
}
