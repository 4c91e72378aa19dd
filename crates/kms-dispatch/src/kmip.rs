//! KMIP, from a `security` block.

#[cfg(feature = "k8s-secret")]
mod index;

use std::sync::Arc;

use kms_core::{
    KmsProvider, Result, SecretSource, SecuritySpec,
    config::Problems,
    layer::{self, LayerOptions},
};
use kms_kmip::KmipBuilder;

use crate::Options;

/// What Rook puts before the name of each setting in the environment of its pods (spec 13.2).
const PREFIX: &str = "KMIP_";

fn builder(spec: &SecuritySpec, options: &Options) -> KmipBuilder {
    // Names without it, such as READ_TIMEOUT, are nobody's in an environment.
    let environment =
        options.environment().filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value)));
    let builder = KmipBuilder::new()
        .with_details(&spec.kms.connection_details)
        .with_environment(environment)
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
    let kmip = builder.build_noting(secrets, problems).await?;
    let limits = options.limits(kmip.layer_options(LayerOptions::default()));
    Ok(layer::standard(Arc::new(kmip), &limits))
}
