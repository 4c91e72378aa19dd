//! Lists keys.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use kms_core::{KeyInfo, KeyName, KeyVersion, Result};

use crate::{
    api::Api,
    classify::{Object, classify},
    error::{Class, ExchangeError},
    get::time,
    index::{Index, check_identifier},
    label::cluster_filter,
};

/// Lists the keys of the index, and the keys on the server without an index entry.
pub(crate) async fn list(api: &Api, index: Index<'_>) -> Result<Vec<KeyInfo>> {
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
    let mut uids = identifiers(api).await?;
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
    Ok(keys)
}

/// Finds the identifiers of all objects that may be ours, without duplicates.
async fn identifiers(api: &Api) -> Result<Vec<String>> {
    // A server may refuse a Locate that finds nothing, or one with an attribute that it does not know. The refusal of a
    // Locate without attributes says nothing about the objects.
    let unless_refused = |result, filtered: bool| match result {
        Ok(uids) => Ok(uids),
        Err(ExchangeError { class: Class::Gone, .. }) => Ok(Vec::new()),
        Err(ExchangeError { class: Class::Form, .. }) if filtered => Ok(Vec::new()),
        Err(ExchangeError { error, .. }) => Err(error),
    };
    let mut uids = Vec::new();
    // From 2.0 on, one value may hold cluster and generation (`Label::OneApplication`), which no filter matches.
    if let Some(cluster) = &api.cluster
        && api.client.version().await?.major == 1
    {
        uids = unless_refused(api.locate(&[cluster_filter(cluster)]).await, true)?;
    }
    if uids.is_empty() {
        uids = unless_refused(api.locate(&[]).await, false)?;
    }
    uids.sort_unstable();
    uids.dedup();
    Ok(uids)
}
