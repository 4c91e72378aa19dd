//! Reads KEKs.

use std::time::{Duration, SystemTime};

use kms_core::{Error, ErrorKind, Freshness, Kek, KeyIndex, KeyName, KeyVersion, Result, Stored};
use tracing::debug;

use crate::{
    answers::unanswered,
    api::{Api, described, kek},
    error::{Class, ExchangeError, busy},
    index::{Index, adopt, dangling, entry},
    message::{Operation, Part},
    stored::state,
    superseded::{complete, mark_all},
};

/// The maximum number of times that a read starts again because another client changes the index.
const ROUNDS: usize = 8;

/// Reads a key: the object that the index names, or else the current object with the key's name.
///
/// With an index, a fresh read writes the entry of an object that has none. A writer that has looked before the object was
/// registered could write the entry of its own object otherwise, after this read has returned another KEK:
///
/// ```text
/// A looks and finds nothing; B registers "x" and crashes; a read returns the KEK of "x", and a device is formatted with it;
/// A registers "y", and writes its entry
/// ```
pub(crate) async fn get(api: &Api, index: Index<'_>, name: &KeyName, freshness: Freshness) -> Result<Stored> {
    for _ in 0..ROUNDS {
        let found = match index {
            Some(index) => entry(index, name).await?,
            None => None,
        };
        let read = match (index, found) {
            (Some(index), Some(entry)) => read_entry(api, index, name, &entry.uid, freshness).await?,
            _ => read_found(api, index, name, freshness).await?,
        };
        if let Some(stored) = read {
            return Ok(stored);
        }
    }
    Err(busy())
}

/// Reads the object that the index names. `None` if the index names another one by now.
async fn read_entry(
    api: &Api,
    index: &dyn KeyIndex,
    name: &KeyName,
    uid: &str,
    freshness: Freshness,
) -> Result<Option<Stored>> {
    let is_fresh = freshness == Freshness::Fresh;
    let kek = match fetch_with(api, uid, is_fresh && !api.knows(uid)).await {
        Ok(kek) => kek,
        // Another client may have replaced and destroyed the object since the entry was read.
        Err(failed) if failed.class == Class::Gone => match entry(index, name).await? {
            Some(entry) if *entry.uid != *uid => return Ok(None),
            _ => return Err(dangling(name, uid)),
        },
        Err(failed) => return Err(failed.error),
    };
    if is_fresh && let Err(error) = complete(api, name, uid).await {
        debug!(%error, "whether the predecessor is marked as superseded is unknown");
    }
    Ok(Some(Stored::new(kek, KeyVersion::new(uid))))
}

/// Reads the current object with the key's name. `None` if the index has an entry by now.
async fn read_found(
    api: &Api,
    index: Index<'_>,
    name: &KeyName,
    freshness: Freshness,
) -> Result<Option<Stored>> {
    // With an index this is a rare case, and a cached object may have been superseded since.
    let mut fresh = freshness == Freshness::Fresh || index.is_some();
    loop {
        let found = api.find_kek(name, fresh, true).await?;
        let (objects, mut kek) = found.ok_or_else(|| Error::key_not_found(name))?;
        let current = objects.current;
        let mut adopted = None;
        if let Some(index) = index.filter(|_| freshness == Freshness::Fresh) {
            match adopt(index, name, current.uid.clone()).await {
                Ok(entry) => {
                    // A delete may have destroyed the object before it had an entry.
                    kek = None;
                    adopted = Some((index, entry));
                }
                Err(error) if error.kind() == ErrorKind::Conflict => return Ok(None),
                // A client that may not write the index creates no key either.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    debug!(%error, object = current.uid, "the object has no entry in the index");
                }
                Err(error) => return Err(error),
            }
        }
        let kek = match kek {
            Some(kek) => Ok(kek),
            None => fetch(api, &current.uid).await,
        };
        match kek {
            Ok(kek) => {
                if freshness == Freshness::Fresh {
                    mark_all(api, name, &objects.superseded).await;
                }
                // Retiring destroys the first object, so only the time of the current object is known.
                let stored = Stored::new(kek, KeyVersion::new(current.uid));
                return Ok(Some(stored.with_times(None, time(current.initial_date))));
            }
            Err(failed) if failed.class == Class::Gone => {
                if let Some((index, entry)) = adopted {
                    index.delete(name, &entry.version).await?;
                }
                if fresh {
                    return Err(Error::key_not_found(name));
                }
                // Another client destroyed the object after its attributes were cached.
                fresh = true;
            }
            Err(failed) => return Err(failed.error),
        }
    }
}

/// Reads the KEK in an object. If the server refuses to return an object that is not active yet, activates the object.
pub(crate) async fn fetch(api: &Api, uid: &str) -> Result<Kek, ExchangeError> {
    fetch_with(api, uid, false).await
}

/// Reads the KEK in an object, and with `attributes` its attributes into the cache, in the same request.
async fn fetch_with(api: &Api, uid: &str, attributes: bool) -> Result<Kek, ExchangeError> {
    let read = || read(api, uid, attributes);
    let result = match read().await {
        // Some servers return active keys only.
        Err(failed) if failed.class == Class::State => match state_of(api, uid).await? {
            Some(state::PRE_ACTIVE) => {
                // Another client may activate the object at the same time, so ignore the error; the read decides.
                let _ = api.change(Operation::Activate, uid).await;
                read().await
            }
            // Another client has activated the object meanwhile.
            Some(state::ACTIVE) => read().await,
            _ => Err(failed),
        },
        result => result,
    };
    result.map_err(|failed| {
        if failed.class == Class::Gone {
            api.forget(uid);
        }
        ExchangeError { error: failed.error.context("object", uid), ..failed }
    })
}

async fn read(api: &Api, uid: &str, attributes: bool) -> Result<Kek, ExchangeError> {
    let operations = [Operation::Get, Operation::GetAttributes].into_iter().take(1 + usize::from(attributes));
    let parts = |_| operations.clone().map(|operation| Part::about(operation, uid)).collect();
    let answers = api.client.all(parts).await;
    if let Some(Ok(attributes)) = answers.read(1, |payload| described(payload, uid)) {
        api.note(uid, Ok(attributes))?;
    }
    answers.read(0, |payload| kek(payload, uid)).unwrap_or_else(|| Err(unanswered()))
}

/// Reads the state of an object. `None` if the server does not return the state.
async fn state_of(api: &Api, uid: &str) -> Result<Option<u32>, ExchangeError> {
    match api.attributes(uid).await {
        Ok(attributes) => Ok(attributes.state),
        // A client that may not read the object may not read its attributes either.
        Err(failed) if matches!(failed.class, Class::State | Class::Gone | Class::Refused) => Ok(None),
        Err(failed) => Err(failed),
    }
}

/// Converts a time in seconds since 1970. Zero and negative times are treated as absent.
pub(crate) fn time(seconds: Option<i64>) -> Option<SystemTime> {
    let seconds = u64::try_from(seconds?).ok().filter(|seconds| *seconds > 0)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
