//! Finds the objects of a cluster that use a key.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::PersistentVolumeClaim};
use kms_core::{KeyName, Result};
use kms_kube::Objects;
use serde_json::Value;

use super::{RookNamespace, encrypted_osds};
use crate::names::PVC_LABEL;

impl RookNamespace {
    /// Finds the Deployments and PVCs that use a key, each as its kind and name. Empty if there are none.
    ///
    /// A key belongs to an OSD by the name of the OSD's data PVC. So a Deployment counts by its label alone, even if the
    /// rest of it cannot be parsed.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the account may not list Deployments or PVCs; otherwise errors of the connection.
    pub async fn uses(&self, key: &KeyName) -> Result<Vec<String>> {
        let deployments: Objects<Deployment> = self.objects()?;
        let labels = encrypted_osds();
        let deployments: Vec<Value> = self.retry("list", || deployments.list(&labels)).await?;
        let claims: Objects<PersistentVolumeClaim> = self.objects()?;
        let claims: Vec<Value> = self.retry("list", || claims.list("")).await?;
        let name =
            |object: &Value| object.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned);
        let of_key = |object: &&Value| {
            let labels = object.pointer("/metadata/labels");
            labels.and_then(|labels| labels.get(PVC_LABEL)?.as_str()) == Some(key.as_str())
        };
        let deployments = deployments.iter().filter(of_key).filter_map(name);
        let claims = claims.iter().filter_map(name).filter(|name| name == key.as_str());
        Ok(deployments
            .map(|name| format!("Deployment {name}"))
            .chain(claims.map(|name| format!("PersistentVolumeClaim {name}")))
            .collect())
    }
}
