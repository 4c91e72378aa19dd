//! Destroys keys and superseded objects.

use std::sync::PoisonError;

use kms_core::{DeleteMode, Error, ErrorKind, IndexEntry, KeyIndex, KeyName, Result, provider::Deleted};

use crate::{
    api::Api,
    classify::{Object, gather},
    error::{Class, ExchangeError, busy},
    index::{Index, adopt, dangling, entry},
    message::Operation,
    stored::{object_type, revocation, state},
};

/// The maximum number of times that a delete starts again because another client writes the same key.
const ROUNDS: usize = 8;

/// Destroys a key: all objects that were ever stored under its name, the KEK last.
pub(crate) async fn delete(api: &Api, index: Index<'_>, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
    if mode != DeleteMode::Destroy {
        let message = "KMIP has no soft delete: a destroyed object is gone for good";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    match index {
        Some(index) => delete_entry(api, index, name).await?,
        None => delete_found(api, name).await?,
    }
    Ok(Deleted::Destroyed)
}

async fn delete_entry(api: &Api, index: &dyn KeyIndex, name: &KeyName) -> Result<()> {
    for _ in 0..ROUNDS {
        let entry = match entry(index, name).await? {
            Some(entry) => entry,
            None => {
                let Some(objects) = api.find(name, true).await? else {
                    return delete_superseded(api, name).await;
                };
                // Create an entry first, so that a writer that is about to create one fails.
                match index.create(name, &objects.current.uid).await {
                    Ok(version) => IndexEntry::new(objects.current.uid, version),
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                    Err(error) => return Err(error),
                }
            }
        };
        match delete_indexed(api, index, name, entry).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            result => return result,
        }
    }
    Err(busy())
}

async fn delete_indexed(
    api: &Api,
    index: &dyn KeyIndex,
    name: &KeyName,
    mut entry: IndexEntry,
) -> Result<()> {
    // An entry whose object is absent may be the only trace of a key on another server, so keep it.
    let current = api.object(&entry.uid).await?.ok_or_else(|| dangling(name, &entry.uid))?;
    check_ours(api, name, &current)?;
    let others = leftovers(api, name, Some(&current)).await?;
    if !others.is_empty() {
        entry.version = index.swap(name, &entry.version, &entry.uid).await?;
        destroy_all(api, &others).await?;
    }
    if current.keys.contains(name) {
        // If we crash after this step, the next delete finds the object by its name.
        index.delete(name, &entry.version).await?;
        destroy(api, &entry.uid).await?;
        // Another client may have found the object in between, and written an entry for it.
        if let Some(again) = self::entry(index, name).await?
            && *again.uid == *entry.uid
        {
            index.delete(name, &again.version).await?;
        }
    } else {
        // An object that Rook has registered has no name and is found by its entry alone, so remove the entry last.
        destroy(api, &entry.uid).await?;
        index.delete(name, &entry.version).await?;
    }
    Ok(())
}

/// Destroys the superseded objects of a key that has no current object.
async fn delete_superseded(api: &Api, name: &KeyName) -> Result<()> {
    match destroy_all(api, &leftovers(api, name, None).await?).await? {
        0 => Err(Error::key_not_found(name)),
        _ => Ok(()),
    }
}

async fn delete_found(api: &Api, name: &KeyName) -> Result<()> {
    let Some(objects) = api.find(name, true).await? else { return delete_superseded(api, name).await };
    destroy_all(api, &leftovers(api, name, Some(&objects.current)).await?).await?;
    if destroy(api, &objects.current.uid).await? { Ok(()) } else { Err(Error::key_not_found(name)) }
}

