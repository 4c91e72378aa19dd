//! What both services know.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use super::{
    Host,
    fault::Fault,
    text::{Clock, random_hex},
};

/// How the services behave.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Switches {
    /// How long a token is valid, in seconds.
    pub token_seconds: i64,
    /// How long a deletion, a recovery and a purge take until they are complete.
    pub delay: Duration,
    /// Whether nobody may purge.
    pub purge_protection: bool,
    /// What the service principal may not do: `get`, `list`, `set`, `delete`, `recover`, `purge`.
    pub denied: BTreeSet<&'static str>,
    /// How many secrets a page of a list has.
    pub page: usize,
    /// How many requests the vault takes in a second.
    pub rate: Option<u32>,
    /// What it says to those that are too many.
    pub retry_after: Option<&'static str>,
    /// Whether conflicts have codes of their own, as the service gives them.
    pub codes: bool,
    /// Whether deleted secrets are kept. A vault from before soft delete keeps none.
    pub soft_delete: bool,
    /// Whether answers are as bare and as odd as a server may make them: optional parts are left out or `null`, a
    /// challenge has the other names, tokens say nothing and their lifetime is a text, links name another host, and
    /// what is not complete yet is simply not found.
    pub sparse: bool,
    /// How much time each request to the vault takes by its clock, so that nobody has to wait for delays.
    pub haste: Duration,
    /// A certificate, as PEM, that Entra ID knows in place of the usual one.
    pub certificate: Option<String>,
    /// Whether the federated token that workloads present is this one.
    pub federated_token: Option<String>,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            token_seconds: 3_599,
            delay: Duration::ZERO,
            purge_protection: false,
            denied: BTreeSet::new(),
            page: 25,
            rate: None,
            retry_after: None,
            codes: true,
            soft_delete: true,
            sparse: false,
            haste: Duration::ZERO,
            certificate: None,
            federated_token: None,
        }
    }
}

/// How often something was asked.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HostCounts {
    /// TLS handshakes that succeeded.
    pub handshakes: usize,
    /// Requests.
    pub requests: usize,
}

/// What was asked so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Of Entra ID.
    pub entra: HostCounts,
    /// Of the vault.
    pub vault: HostCounts,
    /// Tokens that were given.
    pub tokens: usize,
    /// Challenges of the vault, to requests without a token.
    pub challenges: usize,
}

impl Counts {
    pub(super) fn of(&mut self, host: Host) -> &mut HostCounts {
        match host {
            Host::Entra => &mut self.entra,
            Host::Vault => &mut self.vault,
        }
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// To which service.
    pub host: Host,
    /// The method.
    pub method: String,
    /// The path with the query.
    pub path: String,
    /// The headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Request {
    /// A header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Method and path without the query.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path.split('?').next().unwrap_or_default())
    }
}

/// A version of a secret.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its id: 32 hexadecimal digits.
    pub id: String,
    /// What it holds.
    pub value: String,
    /// What its writer says of the value.
    pub content_type: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Whether it can be read.
    pub enabled: bool,
    /// When it was made, in seconds.
    pub created: i64,
    /// When it was changed.
    pub updated: i64,
}

/// Where a secret is in its life. Times are in milliseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Life {
    Live,
    Deleted { since: i64, complete: i64 },
    Recovering { complete: i64 },
    Purging { complete: i64 },
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) versions: Vec<Version>,
    pub(super) life: Life,
}

pub(super) struct World {
    pub(super) switches: Switches,
    pub(super) clock: Clock,
    pub(super) faults: Vec<Fault>,
    pub(super) counts: Counts,
    pub(super) requests: Vec<Request>,
    pub(super) ports: HashMap<Host, u16>,
    /// By name in small letters: a vault makes no difference.
    pub(super) secrets: BTreeMap<String, Entry>,
    /// What tokens are signed with.
    pub(super) signing_key: String,
    /// Tokens that say nothing, and when they end.
    pub(super) opaque: BTreeMap<String, i64>,
    /// The ids of assertions that were presented.
    pub(super) seen: BTreeSet<String>,
    window: Option<(Instant, u32)>,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            switches: Switches::default(),
            clock: Clock::default(),
            faults: Vec::new(),
            counts: Counts::default(),
            requests: Vec::new(),
            ports: HashMap::new(),
            secrets: BTreeMap::new(),
            signing_key: random_hex(32),
            opaque: BTreeMap::new(),
            seen: BTreeSet::new(),
            window: None,
        }
    }

    pub(super) fn url(&self, host: Host) -> String {
        format!("https://localhost:{}", self.ports.get(&host).copied().unwrap_or_default())
    }

    /// Counts a request to the vault, and says whether it is one too many.
    pub(super) fn within_rate(&mut self) -> bool {
        let Some(rate) = self.switches.rate else { return true };
        match &mut self.window {
            Some((start, count)) if start.elapsed() < Duration::from_secs(1) => {
                *count += 1;
                *count <= rate
            }
            window => {
                *window = Some((Instant::now(), 1));
                true
            }
        }
    }

    /// When something that begins now is complete.
    pub(super) fn complete(&self) -> i64 {
        self.clock.milliseconds() + i64::try_from(self.switches.delay.as_millis()).expect("a sensible time")
    }

    /// Lets what is complete by now take effect.
    pub(super) fn pass_time(&mut self) {
        let now = self.clock.milliseconds();
        for entry in self.secrets.values_mut() {
            if matches!(entry.life, Life::Recovering { complete } if complete <= now) {
                entry.life = Life::Live;
            }
        }
        self.secrets.retain(|_, entry| !matches!(entry.life, Life::Purging { complete } if complete <= now));
    }
}
