//! The pages of a list, read so that no missing page goes unnoticed.
//!
//! Key Protect addresses a page by its offset, and its responses do not say how many keys there are: `collectionTotal` is
//! the number of keys on the page (IBM's API reference). So a short page need not be the last one, and a key that is
//! deleted between two requests moves the keys after it to the page before. Each page therefore begins with the last key
//! of the page before, and the list ends with a page that brings no other key. If a page does not begin so, the list
//! starts again.

use std::collections::HashSet;

use kms_core::{Error, ErrorKind};

use crate::{
    api::{Api, Searched, States},
    stored::Key,
};

/// The maximum number of attempts to read all pages while other clients delete keys.
const ROUNDS: usize = 3;

/// The pages of a list or search, from the first to the last one.
#[derive(Debug)]
pub(crate) struct Pages<'a> {
    api: &'a Api,
    states: States,
    search: Option<&'a str>,
    /// The ids in this round, in the order of the list.
    ids: Vec<String>,
    known: HashSet<String>,
    /// The largest total that a page of this round has shown.
    total: usize,
    /// Whether a page of this round had more than one key.
    overlaps: bool,
    rounds: usize,
    done: bool,
}

impl<'a> Pages<'a> {
    pub(crate) fn new(api: &'a Api, states: States, search: Option<&'a str>) -> Self {
        Self {
            api,
            states,
            search,
            ids: Vec::new(),
            known: HashSet::new(),
            total: 0,
            overlaps: false,
            rounds: 1,
            done: false,
        }
    }

    /// The keys of the next page that are new in this round. `None` after the last page.
    ///
    /// If the list has to start again, keys come up a second time.
    ///
    /// # Errors
    ///
    /// `TooBroad` if a search did not examine every key. `Incomplete` if the service ignores the offset, if it shows fewer keys than its total, or if other clients keep
    /// changing the list.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Key>>, Searched> {
        loop {
            if self.done {
                return Ok(None);
            }
            // On a server whose pages have one key each, a page that repeats a key has no room for another one.
            let offset = self.ids.len() - usize::from(self.overlaps);
            let envelope = self.api.page(self.states, self.search, offset).await?;
            if self.search.is_some() && envelope.is_incomplete_search() {
                return Err(Searched::TooBroad);
            }
            self.total = self.total.max(envelope.total());
            let mut keys = envelope.resources.unwrap_or_default();
            let is_next = self.follows(&mut keys);
            let is_last = keys.is_empty();
            if is_next && !(is_last && self.ids.len() < self.total) {
                self.overlaps |= keys.len() > 1;
                self.done = is_last;
                self.ids.extend(keys.iter().map(|key| key.id.clone()));
                return Ok((!is_last).then_some(keys));
            }
            if self.rounds == ROUNDS {
                self.done = true;
                return Err(self.cut(is_next).into());
            }
            *self = Self { rounds: self.rounds + 1, ..Self::new(self.api, self.states, self.search) };
        }
    }

    /// Reads all pages. Of a key that came up twice, the later one counts.
    pub(crate) async fn all(mut self) -> Result<Vec<Key>, Searched> {
        let mut all: Vec<Key> = Vec::new();
        while let Some(keys) = self.next().await? {
            if self.rounds > 1 {
                all.retain(|known| keys.iter().all(|key| key.id != known.id));
            }
            all.extend(keys);
        }
        Ok(all)
    }

    /// Whether a page is the one that follows. Removes the keys from it that the pages before had.
    fn follows(&mut self, keys: &mut Vec<Key>) -> bool {
        if let (true, Some(first), Some(last)) = (self.overlaps, self.ids.first(), self.ids.last()) {
            // A page that begins with the first key of all is the first page again.
            let is_first = keys.first().is_some_and(|key| key.id == *first);
            let Some(at) = keys.iter().position(|key| key.id == *last).filter(|_| !is_first) else {
                return false;
            };
            keys.drain(..=at);
        }
        keys.iter().all(|key| self.known.insert(key.id.clone()))
    }

    fn cut(&self, is_next: bool) -> Error {
        let error = if is_next {
            Error::new(
                ErrorKind::Incomplete,
                "keys may be missing, since the service shows fewer keys than it says there are",
            )
            .context("total", self.total.to_string())
        } else {
            Error::new(
                ErrorKind::Incomplete,
                "keys may be missing: the service ignores the offset of a page, or other clients keep deleting keys while \
                 the list is read; try again, and if that does not help, check IBM_KP_BASE_URL and the proxy",
            )
        };
        error.context("keys found", self.ids.len().to_string())
    }
}
