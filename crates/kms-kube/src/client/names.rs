//! Names that all requests share, and the rule for the names of objects.

use kms_core::{Error, Result};

/// The name that errors of the Kubernetes API have in place of a provider.
pub const KUBERNETES: &str = "kubernetes";

/// The name under which the API server records the fields that this crate sets.
pub const FIELD_MANAGER: &str = "rook-kms";

/// The longest name of a Kubernetes object.
const MAX_OBJECT_NAME: usize = 253;

/// Whether a name is an RFC 1123 subdomain, as the name of an object must be. Does not check the length.
pub fn is_subdomain(name: &str) -> bool {
    name.split('.').all(|part| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    })
}

/// Checks that a text can be the name of an object, and so is exactly one segment of a path.
///
/// # Errors
///
/// `ConfigInvalid` if it cannot. The message calls the name by its `kind`.
pub fn check_object(kind: &str, name: &str) -> Result<()> {
    if is_subdomain(name) && name.len() <= MAX_OBJECT_NAME {
        return Ok(());
    }
    Err(Error::config(format!(
        "{name:?} cannot be the name of a {kind}: it must be 1 to {MAX_OBJECT_NAME} lower-case letters, digits, '-' \
         and '.', and each part between dots must begin and end with a letter or a digit"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

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
