//! A double of Entra ID and Azure Key Vault.
//!
//! It is written from Microsoft's documentation and from what its Python and Node clients send and read, not from our
//! provider. Microsoft's own clients run against it too (`tests/clients/azure`).
//!
//! ```
//! use kms_testkit::fake::azure::Azure;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> anyhow::Result<()> {
//! let double = Azure::start().await?;
//! // Point a client at `double.vault_url()` and `double.authority()`, let it trust `double.ca()`, and then:
//! assert_eq!(double.counts().keys.requests, 0);
//! # Ok(())
//! # }
//! ```

mod client;
mod entra;
mod text;
mod vault;
mod world;

pub use self::{
    client::Client,
    world::{Links, Switches, Version, World},
};
use super::cloud::Double;
pub use super::cloud::{Action, Counts, CutWay, Host, HostCounts, RequestFault};

/// The one tenant.
pub const TENANT: &str = "11111111-1111-1111-1111-111111111111";
/// The application that Entra ID knows.
pub const CLIENT: &str = "22222222-2222-2222-2222-222222222222";
/// The object id of its service principal.
pub const OBJECT: &str = "44444444-4444-4444-4444-444444444444";
/// Its client secret.
pub const CLIENT_SECRET: &str = "double~client-secret-7hR2kkq0Zr9sWq81mB4vTnXc";

/// Both services, each on its own port, over TLS. Dropping the double stops them.
pub type Azure = Double<World>;

impl Azure {
    /// The address of Entra ID.
    #[must_use]
    pub fn authority(&self) -> String {
        self.url(Host::Tokens)
    }

    /// The address of the vault.
    #[must_use]
    pub fn vault_url(&self) -> String {
        self.url(Host::Keys)
    }

    /// Certificate and key of the service principal, as PEM.
    #[must_use]
    pub fn service_principal(&self) -> &'static str {
        text::SERVICE_PRINCIPAL
    }

    /// Replaces the signing key of Entra ID, which makes every token invalid.
    pub fn roll_signing_key(&self) {
        self.state().roll_signing_key();
    }

    /// Stores a value, as another client would.
    pub fn plant(&self, name: &str, value: &str) {
        self.plant_tagged(name, value, &[]);
    }

    /// Stores a value with these tags, as another client would.
    pub fn plant_tagged(&self, name: &str, value: &str, tags: &[(&str, &str)]) {
        self.state().plant(name, value, tags);
    }

    /// Labels the current version of a secret, as an operator would do.
    pub fn label(&self, name: &str, tags: &[(&str, &str)], content_type: &str) {
        self.state().label(name, tags, content_type);
    }

    /// Changes the current version of a secret, as an operator would do.
    pub fn edit(&self, name: &str, edit: impl FnOnce(&mut Version)) {
        self.state().edit(name, edit);
    }

    /// The versions of a secret, oldest first. A deleted secret has versions too.
    #[must_use]
    pub fn versions(&self, name: &str) -> Vec<Version> {
        self.state().versions_of(name)
    }

    /// Whether the secret is deleted. `None` if there is no such secret.
    #[must_use]
    pub fn is_deleted(&self, name: &str) -> Option<bool> {
        self.state().is_deleted(name)
    }

    /// The requests to the vault without their queries, as `GET /secrets/a/`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let line = |line: String| line.split('?').next().unwrap_or_default().to_owned();
        self.requests_to(Host::Keys).iter().map(|request| line(request.line())).collect()
    }

    /// The settings of a client, as a CephCluster would have them, without CA and certificate.
    #[must_use]
    pub fn details(&self) -> Vec<(String, String)> {
        [
            ("KMS_PROVIDER", "azure-kv".to_owned()),
            ("AZURE_VAULT_URL", self.vault_url()),
            ("AZURE_TENANT_ID", TENANT.to_owned()),
            ("AZURE_CLIENT_ID", CLIENT.to_owned()),
            ("AZURE_AUTHORITY_HOST", self.authority()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}
