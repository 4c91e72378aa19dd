//! Reads one key: finds the key of a name, and returns its KEK.

use std::{cmp::Reverse, collections::BTreeSet};

use kms_core::{Error, ErrorKind, Freshness, KeyName, Result, Stored};
use tracing::{debug, warn};

use crate::{
    api::{Api, Look, Searched, States, Want},
    error::{CORRELATION_ID, changing},
    name::{Names, superseded_alias},
    pages::Pages,
    stored::Key,
};

/// The maximum number of searches for a key that other clients change at the same time.
const ROUNDS: usize = 4;

/// How the key of a name was found.
#[derive(Debug)]
pub(crate) enum Located {
    /// By its alias.
    Here(Box<Key>),
    /// By the alias of a successor: an update is in flight, or was interrupted.
    Successor {
        key: Box<Key>,
        /// The id of the key that it supersedes. `None` if that key is not known.
        predecessor: Option<String>,
    },
    /// By its name: its alias is missing.
    Unaliased(Box<Key>),
    /// Not found.
    Nowhere {
        /// Whether a deleted key has the alias.
        deleted: bool,
        /// The number of superseded keys of that name. They do not count as the key.
        superseded: usize,
        /// The correlation id of the request that found nothing.
        correlation_id: Option<String>,
    },
}

impl Located {
    pub(crate) fn key(self) -> Option<Key> {
        match self {
            Self::Here(key) | Self::Successor { key, .. } | Self::Unaliased(key) => Some(*key),
            Self::Nowhere { .. } => None,
        }
    }

    pub(crate) fn as_key(&self) -> Option<&Key> {
        match self {
            Self::Here(key) | Self::Successor { key, .. } | Self::Unaliased(key) => Some(key),
            Self::Nowhere { .. } => None,
        }
    }
}

/// Reads the KEK of a key.
pub(crate) async fn get(api: &Api, name: &KeyName, freshness: Freshness) -> Result<Stored> {
    let names = &Names::of(name);
    let located = locate(api, names, Want::Material).await?;
    let Some(key) = located.as_key() else { return Err(missing(name, located)) };
    key.check_reader(api.cluster.as_ref())?;
    let stored = key.stored()?;
    // A fresh read finishes an interrupted update if it has the right to, because Rook finds keys by alias only.
    if matches!(located, Located::Successor { .. })
        && freshness == Freshness::Fresh
        && key.check_owner(api.cluster.as_ref()).is_ok()
        && let Err(error) = finish(api, names, &located).await
    {
        debug!(%error, "the interrupted update could not be finished");
    }
    Ok(stored)
}

/// The error for a key that was not found.
fn missing(name: &KeyName, located: Located) -> Error {
    let Located::Nowhere { deleted, superseded, correlation_id } = located else {
        return Error::key_not_found(name);
    };
    let error = if deleted {
        Error::new(ErrorKind::NotFound, "the key has been deleted; it can be restored for 30 days")
    } else {
        Error::key_not_found(name)
    };
    let error = match superseded {
        0 => error,
        count => error.context("superseded keys of that name", count.to_string()),
    };
    match correlation_id {
        Some(id) => error.context(CORRELATION_ID, id),
        None => error,
    }
}

/// Adds the missing alias to a key. Returns `false` if another key has taken the alias meanwhile, or if there is no key.
pub(crate) async fn finish(api: &Api, names: &Names, located: &Located) -> Result<bool> {
    let Some(key) = located.as_key() else { return Ok(false) };
    // As in an update, the mark comes first: once Rook finds the successor, it can delete it.
    if let Located::Successor { predecessor: Some(id), .. } = located {
        api.mark(id).await?;
    }
    if !api.add_alias(&key.id, &names.alias).await? {
        return Ok(false);
    }
    warn!(alias = names.alias, id = key.id, "gave the key its missing alias back");
    if key.has_alias(&names.next) {
        api.remove_alias(&key.id, &names.next).await?;
    }
    Ok(true)
}

