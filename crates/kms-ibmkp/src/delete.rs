//! Deletes keys and superseded keys, and purges deleted ones.

use std::time::{Duration, SystemTime};

use kms_core::{DeleteMode, Error, ErrorKind, KeyName, KeyVersion, Result, Retry, provider::Deleted};
use kms_http::http::{Method, StatusCode};
use tracing::debug;

use crate::{
    api::{Api, Look, Request, States, Want},
    get::{Located, finish, locate, search},
    name::Names,
};

/// How long Key Protect keeps a deleted key, so that it can be restored.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Deletes a key. Key Protect keeps every deleted key for 30 days, whatever the mode; see [`purge`].
pub(crate) async fn delete(api: &Api, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
    if delete_all(api, &Names::of(name), mode).await? {
        Ok(Deleted::Recoverable { until: SystemTime::now().checked_add(KEPT) })
    } else {
        Err(Error::key_not_found(name))
    }
}

/// Deletes every key of a name, the current one last, so that an older key never becomes current.
async fn delete_all(api: &Api, names: &Names, mode: DeleteMode) -> Result<bool> {
    let current = match api.look(&names.alias, Want::Metadata).await? {
        Look::Found(key) => Some(*key),
        Look::Destroyed(_) | Look::Absent(_) => None,
    };
    let mut keys = search(api, names, States::Alive).await?;
    if let Some(current) = &current {
        current.check_owner(api.cluster.as_ref())?;
        keys.retain(|key| key.id != current.id);
    }
    let before = keys.len();
    keys.retain(|key| key.check_owner(api.cluster.as_ref()).is_ok());
    if current.is_none() && keys.is_empty() && before > 0 {
        return Err(Error::new(
            ErrorKind::PermissionDenied,
            "the only key of that name belongs to another cluster",
        ));
    }
    keys.sort_by(|one, other| one.age().cmp(&other.age()));
    let mut deleted = false;
    let current_id = current.as_ref().map(|key| key.id.clone());
    for key in keys.into_iter().chain(current) {
        // IBM does not document whether a deleted key keeps its alias. Remove the alias first, so that the name is
        // certainly free. The look-up found the current key by its alias, even if the service does not list that alias.
        let found_by_alias = current_id.as_ref() == Some(&key.id);
        let aliased = [&names.alias, &names.next]
            .into_iter()
            .filter(|alias| key.has_alias(alias) || (found_by_alias && **alias == names.alias));
        for alias in aliased.clone() {
            api.remove_alias(&key.id, alias).await?;
        }
        match api.destroy(&key.id).await {
            Ok(done) => deleted |= done,
            // The outcome is unknown, so look at the key: a repeated delete would only report a missing key.
            Err(error)
                if error.retryable() == Retry::IfIdempotent
                    && matches!(
                        api.look(&key.id, Want::Metadata).await,
                        Ok(Look::Destroyed(_) | Look::Absent(_))
                    ) =>
            {
                deleted = true;
            }
            Err(error) => {
                if error.retryable() == Retry::Never {
                    for alias in aliased {
                        api.add_alias(&key.id, alias).await?;
                    }
                }
                return Err(error.context("id", &key.id));
            }
        }
        debug!(id = key.id, ?mode, "deleted; it can be restored for 30 days, and purged after 4 hours");
    }
    Ok(deleted)
}

/// Deletes the superseded keys of a name.
pub(crate) async fn retire(api: &Api, name: &KeyName, current: &KeyVersion) -> Result<usize> {
    let names = &Names::of(name);
    let located = locate(api, names, Want::Metadata).await?;
    let Some(key) = located.as_key() else { return Err(Error::key_not_found(name)) };
    if key.id != current.as_str() {
        return Err(Error::key_changed(name));
    }
    key.check_owner(api.cluster.as_ref())?;
    // A successor whose predecessor has been deleted does not count as the key, so it needs its alias first.
    if !matches!(located, Located::Here(_)) && !finish(api, names, &located).await? {
        return Err(Error::key_changed(name));
    }
    let keys = search(api, names, States::All).await?;
    let mut retired = 0;
    for old in &keys {
        // A key of that name without our tags and without a successor does not come from an update.
        let replaced =
            old.is_tagged() || old.is_marked() || keys.iter().any(|other| other.comes_after(&old.id));
        let in_use = old.id == key.id || old.has_alias(&names.alias) || old.has_alias(&names.next);
        if replaced && !in_use && !old.is_destroyed() && old.check_owner(api.cluster.as_ref()).is_ok() {
            retired += usize::from(api.destroy(&old.id).await?);
        }
    }
    Ok(retired)
}

/// Purges every deleted key of a name, and returns their number.
pub(crate) async fn purge(api: &Api, name: &KeyName) -> Result<usize> {
    let names = Names::of(name);
    let mut gone = search(api, &names, States::Gone).await?;
    gone.retain(|key| key.check_owner(api.cluster.as_ref()).is_ok());
    if gone.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "there is no deleted key of that name"));
    }
    let mut purged = 0;
    for key in gone {
        let reply = api.send(Request::new(Method::DELETE, ["keys", &key.id, "purge"])).await?;
        match reply.status() {
            StatusCode::OK | StatusCode::NO_CONTENT => purged += 1,
            StatusCode::NOT_FOUND if reply.refused().kind() == ErrorKind::NotFound => {}
            _ => {
                return Err(reply
                    .refused()
                    .context("id", &key.id)
                    .context("purged before", purged.to_string()));
            }
        }
    }
    Ok(purged)
}