/// Destroys the objects that `current` has replaced and the objects that crashed writers left. Returns their number.
pub(crate) async fn retire(api: &Api, index: Index<'_>, name: &KeyName, current: &str) -> Result<usize> {
    let Some(index) = index else {
        let objects = api.find(name, true).await?.ok_or_else(|| Error::key_not_found(name))?;
        if objects.current.uid != current {
            return Err(Error::key_changed(name));
        }
        return destroy_all(api, &leftovers(api, name, Some(&objects.current)).await?).await;
    };
    let entry = match entry(index, name).await? {
        Some(entry) => entry,
        None => {
            let objects = api.find(name, true).await?.ok_or_else(|| Error::key_not_found(name))?;
            adopt(index, name, objects.current.uid).await?
        }
    };
    if *entry.uid != current {
        return Err(Error::key_changed(name));
    }
    let object = api.object(current).await?.ok_or_else(|| dangling(name, current))?;
    let others = leftovers(api, name, Some(&object)).await?;
    if others.is_empty() {
        return Ok(0);
    }
    if others.iter().any(|other| other.keys.contains(name) && other.generation() >= object.generation()) {
        index.swap(name, &entry.version, current).await?;
    }
    destroy_all(api, &others).await
}

/// Fails unless the object that the index names can be the KEK of this key and cluster: a delete must not destroy a
/// certificate, or the KEK of another key, because of a wrong Secret.
pub(crate) fn check_ours(api: &Api, name: &KeyName, object: &Object) -> Result<()> {
    let other = if !object_type::may_be_kek(object.object_type) {
        Some(format!("is {}", object_type::describe(object.object_type)))
    } else if is_of_another_key(object, name) {
        Some("has the name of another key".to_owned())
    } else if object.is_foreign(api.cluster.as_deref()) {
        Some(format!("belongs to the cluster {}", object.cluster().unwrap_or_default()))
    } else {
        None
    };
    match other {
        None => Ok(()),
        Some(other) => Err(Error::new(
            ErrorKind::Protocol,
            format!(
                "the Secret of the key names an object that {other}; nothing was destroyed: check the Secret, and remove \
                 it by hand if it is wrong"
            ),
        )
        .context("key", name.as_str())
        .context("object", object.uid.as_str())),
    }
}

fn is_of_another_key(object: &Object, name: &KeyName) -> bool {
    let mut names = object.keys.iter().chain(&object.superseded).peekable();
    names.peek().is_some() && names.all(|known| known != name)
}

/// Finds all other objects of the key, in the order to destroy them: first objects that crashed writers left, since a
/// reader could take them for the KEK, then superseded objects. An object that Rook has registered has no name; only
/// the label of its successor leads to it. `current`: `None` if the key has no current object.
pub(crate) async fn leftovers(api: &Api, name: &KeyName, current: Option<&Object>) -> Result<Vec<Object>> {
    let uid = current.map_or("", |current| &current.uid);
    let mut others = labelled(api, name, current).await?;
    let mut linked: Vec<_> = current
        .into_iter()
        .chain(&others)
        .filter_map(|object| object.predecessor().map(ToOwned::to_owned))
        .collect();
    let replaced = api.replaced.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
    linked.extend(replaced.unwrap_or_default());
    while let Some(known) = linked.pop() {
        if known != uid
            && !others.iter().any(|other| other.uid == known)
            && let Some(object) = api.object(&known).await?
            && check_ours(api, name, &object).is_ok()
        {
            linked.extend(object.predecessor().map(ToOwned::to_owned));
            others.push(object);
        }
    }
    // A reader that searches by name never takes an object without a tag for the KEK of this cluster.
    others.sort_by_key(|object| {
        let superseded = !object.keys.contains(name)
            || object.tag.is_none()
            || current.is_some_and(|current| object.generation() < current.generation());
        (superseded, object.generation())
    });
    Ok(others)
}

/// Finds the objects of our cluster with the name of a key, except the object `uid` that the index names, and objects
/// that are marked as superseded. `current`: the object `uid`, if the server has it.
pub(crate) async fn others(
    api: &Api,
    name: &KeyName,
    uid: &str,
    current: Option<&Object>,
) -> Result<Vec<Object>> {
    let mut found = api.named(name, true).await?;
    found.retain(|object| object.uid != uid && object.keys.contains(name));
    Ok(ours(api, found, current))
}

