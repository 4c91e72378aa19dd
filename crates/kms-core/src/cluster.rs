//! Which CephCluster is meant.

/// Names a CephCluster in Kubernetes.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ClusterRef {
    /// The Kubernetes namespace of the CephCluster and of its Secrets.
    pub kube_namespace: String,
    /// The name of the CephCluster.
    pub name: String,
    /// The uid of the CephCluster, if it is known. A Secret that a provider creates for a key has the cluster with this
    /// uid as its owner.
    pub uid: Option<String>,
}

impl ClusterRef {
    /// Names a cluster whose uid is not known.
    pub fn new(kube_namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kube_namespace: kube_namespace.into(), name: name.into(), uid: None }
    }

    /// Adds the uid.
    #[must_use]
    pub fn with_uid(mut self, uid: impl Into<String>) -> Self {
        self.uid = Some(uid.into());
        self
    }
}
