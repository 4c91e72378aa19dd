//! Maps the name of a key to the name of its object on the server, and back.

use kms_core::KeyName;

/// The prefix that Rook puts before the name of the PVC (rook-behaviour §2).
const PREFIX: &str = "rook-ceph-osd-encryption-key-";
/// The end of the name of a superseded object. No name of a key has a space.
const SUPERSEDED: &str = " superseded";

/// The value of the attribute Name: the Kubernetes name of the KEK.
///
/// KMIP limits neither characters nor length, so all names map the same way.
pub(crate) fn object_name(name: &KeyName) -> String {
    format!("{PREFIX}{name}")
}

/// The name of the key in the name of an object; `None` if the object is not a key.
pub(crate) fn key_name(object_name: &str) -> Option<KeyName> {
    KeyName::new(object_name.strip_prefix(PREFIX)?).ok()
}

/// The value of the attribute Name of a superseded object of a key.
pub(crate) fn superseded_name(name: &KeyName) -> String {
    format!("{PREFIX}{name}{SUPERSEDED}")
}

/// The name of the key in the name of a superseded object; `None` if the object is not one.
pub(crate) fn superseded_key(object_name: &str) -> Option<KeyName> {
    key_name(object_name.strip_suffix(SUPERSEDED)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_rook_and_lead_back() {
        let name = KeyName::new("set1-data-0x7dwl").unwrap();
        assert_eq!(object_name(&name), "rook-ceph-osd-encryption-key-set1-data-0x7dwl");
        for length in [1, 62, 63, 64, 200, 253] {
            let name =
                KeyName::new("aB.-_".repeat(51).chars().take(length - 1).chain(['z']).collect::<String>());
            let name = name.unwrap();
            assert_eq!(superseded_key(&object_name(&name)), None);
            assert_eq!(key_name(&superseded_name(&name)), None);
            assert_eq!(superseded_key(&superseded_name(&name)).as_ref(), Some(&name));
            assert_eq!(key_name(&object_name(&name)), Some(name));
        }
    }

    #[test]
    fn what_is_not_ours_is_no_key() {
        for name in
            ["other", "", PREFIX, "rook-ceph-osd-encryption-key-a b", "Rook-ceph-osd-encryption-key-a"]
        {
            assert_eq!(key_name(name), None, "{name}");
        }
    }
}
