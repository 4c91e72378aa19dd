//! The state of both services.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{Host, text};
use crate::fake::{
    cloud::{Base, Cloud, text::random_hex},
    http::{Request, Response},
};

/// The links to the next page of a list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Links {
    /// To the next page.
    Right,
    /// To the next page, on another host.
    Elsewhere,
    /// To the page that they are on.
    Back,
    /// To the page that they are on, each spelt differently.
    BackAnew,
    /// None.
    Lost,
}

/// The behaviour of both services.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Switches {
    /// The life of a token, in seconds.
    pub token_seconds: i64,
    /// The time until a deletion, a recovery or a purge is complete.
    pub delay: Duration,
    /// Whether purging is forbidden.
    pub purge_protection: bool,
    /// Operations that the service principal may not use: `get`, `list`, `set`, `delete`, `recover`, `purge`.
    pub denied: BTreeSet<&'static str>,
    /// The number of secrets on a page of a list.
    pub page: usize,
    /// The links to the next page of a list.
    pub links: Links,
    /// Whether the pages after the first one lack their list.
    pub bare_pages: bool,
    /// The number of requests that the vault accepts in a second.
    pub rate: Option<u32>,
    /// `Retry-After` of the responses to further requests.
    pub retry_after: Option<&'static str>,
    /// Whether conflicts have an inner error code, as those of the service have.
    pub codes: bool,
    /// Whether deleted secrets are kept. A vault without soft delete keeps none.
    pub soft_delete: bool,
    /// Whether responses are as sparse and as odd as the documentation allows: optional parts are absent or `null`, a
    /// challenge uses the other parameter names, tokens have no readable claims, their lifetime is a text, links name
    /// another host, and a secret whose operation is not complete is not found.
    pub sparse: bool,
    /// The time by which each request moves the vault's clock, so that tests do not wait for delays.
    pub haste: Duration,
    /// A certificate, as PEM, that Entra ID knows instead of the default one.
    pub certificate: Option<String>,
    /// The federated token that Entra ID accepts from workloads.
    pub federated_token: Option<String>,
    /// The tenant of the vault, if it is not the one that issues tokens. The vault then accepts none of them.
    pub vault_tenant: Option<&'static str>,
    /// The path below which Entra ID answers, as in private clouds: `/adfs`.
    pub authority_path: &'static str,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            token_seconds: 3_599,
            delay: Duration::ZERO,
            purge_protection: false,
            denied: BTreeSet::new(),
            page: 25,
            links: Links::Right,
            bare_pages: false,
            rate: None,
            retry_after: None,
            codes: true,
            soft_delete: true,
            sparse: false,
            haste: Duration::ZERO,
            certificate: None,
            federated_token: None,
            vault_tenant: None,
            authority_path: "",
        }
    }
}

/// A version of a secret.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its id: 32 hexadecimal digits.
    pub id: String,
    /// Its value.
    pub value: String,
    /// The content type that its writer gave.
    pub content_type: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Whether reading is allowed.
    pub enabled: bool,
    /// Until when it is valid, in seconds since 1970.
    pub expires: Option<i64>,
    /// When it was created, in seconds since 1970.
    pub created: i64,
    /// When it was changed, in seconds since 1970.
    pub updated: i64,
}

/// The phase of a secret's life. Times are in milliseconds.
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

/// The state of Entra ID and of the vault.
pub struct World {
    pub(super) base: Base,
    pub(super) switches: Switches,
    /// By name in lower case: a vault ignores case.
    pub(super) secrets: BTreeMap<String, Entry>,
    pub(super) signing_key: String,
    /// Tokens without readable claims, and when they end.
    pub(super) opaque: BTreeMap<String, i64>,
    /// The ids of assertions that were used.
    pub(super) seen: BTreeSet<String>,
    window: Option<(Instant, u32)>,
}

impl Cloud for World {
    type Switches = Switches;

    fn new(base: Base) -> Self {
        Self {
            base,
            switches: Switches::default(),
            secrets: BTreeMap::new(),
            signing_key: random_hex(32),
            opaque: BTreeMap::new(),
            seen: BTreeSet::new(),
            window: None,
        }
    }

    fn base(&mut self) -> &mut Base {
        &mut self.base
    }

    fn switches(&mut self) -> &mut Switches {
        &mut self.switches
    }

    fn handle(&mut self, host: Host, request: &Request) -> Response {
        let response = match host {
            Host::Keys if !self.within_rate() => {
                let message = "Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached";
                text::refused(429, "Throttled", message, None).retry_after(self.switches.retry_after)
            }
            Host::Keys => self.vault(request),
            Host::Tokens => self.entra(request),
        };
        response.utf8()
    }
}

impl World {
    pub(super) fn url(&self, host: Host) -> String {
        self.base.url(host)
    }

    pub(super) fn roll_signing_key(&mut self) {
        self.signing_key = random_hex(32);
        self.opaque.clear();
    }

    /// Stores a version, as another client would.
    pub(super) fn plant(&mut self, name: &str, value: &str, tags: &[(&str, &str)]) {
        let now = self.base.clock.now();
        self.add(
            name,
            Version {
                id: random_hex(32),
                value: value.to_owned(),
                content_type: None,
                tags: tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
                enabled: true,
                expires: None,
                created: now,
                updated: now,
            },
        );
    }

    /// Adds tags and a content type to the current version, as an operator would do.
    pub(super) fn label(&mut self, name: &str, tags: &[(&str, &str)], content_type: &str) {
        self.edit(name, |version| {
            version.tags.extend(tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
            version.content_type = Some(content_type.to_owned());
        });
    }

    /// Changes the current version, as an operator would do.
    pub(super) fn edit(&mut self, name: &str, edit: impl FnOnce(&mut Version)) {
        let entry = self.secrets.get_mut(&name.to_lowercase()).expect("the secret exists");
        edit(entry.versions.last_mut().expect("a secret has a version"));
    }

    /// Adds a version to a secret, which is created if it is absent.
    pub(super) fn add(&mut self, name: &str, version: Version) -> &Entry {
        let fresh = || Entry { name: name.to_owned(), versions: Vec::new(), life: Life::Live };
        let entry = self.secrets.entry(name.to_lowercase()).or_insert_with(fresh);
        entry.versions.push(version);
        entry
    }

    pub(super) fn versions_of(&self, name: &str) -> Vec<Version> {
        self.secrets.get(&name.to_lowercase()).map(|entry| entry.versions.clone()).unwrap_or_default()
    }

    pub(super) fn is_deleted(&mut self, name: &str) -> Option<bool> {
        self.pass_time();
        self.secrets.get(&name.to_lowercase()).map(|entry| entry.life != Life::Live)
    }

    /// Counts a request to the vault. False if it exceeds the rate.
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

    /// The time at which an operation that begins now is complete.
    pub(super) fn complete(&self) -> i64 {
        self.base.clock.milliseconds()
            + i64::try_from(self.switches.delay.as_millis()).expect("a sensible time")
    }

    /// Applies the operations that are complete by now.
    pub(super) fn pass_time(&mut self) {
        let now = self.base.clock.milliseconds();
        for entry in self.secrets.values_mut() {
            if matches!(entry.life, Life::Recovering { complete } if complete <= now) {
                entry.life = Life::Live;
            }
        }
        self.secrets.retain(|_, entry| !matches!(entry.life, Life::Purging { complete } if complete <= now));
    }
}
