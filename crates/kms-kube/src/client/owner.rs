//! The owner of Secrets.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::cluster_ref::ClusterRef;

/// The CephCluster that owns Secrets: Kubernetes deletes them together with it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Owner {
    /// The name of the CephCluster.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl Owner {
    /// An owner.
    pub fn new(name: impl Into<String>, uid: impl Into<String>) -> Self {
        Self { name: name.into(), uid: uid.into() }
    }

    /// The reference that Rook writes.
    pub fn reference(&self) -> OwnerReference {
        let Self { name, uid } = self;
        OwnerReference {
            api_version: "ceph.rook.io/v1".to_owned(),
            block_owner_deletion: Some(true),
            controller: Some(true),
            kind: "CephCluster".to_owned(),
            name: name.clone(),
            uid: uid.clone(),
        }
    }
}

impl ClusterRef {
    /// The cluster as an owner; `None` if its uid is unknown.
    pub fn owner(&self) -> Option<Owner> {
        self.uid.as_ref().map(|uid| Owner::new(&self.name, uid))
    }
}
