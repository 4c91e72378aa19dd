//! Reads every KEK that the server still has for a key.

use std::cmp::Reverse;

use kms_core::{Error, ErrorKind, Kek, KekState, KeyName, KeyVersion, PastKek, Result};
use tracing::debug;

use crate::{
    api::Api,
    classify::Object,
    delete::leftovers,
    error::Class,
    get::{fetch, time},
    index::{Index, dangling, entry},
};

/// Reads the current object, superseded objects, and objects of interrupted updates, the current one first, then the
/// newest first. A destroyed object is gone.
pub(crate) async fn history(api: &Api, index: Index<'_>, name: &KeyName) -> Result<Vec<PastKek>> {
    let entry = match index {
        Some(index) => entry(index, name).await?,
        None => None,
    };
    let current: Option<Object> = match &entry {
        Some(entry) => api.object(&entry.uid).await?,
        None => api.find(name, true).await?.map(|objects| objects.current),
    };
    let mut others = leftovers(api, name, current.as_ref()).await?;
    others.sort_by_key(|object| Reverse((object.initial_date, object.generation())));
    let mut past = Vec::with_capacity(others.len() + 1);
    let current = current.into_iter().map(|object| (KekState::Current, object));
    for (state, object) in current.chain(others.into_iter().map(|object| (KekState::Superseded, object))) {
        if let Some(kek) = read(api, &object).await? {
            let version = KeyVersion::new(object.uid);
            past.push(PastKek::new(version, state).with_kek(kek).with_stored(time(object.initial_date)));
        }
    }
    match (past.is_empty(), entry) {
        (false, _) => Ok(past),
        (true, Some(entry)) => Err(dangling(name, &entry.uid)),
        (true, None) => Err(Error::key_not_found(name)),
    }
}

/// Reads one object. `None` if it was destroyed meanwhile; `Some(None)` if the server does not return it, or if it is not
/// a KEK.
async fn read(api: &Api, object: &Object) -> Result<Option<Option<Kek>>> {
    match fetch(api, &object.uid).await {
        Ok(kek) => Ok(Some(Some(kek))),
        Err(failed) if failed.class == Class::Gone => Ok(None),
        Err(failed)
            if matches!(failed.class, Class::State | Class::Refused)
                || failed.error.kind() == ErrorKind::Protocol =>
        {
            debug!(error = %failed.error, "an object of the key cannot be read");
            Ok(Some(None))
        }
        Err(failed) => Err(failed.error),
    }
}
