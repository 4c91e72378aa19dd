//! The options of a connection that are not in the `security` block.

use std::{path::PathBuf, time::Duration};

use kms_core::SecretString;
use kms_kube::ClusterRef;
use zeroize::Zeroizing;

use crate::{provider_options::ProviderOptions, registry::Registry};

/// The options of [`connect`](crate::connect), which are not in the `security` block. By default no option is set.
#[derive(Clone, Debug, Default)]
pub struct Options {
    provider: ProviderOptions,
    registry: Registry,
}

impl Options {
    /// Sets the cluster that the keys belong to. Kubernetes Secrets require it. If the options also have a way to its
    /// Kubernetes, KMIP keeps its identifiers in Secrets there.
    #[must_use]
    pub fn with_cluster(mut self, cluster: ClusterRef) -> Self {
        self.provider.cluster = Some(cluster);
        self
    }

    /// Sets the kubeconfig that names the Kubernetes API server. Default: the kubeconfig that `kubectl` would use, and
    /// without that file, the service account of the pod.
    #[must_use]
    pub fn with_kubeconfig(mut self, path: impl Into<PathBuf>) -> Self {
        self.provider.kubeconfig = Some(path.into());
        self
    }

    /// Sets the context of the kubeconfig. Default: its current context.
    #[must_use]
    pub fn with_kube_context(mut self, context: impl Into<String>) -> Self {
        self.provider.kube_context = Some(context.into());
        self
    }

    /// Uses this connection to the Kubernetes API instead of making one.
    #[cfg(feature = "k8s-secret")]
    #[must_use]
    pub fn with_kube_connection(mut self, connection: kms_kube::Connection) -> Self {
        self.provider.kube_connection = Some(connection);
        self
    }

    /// Sets the token of a Kubernetes service account, for a KMS in which each pod logs in with its own account: it gets
    /// this token in place of the one in the pod's file.
    #[must_use]
    pub fn with_account_token(mut self, token: SecretString) -> Self {
        self.provider.account_token = Some(token);
        self
    }

    /// Sets the environment. A provider takes the known settings from it that `connectionDetails` does not have. This
    /// crate never reads the environment of the process.
    #[must_use]
    pub fn with_environment<K: Into<String>, V: Into<String>>(
        mut self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let pairs = pairs.into_iter().map(|(name, value)| (name.into(), Zeroizing::new(value.into())));
        self.provider.environment.extend(pairs);
        self
    }

    /// Allows a KMS or a Kubernetes API server whose address begins with `http://`. An attacker on the network can then
    /// read credentials and keys.
    #[must_use]
    pub fn with_allow_http(mut self, allow: bool) -> Self {
        self.provider.allow_http = allow;
        self
    }

    /// Looks a token of the settings up when it is used first, so that an event ([`kms_core::token_life`]) says how long it
    /// lives. That costs one request.
    #[must_use]
    pub fn with_token_lookup(mut self, at_once: bool) -> Self {
        self.provider.token_lookup = at_once;
        self
    }

    /// Limits the time of each operation, all tries included.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.provider.deadline = Some(deadline);
        self
    }

    /// Limits the number of tries; 1 means no retry.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.provider.attempts = Some(attempts.max(1));
        self
    }

    /// Adds the providers of this registry to the providers of this workspace.
    #[must_use]
    pub fn with_registry(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn provider(&self) -> &ProviderOptions {
        &self.provider
    }
}

#[cfg(test)]
mod tests {
    use kms_core::layer::LayerOptions;

    use super::*;

    #[test]
    fn values_of_the_environment_are_not_shown() {
        let options = Options::default()
            .with_environment([("VAULT_TOKEN", "canary")])
            .with_account_token(SecretString::from("canary"));
        let shown = format!("{options:?}");
        assert!(shown.contains("VAULT_TOKEN") && !shown.contains("canary"), "{shown}");
    }

    #[test]
    fn the_caller_beats_the_settings() {
        let mut layers = LayerOptions::default();
        layers.retry.attempts = 3;
        let options = Options::default().with_deadline(Duration::from_secs(7)).with_attempts(0);
        let layers = options.provider().limits(layers);
        assert_eq!(layers.retry.deadline, Duration::from_secs(7));
        assert_eq!(layers.retry.attempts, 1);
        assert_eq!(layers.attempt_timeout, LayerOptions::default().attempt_timeout);
    }
}
