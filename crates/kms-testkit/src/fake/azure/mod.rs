//! A double of Entra ID and Azure Key Vault, since neither can be run here.
//!
//! It is written from Microsoft's documentation and from what its Python and Node clients send and read, not from our
//! provider. Microsoft's own clients are run against it (`tests/clients/azure`).
//! It is strict: what the documentation does not allow is refused as the service refuses it.
//!
//! ```
//! use kms_testkit::fake::azure::Azure;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> anyhow::Result<()> {
//! let double = Azure::start().await?;
//! // Point a client at `double.vault_url()` and `double.authority()`, let it trust `double.ca()`, and then:
//! assert_eq!(double.counts().vault.requests, 0);
//! # Ok(())
//! # }
//! ```

mod client;
mod entra;
mod fault;
mod serve;
mod text;
mod vault;
mod world;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;
use serde_json::Value;
use tokio::task::JoinHandle;

pub use self::{
    client::Client,
    fault::{Action, Fault},
    world::{Counts, HostCounts, Request, Switches, Version},
};
use self::{serve::listen, world::World};
use crate::servers::Pki;

/// The tenant that there is.
pub const TENANT: &str = "11111111-1111-1111-1111-111111111111";
/// The application that Entra ID knows.
pub const CLIENT: &str = "22222222-2222-2222-2222-222222222222";
/// The object id of its service principal.
pub const OBJECT: &str = "44444444-4444-4444-4444-444444444444";
/// Its client secret.
pub const CLIENT_SECRET: &str = "double~client-secret-7hR2kkq0Zr9sWq81mB4vTnXc";

/// Which of the two services.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Host {
    /// The one that gives tokens.
    Entra,
    /// The one that keeps secrets.
    Vault,
}

/// Both services, each on a port of its own, over TLS. They stop when it is dropped.
pub struct Azure {
    pki: Pki,
    ports: [u16; 2],
    world: Arc<Mutex<World>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Azure {
    /// Starts both on free ports of the loopback.
    ///
    /// # Errors
    ///
    /// When there is no free port.
    pub async fn start() -> Result<Self> {
        let pki = Pki::new()?;
        let world = Arc::new(Mutex::new(World::new()));
        let (entra, entra_task) = listen(Host::Entra, &pki.server, Arc::clone(&world)).await?;
        let (vault, vault_task) = listen(Host::Vault, &pki.server, Arc::clone(&world)).await?;
        Ok(Self { pki, ports: [entra, vault], world, tasks: vec![entra_task, vault_task] })
    }

    /// The certificate of the CA, as PEM.
    #[must_use]
    pub fn ca(&self) -> &str {
        &self.pki.ca.cert
    }

    /// All certificates.
    #[must_use]
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The address of Entra ID.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("https://localhost:{}", self.ports[0])
    }

    /// The address of the vault.
    #[must_use]
    pub fn vault_url(&self) -> String {
        format!("https://localhost:{}", self.ports[1])
    }

    /// Certificate and key of the service principal, as PEM.
    #[must_use]
    pub fn service_principal(&self) -> &'static str {
        text::SERVICE_PRINCIPAL
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the switches.
    pub fn switch(&self, change: impl FnOnce(&mut Switches)) {
        change(&mut self.world().switches);
    }

    /// Moves the clock: forward, or with `back` into the past.
    pub fn advance(&self, time: Duration) {
        self.world().clock.offset += i64::try_from(time.as_millis()).expect("a sensible time");
    }

    /// Moves the clock back.
    pub fn back(&self, time: Duration) {
        self.world().clock.offset -= i64::try_from(time.as_millis()).expect("a sensible time");
    }

    /// Signs with another key from now on: every token that was given so far is invalid.
    pub fn roll_signing_key(&self) {
        let mut world = self.world();
        world.signing_key = text::random_hex(32);
        world.opaque.clear();
    }

    /// Adds a fault. The first one that fits a request is the one that happens.
    pub fn fault(&self, fault: Fault) {
        self.world().faults.push(fault);
    }

    /// Removes all faults.
    pub fn heal(&self) {
        self.world().faults.clear();
    }

    /// Stores a value, as if somebody else had done it.
    pub fn plant(&self, name: &str, value: &str) {
        self.plant_tagged(name, value, &[]);
    }

    /// Stores a value with these tags, as if somebody else had done it.
    pub fn plant_tagged(&self, name: &str, value: &str, tags: &[(&str, &str)]) {
        let mut world = self.world();
        let now = world.clock.now();
        let version = Version {
            id: text::random_hex(32),
            value: value.to_owned(),
            content_type: None,
            tags: tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            enabled: true,
            created: now,
            updated: now,
        };
        let fresh = || world::Entry { name: name.to_owned(), versions: Vec::new(), life: world::Life::Live };
        world.secrets.entry(name.to_lowercase()).or_insert_with(fresh).versions.push(version);
    }

    /// The versions of a secret, deleted ones too, oldest first.
    #[must_use]
    pub fn versions(&self, name: &str) -> Vec<Version> {
        self.world().secrets.get(&name.to_lowercase()).map(|entry| entry.versions.clone()).unwrap_or_default()
    }

    /// Whether a secret of that name is there and deleted. `None`: there is none at all.
    #[must_use]
    pub fn is_deleted(&self, name: &str) -> Option<bool> {
        let mut world = self.world();
        world.pass_time();
        world.secrets.get(&name.to_lowercase()).map(|entry| entry.life != world::Life::Live)
    }

    /// What was asked so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.world().counts
    }

    /// The requests so far, with their bodies.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.world().requests.clone()
    }

    /// The requests to the vault so far, as `GET /secrets/a/`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let requests = self.requests();
        requests.iter().filter(|request| request.host == Host::Vault).map(Request::line).collect()
    }

    /// Forgets requests and counts.
    pub fn forget(&self) {
        let mut world = self.world();
        world.requests.clear();
        world.counts = Counts::default();
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

impl Drop for Azure {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl fmt::Debug for Azure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pki: _, ports, world: _, tasks: _ } = self;
        f.debug_struct("Azure").field("ports", ports).finish_non_exhaustive()
    }
}

/// What a handler answers.
#[derive(Clone, Debug)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    None,
    Json(Value),
    Raw(String),
}

impl Answer {
    fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::None }
    }

    fn json(status: u16, body: Value) -> Self {
        Self { status, headers: Vec::new(), body: Body::Json(body) }
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}
