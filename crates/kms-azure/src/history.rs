//! Reads every KEK that the vault still has for a key, and brings deleted keys back.

use std::cmp::Reverse;

use kms_core::{Error, ErrorKind, HistoryMode, Kek, KekState, KeyName, KeyVersion, PastKek, Result};
use tracing::{debug, warn};

use crate::{
    api::Api,
    error::{DISABLED, has_code},
    name::Names,
    soft_delete::{Event, SoftDelete, until},
};

/// Recovers a soft-deleted secret, and waits until it can be read.
pub(crate) async fn undelete(api: &Api, soft_delete: &SoftDelete, name: &KeyName) -> Result<KeyVersion> {
    let names = &Names::of(name);
    if api.get(names, None).await?.is_some() {
        return Err(Error::not_deleted(name));
    }
    let mut deadline = soft_delete.deadline();
    loop {
        match api.recover(names).await {
            Ok(()) => break,
            // The deletion, or the recovery by another client, is not complete.
            Err(error) if error.kind() == ErrorKind::Conflict => {
                deadline.pause().await.map_err(|late| late.source(error))?;
            }
            Err(error) => return Err(error),
        }
    }
    until(api, names, Event::Recovered, &mut deadline).await?;
    match api.get(names, None).await? {
        Some(current) => current.version(),
        None => Err(Error::new(ErrorKind::Conflict, "the recovered key was deleted again at once")),
    }
}

/// Reads every version, the newest first. Of a soft-deleted secret the vault shows only that it exists.
pub(crate) async fn history(
    api: &Api,
    soft_delete: &SoftDelete,
    name: &KeyName,
    mode: HistoryMode,
) -> Result<Vec<PastKek>> {
    let names = &Names::of(name);
    match api.get(names, None).await {
        Ok(Some(current)) => {
            return versions(api, names, Place::Present(Some(current.version()?)), mode).await;
        }
        Ok(None) => {}
        Err(error) if has_code(&error, DISABLED) => {
            return versions(api, names, Place::Present(None), mode).await;
        }
        Err(error) => return Err(error),
    }
    let Some(deleted) = api.deleted(names).await? else { return Err(Error::key_not_found(name)) };
    if mode == HistoryMode::ReadOnly {
        let version = deleted.version_part().map_or_else(|| KeyVersion::new("deleted"), KeyVersion::new);
        return Ok(vec![PastKek::new(version, KekState::Deleted).with_stored(deleted.attributes.times().0)]);
    }
    undelete(api, soft_delete, name).await?;
    let result = versions(api, names, Place::Deleted, mode).await;
    // Also after a failure, since the secret was deleted before.
    if let Err(error) = api.delete(names).await {
        warn!(
            secret = names.secret, %error,
            "the deleted key was recovered to read its versions, and could not be deleted again"
        );
    }
    result
}

/// The place of the secret whose versions are read.
enum Place {
    /// Among the secrets, with its current version; `None` if that version is disabled.
    Present(Option<KeyVersion>),
    /// Recovered for the time of the read.
    Deleted,
}

/// Reads the versions of a secret.
async fn versions(api: &Api, names: &Names, place: Place, mode: HistoryMode) -> Result<Vec<PastKek>> {
    let mut found = api.versions(names).await?;
    let is_current = |version: Option<&str>| match &place {
        Place::Present(Some(current)) => version == Some(current.as_str()),
        Place::Present(None) | Place::Deleted => false,
    };
    // Times are whole seconds. Of two versions with the same time, the current one is the newer one.
    found.sort_by_key(|one| Reverse((is_current(one.version_part()), one.attributes.created)));
    let mut past = Vec::with_capacity(found.len());
    for one in &found {
        let version = one.version()?;
        let disabled = one.attributes.enabled == Some(false);
        let state = match &place {
            Place::Deleted => KekState::Deleted,
            Place::Present(_) if disabled => KekState::Deleted,
            Place::Present(_) if is_current(Some(version.as_str())) => KekState::Current,
            Place::Present(_) => KekState::Superseded,
        };
        let kek = match (disabled, mode) {
            (true, HistoryMode::ReadOnly) => None,
            (true, HistoryMode::Restore) => enabled_for_a_read(api, names, &version).await?,
            (false, _) => read(api, names, &version).await?,
        };
        past.push(PastKek::new(version, state).with_kek(kek).with_stored(one.attributes.times().0));
    }
    Ok(past)
}

/// Enables a disabled version, reads it, and disables it again.
async fn enabled_for_a_read(api: &Api, names: &Names, version: &KeyVersion) -> Result<Option<Kek>> {
    let result = match api.enable(names, version, true).await {
        Ok(()) => read(api, names, version).await,
        Err(error) => Err(error),
    };
    // Also after a failure: the vault may have enabled the version.
    if let Err(error) = api.enable(names, version, false).await {
        warn!(
            secret = names.secret, version = version.as_str(), %error,
            "a disabled version was enabled to read it, and could not be disabled again"
        );
    }
    result
}

/// Reads one version. `None` if its value is not a KEK, or if it has gone meanwhile.
async fn read(api: &Api, names: &Names, version: &KeyVersion) -> Result<Option<Kek>> {
    let Some(found) = api.get(names, Some(version)).await? else { return Ok(None) };
    match found.kek(names) {
        Ok(kek) => Ok(Some(kek)),
        Err(error) => {
            debug!(%error, version = version.as_str(), "a version of the key is not a KEK");
            Ok(None)
        }
    }
}
