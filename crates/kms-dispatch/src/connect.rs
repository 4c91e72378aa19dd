//! Checks a `security` block and connects to its provider.

use std::sync::Arc;

use kms_core::{
    Error, ErrorKind, KmsProvider, Result, SecretSource, SecuritySpec, config::Problems, layer::preparing,
};
use tracing::warn;

use crate::{Options, Provider};

/// Checks a `security` block without I/O and returns the provider that it names.
///
/// # Errors
///
/// `ConfigInvalid` with every problem that can be found without the Secrets of the block.
/// It is no error if this build lacks the provider: its settings are then checked as far as this build knows them.
pub fn check(spec: &SecuritySpec, options: &Options) -> Result<Provider> {
    let (provider, mut problems) = check_block(spec, options)?;
    if let Some(connector) = options.registry().connector(provider) {
        connector.check(spec, options.provider(), &mut problems);
    }
    problems.into_result()?;
    warn_of_token(provider, spec);
    Ok(provider)
}

/// Returns the provider, and the problems of the block that do not depend on the provider.
fn check_block(spec: &SecuritySpec, options: &Options) -> Result<(Provider, Problems)> {
    let mut problems = Problems::new();
    spec.check(&mut problems);
    let provider = match options.registry().provider_of(spec) {
        Ok(provider) => provider,
        Err(error) => {
            problems.add(error.message());
            problems.into_result()?;
            return Err(error);
        }
    };
    if let Some(connector) = options.registry().connector(provider) {
        connector.check_names(spec, &mut problems);
    }
    Ok((provider, problems))
}

fn warn_of_token(provider: Provider, spec: &SecuritySpec) {
    // As in Rook (rook-behaviour §1.2), a token Secret without a provider has no effect.
    if provider == Provider::KubernetesSecret && !spec.kms.token_secret_name.trim().is_empty() {
        warn!("tokenSecretName is given and connectionDetails is empty: keys are kept in Kubernetes Secrets");
    }
}

/// Connects to the KMS that a `security` block names, in the [standard layers](kms_core::layer::standard).
///
/// It reads the Secrets that the block names from `secrets`.
/// It sends no request to the KMS: a provider logs in or finds out the version of a mount in its first operation.
///
/// # Errors
///
/// The problems of [`check`] and of the provider's builder in one error, so that the problems of the block and of its
/// Secrets are reported together; `Disabled` with the name of the Cargo feature if this build lacks the provider; the
/// errors of `secrets`.
pub async fn connect(
    spec: &SecuritySpec,
    secrets: &dyn SecretSource,
    options: Options,
) -> Result<Arc<dyn KmsProvider>> {
    let (provider, problems) = check_block(spec, &options)?;
    match options.registry().connector(provider) {
        Some(connector) => {
            let connected = connector.connect(spec, secrets, options.provider(), problems);
            let connected = preparing(options.provider().deadline, connected).await?;
            warn_of_token(provider, spec);
            Ok(connected)
        }
        None => {
            problems.into_result()?;
            Err(disabled(provider))
        }
    }
}

fn disabled(provider: Provider) -> Error {
    Error::new(ErrorKind::Disabled, format!("this build lacks the provider for {}", provider.title()))
        .context("feature", provider.feature())
}
