//! Deletes and destroys keys, and disables superseded versions.

use std::time::Duration;

use kms_core::{DeleteMode, Error, ErrorKind, KeyName, KeyVersion, Result, provider::Deleted};
use tokio::time::Instant;
use tracing::warn;

use crate::{
    api::{Api, Removal, SecretBundle},
    get::{Decided, current},
    name::Names,
    soft_delete::{Deadline, Event, SoftDelete, until},
};

/// How long to look for a deleted secret. If the vault shows the secret neither as deleted nor as present for this long,
/// nothing of it is left: a vault without soft delete keeps nothing.
const UNSEEN: Duration = Duration::from_secs(12);

/// What a delete has left.
enum Left {
    /// A deleted secret. `listed`: whether the vault has listed it, which means that the deletion is complete.
    Deleted { secret: Box<SecretBundle>, listed: bool },
    /// Nothing, as far as the vault shows.
    Nothing,
    /// The vault does not show it.
    Unclear,
}

/// Deletes a key, and purges it if `mode` is `Destroy`.
///
/// The result is `Destroyed` only if the vault shows that nothing is left.
pub(crate) async fn delete(
    api: &Api,
    soft_delete: &SoftDelete,
    name: &KeyName,
    mode: DeleteMode,
) -> Result<Deleted> {
    let names = &Names::of(name);
    let mut deadline = soft_delete.deadline();
    let left = loop {
        match api.delete(names).await {
            Ok(Removal::Done(secret)) => match secret.is_recoverable() {
                Some(true) => break Left::Deleted { secret, listed: false },
                Some(false) => break Left::Nothing,
                None => break look(api, names, &mut deadline).await?,
            },
            // The secret is gone because of the earlier delete, which may be incomplete.
            Ok(Removal::Unsettled) => {
                let left = look(api, names, &mut deadline).await?;
                api.settled(names);
                break left;
            }
            // An earlier destroy may have been interrupted between delete and purge. Continue it.
            Ok(Removal::Absent) if mode == DeleteMode::Destroy => match deleted_before(api, names).await? {
                Some(secret) => break Left::Deleted { secret, listed: true },
                None => return Err(Error::key_not_found(name)),
            },
            Ok(Removal::Absent) => return Err(Error::key_not_found(name)),
            // Another client is deleting or recovering the secret; a later attempt shows which.
            Err(error) if error.kind() == ErrorKind::Conflict => {
                deadline.pause().await.map_err(|late| late.source(error))?;
            }
            Err(error) => return Err(error),
        }
    };
    match left {
        Left::Nothing => Ok(Deleted::Destroyed),
        Left::Unclear => {
            warn!(
                secret = names.secret,
                "the key is deleted, but the vault does not show what is left of it: it may be recoverable"
            );
            Ok(Deleted::Recoverable { until: None })
        }
        Left::Deleted { listed, secret } if mode != DeleteMode::Destroy => {
            // The vault shows the secret as deleted a moment later, and recovers it only from then on. The deletion is
            // done already, so no error of this wait is an error of the delete.
            if !listed {
                until(api, names, Event::Deleted, &mut deadline).await.ok();
            }
            Ok(Deleted::Recoverable { until: secret.purged_at() })
        }
        Left::Deleted { secret, .. } if secret.is_protected() => {
            warn!(
                secret = names.secret,
                "the vault's purge protection forbids destroying the key; it stays recoverable until its retention ends"
            );
            Ok(Deleted::Recoverable { until: secret.purged_at() })
        }
        Left::Deleted { listed, secret } => {
            let recoverable = Deleted::Recoverable { until: secret.purged_at() };
            purge(api, names, listed, &mut deadline, recoverable).await
        }
    }
}

/// Reads the secret of that name if it was deleted before.
async fn deleted_before(api: &Api, names: &Names) -> Result<Option<Box<SecretBundle>>> {
    match api.deleted(names).await {
        // An identity without the right to read deleted secrets is taken to have no right to purge them.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(None),
        found => Ok(found?.map(Box::new)),
    }
}

/// Looks what a delete has left whose response does not say so, or was lost.
async fn look(api: &Api, names: &Names, deadline: &mut Deadline) -> Result<Left> {
    let begin = Instant::now();
    loop {
        match api.deleted(names).await {
            Ok(Some(secret)) => return Ok(Left::Deleted { secret: Box::new(secret), listed: true }),
            // A deletion that is not complete looks the same, and takes some seconds.
            Ok(None) if begin.elapsed() < UNSEEN => {}
            Ok(None) => {
                return match api.get(names, None).await? {
                    None => Ok(Left::Nothing),
                    Some(_) => Err(present_again()),
                };
            }
            Err(error) => match error.kind() {
                // While a secret changes between present and deleted, the vault may show it as neither.
                ErrorKind::Conflict => {}
                // The identity may not read deleted secrets, or the server has no endpoint for them.
                ErrorKind::PermissionDenied | ErrorKind::Protocol => return Ok(Left::Unclear),
                _ => return Err(error),
            },
        }
        if deadline.pause().await.is_err() {
            return Ok(Left::Unclear);
        }
    }
}

fn present_again() -> Error {
    Error::new(ErrorKind::Conflict, "another client has recovered or created the key while it was deleted")
}

/// Purges a secret as soon as its deletion is complete. `seen`: whether the vault has listed the secret as deleted.
/// `recoverable`: the result if the secret cannot be purged.
async fn purge(
    api: &Api,
    names: &Names,
    mut seen: bool,
    deadline: &mut Deadline,
    recoverable: Deleted,
) -> Result<Deleted> {
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
                return Ok(recoverable);
            }
            // The deletion is not complete.
            Err(error) if error.kind() == ErrorKind::Conflict => seen = true,
            // Another client has purged or recovered the secret.
            Err(error) if error.kind() == ErrorKind::NotFound && seen => match api.get(names, None).await {
                Ok(None) => break,
                Ok(Some(_)) => return Err(present_again()),
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            },
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
            return Ok(recoverable);
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