/// Finds all objects that have been registered for a key and whose labels show that they belong to our cluster, except
/// `current`.
async fn labelled(api: &Api, name: &KeyName, current: Option<&Object>) -> Result<Vec<Object>> {
    let mut found = api.named(name, true).await?;
    for object in api.renamed(name).await? {
        // A server that ignores the filter of a Locate returns every object both times.
        if !found.iter().any(|other| other.uid == object.uid) {
            found.push(object);
        }
    }
    let uid = current.map(|current| &current.uid);
    found.retain(|object| {
        (object.keys.contains(name) || object.superseded.contains(name)) && Some(&object.uid) != uid
    });
    Ok(ours(api, found, current))
}

/// Keeps the objects of our cluster, and those that the labels of `current` and of our objects lead to.
fn ours(api: &Api, found: Vec<Object>, current: Option<&Object>) -> Vec<Object> {
    let (mut ours, mut rest): (Vec<_>, Vec<_>) = found.into_iter().partition(|object| is_ours(api, object));
    ours.extend(current.cloned());
    gather(&mut ours, &mut rest, api.cluster.as_deref());
    ours.retain(|object| current.is_none_or(|current| current.uid != object.uid));
    ours
}

/// Whether an object has the label of our cluster, or of a client without a cluster name.
fn is_ours(api: &Api, object: &Object) -> bool {
    object.cluster().is_some() && !object.is_foreign(api.cluster.as_deref())
}

/// Destroys objects, and returns how many of them existed.
pub(crate) async fn destroy_all(api: &Api, objects: &[Object]) -> Result<usize> {
    let mut count = 0;
    for object in objects {
        count += usize::from(destroy(api, &object.uid).await?);
    }
    Ok(count)
}

/// Destroys an object, and returns whether it existed.
///
/// Our own objects are never activated, so one request is enough. If the server refuses the request, this function
/// reads the object's state, and revokes an active object first (field-reports UP-57).
pub(crate) async fn destroy(api: &Api, uid: &str) -> Result<bool> {
    let result = destroy_or_revoke(api, uid).await;
    api.forget(uid);
    if result.is_ok() {
        let mut replaced = api.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        replaced.retain(|_, uids| {
            uids.retain(|known| known != uid);
            !uids.is_empty()
        });
    }
    match result {
        Ok(()) => Ok(true),
        Err(failed) if failed.class == Class::Gone => Ok(false),
        Err(failed) => Err(failed.error.context("object", uid)),
    }
}

async fn destroy_or_revoke(api: &Api, uid: &str) -> Result<(), ExchangeError> {
    let refusal = match api.change(Operation::Destroy, uid).await {
        Err(failed) if failed.class == Class::State => failed,
        result => {
            api.habits().set_needs_revoke(false);
            return result;
        }
    };
    api.habits().set_needs_revoke(true);
    match state_of(api, uid).await? {
        Some(state::ACTIVE) => {}
        // Some servers destroy only objects that have been active.
        Some(state::PRE_ACTIVE) => {
            // Another client that destroys the object may have activated it meanwhile.
            if api.change(Operation::Activate, uid).await.is_err()
                && matches!(state_of(api, uid).await?, None | Some(state::PRE_ACTIVE))
            {
                return Err(refusal);
            }
        }
        // Another client has revoked or destroyed the object meanwhile.
        Some(state::DEACTIVATED..=state::DESTROYED_COMPROMISED) => {
            return api.change(Operation::Destroy, uid).await;
        }
        _ => return Err(refusal),
    }
    if let Err(failed) = api.revoke(uid, revocation::CESSATION_OF_OPERATION).await {
        // The revocation may fail because another client has revoked the object at the same time.
        let state = state_of(api, uid).await?;
        if matches!(state, None | Some(state::PRE_ACTIVE | state::ACTIVE)) {
            return Err(failed);
        }
    }
    api.change(Operation::Destroy, uid).await
}

/// Reads the state of an object before its destruction. `None` if the server does not return the state.
///
/// # Errors
///
/// [`Class::Gone`] if the object no longer exists, which ends the destruction.
async fn state_of(api: &Api, uid: &str) -> Result<Option<u32>, ExchangeError> {
    match api.attributes(uid).await {
        Ok(attributes) => Ok(attributes.state),
        Err(failed) if matches!(failed.class, Class::State | Class::Refused) => Ok(None),
        Err(failed) => Err(failed),
    }
}
