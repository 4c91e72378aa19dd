//! KMIP, from a `security` block.

#[cfg(feature = "k8s-secret")]
mod index;

use std::sync::Arc;

use kms_core::{KmsProvider, ProviderBuilder, Result, SecretSource, SecuritySpec, config::Problems};
use kms_kmip::KmipBuilder;

use crate::Options;

fn builder(spec: &SecuritySpec, options: &Options) -> KmipBuilder {
    let builder = KmipBuilder::new()
        .with_details(&spec.kms.connection_details)
        .with_environment(options.environment())
        .with_token_secret(spec.kms.token_secret_name.trim());
    match options.cluster() {
        // Several clusters may share a server. In a pod the name of the cluster need not be known.
        Some(cluster) if !cluster.name.is_empty() => {
            builder.with_cluster(format!("{}/{}", cluster.kube_namespace, cluster.name))
        }
        _ => builder,
    }
}

/// Notes everything that is wrong with the settings.
pub(crate) fn check(spec: &SecuritySpec, options: &Options, problems: &mut Problems) {
    builder(spec, options).check(problems);
}

/// The provider with its layers. `problems` are those of the block itself.
pub(crate) async fn connect(
    spec: &SecuritySpec,
    secrets: &dyn SecretSource,
    options: &Options,
    problems: Problems,
) -> Result<Arc<dyn KmsProvider>> {
    let builder = builder(spec, options);
    #[cfg(feature = "k8s-secret")]
    let builder = match index::of(options).await? {
        Some(index) => builder.with_index(index),
        None => builder,
    };
    builder.connect(secrets, problems, |limits| options.limits(limits)).await
}