/// Finds the key of a name: by the name's alias, then by the alias of a successor, then by the name itself.
///
/// Rook's view decides: the key with the name's alias is the key. Without that alias a superseded key does not count,
/// and the successor of a key that was deleted does not count either, since an update takes the alias away from a key
/// and never deletes it.
pub(crate) async fn locate(api: &Api, names: &Names, want: Want) -> Result<Located> {
    // Keys that have turned out not to be the key. Other clients may finish an update between two of our requests, and
    // lists may lag, so the next round reads everything again before it leaves such a key out.
    let mut excluded = BTreeSet::new();
    // The keys of the name in the round before.
    let mut before = None;
    for _ in 0..ROUNDS {
        let (deleted, correlation_id) = match api.look(&names.alias, want).await? {
            Look::Found(key) => return Ok(Located::Here(key)),
            Look::Destroyed(_) => (true, None),
            Look::Absent(correlation_id) => (false, Some(correlation_id)),
        };
        let next = match api.look(&names.next, want).await? {
            Look::Found(key) => Some(key),
            Look::Destroyed(_) | Look::Absent(_) => None,
        };
        let named = named(api, names, States::All).await?;
        let mut again = false;
        if let Some(key) = next
            && !excluded.contains(&key.id)
        {
            if let Some(predecessor) = predecessor(api, &key, &named).await? {
                warn!(
                    alias = names.alias,
                    id = key.id,
                    "the key's alias is missing because an update was interrupted; using the new key"
                );
                return Ok(Located::Successor { key, predecessor });
            }
            excluded.insert(key.id);
            again = true;
        }
        let mut candidates: Vec<&Key> = named
            .iter()
            .filter(|key| key.is_candidate(names) && !key.is_destroyed() && !excluded.contains(&key.id))
            .collect();
        candidates.sort_by_key(|key| Reverse((key.has_alias(&names.alias), key.age())));
        let mut superseded = 0;
        for candidate in candidates {
            let (id, has_alias) = (&candidate.id, candidate.has_alias(&names.alias));
            if !has_alias
                && (named.iter().any(|other| other.comes_after(id)) || is_marked(api, candidate).await?)
            {
                superseded += 1;
                continue;
            }
            match api.look(id, want).await? {
                Look::Found(key) if has_alias => return Ok(Located::Here(key)),
                Look::Found(key) => {
                    warn!(
                        alias = names.alias,
                        id, "the key's alias is missing; using the newest key of that name"
                    );
                    return Ok(Located::Unaliased(key));
                }
                Look::Destroyed(_) | Look::Absent(_) => {
                    excluded.insert(id.clone());
                    again = true;
                }
            }
        }
        // A successor may have taken the alias over after this round has looked for it. Then the next round finds other
        // keys of the name.
        let ids: BTreeSet<_> = named.iter().map(|key| key.id.clone()).collect();
        if !again && (superseded == 0 || before.as_ref() == Some(&ids)) {
            return Ok(Located::Nowhere { deleted, superseded, correlation_id });
        }
        before = Some(ids);
    }
    Err(changing())
}

/// Finds the predecessor of a key that has the alias of a successor. `None` if the key does not count as the key: it was
/// given up, or its predecessor has been deleted. `Some(None)` if the predecessor is not known.
async fn predecessor(api: &Api, successor: &Key, named: &[Key]) -> Result<Option<Option<String>>> {
    if is_marked(api, successor).await? {
        return Ok(None);
    }
    let Some(before) = named.iter().find(|key| successor.comes_after(&key.id)) else { return Ok(Some(None)) };
    match api.look(&before.id, Want::Metadata).await? {
        Look::Found(key) => Ok(Some(Some(key.id))),
        Look::Destroyed(_) | Look::Absent(_) => Ok(None),
    }
}

/// Whether a key is marked as superseded. A service may hide aliases in lists, so this looks the mark up.
async fn is_marked(api: &Api, key: &Key) -> Result<bool> {
    if key.is_marked() {
        return Ok(true);
    }
    Ok(match api.look(&superseded_alias(&key.id), Want::Metadata).await? {
        Look::Found(marked) => marked.id == key.id,
        Look::Destroyed(_) | Look::Absent(_) => false,
    })
}

/// Searches for the keys of a name that are or may be ours. Keys that Rook wrote may be ours: they have no cluster tag.
pub(crate) async fn search(api: &Api, names: &Names, states: States) -> Result<Vec<Key>> {
    let mut found = named(api, names, states).await?;
    found.retain(|key| key.is_candidate(names));
    Ok(found)
}

/// Searches for all keys that have the name, keys of other programs included.
async fn named(api: &Api, names: &Names, states: States) -> Result<Vec<Key>> {
    let wanted = format!("exact:name:{}", names.alias);
    let mut found = match Pages::new(api, states, Some(&wanted)).all().await {
        Err(Searched::TooBroad) => {
            debug!("the instance has too many keys for a search; reading the whole list");
            Pages::new(api, states, None).all().await?
        }
        found => found?,
    };
    // The search ignores case.
    found.retain(|key| key.name.as_deref() == Some(names.alias.as_str()) && !key.id.is_empty());
    Ok(found)
}
