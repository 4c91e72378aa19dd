//! From the name of a key to the Secret that holds it, and back.
//!
//! Names that Rook can write stay byte for byte as Rook writes them (spec 2 and 3).
//! Rook writes the PVC's name into the Secret's name and into its label; a label value has at most 63 bytes, so that
//! is as long as a PVC's name can be for Rook, and it has to be a DNS subdomain, as the name of every PVC is.
//! All other names get a shortened form, and the full name goes into an annotation:
//!
//! - The Secret's name becomes `rook-ceph-osd-encryption-key--<readable>-<hash>`, if the plain one would be too long
//!   or no DNS subdomain. A key's name never begins with `-`, so no plain name has the second dash.
//! - The label becomes `<readable>_<hash>`, if the key's name is longer than 63 bytes or no DNS subdomain. A DNS
//!   subdomain has no `_`, so no plain label looks like that.
//!
//! `<hash>` is the first 8 bytes of the SHA-256 of the key's name, as 16 hexadecimal digits.
//! Whoever reads a Secret of a shortened name compares the annotation, so even two names of one hash are told apart.

use std::fmt::Write as _;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kms_core::KeyName;
use sha2::{Digest, Sha256};

/// The label with the name of the PVC.
pub(crate) const LABEL: &str = "pvc_name";

/// The annotation with the full name of the PVC, where the Secret's name or label is a shortened one.
pub(crate) const ANNOTATION: &str = "kms.ceph.rook.io/pvc-name";

/// What the names of all Secrets with a KEK begin with.
const PREFIX: &str = "rook-ceph-osd-encryption-key-";

/// The longest name of a Kubernetes object.
const MAX_OBJECT_NAME: usize = 253;

/// The longest value of a label.
const MAX_LABEL: usize = 63;

/// Bytes of the SHA-256 in a shortened name.
const HASH_BYTES: usize = 8;

/// What is left of the name for people to read: with a separator and the hash it fills a label.
const MAX_READABLE: usize = MAX_LABEL - 1 - 2 * HASH_BYTES;

/// What a key's name becomes in Kubernetes.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Names {
    /// The name of the Secret.
    pub(crate) secret: String,
    /// Whether that is a shortened one, which says too little by itself.
    pub(crate) secret_is_short: bool,
    /// The value of the label.
    pub(crate) label: String,
    /// The value of the annotation, if there has to be one.
    pub(crate) annotation: Option<String>,
}

impl Names {
    /// The names for a key.
    pub(crate) fn of(name: &KeyName) -> Self {
        let pvc = name.as_str();
        let subdomain = is_subdomain(pvc);
        let secret_is_short = !subdomain || PREFIX.len() + pvc.len() > MAX_OBJECT_NAME;
        let label_is_short = !subdomain || pvc.len() > MAX_LABEL;
        let secret = if secret_is_short {
            format!("{PREFIX}-{}-{}", readable(pvc), hash(pvc))
        } else {
            format!("{PREFIX}{pvc}")
        };
        let label = if label_is_short { format!("{}_{}", readable(pvc), hash(pvc)) } else { pvc.to_owned() };
        let annotation = (secret_is_short || label_is_short).then(|| pvc.to_owned());
        Self { secret, secret_is_short, label, annotation }
    }

    /// The key that a Secret holds, or `None` if it is no Secret that this provider would have written.
    pub(crate) fn key_of(metadata: &ObjectMeta) -> Option<KeyName> {
        let secret = metadata.name.as_deref()?;
        let annotated = metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION));
        // The name of the Secret decides: whatever else is written on it, it is found by that name alone.
        [annotated.map(String::as_str), secret.strip_prefix(PREFIX)]
            .into_iter()
            .flatten()
            .filter_map(|pvc| KeyName::new(pvc).ok())
            .find(|key| {
                let names = Self::of(key);
                names.secret == secret && (!names.secret_is_short || annotated == names.annotation.as_ref())
            })
    }
}

/// The name of the Secret that holds the KEK of a PVC, as Rook forms it where Rook can.
pub fn secret_name(name: &KeyName) -> String {
    Names::of(name).secret
}

/// Whether Kubernetes takes it as the name of an object, its length aside (RFC 1123 subdomain).
pub(crate) fn is_subdomain(name: &str) -> bool {
    name.split('.').all(|part| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    })
}

/// Fails unless it can be the name of an object, so that what goes into a path is never more than one name.
pub(crate) fn check_object(kind: &'static str, name: &str) -> kms_core::Result<()> {
    if is_subdomain(name) && name.len() <= MAX_OBJECT_NAME {
        return Ok(());
    }
    Err(kms_core::Error::config(format!(
        "{name:?} cannot be the name of a {kind}: it has to be 1 to {MAX_OBJECT_NAME} lower-case letters, digits, '-' \
         and '.', and each part between dots begins and ends with a letter or a digit"
    )))
}

/// The beginning of a name in characters that names and labels take. Ends with a letter or a digit.
fn readable(pvc: &str) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let text: String = pvc.chars().map(clean).take(MAX_READABLE).collect();
    text.trim_end_matches('-').to_owned()
}

