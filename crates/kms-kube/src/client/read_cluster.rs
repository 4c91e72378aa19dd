//! A CephCluster, read from the API.

use std::collections::HashSet;

use kms_core::{Error, ErrorKind, Result};

use super::{
    connect::Connection,
    error::{Cause, Target},
    exchange::{Object, Page, incomplete, read},
    names::{KUBERNETES, check_object},
};
use crate::{
    ceph_cluster::{CephCluster, Document},
    cluster_ref::ClusterRef,
};

/// The group and the resource of CephClusters.
const GROUP: &str = "ceph.rook.io";
const RESOURCE: &str = "cephclusters";

/// The names of the CephClusters in a namespace.
///
/// # Errors
///
/// `NotFound` if Rook is not installed; `PermissionDenied` if the account may not list CephClusters; `Incomplete` if a
/// part of the list is missing; otherwise errors of the connection.
pub async fn ceph_clusters(
    client: impl Into<Connection> + Send,
    kube_namespace: &str,
) -> Result<Vec<String>> {
    let connection = client.into();
    let annotate_error = |error: Error| error.operation("list CephClusters").provider(KUBERNETES);
    check_object("namespace", kube_namespace)?;
    let target = target("list", kube_namespace, None);
    let path = format!("/apis/{GROUP}/v1/namespaces/{kube_namespace}/{RESOURCE}");
    let found: Page<Object> = read(&connection, &path, &target).await.map_err(|failure| {
        annotate_error(match failure.cause {
            Cause::NoSuchResource => not_installed(),
            _ => failure.error,
        })
    })?;
    let (clusters, next) = found.into_parts(&mut HashSet::new());
    // The request sets no limit, so a response that is one page of several comes from a proxy.
    if next.map_err(annotate_error)?.is_some() {
        return Err(annotate_error(incomplete("a page of the list came in place of all of it")));
    }
    Ok(clusters.into_iter().filter_map(|cluster| cluster.metadata.name).collect())
}

fn target<'a>(verb: &'static str, kube_namespace: &'a str, name: Option<&'a str>) -> Target<'a> {
    Target { verb, group: GROUP, resource: RESOURCE, kube_namespace: Some(kube_namespace), name, hidden: &[] }
}

fn not_installed() -> Error {
    Error::new(
        ErrorKind::NotFound,
        "the API server does not know CephClusters: install Rook's custom resource definitions",
    )
}

/// Reads a CephCluster. Its [`reference`](CephCluster::reference) has the uid.
///
/// # Errors
///
/// `NotFound` if the cluster does not exist, or if Rook is not installed; the messages differ. `PermissionDenied` if
/// the account may not read it. `ConfigInvalid` if its `security` block looks misspelt.
pub async fn ceph_cluster(
    client: impl Into<Connection> + Send,
    kube_namespace: &str,
    name: &str,
) -> Result<CephCluster> {
    let connection = client.into();
    let annotate_error = |error: Error| error.operation("read CephCluster").provider(KUBERNETES);
    check_object("namespace", kube_namespace)?;
    check_object("CephCluster", name)?;
    let target = target("get", kube_namespace, Some(name));
    let path = format!("/apis/{GROUP}/v1/namespaces/{kube_namespace}/{RESOURCE}/{name}");
    let document: Document = read(&connection, &path, &target).await.map_err(|failure| {
        annotate_error(match failure.cause {
            Cause::Absent => Error::new(
                ErrorKind::NotFound,
                format!("CephCluster {name:?} was not found in namespace {kube_namespace:?}"),
            ),
            Cause::NoSuchResource => not_installed(),
            _ => failure.error,
        })
    })?;
    let Some(uid) = document.uid().map(str::to_owned) else {
        return Err(annotate_error(Error::new(
            ErrorKind::Protocol,
            "the CephCluster in the answer has no UID",
        )));
    };
    let mut cluster = CephCluster::from(document);
    cluster.spec.check_spelling().map_err(annotate_error)?;
    cluster.reference = Some(ClusterRef::new(kube_namespace, name).with_uid(uid));
    Ok(cluster)
}
