//! A double of IBM's IAM and Key Protect, since neither can be run here.
//!
//! It is written from IBM's documentation and from what its Go, Python and Node clients send and read, not from our
//! provider, and has codecs of its own. IBM's own clients are run against it (`tests/clients/ibmkp`).
//! It is strict: what the documentation does not allow is refused as the service refuses it. What nobody outside IBM
//! knows is a [switch](Switches).
//!
//! ```
//! use kms_testkit::fake::ibmkp::{API_KEY, INSTANCE, IbmKp};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> anyhow::Result<()> {
//! let double = IbmKp::start().await?;
//! // Point a client at `double.base_url()` and `double.token_url()`, let it trust `double.ca()`, and then:
//! assert_eq!(double.counts().key_protect.requests, 0);
//! # Ok(())
//! # }
//! ```

mod api;
mod fault;
mod iam;
mod search;
mod serve;
pub(super) mod text;
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
    fault::{Action, Fault},
    world::{Counts, Destroyed, HostCounts, Key, Rate, Request, Switches},
};
use self::{serve::listen, world::World};
use crate::servers::Pki;

/// The API key that IAM knows.
pub const API_KEY: &str = "kp-double-api-key-7hR2kkq0Zr9sWq81mB4vTnXc";
/// The instance that there is.
pub const INSTANCE: &str = "33333333-3333-3333-3333-333333333333";

/// Which of the two services.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Host {
    /// The one that gives tokens.
    Iam,
    /// The one that keeps keys.
    KeyProtect,
}

/// Both services, each on a port of its own, over TLS. They stop when it is dropped.
pub struct IbmKp {
    pki: Pki,
    ports: [u16; 2],
    world: Arc<Mutex<World>>,
    tasks: Vec<JoinHandle<()>>,
}

impl IbmKp {
    /// Starts both on free ports of the loopback.
    ///
    /// # Errors
    ///
    /// When there is no free port.
    pub async fn start() -> Result<Self> {
        let pki = Pki::new()?;
        let world = Arc::new(Mutex::new(World::new()));
        let (iam, iam_task) = listen(Host::Iam, &pki.server, Arc::clone(&world)).await?;
        let (keys, keys_task) = listen(Host::KeyProtect, &pki.server, Arc::clone(&world)).await?;
        Ok(Self { pki, ports: [iam, keys], world, tasks: vec![iam_task, keys_task] })
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

    /// The address of IAM, without a path: IBM's clients add it.
    #[must_use]
    pub fn iam_url(&self) -> String {
        format!("https://localhost:{}", self.ports[0])
    }

    /// The address of IAM with its path.
    #[must_use]
    pub fn token_url(&self) -> String {
        format!("{}/identity/token", self.iam_url())
    }

    /// The address of Key Protect.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("https://localhost:{}", self.ports[1])
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
        self.world().clock.offset += i64::try_from(time.as_secs()).expect("a sensible time");
    }

    /// Moves the clock back.
    pub fn back(&self, time: Duration) {
        self.world().clock.offset -= i64::try_from(time.as_secs()).expect("a sensible time");
    }

    /// Makes every token invalid that was given so far.
    pub fn revoke_tokens(&self) {
        self.world().tokens.clear();
    }

    /// Adds a fault. The first one that fits a request is the one that happens.
    pub fn fault(&self, fault: Fault) {
        self.world().faults.push(fault);
    }

    /// Removes all faults.
    pub fn heal(&self) {
        self.world().faults.clear();
    }

    /// Puts a key there, as if somebody else had made it.
    pub fn plant(&self, key: Key) {
        self.world().plant(key);
    }

    /// Every key that is there, destroyed ones too.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        self.world().keys.values().cloned().collect()
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

    /// The requests to Key Protect so far, as `GET /api/v2/keys/a`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let requests = self.requests();
        requests.iter().filter(|request| request.host == Host::KeyProtect).map(Request::line).collect()
    }

    /// Forgets requests and counts.
    pub fn forget(&self) {
        let mut world = self.world();
        world.requests.clear();
        world.counts = Counts::default();
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

impl Drop for IbmKp {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl fmt::Debug for IbmKp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pki: _, ports, world: _, tasks: _ } = self;
        f.debug_struct("IbmKp").field("ports", ports).finish_non_exhaustive()
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
