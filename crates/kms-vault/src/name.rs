//! Maps the name of a key to the name of a secret in the KV mount, and back.

use kms_core::KeyName;

/// The prefix that Rook puts before the name of the PVC (rook-behaviour §2).
const PREFIX: &str = "rook-ceph-osd-encryption-key-";

/// The name of the secret, and of its only field (rook-behaviour §4.5).
///
/// A path segment may hold every character of a key name, and no key name reaches a length limit of Vault, so all
/// names are mapped the same way.
pub(crate) fn secret_id(name: &KeyName) -> String {
    format!("{PREFIX}{name}")
}

/// The name of the key. `None` if the secret is not a KEK of Rook's layout.
pub(crate) fn key_name(secret_id: &str) -> Option<KeyName> {
    KeyName::new(secret_id.strip_prefix(PREFIX)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_rook_and_lead_back() {
        let name = KeyName::new("set1-data-0x7dwl").unwrap();
        assert_eq!(secret_id(&name), "rook-ceph-osd-encryption-key-set1-data-0x7dwl");
        for length in [1, 62, 63, 64, 200, 253] {
            let name =
                KeyName::new("aB.-_".repeat(51).chars().take(length - 1).chain(['z']).collect::<String>());
            let name = name.unwrap();
            assert_eq!(key_name(&secret_id(&name)), Some(name));
        }
    }

    #[test]
    fn what_is_not_ours_is_no_key() {
        for id in ["other", "rook-ceph-osd-encryption-key-", "rook-ceph-osd-encryption-key-folder/", PREFIX] {
            assert_eq!(key_name(id), None, "{id}");
        }
    }
}
