//! From a `security` block to a provider.

use std::sync::Arc;

use kms_core::{Error, ErrorKind, KmsProvider, Result, SecretSource, SecuritySpec, config::Problems};
use tracing::warn;

#[cfg(feature = "ibmkp")]
use crate::ibmkp;
#[cfg(feature = "kmip")]
use crate::kmip;
#[cfg(feature = "k8s-secret")]
use crate::kubernetes;
#[cfg(feature = "vault")]
use crate::vault;
use crate::{Options, Provider, keys};

/// Checks a `security` block without any I/O, and says which provider it names.
///
/// # Errors
///
/// `ConfigInvalid` with every problem that can be seen without the Secrets that the block names.
/// That this build lacks the provider is no problem of the block: its settings are checked all the same, as far as
/// they are known.
pub fn check(spec: &SecuritySpec, options: &Options) -> Result<Provider> {
    let mut problems = Problems::new();
    spec.check(&mut problems);
    let provider = match Provider::of(spec) {
        Ok(provider) => provider,
        Err(error) => {
            problems.add(error.message());
            problems.into_result()?;
            return Err(error);
        }
    };
    match provider {
        Provider::AzureKeyVault => {
            keys::azure::check(&spec.kms, options.environment(), &mut problems);
        }
        #[cfg(feature = "ibmkp")]
        Provider::IbmKeyProtect => ibmkp::check(spec, options, &mut problems),
        #[cfg(not(feature = "ibmkp"))]
        Provider::IbmKeyProtect => {}
        #[cfg(feature = "kmip")]
        Provider::Kmip => kmip::check(spec, options, &mut problems),
        #[cfg(not(feature = "kmip"))]
        Provider::Kmip => {}
        Provider::KubernetesSecret => {
            // Rook takes it so too (spec 1.2): a token alone does not name a KMS.
            if !spec.kms.token_secret_name.trim().is_empty() {
                warn!(
                    "tokenSecretName is given and connectionDetails is empty: keys are kept in Kubernetes Secrets"
                );
            }
        }
        #[cfg(feature = "vault")]
        Provider::Vault => vault::check(spec, options, &mut problems),
        #[cfg(not(feature = "vault"))]
        Provider::Vault => {}
    }
    problems.into_result()?;
    Ok(provider)
}

/// Connects to the KMS that a `security` block names, with the [standard layers](kms_core::layer::standard) on.
///
/// The block is not changed, and the Secrets that it names are asked for at `secrets`.
/// What a provider needs from the network before its first operation (a login, the version of a mount) is left to
/// that operation.
///
/// # Errors
///
/// Those of [`check`]; `Disabled` with the name of the Cargo feature if this build lacks the provider;
/// those of the provider's builder and of `secrets`.
pub async fn connect(
    spec: &SecuritySpec,
    #[cfg_attr(
        not(any(feature = "ibmkp", feature = "kmip", feature = "vault")),
        expect(unused_variables, reason = "no provider of this build needs a Secret")
    )]
    secrets: &dyn SecretSource,
    options: Options,
) -> Result<Arc<dyn KmsProvider>> {
    match check(spec, &options)? {
        provider @ Provider::AzureKeyVault => Err(disabled(provider)),
        #[cfg(feature = "ibmkp")]
        Provider::IbmKeyProtect => ibmkp::connect(spec, secrets, &options).await,
        #[cfg(not(feature = "ibmkp"))]
        provider @ Provider::IbmKeyProtect => Err(disabled(provider)),
        #[cfg(feature = "kmip")]
        Provider::Kmip => kmip::connect(spec, secrets, &options).await,
        #[cfg(not(feature = "kmip"))]
        provider @ Provider::Kmip => Err(disabled(provider)),
        #[cfg(feature = "k8s-secret")]
        Provider::KubernetesSecret => kubernetes::connect(&options).await,
        #[cfg(not(feature = "k8s-secret"))]
        provider @ Provider::KubernetesSecret => Err(disabled(provider)),
        #[cfg(feature = "vault")]
        Provider::Vault => vault::connect(spec, secrets, &options).await,
        #[cfg(not(feature = "vault"))]
        provider @ Provider::Vault => Err(disabled(provider)),
    }
}

fn disabled(provider: Provider) -> Error {
    Error::new(ErrorKind::Disabled, format!("this build lacks the provider for {}", provider.title()))
        .context("feature", provider.feature())
}
