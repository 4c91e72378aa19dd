//! The Kubernetes API, connected to when it is first needed.

use std::time::Duration;

use async_trait::async_trait;
use kms_core::{Result, SecretData, SecretSource, layer::RetryPolicy};
use kms_kube::{
    CephCluster, ConnectOptions, Connection, KubernetesSecretSource, ceph_cluster, connect, retry,
};
use tokio::sync::OnceCell;

use crate::cli::{ClusterName, Global};

/// One connection for the CephCluster, for Secrets and for the provider.
#[derive(Debug)]
pub(crate) struct Kubernetes {
    options: ConnectOptions,
    policy: RetryPolicy,
    connection: OnceCell<Connection>,
}

impl Kubernetes {
    /// `patience` is how long to read one object, with all tries.
    pub(crate) fn new(global: &Global, patience: Option<Duration>) -> Self {
        let mut options = ConnectOptions::new();
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
        if let Some(patience) = patience {
            policy.deadline = patience;
        }
        Self { options, policy, connection: OnceCell::new() }
    }

    pub(crate) async fn connection(&self) -> Result<&Connection> {
        self.connection.get_or_try_init(|| connect(self.options.clone())).await
    }

    /// How often and how long to try.
    pub(crate) fn policy(&self) -> RetryPolicy {
        self.policy
    }

    pub(crate) async fn cluster(&self, cluster: &ClusterName) -> Result<CephCluster> {
        let ClusterName { kube_namespace, name } = cluster;
        let read = || async {
            let connection = self.connection().await?.clone();
            ceph_cluster(connection, kube_namespace, name).await
        };
        retry(&self.policy, "read CephCluster", read).await
    }

    /// The Secrets of a namespace.
    pub(crate) fn secrets(&self, kube_namespace: &str) -> Secrets<'_> {
        Secrets { kubernetes: self, kube_namespace: kube_namespace.to_owned() }
    }
}

/// The Secrets of a namespace. To make this does not connect; to ask for one does.
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
