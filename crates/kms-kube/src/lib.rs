#![doc = include_str!("../README.md")]

mod ceph_cluster;
#[cfg(feature = "client")]
mod client;
mod cluster_ref;
mod lenient;

#[cfg(feature = "client")]
pub use crate::client::{
    Base64, Cause, ConnectOptions, Connection, FIELD_MANAGER, Failure, KUBERNETES, KubernetesSecretSource,
    LIST_ROUNDS, Object, Objects, Owner, Page, Secret, Secrets, WARNINGS, Write, account_token, ceph_cluster,
    ceph_clusters, check_object, connect, is_subdomain, pod_security, retry, service_account_may, token_user,
    user_may_get,
};
pub use crate::{
    ceph_cluster::{CephCluster, CephClusterSpec, DeviceSet, did_you_mean, misspelt},
    cluster_ref::ClusterRef,
};
