//! Lists keys.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use kms_core::{Error, KeyInfo, KeyName, KeyState, KeyVersion, Result};
use tracing::debug;

use crate::{
    api::{Api, BATCH},
    classify::{Object, classify},
    get::time,
    habits::Batches,
    index::{Index, check_identifier},
    label::{NO_CLUSTER, cluster_filter},
    locate::{Effort, Located},
};

/// The keys, and why some may be missing. `None` if all are there.
pub(crate) type Listing = (Vec<KeyInfo>, Option<Error>);

/// Lists the keys of the index, and the keys on the server without an index entry.
///
/// [`classify`] decides which objects belong to our cluster, as it does for a read of one key. The server cannot decide
/// that: an object without a label belongs to every cluster, and no filter finds one.
pub(crate) async fn list(api: &Api, index: Index<'_>) -> Result<Listing> {
    let mut keys = Vec::new();
    let mut listed = BTreeSet::new();
    let mut indexed = HashSet::new();
    if let Some(index) = index {
        for (name, entry) in index.list().await? {
            // The entry may hold a KEK in place of an identifier, which must not be shown as a version.
            if check_identifier(&entry.uid).is_err() {
                continue;
            }
            let version = KeyVersion::new(entry.uid.as_str());
            indexed.insert(entry.uid.as_str().to_owned());
            keys.push(KeyInfo::new(name.clone()).with_version(version));
            listed.insert(name);
        }
    }
    mark(api, &mut keys).await;
    let Located { mut uids, incomplete } = locate(api).await?;
    uids.retain(|uid| !indexed.contains(uid));
    let mut names: BTreeMap<KeyName, Vec<Object>> = BTreeMap::new();
    for object in api.objects(uids, true).await? {
        for key in object.keys.iter().filter(|key| !listed.contains(key)) {
            names.entry(key.clone()).or_default().push(object.clone());
        }
    }
    for (name, objects) in names {
        match classify(&name, api.cluster.as_deref(), objects) {
            Ok(Some(objects)) => keys.push(
                KeyInfo::new(name)
                    .with_times(None, time(objects.current.initial_date))
                    .with_state(state(&objects.current))
                    .with_version(KeyVersion::new(objects.current.uid)),
            ),
            Ok(None) => {}
            // The key exists, but its objects cannot be told apart.
            Err(_) => keys.push(KeyInfo::new(name)),
        }
    }
    Ok((keys, incomplete))
}

/// What a list marks at an object.
fn state(object: &Object) -> Option<KeyState> {
    object.deactivated.then_some(KeyState::Expired)
}

/// Marks the keys of the index: for that it reads the attributes of their objects, sixteen in a request.
///
/// A server that executes one operation a request would need a request for each key, and then no key is marked. Nor is one
/// if the server does not describe the objects: the list is complete without marks.
async fn mark(api: &Api, keys: &mut [KeyInfo]) {
    let uid = |key: &KeyInfo| key.version.as_ref().map(|version| version.as_str().to_owned());
    let uids: Vec<String> = keys.iter().filter_map(uid).collect();
    // The response to the first batch shows whether the server executes batches.
    let (first, rest) = uids.split_at(BATCH.min(uids.len()));
    let mut found: HashMap<String, Object> = HashMap::new();
    for part in [first, rest] {
        if api.habits().batches() == Batches::Unsupported {
            return;
        }
        match api.objects(part.to_vec(), true).await {
            Ok(objects) => found.extend(objects.into_iter().map(|object| (object.uid.clone(), object))),
            Err(error) => return debug!(%error, "the keys of the index are not marked"),
        }
    }
    for key in keys {
        key.state = match uid(key).map(|uid| found.get(&uid)) {
            Some(Some(object)) => state(object),
            Some(None) => Some(KeyState::Destroyed),
            None => None,
        };
    }
}

/// Finds all objects that may be ours: all that the client may see.
async fn locate(api: &Api) -> Result<Located> {
    let mut all = api.locate(&[], Effort::Thorough).await?;
    if let (Some(_), Some(cluster)) = (&all.incomplete, &api.cluster) {
        // What carries the label of our cluster can still be found. Objects without a label may be missing.
        for cluster in [cluster, NO_CLUSTER] {
            // A server may refuse an attribute that it does not know.
            if let Ok(labelled) = api.locate(&[cluster_filter(cluster)], Effort::Thorough).await {
                all.uids.extend(labelled.uids);
            }
        }
        all.uids.sort_unstable();
        all.uids.dedup();
    }
    Ok(all)
}
