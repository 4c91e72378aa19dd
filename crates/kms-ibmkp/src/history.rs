//! Reads every KEK that the service still has for a name, and brings deleted keys back.

use std::cmp::Reverse;

use kms_core::{Error, ErrorKind, HistoryMode, Kek, KekState, KeyName, KeyVersion, PastKek, Result};
use kms_http::http::Method;
use tracing::{debug, warn};

use crate::{
    api::{Api, Look, Request, States, Want},
    get::{Located, locate, search},
    name::Names,
    stored::Key,
};

/// Brings back the most recently deleted key of a name, with its alias.
pub(crate) async fn undelete(api: &Api, name: &KeyName) -> Result<KeyVersion> {
    let names = &Names::of(name);
    let superseded = match locate(api, names, Want::Metadata).await? {
        Located::Nowhere { superseded, .. } => superseded,
        Located::Here(key) | Located::Successor { key, .. } | Located::Unaliased(key) => {
            return Err(Error::not_deleted(name).context("id", &key.id));
        }
    };
    let mut gone = Vec::new();
    for key in owned(api, names).await? {
        // Lists may lag, so only a look tells that a key has not been deleted.
        if key.is_destroyed() || !matches!(api.look(&key.id, Want::Metadata).await?, Look::Found(_)) {
            gone.push(key);
        }
    }
    let Some(key) = newest(gone, names) else {
        let error = Error::new(ErrorKind::NotFound, "there is no deleted key of that name");
        return Err(error.context("superseded keys of that name", superseded.to_string()));
    };
    restore(api, &key.id).await?;
    if key.is_marked() {
        api.unmark(&key.id).await?;
    }
    // A deleted key may have kept its alias, whether the service shows it or not.
    let has_alias =
        matches!(api.look(&names.alias, Want::Metadata).await?, Look::Found(found) if found.id == key.id);
    if !has_alias && !api.add_alias(&key.id, &names.alias).await? {
        return Err(Error::key_changed(name).context("restored key", &key.id));
    }
    debug!(id = key.id, "restored");
    Ok(key.version())
}

/// Reads every key of a name, the current one first, then the newest first.
///
/// The service gives out no KEK of a deleted key, so [`HistoryMode::Restore`] restores the key and deletes it again.
pub(crate) async fn history(api: &Api, name: &KeyName, mode: HistoryMode) -> Result<Vec<PastKek>> {
    let names = &Names::of(name);
    let current = locate(api, names, Want::Metadata).await?.key();
    if let Some(current) = &current {
        current.check_reader(api.cluster.as_ref())?;
    }
    let current_id = current.as_ref().map(|key| key.id.clone());
    let mut keys = owned(api, names).await?;
    keys.retain(|key| Some(&key.id) != current_id.as_ref());
    // Times are whole seconds. Of two keys with the same time, the successor of the other one is the newer one.
    keys.sort_by_key(|key| Reverse(key.created()));
    for at in 1..keys.len() {
        let is_after = |keys: &[Key], place: usize| match (keys.get(place), keys.get(place - 1)) {
            (Some(later), Some(earlier)) => {
                later.created() == earlier.created() && later.comes_after(&earlier.id)
            }
            _ => false,
        };
        let mut place = at;
        while place > 0 && is_after(&keys, place) {
            keys.swap(place, place - 1);
            place -= 1;
        }
    }
    let mut past = Vec::with_capacity(keys.len() + 1);
    for key in current.into_iter().chain(keys) {
        let is_current = current_id.as_ref() == Some(&key.id);
        let (state, kek) = match api.look(&key.id, Want::Material).await? {
            Look::Found(found) if is_current => (KekState::Current, kek_of(&found)),
            Look::Found(found) => (KekState::Superseded, kek_of(&found)),
            Look::Destroyed(_) if mode == HistoryMode::Restore => {
                (KekState::Deleted, restored_for_a_read(api, &key.id).await?)
            }
            Look::Destroyed(_) => (KekState::Deleted, None),
            // The key has been purged, or its search result is out of date.
            Look::Absent(_) => continue,
        };
        past.push(PastKek::new(key.version(), state).with_kek(kek).with_stored(key.created()));
    }
    if past.is_empty() { Err(Error::key_not_found(name)) } else { Ok(past) }
}

/// Finds the keys of a name, deleted keys included, that do not belong to another cluster.
async fn owned(api: &Api, names: &Names) -> Result<Vec<Key>> {
    let mut keys = search(api, names, States::All).await?;
    keys.retain(|key| key.check_reader(api.cluster.as_ref()).is_ok());
    Ok(keys)
}

fn kek_of(key: &Key) -> Option<Kek> {
    match key.kek() {
        Ok(kek) => Some(kek),
        Err(error) => {
            debug!(%error, id = key.id, "a key of that name is not a KEK");
            None
        }
    }
}

async fn restore(api: &Api, id: &str) -> Result<()> {
    let reply = api.send(Request::new(Method::POST, ["keys", id, "restore"])).await?;
    if reply.status().is_success() { Ok(()) } else { Err(reply.refused().context("id", id)) }
}

/// Restores a deleted key, reads it, and deletes it again. `None` if the service does not restore it any more.
async fn restored_for_a_read(api: &Api, id: &str) -> Result<Option<Kek>> {
    let result = match restore(api, id).await {
        Ok(()) => api.look(id, Want::Material).await,
        Err(error) if error.kind() == ErrorKind::Conflict => {
            debug!(%error, id, "the deleted key can no longer be restored");
            return Ok(None);
        }
        Err(error) => Err(error),
    };
    // Also after a failure: the service may have restored the key.
    if let Err(error) = api.destroy(id).await {
        warn!(id, %error, "a deleted key was restored to read it, and could not be deleted again");
    }
    Ok(match result? {
        Look::Found(key) => kek_of(&key),
        Look::Destroyed(_) | Look::Absent(_) => None,
    })
}

/// Picks the key that was current last among deleted keys of a name: the key with the alias, else the newest key without a
/// successor.
fn newest(keys: Vec<Key>, names: &Names) -> Option<Key> {
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
