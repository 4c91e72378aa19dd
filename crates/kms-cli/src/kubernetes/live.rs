//! The one connection to the Kubernetes API. It is made at the first use.

use std::time::Duration;

use async_trait::async_trait;
use kms_core::{
    Error, ErrorKind, KeyName, Result, SecretData, SecretSource,
    layer::{RetryPolicy, preparing},
};
use kms_dispatch::Options;
use kms_kube::{
    CephCluster, ClusterRef, ConnectOptions, Connection, KubernetesSecretSource, ceph_cluster, ceph_clusters,
    connect, retry,
};
use kms_rook::client::{ClusterRecord, RookNamespace};
use tokio::sync::OnceCell;

use super::Record;
use crate::args::Global;

/// The connection. The CephCluster, the Secrets and the provider share it.
#[derive(Debug)]
pub(crate) struct Kubernetes {
    options: ConnectOptions,
    policy: RetryPolicy,
    /// The deadline that the user has set, which the limit of the connection follows.
    deadline: Option<Duration>,
    connection: OnceCell<Connection>,
}

impl Kubernetes {
    /// Whether this build can reach Kubernetes.
    pub(crate) const IS_COMPILED: bool = true;

    /// Stores the options. `deadline` limits the time to read one object, retries included.
    pub(crate) fn new(global: &Global, deadline: Option<Duration>) -> Self {
        let mut options = ConnectOptions::new().with_proxies(global.proxies.clone());
        options = match &global.kubeconfig {
            Some(path) => options.with_kubeconfig(path),
            None => options.with_inferred_config(),
        };
        if let Some(context) = &global.context {
            options = options.with_context(context);
        }
        if global.allow_http {
            options = options.with_cleartext_allowed();
        }
        let mut policy = RetryPolicy::default();
        if let Some(deadline) = deadline {
            policy.deadline = deadline;
        }
        Self { options, policy, deadline, connection: OnceCell::new() }
    }

    /// The same, for a command that watches objects.
    #[cfg(feature = "operator")]
    pub(crate) fn for_watches(global: &Global) -> Self {
        let kubernetes = Self::new(global, global.timeout);
        Self { options: kubernetes.options.with_watches(), ..kubernetes }
    }

    pub(crate) async fn connection(&self) -> Result<&Connection> {
        self.connection.get_or_try_init(|| preparing(self.deadline, connect(self.options.clone()))).await
    }

    /// The address of the API server. `None` before the first use of the connection.
    pub(crate) fn server(&self) -> Option<&str> {
        self.connection.get()?.server()
    }

    /// The namespace of a Rook cluster, with its OSDs and CronJobs.
    pub(crate) async fn rook(&self, kube_namespace: &str) -> Result<RookNamespace> {
        Ok(RookNamespace::new(self.connection().await?.clone(), kube_namespace).with_policy(self.policy))
    }

    /// Reads a CephCluster, with its uid.
    pub(crate) async fn cluster(&self, named: &ClusterRef) -> Result<CephCluster> {
        let read = || async {
            let connection = self.connection().await?.clone();
            ceph_cluster(connection, &named.kube_namespace, &named.name).await
        };
        retry(&self.policy, "read CephCluster", read).await
    }

    /// Finds the name of a CephCluster that is given by its namespace alone.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the namespace has several CephClusters, `NotFound` if it has none; otherwise errors of the
    /// connection.
    pub(crate) async fn only_cluster(&self, kube_namespace: &str) -> Result<ClusterRef> {
        let list = || async { ceph_clusters(self.connection().await?.clone(), kube_namespace).await };
        let found = retry(&self.policy, "list CephClusters", list).await?;
        match found.as_slice() {
            [name] => Ok(ClusterRef::new(kube_namespace, name)),
            [] => Err(Error::new(
                ErrorKind::NotFound,
                format!("the namespace {kube_namespace} has no CephCluster: name another one with --cluster"),
            )),
            several => Err(Error::config(format!(
                "the namespace {kube_namespace} has several CephClusters: name one of them, --cluster {kube_namespace}/{}",
                several.join(&format!(" or --cluster {kube_namespace}/"))
            ))),
        }
    }

    /// Finds the Deployments and PVCs of a namespace that use a key.
    pub(crate) async fn uses(&self, kube_namespace: &str, key: &KeyName) -> Result<Vec<String>> {
        let connection = self.connection().await?.clone();
        RookNamespace::new(connection, kube_namespace).with_policy(self.policy).uses(key).await
    }

    /// Records at a CephCluster when something of this kind happened.
    pub(crate) async fn record(&self, cluster: &ClusterRef, record: Record, at: &str) -> Result<()> {
        let record = match record {
            Record::Escrow => ClusterRecord::Escrow,
            Record::Drill => ClusterRecord::Drill,
        };
        self.rook(&cluster.kube_namespace).await?.record_at_cluster(&cluster.name, record, at).await
    }

    /// The Secrets of a namespace. The first read of a Secret makes the connection.
    #[expect(clippy::unnecessary_wraps, reason = "the build without Kubernetes has none")]
    pub(crate) fn secrets(&self, kube_namespace: &str) -> Option<Secrets<'_>> {
        Some(Secrets { kubernetes: self, kube_namespace: kube_namespace.to_owned() })
    }

    /// Adds the connection to the options of a provider.
    pub(crate) async fn add_connection(&self, options: Options) -> Result<Options> {
        Ok(options.with_kube_connection(self.connection().await?.clone()))
    }
}

/// The Secrets of a namespace.
#[derive(Debug)]
pub(crate) struct Secrets<'a> {
    kubernetes: &'a Kubernetes,
    kube_namespace: String,
}

#[async_trait]
impl SecretSource for Secrets<'_> {
    async fn secret(&self, name: &str) -> Result<SecretData> {
        let read = || async {
            let connection = self.kubernetes.connection().await?.clone();
            KubernetesSecretSource::new(connection, &self.kube_namespace)?.secret(name).await
        };
        let read = retry(&self.kubernetes.policy, "read Secret", read).await;
        read.map_err(|error| error.context("secret", name))
    }
}
