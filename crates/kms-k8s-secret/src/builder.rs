//! Builds the provider from a connection and a namespace.

use std::path::PathBuf;

use kms_core::Result;
use kms_kube::{ConnectOptions, Connection, Owner, Secrets, connect};

use crate::{PROVIDER, provider::KubernetesSecret};

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
    /// A builder without an API server.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes server and credentials from this kubeconfig: see [`ConnectOptions::with_kubeconfig`].
    pub fn with_kubeconfig(mut self, path: impl Into<PathBuf>) -> Self {
        self.options = self.options.with_kubeconfig(path);
        self
    }

    /// Uses this context of the kubeconfig instead of its current context.
    pub fn with_context(mut self, name: impl Into<String>) -> Self {
        self.options = self.options.with_context(name);
        self
    }

    /// Finds server and credentials as `kubectl` does: see [`ConnectOptions::with_inferred_config`].
    pub fn with_inferred_config(mut self) -> Self {
        self.options = self.options.with_inferred_config();
        self
    }

    /// Uses these options instead of all earlier ones.
    pub fn with_options(mut self, options: ConnectOptions) -> Self {
        self.options = options;
        self
    }

    /// Uses an existing connection or a client of the caller, and ignores the options.
    ///
    /// A client of the caller should not retry requests by itself (`Config::default_retry`).
    pub fn with_client(mut self, client: impl Into<Connection>) -> Self {
        self.connection = Some(client.into());
        self
    }

    /// Keeps the Secrets in this namespace, which is that of the CephCluster.
    ///
    /// The default is the namespace of the kubeconfig's context or of the pod.
    pub fn with_kube_namespace(mut self, kube_namespace: impl Into<String>) -> Self {
        self.kube_namespace = Some(kube_namespace.into());
        self
    }

    /// Makes the CephCluster own new Secrets. Without an owner they remain when the cluster is deleted.
    pub fn with_owner(mut self, owner: Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Prepares the connection. Sends nothing.
    ///
    /// # Errors
    ///
    /// Errors of [`connect()`], and `ConfigInvalid` if the text cannot be the name of a namespace.
    pub async fn build(self) -> Result<KubernetesSecret> {
        let Self { options, connection, kube_namespace, owner } = self;
        let connection = match connection {
            Some(connection) => connection,
            None => connect(options).await?,
        };
        let kube_namespace = kube_namespace.unwrap_or_else(|| connection.kube_namespace().to_owned());
        let secrets = Secrets::new(connection, kube_namespace).map_err(|error| error.provider(PROVIDER))?;
        Ok(KubernetesSecret::new(secrets, owner))
    }
}
