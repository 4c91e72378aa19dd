//! Switches a CephCluster to another KMS, and holds OSDs back meanwhile.

use k8s_openapi::{NamespaceResourceScope, Resource, api::apps::v1::Deployment};
use kms_core::{Error, ErrorKind, Result, SecuritySpec};
use kms_kube::Objects;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use super::{RookNamespace, encrypted_osds};
use crate::switch::{HOLD_LABEL, HOLD_VALUE, SwitchedOsd};

/// The custom resource.
#[derive(Debug)]
pub(super) enum CephClusterResource {}

impl Resource for CephClusterResource {
    const API_VERSION: &'static str = "ceph.rook.io/v1";
    const GROUP: &'static str = "ceph.rook.io";
    const KIND: &'static str = "CephCluster";
    const URL_PATH_SEGMENT: &'static str = "cephclusters";
    const VERSION: &'static str = "v1";
    type Scope = NamespaceResourceScope;
}

/// A CephCluster before its KMS is switched.
#[derive(Debug)]
#[non_exhaustive]
pub struct SwitchableCluster {
    /// Its `security` block.
    pub security: SecuritySpec,
    /// The version of the object.
    pub resource_version: String,
    /// The settings that let Rook restart OSDs without asking Ceph whether that is safe.
    pub unsafe_settings: Vec<&'static str>,
}

impl RookNamespace {
    /// Reads the encrypted OSDs of a cluster that is switched. `blocks` are the block before and after.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` for a Deployment that cannot be understood; otherwise errors of the connection.
    pub async fn switched_osds(&self, blocks: [&SecuritySpec; 2]) -> Result<Vec<SwitchedOsd>> {
        let objects: Objects<Deployment> = self.objects()?;
        let empty = || (Vec::new(), None);
        let add = |(osds, failed): &mut (Vec<SwitchedOsd>, Option<Error>), found: Value| {
            if failed.is_none() {
                match switched_osd(&found, blocks) {
                    Ok(osd) => osds.extend(osd),
                    Err(error) => *failed = Some(error),
                }
            }
        };
        let (osds, failed) = objects.fold(&encrypted_osds(), empty, add).await?;
        failed.map_or(Ok(osds), Err)
    }

    /// Sets the label that keeps Rook from changing the Deployment of an OSD, or removes it.
    ///
    /// # Errors
    ///
    /// `NotFound` if the Deployment is absent; `PermissionDenied`; otherwise errors of the connection.
    pub async fn set_hold(&self, deployment: &str, hold: bool) -> Result<()> {
        let objects: Objects<Deployment> = self.objects()?;
        let change = json!({"metadata": {"labels": {HOLD_LABEL: hold.then_some(HOLD_VALUE)}}});
        self.retry("label", || objects.merge(deployment, &change)).await
    }

    /// Reads a CephCluster that is switched.
    ///
    /// # Errors
    ///
    /// `NotFound` if the namespace has no such CephCluster; otherwise errors of the connection.
    pub async fn switchable_cluster(&self, name: &str) -> Result<SwitchableCluster> {
        let objects: Objects<CephClusterResource> = self.objects()?;
        let found: Vec<Value> = objects.list("").await?;
        let has_name = |value: &&Value| value.pointer("/metadata/name").and_then(Value::as_str) == Some(name);
        let cluster = found.iter().find(has_name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "the CephCluster is absent").context("CephCluster", name)
        })?;
        let malformed = || Error::new(ErrorKind::Protocol, "the CephCluster in the answer is malformed");
        let version = cluster.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        let security = match cluster.pointer("/spec/security") {
            Some(block) => SecuritySpec::deserialize(block).map_err(|_cause| malformed())?,
            None => SecuritySpec::default(),
        };
        let is_on = |setting: &&str| cluster.pointer(&format!("/spec/{setting}")) == Some(&Value::Bool(true));
        let gates = ["skipUpgradeChecks", "continueUpgradeAfterChecksEvenIfNotHealthy"];
        Ok(SwitchableCluster {
            security,
            resource_version: version.ok_or_else(malformed)?.to_owned(),
            unsafe_settings: gates.into_iter().filter(is_on).collect(),
        })
    }

    /// Gives a CephCluster the `kms` block of `to`, if it is unchanged since it was read.
    ///
    /// # Errors
    ///
    /// `Conflict` if it has changed; `PermissionDenied`; otherwise errors of the connection.
    pub async fn switch_kms(&self, name: &str, read: &SwitchableCluster, to: &SecuritySpec) -> Result<()> {
        let objects: Objects<CephClusterResource> = self.objects()?;
        let change = kms_change(read, to);
        // A repeated change would meet its own new version, so it is sent once; the caller looks again.
        objects.merge(name, &change).await
    }
}

/// Reads the Deployment of an OSD. `None` if the OSD is not encrypted.
fn switched_osd(found: &Value, blocks: [&SecuritySpec; 2]) -> Result<Option<SwitchedOsd>> {
    let name = found.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    Deployment::deserialize(found)
        .map_err(|cause| Error::config("the Deployment cannot be parsed").source(cause))
        .and_then(|deployment| SwitchedOsd::of(&deployment, blocks))
        .map_err(|error| error.context("deployment", name))
}

/// The merge patch that replaces the `kms` block. A server-side apply would leave the settings of the old KMS, since
/// another manager owns them.
fn kms_change(read: &SwitchableCluster, to: &SecuritySpec) -> Value {
    let before = read.security.kms.connection_details.iter();
    let mut details: Map<String, Value> = before.map(|(name, _)| (name.to_owned(), Value::Null)).collect();
    let after = to.kms.connection_details.iter();
    details.extend(after.map(|(name, value)| (name.to_owned(), Value::from(value))));
    let token = Some(to.kms.token_secret_name.as_str()).filter(|name| !name.is_empty());
    json!({
        "metadata": {"resourceVersion": read.resource_version},
        "spec": {"security": {"kms": {"connectionDetails": details, "tokenSecretName": token}}},
    })
}
