//! The CephCluster, as far as it concerns keys.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kms_core::{Error, ErrorKind, Result, SecuritySpec};
use serde::Deserialize;

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
}

/// Reads a CephCluster.
///
/// # Errors
///
/// `NotFound` if there is none of that name, or if Rook is not installed, which the message tells apart;
/// `PermissionDenied` if it may not be read.
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
    Ok(CephClusterInfo {
        security: cluster.spec.and_then(|spec| spec.security).unwrap_or_default(),
        owner: Owner::new(name, uid),
        kube_namespace: kube_namespace.to_owned(),
    })
}
