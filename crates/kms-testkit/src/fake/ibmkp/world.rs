//! The state of both services.

use std::collections::BTreeMap;

use super::{Host, text::rfc3339};
use crate::fake::{
    cloud::{
        Base, Cloud,
        text::{Clock, uuid},
    },
    http::{Request, Response},
};

/// The way in which a destroyed key is shown, which IBM does not document.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Destroyed {
    /// 410 `KEY_DELETED_ERR`.
    #[default]
    Gone,
    /// 200, in state 5, without its payload.
    Shown,
}

/// The number that a list gives as its total.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Total {
    /// The number of keys on the page.
    #[default]
    OfPage,
    /// The number of keys in the list, on all its pages.
    OfList,
    /// None.
    Absent,
}

/// A limit of requests in a second; further requests get 429.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// The number of requests.
    pub per_second: usize,
    /// `Retry-After` of the responses to further requests.
    pub retry_after: Option<&'static str>,
}

/// The behaviour of both services.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Switches {
    /// The way in which a destroyed key is shown.
    pub destroyed: Destroyed,
    /// Whether a destroyed key keeps its aliases, so that no other key can have them.
    pub alias_stays: bool,
    /// Whether an alias can name the key to delete.
    pub delete_by_alias: bool,
    /// Whether the response to an import contains the payload without `Prefer: return=representation`.
    pub create_returns_payload: bool,
    /// Whether standard keys may be imported.
    pub import_allowed: bool,
    /// Whether a deletion needs two authorizations.
    pub dual_authorisation: bool,
    /// Whether the client may purge keys, which is a separate right.
    pub may_purge: bool,
    /// Whether the client may write keys.
    pub may_write: bool,
    /// Whether lists still show a deleted key as it was before.
    pub late_lists: bool,
    /// The number of keys that a search covers.
    pub search_limit: usize,
    /// The life of a token, in seconds.
    pub token_seconds: i64,
    /// The limit of requests.
    pub rate: Option<Rate>,
    /// Whether list and metadata omit aliases.
    pub hides_aliases: bool,
    /// The largest number of keys on a page, whatever a client asks for.
    pub longest_page: usize,
    /// Whether a list always begins with the first key.
    pub ignores_offset: bool,
    /// The number that lists give as their total.
    pub total: Total,
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
            late_lists: false,
            search_limit: 5000,
            token_seconds: 3600,
            rate: None,
            hides_aliases: false,
            longest_page: usize::MAX,
            ignores_offset: false,
            total: Total::OfPage,
        }
    }
}

/// A key as the service stores it.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its id, a UUID.
    pub id: String,
    /// Its name, which is not unique.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its aliases, which are unique.
    pub aliases: Vec<String>,
    /// Whether clients can read its material: a standard key.
    pub extractable: bool,
    /// Its material.
    pub payload: String,
    /// 0 pre-active, 1 active, 2 suspended, 3 deactivated, 5 destroyed.
    pub state: u8,
    /// Whether its material was imported.
    pub imported: bool,
    /// Its key ring.
    pub ring: String,
    /// When it was created, in seconds since 1970.
    pub created: i64,
    /// When it was deleted, in seconds since 1970.
    pub deleted: Option<i64>,
}

impl Key {
    /// Returns a key as Rook creates it.
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

/// The state of IAM and Key Protect.
pub struct World {
    pub(super) base: Base,
    pub(super) switches: Switches,
    pub(super) keys: BTreeMap<String, Key>,
    pub(super) rings: Vec<String>,
    /// Valid tokens, and when they end, in seconds since 1970.
    pub(super) tokens: BTreeMap<String, i64>,
    /// The second to which the rate applies, and the number of requests in it.
    rated: (i64, usize),
}

impl Cloud for World {
    type Switches = Switches;

    fn new(base: Base) -> Self {
        Self {
            base,
            switches: Switches::default(),
            keys: BTreeMap::new(),
            rings: vec!["default".to_owned()],
            tokens: BTreeMap::new(),
            rated: (0, 0),
        }
    }

    fn base(&mut self) -> &mut Base {
        &mut self.base
    }

    fn switches(&mut self) -> &mut Switches {
        &mut self.switches
    }

    fn handle(&mut self, host: Host, request: &Request) -> Response {
        match host {
            Host::Tokens => self.token(request),
            // A proxy in front of the service sends this, and not JSON.
            Host::Keys if !self.within_rate() => Response::html(429, "<html>429 Too Many Requests</html>")
                .retry_after(self.switches.rate.and_then(|rate| rate.retry_after)),
            Host::Keys => self.keys(request),
        }
    }
}

impl World {
    pub(super) fn plant(&mut self, key: Key) {
        assert!(key.aliases.iter().all(|alias| self.by_alias(alias).is_none()), "an alias is unique");
        self.keys.insert(key.id.clone(), key);
    }

    pub(super) fn by_alias(&self, alias: &str) -> Option<&Key> {
        self.keys.values().find(|key| key.aliases.iter().any(|known| known == alias))
    }

    /// Counts a request to Key Protect. False if it exceeds the rate.
    pub(super) fn within_rate(&mut self) -> bool {
        let Some(Rate { per_second, .. }) = self.switches.rate else { return true };
        let now = self.base.clock.now();
        if self.rated.0 != now {
            self.rated = (now, 0);
        }
        self.rated.1 += 1;
        self.rated.1 <= per_second
    }

    pub(super) fn now(&self) -> String {
        rfc3339(self.base.clock.now())
    }
}
