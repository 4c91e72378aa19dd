//! What the caller knows besides the `security` block.

use std::{fmt, path::PathBuf, time::Duration};

use kms_core::layer::LayerOptions;
use kms_kube::ClusterRef;
use zeroize::Zeroizing;

use crate::Registry;

/// What [`connect`](crate::connect) may want to know beside the `security` block. The default knows nothing.
#[derive(Clone, Default)]
pub struct Options {
    cluster: Option<ClusterRef>,
    kubeconfig: Option<PathBuf>,
    kube_context: Option<String>,
    environment: Vec<(String, Zeroizing<String>)>,
    allow_http: bool,
    deadline: Option<Duration>,
    attempt_timeout: Option<Duration>,
    attempts: Option<u32>,
    registry: Registry,
    #[cfg(feature = "k8s-secret")]
    kube_connection: Option<kms_kube::Connection>,
}

impl Options {
    /// Says which cluster the keys belong to. Kubernetes Secrets need it. With a way to its Kubernetes as well, KMIP keeps
    /// its identifiers in Secrets there.
    #[must_use]
    pub fn with_cluster(mut self, cluster: ClusterRef) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// Takes the Kubernetes API server from this file. Without it: from the kubeconfig that `kubectl` would use, and
    /// without one, from the service account of the pod.
    #[must_use]
    pub fn with_kubeconfig(mut self, path: impl Into<PathBuf>) -> Self {
        self.kubeconfig = Some(path.into());
        self
    }

    /// Takes this context of the kubeconfig instead of its current one.
    #[must_use]
    pub fn with_kube_context(mut self, context: impl Into<String>) -> Self {
        self.kube_context = Some(context.into());
        self
    }

    /// Uses this connection to the Kubernetes API instead of making one.
    #[cfg(feature = "k8s-secret")]
    #[must_use]
    pub fn with_kube_connection(mut self, connection: kms_kube::Connection) -> Self {
        self.kube_connection = Some(connection);
        self
    }

    /// Gives the environment, of which a provider takes the settings that it knows and that `connectionDetails`
    /// does not have. Nothing here reads the environment of the process.
    #[must_use]
    pub fn with_environment<K: Into<String>, V: Into<String>>(
        mut self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let pairs = pairs.into_iter().map(|(name, value)| (name.into(), Zeroizing::new(value.into())));
        self.environment.extend(pairs);
        self
    }

    /// Allows a KMS or a Kubernetes API server whose address begins with `http://`. An attacker on the network can then
    /// read credentials and keys.
    #[must_use]
    pub fn with_allow_http(mut self, allow: bool) -> Self {
        self.allow_http = allow;
        self
    }

    /// Limits the time of each operation with all its tries.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Limits the time of each try.
    #[must_use]
    pub fn with_attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = Some(timeout);
        self
    }

    /// Limits the number of tries; 1 means that nothing is repeated.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = Some(attempts.max(1));
        self
    }

    /// Takes the providers of this registry too. Without it only those of this workspace count.
    #[must_use]
    pub fn with_registry(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn environment(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The limits of the layers: those of the provider's own settings, unless the caller has said otherwise.
    pub(crate) fn limits(&self, mut layers: LayerOptions) -> LayerOptions {
        if let Some(deadline) = self.deadline {
            layers.retry.deadline = deadline;
        }
        if let Some(timeout) = self.attempt_timeout {
            layers.attempt_timeout = timeout;
        }
        if let Some(attempts) = self.attempts {
            layers.retry.attempts = attempts;
        }
        layers
    }

    pub(crate) fn cluster(&self) -> Option<&ClusterRef> {
        self.cluster.as_ref()
    }

    #[cfg(feature = "k8s-secret")]
    pub(crate) fn kube_connection(&self) -> Option<&kms_kube::Connection> {
        self.kube_connection.as_ref()
    }

    #[cfg(feature = "k8s-secret")]
    pub(crate) fn kube_options(&self) -> kms_kube::ConnectOptions {
        let mut options = kms_kube::ConnectOptions::new();
        options = match &self.kubeconfig {
            Some(path) => options.with_kubeconfig(path),
            None => options.with_inferred_config(),
        };
        if let Some(context) = &self.kube_context {
            options = options.with_context(context);
        }
        if self.allow_http { options.with_cleartext_allowed() } else { options }
    }

    /// Whether the caller has said where Kubernetes is, other than by a connection.
    #[cfg(feature = "k8s-secret")]
    pub(crate) fn names_kubernetes(&self) -> bool {
        self.kubeconfig.is_some() || self.kube_context.is_some()
    }

    pub(crate) fn allow_http(&self) -> bool {
        self.allow_http
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cluster,
            kubeconfig,
            kube_context,
            environment,
            allow_http,
            deadline,
            attempt_timeout,
            attempts,
            registry,
            #[cfg(feature = "k8s-secret")]
            kube_connection,
        } = self;
        let names: Vec<_> = environment.iter().map(|(name, _)| name).collect();
        let mut shown = f.debug_struct("Options");
        #[cfg(feature = "k8s-secret")]
        shown.field("kube_connection", kube_connection);
        shown
            .field("cluster", cluster)
            .field("kubeconfig", kubeconfig)
            .field("kube_context", kube_context)
            .field("environment", &names)
            .field("allow_http", allow_http)
            .field("deadline", deadline)
            .field("attempt_timeout", attempt_timeout)
            .field("attempts", attempts)
            .field("registry", registry)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_environment_are_not_shown() {
        let options = Options::default().with_environment([("VAULT_TOKEN", "canary")]);
        let shown = format!("{options:?}");
        assert!(shown.contains("VAULT_TOKEN") && !shown.contains("canary"), "{shown}");
    }

    #[test]
    fn the_caller_beats_the_settings() {
        let mut layers = LayerOptions::default();
        layers.retry.attempts = 3;
        let options = Options::default().with_deadline(Duration::from_secs(7)).with_attempts(0);
        let layers = options.limits(layers);
        assert_eq!(layers.retry.deadline, Duration::from_secs(7));
        assert_eq!(layers.retry.attempts, 1);
        assert_eq!(layers.attempt_timeout, LayerOptions::default().attempt_timeout);
    }
}
