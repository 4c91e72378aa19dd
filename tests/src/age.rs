//! Identities of age.

use age::{secrecy::ExposeSecret as _, x25519::Identity};

/// An identity and its recipient, as age-keygen prints them.
pub struct Pair {
    /// The secret key.
    pub identity: String,
    /// The public key.
    pub recipient: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("recipient", &self.recipient).finish_non_exhaustive()
    }
}

impl Pair {
    /// A new pair.
    #[must_use]
    pub fn generate() -> Self {
        let identity = Identity::generate();
        Self {
            recipient: identity.to_public().to_string(),
            identity: identity.to_string().expose_secret().to_owned(),
        }
    }
}