fn hash(pvc: &str) -> String {
    Sha256::digest(pvc.as_bytes()).iter().take(HASH_BYTES).fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn names(pvc: &str) -> Names {
        Names::of(&KeyName::new(pvc).unwrap())
    }

    /// Names of every length, of several characters, and those that are made to collide.
    fn corpus() -> Vec<String> {
        let mut all = BTreeSet::new();
        for length in 1..=KeyName::MAX_BYTES {
            for (one, other) in [("a", "b"), ("A", "b"), ("a.", "b"), ("a_", "b"), ("a..", "b"), ("a-.", "b")]
            {
                let mut name = one.repeat(length.div_ceil(one.len()));
                name.truncate(length - 1);
                all.insert(format!("{name}{other}"));
            }
            // Many names that differ only after the part that is kept readable.
            all.insert(format!("{:0>length$}", length % 10));
        }
        for name in all.clone() {
            let names = names(&name);
            // What somebody writes plainly who has seen the shortened form.
            all.insert(names.label.replace('_', "-"));
            all.insert(names.label.clone());
            all.insert(names.secret.strip_prefix(PREFIX).unwrap().trim_start_matches('-').to_owned());
        }
        all.into_iter().filter(|name| KeyName::new(name.as_str()).is_ok()).collect()
    }

    fn is_label(value: &str) -> bool {
        let edge = |c: char| c.is_ascii_alphanumeric();
        value.len() <= 63
            && value.chars().all(|c| edge(c) || "-_.".contains(c))
            && value.starts_with(edge)
            && value.ends_with(edge)
    }

    fn metadata(names: &Names) -> ObjectMeta {
        ObjectMeta {
            name: Some(names.secret.clone()),
            labels: Some(BTreeMap::from([(LABEL.to_owned(), names.label.clone())])),
            annotations: names.annotation.clone().map(|pvc| BTreeMap::from([(ANNOTATION.to_owned(), pvc)])),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn names_that_rook_can_write_stay_byte_for_byte() {
        let longest = "a".repeat(63);
        for pvc in ["set1-data-0x7dwl", "a", "0", "my.set-data-1abcde", "a-0123456789abcdef", &longest] {
            let names = names(pvc);
            assert_eq!(names.secret, format!("rook-ceph-osd-encryption-key-{pvc}"));
            assert_eq!(names.label, pvc);
            assert_eq!(names.annotation, None);
        }
    }

    #[test]
    fn the_shortened_form_stays_what_it_is() {
        let long = names(&"a".repeat(64));
        assert_eq!(long.secret, format!("rook-ceph-osd-encryption-key-{}", "a".repeat(64)));
        assert_eq!(long.label, format!("{}_ffe054fe7ae0cb6d", "a".repeat(46)));
        assert_eq!(long.annotation.unwrap(), "a".repeat(64));
        let upper = names("Set_1..data");
        assert_eq!(upper.secret, "rook-ceph-osd-encryption-key--set-1--data-a1f0bb6823abcd7e");
        assert_eq!(upper.label, "set-1--data_a1f0bb6823abcd7e");
        assert!(!names(&"a".repeat(224)).secret_is_short);
        assert!(names(&"a".repeat(225)).secret_is_short);
    }

    #[test]
    fn every_name_becomes_a_valid_one_of_its_own_and_comes_back() {
        let (mut secrets, mut labels) = (BTreeSet::new(), BTreeSet::new());
        let corpus = corpus();
        assert!(corpus.len() > 2500, "{}", corpus.len());
        for pvc in &corpus {
            let key = KeyName::new(pvc.as_str()).unwrap();
            let names = Names::of(&key);
            assert!(is_subdomain(&names.secret) && names.secret.len() <= 253, "{pvc}: {}", names.secret);
            assert!(is_label(&names.label), "{pvc}: {}", names.label);
            assert!(secrets.insert(names.secret.clone()), "{pvc}: {} is taken", names.secret);
            assert!(labels.insert(names.label.clone()), "{pvc}: {} is taken", names.label);
            assert_eq!(Names::key_of(&metadata(&names)), Some(key), "{pvc}");
        }
    }

    #[test]
    fn a_secret_of_another_kind_is_no_key() {
        let with = |name: &str, annotation: Option<&str>| {
            Names::key_of(&ObjectMeta {
                name: Some(name.to_owned()),
                annotations: annotation.map(|pvc| BTreeMap::from([(ANNOTATION.to_owned(), pvc.to_owned())])),
                ..ObjectMeta::default()
            })
        };
        assert_eq!(with("rook-vault-token", None), None);
        assert_eq!(with("rook-ceph-osd-encryption-key-", None), None);
        // A shortened name counts only with the annotation that belongs to it.
        let short = names("Upper").secret;
        assert_eq!(with(&short, None), None);
        assert_eq!(with(&short, Some("Other")), None);
        assert_eq!(with(&short, Some("Upper")).unwrap().as_str(), "Upper");
        // On a plain name an annotation changes nothing.
        assert_eq!(with("rook-ceph-osd-encryption-key-a", Some("b")).unwrap().as_str(), "a");
    }

    #[test]
    fn what_is_no_object_name_is_refused() {
        for name in ["", "A", "a/b", "a b", "..", "-a", "a-", "a..b", &"a".repeat(254)] {
            assert!(check_object("Secret", name).is_err(), "{name}");
        }
        for name in ["a", "a.b", "0-1.x", &"a".repeat(253)] {
            assert!(check_object("Secret", name).is_ok(), "{name}");
        }
    }
}
