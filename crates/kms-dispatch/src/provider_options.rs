//! The options that all providers use.

use std::{fmt, path::PathBuf, time::Duration};

use kms_core::{SecretString, layer::LayerOptions};
use kms_kube::ClusterRef;
use zeroize::Zeroizing;

/// The part of [`Options`](crate::Options) that providers use: everything except the registry.
#[derive(Clone, Default)]
pub(crate) struct ProviderOptions {
    pub(crate) cluster: Option<ClusterRef>,
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) kube_context: Option<String>,
    pub(crate) environment: Vec<(String, Zeroizing<String>)>,
    pub(crate) account_token: Option<SecretString>,
    pub(crate) allow_http: bool,
    pub(crate) token_lookup: bool,
    pub(crate) deadline: Option<Duration>,
    pub(crate) attempts: Option<u32>,
    #[cfg(feature = "k8s-secret")]
    pub(crate) kube_connection: Option<kms_kube::Connection>,
}

impl ProviderOptions {
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Sets the limits of the layers that the caller has chosen. The other limits come from the provider's settings.
    pub(crate) fn limits(&self, mut layers: LayerOptions) -> LayerOptions {
        if let Some(deadline) = self.deadline {
            layers = layers.with_deadline(deadline);
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
        let proxies = kms_core::ProxyRules::from_environment(self.environment());
        let mut options = kms_kube::ConnectOptions::new().with_proxies(proxies);
        options = match &self.kubeconfig {
            Some(path) => options.with_kubeconfig(path),
            None => options.with_inferred_config(),
        };
        if let Some(context) = &self.kube_context {
            options = options.with_context(context);
        }
        if self.allow_http { options.with_cleartext_allowed() } else { options }
    }

    /// Whether the caller has named a kubeconfig or one of its contexts.
    #[cfg(feature = "k8s-secret")]
    pub(crate) fn names_kubernetes(&self) -> bool {
        self.kubeconfig.is_some() || self.kube_context.is_some()
    }

    pub(crate) fn allow_http(&self) -> bool {
        self.allow_http
    }

    pub(crate) fn token_lookup(&self) -> bool {
        self.token_lookup
    }
}

impl fmt::Debug for ProviderOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cluster,
            kubeconfig,
            kube_context,
            environment,
            account_token: _,
            allow_http,
            token_lookup,
            deadline,
            attempts,
            #[cfg(feature = "k8s-secret")]
            kube_connection,
        } = self;
        let names: Vec<_> = environment.iter().map(|(name, _)| name).collect();
        let mut shown = f.debug_struct("ProviderOptions");
        #[cfg(feature = "k8s-secret")]
        shown.field("kube_connection", kube_connection);
        shown
            .field("cluster", cluster)
            .field("kubeconfig", kubeconfig)
            .field("kube_context", kube_context)
            .field("environment", &names)
            .field("allow_http", allow_http)
            .field("token_lookup", token_lookup)
            .field("deadline", deadline)
            .field("attempts", attempts)
            .finish_non_exhaustive()
    }
}
