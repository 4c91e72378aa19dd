//! What both services know.

use std::collections::BTreeMap;

use super::{
    Fault, Host,
    text::{Clock, rfc3339, uuid},
};

/// How a destroyed key is shown: nobody outside IBM knows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Destroyed {
    /// 410 `KEY_DELETED_ERR`.
    #[default]
    Gone,
    /// 200, in state 5, without its payload.
    Shown,
}

/// So many requests a second are answered, the others with 429.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// How many.
    pub per_second: usize,
    /// What `Retry-After` says, if anything.
    pub retry_after: Option<&'static str>,
}

/// What can be set.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Switches {
    /// How a destroyed key is shown.
    pub destroyed: Destroyed,
    /// Whether a destroyed key keeps its aliases, so that they stay taken.
    pub alias_stays: bool,
    /// Whether a key can be deleted by its alias.
    pub delete_by_alias: bool,
    /// Whether the answer to an import has the payload in it even if it is not asked for.
    pub create_returns_payload: bool,
    /// Whether standard keys may be imported.
    pub import_allowed: bool,
    /// Whether two people have to agree to a deletion.
    pub dual_authorisation: bool,
    /// Whether keys may be purged: a right of its own.
    pub may_purge: bool,
    /// Whether keys may be written.
    pub may_write: bool,
    /// How many keys a search looks through.
    pub search_limit: usize,
    /// How long a token lasts, in seconds.
    pub token_seconds: i64,
    /// How many requests are answered.
    pub rate: Option<Rate>,
    /// Whether list and metadata leave aliases out.
    pub hides_aliases: bool,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            destroyed: Destroyed::Gone,
            alias_stays: false,
            delete_by_alias: false,
            create_returns_payload: false,
            import_allowed: true,
            dual_authorisation: false,
            may_purge: true,
            may_write: true,
            search_limit: 5000,
            token_seconds: 3600,
            rate: None,
            hides_aliases: false,
        }
    }
}

/// A key as the service keeps it.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its id, a UUID.
    pub id: String,
    /// Its name, which others may have too.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its aliases, which nobody else has.
    pub aliases: Vec<String>,
    /// Whether its material is given away: a standard key.
    pub extractable: bool,
    /// Its material.
    pub payload: String,
    /// 0 pre-active, 1 active, 2 suspended, 3 deactivated, 5 destroyed.
    pub state: u8,
    /// Whether its material came from outside.
    pub imported: bool,
    /// Its key ring.
    pub ring: String,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// When it was deleted.
    pub deleted: Option<i64>,
}

impl Key {
    /// A key as Rook makes it.
    #[must_use]
    pub fn rook(name: &str, payload: &str) -> Self {
        Self {
            id: uuid(),
            name: name.to_owned(),
            description: String::new(),
            tags: Vec::new(),
            aliases: vec![name.to_owned()],
            extractable: true,
            payload: payload.to_owned(),
            state: 1,
            imported: true,
            ring: "default".to_owned(),
            created: Clock::default().now(),
            deleted: None,
        }
    }
}

/// What was asked of one of the services.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HostCounts {
    /// Requests.
    pub requests: usize,
    /// TLS handshakes that came to their end.
    pub handshakes: usize,
}

/// What was asked of both.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Of IAM.
    pub iam: HostCounts,
    /// Of Key Protect.
    pub key_protect: HostCounts,
}

impl Counts {
    pub(super) fn of(&mut self, host: Host) -> &mut HostCounts {
        match host {
            Host::Iam => &mut self.iam,
            Host::KeyProtect => &mut self.key_protect,
        }
    }
}

/// A request that came in.
#[derive(Clone, Debug)]
pub struct Request {
    /// To which service.
    pub host: Host,
    /// The method.
    pub method: String,
    /// The path with its query, as sent.
    pub path: String,
    /// The headers, with small letters.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Request {
    /// Method and path, as `GET /api/v2/keys`.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Everything.
pub(super) struct World {
    pub(super) clock: Clock,
    pub(super) switches: Switches,
    pub(super) faults: Vec<Fault>,
    pub(super) keys: BTreeMap<String, Key>,
    pub(super) rings: Vec<String>,
    /// Tokens that are good, with the second of their end.
    pub(super) tokens: BTreeMap<String, i64>,
    pub(super) counts: Counts,
    pub(super) requests: Vec<Request>,
    /// The second of the rate, and how many were answered in it.
    pub(super) rated: (i64, usize),
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            clock: Clock::default(),
            switches: Switches::default(),
            faults: Vec::new(),
            keys: BTreeMap::new(),
            rings: vec!["default".to_owned()],
            tokens: BTreeMap::new(),
            counts: Counts::default(),
            requests: Vec::new(),
            rated: (0, 0),
        }
    }

    pub(super) fn plant(&mut self, key: Key) {
        assert!(key.aliases.iter().all(|alias| self.by_alias(alias).is_none()), "an alias is unique");
        self.keys.insert(key.id.clone(), key);
    }

    pub(super) fn by_alias(&self, alias: &str) -> Option<&Key> {
        self.keys.values().find(|key| key.aliases.iter().any(|known| known == alias))
    }

    /// Whether one more request is answered.
    pub(super) fn within_rate(&mut self) -> bool {
        let Some(Rate { per_second, .. }) = self.switches.rate else { return true };
        let now = self.clock.now();
        if self.rated.0 != now {
            self.rated = (now, 0);
        }
        self.rated.1 += 1;
        self.rated.1 <= per_second
    }

    pub(super) fn now(&self) -> String {
        rfc3339(self.clock.now())
    }
}
