//! A double of IBM's IAM and Key Protect.
//!
//! It is written from IBM's documentation and from what its Go, Python and Node clients send and read, not from our
//! provider. IBM's own clients run against it too (`tests/clients/ibmkp`).
//! Behaviour that IBM does not document is a [switch](Switches).
//!
//! ```
//! use kms_testkit::fake::ibmkp::{API_KEY, INSTANCE, IbmKp};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> anyhow::Result<()> {
//! let double = IbmKp::start().await?;
//! // Point a client at `double.base_url()` and `double.token_url()`, let it trust `double.ca()`, and then:
//! assert_eq!(double.counts().keys.requests, 0);
//! # Ok(())
//! # }
//! ```

mod api;
mod iam;
mod search;
mod text;
mod world;

pub use self::world::{Destroyed, Key, Rate, Switches, Total, World};
use super::cloud::Double;
pub use super::cloud::{Action, Counts, CutWay, Host, HostCounts, RequestFault};

/// The API key that IAM knows.
pub const API_KEY: &str = "kp-double-api-key-7hR2kkq0Zr9sWq81mB4vTnXc";
/// The one instance.
pub const INSTANCE: &str = "33333333-3333-3333-3333-333333333333";

/// Both services, each on its own port, over TLS. Dropping the double stops them.
pub type IbmKp = Double<World>;

impl IbmKp {
    /// The address of IAM, without a path: IBM's clients add it.
    #[must_use]
    pub fn iam_url(&self) -> String {
        self.url(Host::Tokens)
    }

    /// The address of IAM with its path.
    #[must_use]
    pub fn token_url(&self) -> String {
        format!("{}/identity/token", self.iam_url())
    }

    /// The address of Key Protect.
    #[must_use]
    pub fn base_url(&self) -> String {
        self.url(Host::Keys)
    }

    /// Makes every token invalid.
    pub fn revoke_tokens(&self) {
        self.state().tokens.clear();
    }

    /// Adds a key, as another client would.
    pub fn plant(&self, key: Key) {
        self.state().plant(key);
    }

    /// Deletes the key with this alias, as Rook does. `false` if no key that is not destroyed has the alias.
    pub fn delete_as_rook(&self, alias: &str) -> bool {
        let mut world = self.state();
        let Some(id) = world.by_alias(alias).filter(|key| key.state != 5).map(|key| key.id.clone()) else {
            return false;
        };
        world.bury(&id);
        true
    }

    /// Removes every deleted key, as the service does some months after the deletion.
    pub fn forget_deleted(&self) {
        self.state().keys.retain(|_, key| key.state != 5);
    }

    /// Takes an alias from one key and gives it to another one, as an operator can.
    pub fn move_alias(&self, alias: &str, from: &str, to: &str) {
        let mut world = self.state();
        for key in world.keys.values_mut() {
            if key.id == from {
                key.aliases.retain(|known| known != alias);
            }
            if key.id == to {
                key.aliases.push(alias.to_owned());
            }
        }
    }

    /// Every key, destroyed keys included.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        self.state().keys.values().cloned().collect()
    }

    /// The requests to Key Protect, as `GET /api/v2/keys/a`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.requests_to(Host::Keys).iter().map(super::http::Request::line).collect()
    }

    /// The settings of a client, as a CephCluster would have them, without the CA and the API key.
    #[must_use]
    pub fn details(&self) -> Vec<(String, String)> {
        [
            ("KMS_PROVIDER", "ibmkeyprotect".to_owned()),
            ("IBM_KP_SERVICE_INSTANCE_ID", INSTANCE.to_owned()),
            ("IBM_KP_BASE_URL", self.base_url()),
            ("IBM_KP_TOKEN_URL", self.token_url()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}
