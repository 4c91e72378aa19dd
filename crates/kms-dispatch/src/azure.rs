//! Azure Key Vault, from a `security` block.

use std::sync::Arc;

use kms_azure::AzureKeyVaultBuilder;
use kms_core::{KmsProvider, ProviderBuilder, Result, SecretSource, SecuritySpec, config::Problems};

use crate::Options;

fn builder(spec: &SecuritySpec, options: &Options) -> AzureKeyVaultBuilder {
    AzureKeyVaultBuilder::new()
        .with_details(&spec.kms.connection_details)
        .with_environment(options.environment())
        .with_token_secret(spec.kms.token_secret_name.trim())
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
    builder(spec, options).connect(secrets, problems, |limits| options.limits(limits)).await
}
