//! Reads KEKs.

use std::time::{Duration, SystemTime};

use kms_core::{Error, Freshness, Kek, KeyName, KeyVersion, Result, Stored};
use tracing::debug;

use crate::{
    api::{Api, check_object, identifier},
    error::{Class, ExchangeError},
    index::{Index, dangling, entry},
    message::Operation,
    stored::{decode, material, state},
    superseded::{complete, mark_all},
    ttlv::Item,
};

/// Reads a key: the object that the index names, or else the current object with the key's name.
pub(crate) async fn get(api: &Api, index: Index<'_>, name: &KeyName, freshness: Freshness) -> Result<Stored> {
    if let Some(index) = index
        && let Some(entry) = entry(index, name).await?
    {
        let kek = match fetch(api, &entry.uid).await {
            Ok(kek) => kek,
            Err(failed) if failed.class == Class::Gone => return Err(dangling(name, &entry.uid)),
            Err(failed) => return Err(failed.error),
        };
        if freshness == Freshness::Fresh
            && let Err(error) = complete(api, name, &entry.uid).await
        {
            debug!(%error, "whether the predecessor is marked as superseded is unknown");
        }
        return Ok(Stored::new(kek, KeyVersion::new(entry.uid.as_str())));
    }
    // With an index this is a rare case, and a cached object may have been superseded since.
    let mut fresh = freshness == Freshness::Fresh || index.is_some();
    loop {
        let objects = api.find(name, fresh).await?.ok_or_else(|| Error::key_not_found(name))?;
        let current = objects.current;
        match fetch(api, &current.uid).await {
            Ok(kek) => {
                if freshness == Freshness::Fresh {
                    mark_all(api, name, &objects.superseded).await;
                }
                // Retiring destroys the first object, so only the time of the current object is known.
                return Ok(Stored::new(kek, KeyVersion::new(current.uid))
                    .with_times(None, time(current.initial_date)));
            }
            // Another client destroyed the object after its attributes were cached.
            Err(failed) if failed.class == Class::Gone && !fresh => fresh = true,
            Err(failed) if failed.class == Class::Gone => return Err(Error::key_not_found(name)),
            Err(failed) => return Err(failed.error),
        }
    }
}

/// Reads the KEK in an object. If the server refuses to return an object that is not active yet, activates the object.
pub(crate) async fn fetch(api: &Api, uid: &str) -> Result<Kek, ExchangeError> {
    let read = || {
        let payload = |_| identifier(uid);
        let kek = |payload: &Item<'_>| check_object(payload, uid).and_then(|()| decode(material(payload)?));
        api.client.call(Operation::Get, payload, kek)
    };
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
