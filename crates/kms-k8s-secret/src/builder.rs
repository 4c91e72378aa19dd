//! How a provider comes about.

use std::path::PathBuf;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kms_core::Result;

use crate::{
    PROVIDER,
    api::Secrets,
    connect::{ConnectOptions, Connection, connect},
    name::check_object,
    provider::KubernetesSecret,
};

/// The CephCluster that the Secrets belong to: Kubernetes deletes them with it.
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
    pub(crate) fn reference(&self) -> OwnerReference {
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

/// Builds a [`KubernetesSecret`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct KubernetesSecretBuilder {
    options: ConnectOptions,
    connection: Option<Connection>,
    kube_namespace: Option<String>,
    owner: Option<Owner>,
}

impl KubernetesSecretBuilder {
    /// A builder that knows no way to an API server yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes server and credentials from this kubeconfig: see [`ConnectOptions::with_kubeconfig`].
    pub fn with_kubeconfig(mut self, path: impl Into<PathBuf>) -> Self {
        self.options = self.options.with_kubeconfig(path);
        self
    }

    /// Takes this context of the kubeconfig, instead of its current one.
    pub fn with_context(mut self, name: impl Into<String>) -> Self {
        self.options = self.options.with_context(name);
        self
    }

    /// Finds server and credentials as `kubectl` does: see [`ConnectOptions::with_inferred_config`].
    pub fn with_inferred_config(mut self) -> Self {
        self.options = self.options.with_inferred_config();
        self
    }

    /// Uses these options, instead of all that was given before.
    pub fn with_options(mut self, options: ConnectOptions) -> Self {
        self.options = options;
        self
    }

    /// Uses a connection that is there already, or a client of the caller's own making. No options count then.
    ///
    /// A client of the caller's own making should not repeat requests by itself (`Config::default_retry`).
    pub fn with_client(mut self, client: impl Into<Connection>) -> Self {
        self.connection = Some(client.into());
        self
    }

    /// Keeps the Secrets in this namespace: that of the CephCluster.
    ///
    /// The default is the namespace of the kubeconfig's context, or that of the pod.
    pub fn with_kube_namespace(mut self, kube_namespace: impl Into<String>) -> Self {
        self.kube_namespace = Some(kube_namespace.into());
        self
    }

    /// Makes new Secrets belong to this CephCluster. Without it they outlive it.
    pub fn with_owner(mut self, owner: Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Prepares the connection. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// Those of [`connect()`], and `ConfigInvalid` if the namespace cannot be one.
    pub async fn build(self) -> Result<KubernetesSecret> {
        let Self { options, connection, kube_namespace, owner } = self;
        let connection = match connection {
            Some(connection) => connection,
            None => connect(options).await?,
        };
        let kube_namespace = kube_namespace.unwrap_or_else(|| connection.kube_namespace().to_owned());
        check_object("namespace", &kube_namespace).map_err(|error| error.provider(PROVIDER))?;
        Ok(KubernetesSecret::new(Secrets { connection, kube_namespace }, owner))
    }
}
