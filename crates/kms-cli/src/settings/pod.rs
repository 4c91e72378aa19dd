//! Settings from the environment of a pod that Rook has created.

use std::path::Path;

use kms_core::{Error, Result, SecretSource, SecuritySpec, config::nearest};
use kms_dispatch::{Provider, Registry};
use kms_kube::ClusterRef;
use kms_source::PodEnvironment;
use tracing::warn;

use crate::{environment::Environment, settings::Settings};

/// Settings and credentials in environment variables.
#[derive(Debug)]
pub(crate) struct PodSettings {
    pod: PodEnvironment,
    cluster: Option<ClusterRef>,
}

impl PodSettings {
    /// Reads the environment.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the environment has neither KMS settings nor the namespace of a CephCluster.
    pub(crate) fn read(environment: &Environment, registry: &Registry) -> Result<Self> {
        let pod = pod_environment(environment, registry);
        let known =
            registry.provider_of(pod.security()).ok().and_then(Provider::settings).unwrap_or_default();
        for name in pod.passed_over() {
            let near = nearest(name, known.iter().map(|setting| setting.name));
            let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            warn!(
                "the environment variable {name} is not a setting of the provider, and has no effect{near}"
            );
        }
        let kube_namespace = environment.get("POD_NAMESPACE");
        if pod.security().kms.connection_details.is_empty() && kube_namespace.is_none() {
            return Err(Error::config(
                "nothing says which KMS to use: give a CephCluster with -f or --cluster, or set KMS_PROVIDER and its \
                 settings as Rook does in its pods",
            ));
        }
        // `ROOK_CLUSTER_ID` does not become the uid of the cluster: see `Target::connect_to_write`.
        let name = environment.get("ROOK_CLUSTER_NAME").unwrap_or_default();
        Ok(Self { pod, cluster: kube_namespace.map(|kube_namespace| ClusterRef::new(kube_namespace, name)) })
    }
}

impl Settings for PodSettings {
    fn security(&self) -> &SecuritySpec {
        self.pod.security()
    }

    fn cluster(&self) -> Option<&ClusterRef> {
        self.cluster.as_ref()
    }

    fn secrets(&self) -> Option<&dyn SecretSource> {
        Some(&self.pod)
    }

    fn allows_kube_secrets(&self) -> bool {
        self.cluster.is_some()
    }
}

/// The variables that concern a KMS.
pub(crate) fn pod_environment(environment: &Environment, registry: &Registry) -> PodEnvironment {
    PodEnvironment::new(environment.pairs(), Path::new("/"), |provider, name| {
        registry.is_setting(provider, name)
    })
}
