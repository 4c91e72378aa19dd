//! The CephCluster, as far as it concerns keys.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kms_core::{Error, ErrorKind, Result, SecuritySpec, config::nearest};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    PROVIDER,
    api::read,
    builder::Owner,
    connect::Connection,
    error::{Cause, Target},
    name::check_object,
};

/// What a CephCluster says about the keys of its OSDs.
#[derive(Debug)]
#[non_exhaustive]
pub struct CephClusterInfo {
    /// The `security` block; the default one if there is none.
    pub security: SecuritySpec,
    /// The cluster itself, as the owner of its Secrets.
    pub owner: Owner,
    /// Its namespace, where the Secrets are.
    pub kube_namespace: String,
    /// The device sets by name, and whether their OSDs are encrypted and so have keys in the KMS; `None` if the
    /// CephCluster says nothing of its storage.
    pub device_sets: Option<Vec<(String, bool)>>,
    /// Whether the CephCluster is being deleted.
    pub deleting: bool,
    /// The fields of its `spec` that are not read here, as they are.
    pub spec: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct CephCluster {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Option<Spec>,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    security: Option<SecuritySpec>,
    #[serde(default)]
    storage: Option<Storage>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Storage {
    #[serde(default)]
    storage_class_device_sets: Option<Vec<DeviceSet>>,
}

#[derive(Deserialize)]
struct DeviceSet {
    #[serde(default)]
    name: String,
    #[serde(default)]
    encrypted: Option<bool>,
}

impl Storage {
    fn device_sets(self) -> Vec<(String, bool)> {
        let sets = self.storage_class_device_sets.unwrap_or_default();
        sets.into_iter().map(|set| (set.name, set.encrypted.unwrap_or(false))).collect()
    }
}

impl Spec {
    /// Without a `security` block keys are kept in Kubernetes Secrets, and one that is misspelt is not to be taken for
    /// that. Where Rook's own definitions are installed, the API server drops such a field and nobody can tell.
    fn check(&self) -> Result<()> {
        const KNOWN: &str = "security";
        match self.other.keys().find(|field| self.security.is_none() && nearest(field, [KNOWN]).is_some()) {
            Some(field) => Err(Error::config(format!("spec.{field} is not known; did you mean {KNOWN}?"))),
            None => Ok(()),
        }
    }
}

/// Reads a CephCluster.
///
/// # Errors
///
/// `NotFound` if there is none of that name, or if Rook is not installed, which the message tells apart;
/// `PermissionDenied` if it may not be read; `ConfigInvalid` if its `security` block is misspelt.
pub async fn ceph_cluster(
    client: impl Into<Connection> + Send,
    kube_namespace: &str,
    name: &str,
) -> Result<CephClusterInfo> {
    let connection = client.into();
    check_object("namespace", kube_namespace)?;
    check_object("CephCluster", name)?;
    let target = Target {
        verb: "get",
        group: "ceph.rook.io",
        resource: "cephclusters",
        kube_namespace: Some(kube_namespace),
        name: Some(name),
        hidden: &[],
    };
    let path = format!("/apis/ceph.rook.io/v1/namespaces/{kube_namespace}/cephclusters/{name}");
    let cluster: CephCluster = read(&connection, &path, &target).await.map_err(|failure| {
        let error = match failure.cause {
            Cause::Absent => Error::new(
                ErrorKind::NotFound,
                format!("CephCluster {name:?} was not found in namespace {kube_namespace:?}"),
            ),
            Cause::NoSuchResource => Error::new(
                ErrorKind::NotFound,
                "the API server knows no CephClusters: Rook's custom resource definitions are not installed",
            ),
            _ => failure.error,
        };
        error.operation("read CephCluster").provider(PROVIDER)
    })?;
    let Some(uid) = cluster.metadata.uid else {
        return Err(Error::new(ErrorKind::Protocol, "the CephCluster in the answer has no UID")
            .operation("read CephCluster")
            .provider(PROVIDER));
    };
    let (security, storage, other) = match cluster.spec {
        Some(spec) => {
            spec.check().map_err(|error| error.operation("read CephCluster").provider(PROVIDER))?;
            (spec.security, spec.storage, spec.other)
        }
        None => (None, None, BTreeMap::new()),
    };
    Ok(CephClusterInfo {
        security: security.unwrap_or_default(),
        device_sets: storage.map(Storage::device_sets),
        deleting: cluster.metadata.deletion_timestamp.is_some(),
        owner: Owner::new(name, uid),
        kube_namespace: kube_namespace.to_owned(),
        spec: other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_misspelt_block_is_no_absent_one() {
        for field in ["securty", "Security"] {
            let error =
                spec(&format!(r#"{{"storage": {{}}, "{field}": {{"a": "canary"}}}}"#)).check().unwrap_err();
            assert_eq!(error.to_string(), format!("spec.{field} is not known; did you mean security?"));
        }
        for text in
            ["{}", r#"{"cephVersion": {"image": "x"}, "mon": null}"#, r#"{"security": {}, "securty": 1}"#]
        {
            spec(text).check().unwrap();
        }
    }

    #[test]
    fn device_sets_are_read_as_far_as_they_are_there() {
        let sets = |text: &str| spec(text).storage.map(Storage::device_sets);
        assert!(sets("{}").is_none());
        assert_eq!(sets(r#"{"storage": {"useAllNodes": true}}"#), Some(Vec::new()));
        let two = sets(
            r#"{"storage": {"storageClassDeviceSets": [{"name": "a", "count": 3, "encrypted": true}, {"name": "b"}]}}"#,
        );
        assert_eq!(two, Some(vec![("a".to_owned(), true), ("b".to_owned(), false)]));
    }
}
