//! From the name of a key to the Secret that holds it, and back.
//!
//! Names that Rook can write stay byte for byte as Rook writes them (rook-behaviour §2 and §3).
//! Rook writes the name of the PVC into the name of the Secret and into its label. A label value has at most 63 bytes,
//! which limits the names that Rook can write, and the name of a PVC is a DNS subdomain.
//! All other names get a shortened form, and an annotation holds the full name:
//!
//! - The name of the Secret becomes `rook-ceph-osd-encryption-key--<readable>-<hash>`, if the plain one would be too
//!   long or would not be a DNS subdomain. The name of a key never begins with `-`, so no plain name has the second dash.
//! - The label becomes `<readable>_<hash>`, if the name of the key is longer than 63 bytes or is not a DNS subdomain. A
//!   DNS subdomain has no `_`, so no plain label looks like that.
//!
//! `<hash>` is the first 8 bytes of the SHA-256 of the name of the key, as 16 hexadecimal digits.
//! The annotation is compared before a Secret with a shortened name is used, so two names with the same hash are not
//! confused.

use std::fmt::Write as _;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kms_core::KeyName;
use kms_kube::is_subdomain;
use sha2::{Digest, Sha256};

/// The label with the name of the PVC.
pub(crate) const LABEL: &str = "pvc_name";

/// The annotation with the full name of the PVC, if the name of the Secret or its label is shortened.
pub(crate) const ANNOTATION: &str = "kms.ceph.rook.io/pvc-name";

/// The prefix of the names of all Secrets with a KEK.
const PREFIX: &str = "rook-ceph-osd-encryption-key-";

/// The longest name of a Kubernetes object, in bytes.
const MAX_OBJECT_NAME: usize = 253;

/// The longest value of a label, in bytes.
const MAX_LABEL: usize = 63;

/// The number of bytes of the SHA-256 in a shortened name.
const HASH_BYTES: usize = 8;

/// The length of the readable part of a shortened name: with a separator and the hash it fills a label.
const MAX_READABLE: usize = MAX_LABEL - 1 - 2 * HASH_BYTES;

/// The names of a key in Kubernetes.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Names {
    /// The name of the Secret.
    pub(crate) secret: String,
    /// Whether the name of the Secret is shortened, and so does not identify the key by itself.
    pub(crate) secret_is_short: bool,
    /// The value of the label.
    pub(crate) label: String,
    /// The value of the annotation; `None` if neither name is shortened.
    pub(crate) annotation: Option<String>,
}

impl Names {
    /// The names of a key.
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

    /// The key that a Secret holds; `None` if this provider would not have written the Secret.
    pub(crate) fn key_of(metadata: &ObjectMeta) -> Option<KeyName> {
        let secret = metadata.name.as_deref()?;
        let annotated = metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION));
        // The name of the Secret decides, since a key is looked up by that name only.
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

/// The name of the Secret that holds the KEK of a PVC: the name that Rook uses, if Rook can write it.
pub fn secret_name(name: &KeyName) -> String {
    Names::of(name).secret
}

/// The beginning of a name in characters that are valid in names and labels. Ends with a letter or a digit.
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

    /// Names of every length, names with several characters, and names that are meant to collide.
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
            // Plain names that look like shortened ones.
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
}
