//! Lists keys.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use kms_core::{Error, KeyInfo, KeyName, KeyVersion, Result};

use crate::{
    api::Api,
    classify::{Object, classify},
    get::time,
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
                    .with_version(KeyVersion::new(objects.current.uid)),
            ),
            Ok(None) => {}
            // The key exists, but its objects cannot be told apart.
            Err(_) => keys.push(KeyInfo::new(name)),
        }
    }
    Ok((keys, incomplete))
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
