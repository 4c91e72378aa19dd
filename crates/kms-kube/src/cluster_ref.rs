//! The name of a CephCluster.

/// The CephCluster that keys belong to.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ClusterRef {
    /// Its Kubernetes namespace, which is also the namespace of its Secrets.
    pub kube_namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, if known. With it, the cluster owns each Secret that is created for a key.
    ///
    /// Take it from the API server only: Kubernetes deletes a Secret whose owner does not exist, and the key in it.
    pub uid: Option<String>,
}

impl ClusterRef {
    /// A cluster whose uid is unknown.
    pub fn new(kube_namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kube_namespace: kube_namespace.into(), name: name.into(), uid: None }
    }

    /// Sets the uid.
    #[must_use]
    pub fn with_uid(mut self, uid: impl Into<String>) -> Self {
        self.uid = Some(uid.into());
        self
    }
}
