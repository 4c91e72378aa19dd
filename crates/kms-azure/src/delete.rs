//! Deletes and destroys keys, and disables superseded versions.

use std::time::Duration;

use kms_core::{DeleteMode, Error, ErrorKind, KeyName, KeyVersion, Result, provider::Deleted};
use tokio::time::Instant;
use tracing::warn;

use crate::{
    api::{Api, SecretBundle},
    get::{Decided, current},
    name::Names,
    soft_delete::{Deadline, Event, SoftDelete, until},
};

/// How long to look for a deleted secret. If the response to the delete does not mention recovery, and the vault does
/// not list the secret for this long, the vault has no soft delete.
const UNSEEN: Duration = Duration::from_secs(12);

/// Deletes a key, and purges it if `mode` is `Destroy`.
pub(crate) async fn delete(
    api: &Api,
    soft_delete: &SoftDelete,
    name: &KeyName,
    mode: DeleteMode,
) -> Result<Deleted> {
    let names = &Names::of(name);
    let mut deadline = soft_delete.deadline();
    // Whether the vault has listed the secret as deleted, which means that the deletion is complete.
    let mut listed = false;
    let deleted = loop {
        match api.delete(names).await {
            Ok(Some(deleted)) => break deleted,
            // An earlier destroy may have been interrupted between delete and purge. Continue it.
            Ok(None) if mode == DeleteMode::Destroy => match deleted_before(api, names).await? {
                Some(deleted) => {
                    listed = true;
                    break deleted;
                }
                None => return Err(Error::key_not_found(name)),
            },
            Ok(None) => return Err(Error::key_not_found(name)),
            // Another client is deleting or recovering the secret; a later attempt shows which.
            Err(error) if error.kind() == ErrorKind::Conflict => {
                deadline.pause().await.map_err(|late| late.source(error))?;
            }
            Err(error) => return Err(error),
        }
    };
    if !is_recoverable(api, soft_delete, names, &deleted).await? {
        return Ok(Deleted::Destroyed);
    }
    if mode != DeleteMode::Destroy {
        // The vault shows the secret as deleted a moment later, and recovers it only from then on. The deletion is
        // done already, so no error of this wait is an error of the delete.
        until(api, names, Event::Deleted, &mut deadline).await.ok();
        return Ok(Deleted::Recoverable);
    }
    if deleted.is_protected() {
        warn!(
            secret = names.secret,
            "the vault's purge protection forbids destroying the key; it stays recoverable until its retention ends"
        );
        return Ok(Deleted::Recoverable);
    }
    purge(api, names, listed, &mut deadline).await
}

/// Reads the secret of that name if it was deleted before and can be purged.
async fn deleted_before(api: &Api, names: &Names) -> Result<Option<SecretBundle>> {
    match api.deleted(names).await {
        Ok(found) => Ok(found.filter(|found| !found.is_protected())),
        // An identity without the right to read deleted secrets is taken to have no right to purge them.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the vault keeps the secret that was just deleted. A vault without soft delete does not.
async fn is_recoverable(
    api: &Api,
    soft_delete: &SoftDelete,
    names: &Names,
    deleted: &SecretBundle,
) -> Result<bool> {
    if let Some(known) = deleted.is_recoverable() {
        return Ok(known);
    }
    let mut deadline = Deadline::new(soft_delete.wait.min(UNSEEN));
    loop {
        match api.deleted(names).await {
            Ok(Some(_)) => return Ok(true),
            Ok(None) => {}
            Err(error) => match error.kind() {
                ErrorKind::PermissionDenied => return Ok(true),
                // The server has no endpoint for deleted secrets.
                ErrorKind::Protocol | ErrorKind::ConfigInvalid => return Ok(false),
                _ => return Err(error),
            },
        }
        if deadline.pause().await.is_err() {
            return Ok(false);
        }
    }
}

/// Purges a secret as soon as its deletion is complete. `seen`: whether the vault has listed the secret as deleted.
async fn purge(api: &Api, names: &Names, mut seen: bool, deadline: &mut Deadline) -> Result<Deleted> {
    let begin = Instant::now();
    loop {
        match api.purge(names).await {
            Ok(()) => break,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                warn!(
                    secret = names.secret, %error,
                    "the key is deleted but not destroyed, since our identity may not purge it; it stays recoverable \
                     until its retention ends, or until an identity with the permission \"purge\" purges it"
                );
                return Ok(Deleted::Recoverable);
            }
            // The deletion is not complete.
            Err(error) if error.kind() == ErrorKind::Conflict => seen = true,
            // Another client has purged the secret.
            Err(error) if error.kind() == ErrorKind::NotFound && seen => break,
            // Another client has purged the secret, or the deletion is not complete and the server does not say so.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                seen = match api.deleted(names).await {
                    Ok(Some(_)) => true,
                    Ok(None) => {
                        // Nothing is left: the vault shows the secret neither as deleted nor as present.
                        if begin.elapsed() >= UNSEEN && api.get(names, None).await?.is_none() {
                            break;
                        }
                        false
                    }
                    Err(error) if error.kind() == ErrorKind::PermissionDenied => false,
                    Err(error) => return Err(error),
                };
            }
            Err(error) => return Err(error),
        }
        if let Err(error) = deadline.pause().await {
            warn!(secret = names.secret, %error, "the key is deleted but not destroyed, and may be recoverable");
            return Ok(Deleted::Recoverable);
        }
    }
    // The key is destroyed already; the vault frees its name a moment later.
    until(api, names, Event::Purged, deadline).await.ok();
    Ok(Deleted::Destroyed)
}

/// Disables the versions before the current one, and returns their number.
pub(crate) async fn retire(api: &Api, name: &KeyName, version: &KeyVersion) -> Result<usize> {
    let names = &Names::of(name);
    // The list comes first: a listed version that is not current afterwards is superseded for certain.
    let versions = api.versions(names).await?;
    let Some(Decided { current, .. }) = current(api, names, true).await? else {
        return Err(Error::key_not_found(name));
    };
    if current.version()? != *version {
        return Err(Error::key_changed(name));
    }
    let mut retired = 0;
    for old in versions {
        let old_version = old.version()?;
        if old_version == *version || old.attributes.enabled == Some(false) {
            continue;
        }
        api.enable(names, &old_version, false).await?;
        retired += 1;
    }
    Ok(retired)
}
