//! Writes `OsdKey`s.

use kms_core::{Error, ErrorKind, Result, layer::RetryPolicy};
use kms_kube::{Objects, Write, retry};
use kms_rook::{Osd, client::RookNamespace};
use serde_json::json;

use crate::{
    api::{OsdKey, OsdKeySpec, OsdKeyStatus},
    copies::KeyCopy,
};

/// Makes the `OsdKey` of an OSD have this status. Sends nothing if it is stored already.
///
/// # Errors
///
/// Errors of the connection.
pub(crate) async fn write(
    keys: &Objects<OsdKey>,
    place: &RookNamespace,
    cluster: &str,
    osd: &Osd,
    stored: Option<&KeyCopy>,
    status: &OsdKeyStatus,
) -> Result<()> {
    let name = osd.name.as_str();
    let spec = OsdKeySpec { osd: osd.id, cluster: cluster.to_owned(), deployment: osd.deployment.clone() };
    let is_right =
        stored.is_some_and(|stored| stored.spec.as_ref() == Some(&spec) && stored.owner == osd.uid);
    if !is_right {
        let object = json!({
            "metadata": {
                "name": name,
                "namespace": place.name(),
                "ownerReferences": osd.owner().into_iter().collect::<Vec<_>>(),
            },
            "spec": spec,
        });
        let mut write = Write::default();
        // No other program writes these fields on purpose.
        write.force = true;
        let apply = || async { keys.apply(name, &object, write).await.map(drop) };
        retry(&RetryPolicy::default(), "apply an OsdKey", apply).await?;
    }
    if stored.is_none_or(|stored| stored.status != *status) {
        let apply = || keys.apply_status(name, status);
        retry(&RetryPolicy::default(), "apply the status of an OsdKey", apply).await?;
    }
    Ok(())
}

/// Deletes an `OsdKey`.
///
/// # Errors
///
/// Errors of the connection.
pub(crate) async fn remove(keys: &Objects<OsdKey>, name: &str, key: &KeyCopy) -> Result<()> {
    match keys.delete(name, key.uid.clone(), false).await {
        // Another one of the same name: the watch will show it.
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
        result => result.map_err(|error: Error| error.context("osdkey", name)),
    }
}
