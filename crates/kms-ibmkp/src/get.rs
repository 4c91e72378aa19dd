//! Reads one key: finds the key of a name, and returns its KEK.

use kms_core::{Error, ErrorKind, Freshness, KeyName, Result, Stored};
use tracing::{debug, warn};

use crate::{
    api::{Api, Look, Searched, States, Want},
    error::{CORRELATION_ID, changing},
    name::Names,
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
    Successor(Box<Key>),
    /// By its name: its alias is missing.
    Unaliased(Box<Key>),
    /// Not found.
    Nowhere {
        /// Whether a deleted key has the alias.
        deleted: bool,
        /// The correlation id of the request that found nothing.
        correlation_id: Option<String>,
    },
}

impl Located {
    pub(crate) fn key(self) -> Option<Key> {
        match self {
            Self::Here(key) | Self::Successor(key) | Self::Unaliased(key) => Some(*key),
            Self::Nowhere { .. } => None,
        }
    }
}

/// Reads the KEK of a key.
pub(crate) async fn get(api: &Api, name: &KeyName, freshness: Freshness) -> Result<Stored> {
    let names = &Names::of(name);
    let located = locate(api, names, Want::Material).await?;
    let interrupted = matches!(located, Located::Successor(_));
    if let Located::Nowhere { deleted, correlation_id } = located {
        let error = if deleted {
            Error::new(ErrorKind::NotFound, "the key has been deleted; it can be restored for 30 days")
        } else {
            Error::key_not_found(name)
        };
        return Err(match correlation_id {
            Some(id) => error.context(CORRELATION_ID, id),
            None => error,
        });
    }
    let Some(key) = located.key() else { return Err(Error::key_not_found(name)) };
    key.check_reader(api.cluster.as_ref())?;
    let stored = key.stored()?;
    // A fresh read finishes an interrupted update if it has the right to, because Rook finds keys by alias only.
    if interrupted
        && freshness == Freshness::Fresh
        && key.check_owner(api.cluster.as_ref()).is_ok()
        && let Err(error) = finish(api, names, &key).await
    {
        debug!(%error, "the interrupted update could not be finished");
    }
    Ok(stored)
}

/// Adds the missing alias to a key. Returns `false` if another key has taken the alias meanwhile.
pub(crate) async fn finish(api: &Api, names: &Names, key: &Key) -> Result<bool> {
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
pub(crate) async fn locate(api: &Api, names: &Names, want: Want) -> Result<Located> {
    for _ in 0..ROUNDS {
        let (deleted, correlation_id) = match api.look(&names.alias, want).await? {
            Look::Found(key) => return Ok(Located::Here(key)),
            Look::Destroyed(_) => (true, None),
            Look::Absent(correlation_id) => (false, Some(correlation_id)),
        };
        if let Look::Found(key) = api.look(&names.next, want).await? {
            warn!(
                alias = names.alias,
                id = key.id,
                "the key's alias is missing because an update was interrupted; using the new key"
            );
            return Ok(Located::Successor(key));
        }
        let candidates = search(api, names, States::Alive).await?;
        let Some(best) = newest(candidates, names) else {
            return Ok(Located::Nowhere { deleted, correlation_id });
        };
        let (id, has_alias) = (best.id.clone(), best.has_alias(&names.alias));
        match api.look(&id, want).await? {
            Look::Found(key) if has_alias => return Ok(Located::Here(key)),
            Look::Found(key) => {
                warn!(
                    alias = names.alias,
                    id, "the key's alias is missing; using the newest key of that name"
                );
                return Ok(Located::Unaliased(key));
            }
            // Another client deleted the key after the search.
            Look::Destroyed(_) | Look::Absent(_) => {}
        }
    }
    Err(changing())
}

/// Searches for the keys of a name that are or may be ours. Keys that Rook wrote may be ours: they have no cluster tag.
pub(crate) async fn search(api: &Api, names: &Names, states: States) -> Result<Vec<Key>> {
    let wanted = format!("exact:name:{}", names.alias);
    let mut found = match api.page(states, Some(&wanted), 0).await {
        Ok(envelope) if envelope.metadata.as_ref().and_then(|meta| meta.incomplete_search) == Some(true) => {
            all(api, states).await?
        }
        // After a full page there may be more keys.
        Ok(envelope) if envelope.resources.as_ref().is_some_and(|keys| keys.len() >= api.page_size) => {
            all(api, states).await?
        }
        Ok(envelope) => envelope.resources.unwrap_or_default(),
        Err(Searched::TooBroad) => {
            debug!("the instance has too many keys for a search; reading the whole list");
            all(api, states).await?
        }
        Err(Searched::Failed(error)) => return Err(error),
    };
    // The search ignores case.
    found.retain(|key| {
        key.name.as_deref() == Some(names.alias.as_str())
            && key.is_extractable()
            && key.has_no_alias_but(names)
            && !key.id.is_empty()
    });
    Ok(found)
}

/// Reads every page of the list.
async fn all(api: &Api, states: States) -> Result<Vec<Key>> {
    let mut all = Vec::new();
    loop {
        let envelope = api.page(states, None, all.len()).await.map_err(Error::from)?;
        let keys = envelope.resources.unwrap_or_default();
        let last = keys.len() < api.page_size;
        all.extend(keys);
        if last {
            return Ok(all);
        }
    }
}

/// Picks the current key among keys with one name: the key with the alias, else the newest key without a successor.
pub(crate) fn newest(keys: Vec<Key>, names: &Names) -> Option<Key> {
    let superseded: Vec<bool> =
        keys.iter().map(|key| keys.iter().any(|other| other.comes_after(&key.id))).collect();
    keys.into_iter()
        .zip(superseded)
        .max_by(|(one, one_old), (other, other_old)| {
            let rank = |key: &Key, old: bool| (key.has_alias(&names.alias), key.has_alias(&names.next), !old);
            rank(one, *one_old).cmp(&rank(other, *other_old)).then_with(|| one.age().cmp(&other.age()))
        })
        .map(|(key, _)| key)
}
