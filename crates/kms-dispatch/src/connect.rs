//! From a `security` block to a provider.

use std::sync::Arc;

#[cfg(any(feature = "azure", feature = "ibmkp", feature = "kmip", feature = "vault"))]
use kms_core::config::{ConfigKey, Settings};
#[cfg(not(all(
    feature = "azure",
    feature = "ibmkp",
    feature = "k8s-secret",
    feature = "kmip",
    feature = "vault"
)))]
use kms_core::{Error, ErrorKind};
use kms_core::{KmsProvider, Result, SecretSource, SecuritySpec, config::Problems};
use tracing::warn;

#[cfg(feature = "azure")]
use crate::azure;
#[cfg(feature = "ibmkp")]
use crate::ibmkp;
#[cfg(any(feature = "azure", feature = "ibmkp", feature = "kmip", feature = "vault"))]
use crate::keys;
#[cfg(feature = "kmip")]
use crate::kmip;
#[cfg(feature = "k8s-secret")]
use crate::kubernetes;
#[cfg(feature = "vault")]
use crate::vault;
use crate::{Options, Provider};

/// Checks a `security` block without any I/O, and says which provider it names.
///
/// # Errors
///
/// `ConfigInvalid` with every problem that can be seen without the Secrets that the block names.
/// That this build lacks the provider is no problem of the block: its settings are checked all the same, as far as
/// they are known.
pub fn check(spec: &SecuritySpec, options: &Options) -> Result<Provider> {
    let (provider, mut problems) = check_block(spec)?;
    check_settings(provider, spec, options, &mut problems);
    problems.into_result()?;
    Ok(provider)
}

/// Notes what is wrong with the settings of a provider.
#[cfg_attr(
    not(any(feature = "azure", feature = "ibmkp", feature = "kmip", feature = "vault")),
    expect(unused_variables, reason = "this build has no provider with settings")
)]
fn check_settings(provider: Provider, spec: &SecuritySpec, options: &Options, problems: &mut Problems) {
    match provider {
        #[cfg(feature = "azure")]
        Provider::AzureKeyVault => azure::check(spec, options, problems),
        #[cfg(not(feature = "azure"))]
        Provider::AzureKeyVault => {}
        #[cfg(feature = "ibmkp")]
        Provider::IbmKeyProtect => ibmkp::check(spec, options, problems),
        #[cfg(not(feature = "ibmkp"))]
        Provider::IbmKeyProtect => {}
        #[cfg(feature = "kmip")]
        Provider::Kmip => kmip::check(spec, options, problems),
        #[cfg(not(feature = "kmip"))]
        Provider::Kmip => {}
        Provider::KubernetesSecret => warn_of_token(spec),
        #[cfg(feature = "vault")]
        Provider::Vault => vault::check(spec, options, problems),
        #[cfg(not(feature = "vault"))]
        Provider::Vault => {}
    }
}

/// The provider, and what is wrong with the block whatever provider it names.
fn check_block(spec: &SecuritySpec) -> Result<(Provider, Problems)> {
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
        #[cfg(feature = "azure")]
        Provider::AzureKeyVault => check_names::<keys::AzureConfigKey>(spec, &mut problems),
        #[cfg(not(feature = "azure"))]
        Provider::AzureKeyVault => {}
        #[cfg(feature = "ibmkp")]
        Provider::IbmKeyProtect => check_names::<keys::IbmKpConfigKey>(spec, &mut problems),
        #[cfg(not(feature = "ibmkp"))]
        Provider::IbmKeyProtect => {}
        #[cfg(feature = "kmip")]
        Provider::Kmip => check_names::<keys::KmipConfigKey>(spec, &mut problems),
        #[cfg(not(feature = "kmip"))]
        Provider::Kmip => {}
        Provider::KubernetesSecret => {}
        #[cfg(feature = "vault")]
        Provider::Vault => check_names::<keys::VaultConfigKey>(spec, &mut problems),
        #[cfg(not(feature = "vault"))]
        Provider::Vault => {}
    }
    Ok((provider, problems))
}

/// Checks the names of the settings that are not strings. Builders never see them, since there is no value, and a name
/// that is misspelt besides is to be told at once.
#[cfg(any(feature = "azure", feature = "ibmkp", feature = "kmip", feature = "vault"))]
fn check_names<K: ConfigKey>(spec: &SecuritySpec, problems: &mut Problems) {
    let names = spec.kms.connection_details.not_text().map(|name| (name, ""));
    let _no_values = Settings::<K>::from_pairs(names, &[keys::KMS_PROVIDER], problems);
}

fn warn_of_token(spec: &SecuritySpec) {
    // Rook takes it so too (spec 1.2): a token alone does not name a KMS.
    if !spec.kms.token_secret_name.trim().is_empty() {
        warn!("tokenSecretName is given and connectionDetails is empty: keys are kept in Kubernetes Secrets");
    }
}

/// Connects to the KMS that a `security` block names, with the [standard layers](kms_core::layer::standard) on.
///
/// The block is not changed, and the Secrets that it names are asked for at `secrets`.
/// What a provider needs from the network before its first operation (a login, the version of a mount) is left to
/// that operation.
///
/// # Errors
///
/// Those of [`check`] and of the provider's builder, in one error, so that what is wrong with the Secrets is told
/// together with what is wrong with the block; `Disabled` with the name of the Cargo feature if this build lacks the
/// provider; those of `secrets`.
pub async fn connect(
    spec: &SecuritySpec,
    #[cfg_attr(
        not(any(feature = "azure", feature = "ibmkp", feature = "kmip", feature = "vault")),
        expect(unused_variables, reason = "no provider of this build needs a Secret")
    )]
    secrets: &dyn SecretSource,
    options: Options,
) -> Result<Arc<dyn KmsProvider>> {
    let (provider, problems) = check_block(spec)?;
    match provider {
        #[cfg(feature = "azure")]
        Provider::AzureKeyVault => azure::connect(spec, secrets, &options, problems).await,
        #[cfg(feature = "ibmkp")]
        Provider::IbmKeyProtect => ibmkp::connect(spec, secrets, &options, problems).await,
        #[cfg(feature = "kmip")]
        Provider::Kmip => kmip::connect(spec, secrets, &options, problems).await,
        #[cfg(feature = "k8s-secret")]
        Provider::KubernetesSecret => {
            problems.into_result()?;
            warn_of_token(spec);
            kubernetes::connect(&options).await
        }
        #[cfg(feature = "vault")]
        Provider::Vault => vault::connect(spec, secrets, &options, problems).await,
        // What is wrong with the settings is told all the same.
        #[cfg(not(all(
            feature = "azure",
            feature = "ibmkp",
            feature = "k8s-secret",
            feature = "kmip",
            feature = "vault"
        )))]
        _ => {
            let mut problems = problems;
            check_settings(provider, spec, &options, &mut problems);
            problems.into_result()?;
            Err(disabled(provider))
        }
    }
}

#[cfg(not(all(
    feature = "azure",
    feature = "ibmkp",
    feature = "k8s-secret",
    feature = "kmip",
    feature = "vault"
)))]
fn disabled(provider: Provider) -> Error {
    Error::new(ErrorKind::Disabled, format!("this build lacks the provider for {}", provider.title()))
        .context("feature", provider.feature())
}
