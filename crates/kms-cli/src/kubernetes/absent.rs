//! Replaces the Kubernetes API in a build without it.

use std::time::Duration;

use kms_core::{Error, ErrorKind, KeyName, Result, SecretSource};
use kms_dispatch::{Options, Provider};
use kms_kube::{CephCluster, ClusterRef};

use super::Record;
use crate::args::Global;

/// Stands in for the connection.
#[derive(Debug)]
pub(crate) struct Kubernetes;

impl Kubernetes {
    /// Whether this build can reach Kubernetes.
    pub(crate) const IS_COMPILED: bool = false;

    pub(crate) fn new(_global: &Global, _deadline: Option<Duration>) -> Self {
        Self
    }

    /// `None`: this build has no connection.
    pub(crate) fn server(&self) -> Option<&str> {
        None
    }

    /// # Errors
    ///
    /// Always `Disabled`.
    #[expect(clippy::unused_async, reason = "the build with Kubernetes awaits")]
    pub(crate) async fn cluster(&self, _named: &ClusterRef) -> Result<CephCluster> {
        Err(Error::new(ErrorKind::Disabled, "this build cannot read from Kubernetes")
            .context("feature", Provider::KubernetesSecret.feature()))
    }

    /// # Errors
    ///
    /// Always `Disabled`.
    pub(crate) async fn only_cluster(&self, kube_namespace: &str) -> Result<ClusterRef> {
        self.cluster(&ClusterRef::new(kube_namespace, "")).await?;
        Ok(ClusterRef::new(kube_namespace, ""))
    }

    /// Empty: this build cannot look.
    #[expect(clippy::unused_async, reason = "the build with Kubernetes awaits")]
    pub(crate) async fn uses(&self, _kube_namespace: &str, _key: &KeyName) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// # Errors
    ///
    /// Always `Disabled`.
    pub(crate) async fn record(&self, cluster: &ClusterRef, _record: Record, _at: &str) -> Result<()> {
        self.cluster(cluster).await.map(drop)
    }

    /// `None`: this build cannot read Secrets.
    pub(crate) fn secrets(&self, _kube_namespace: &str) -> Option<Box<dyn SecretSource>> {
        None
    }

    #[expect(clippy::unused_async, reason = "the build with Kubernetes awaits")]
    pub(crate) async fn add_connection(&self, options: Options) -> Result<Options> {
        Ok(options)
    }
}
