//! The settings of all providers (rook-behaviour §1.8), from the crate of each provider.

#[cfg(feature = "azure")]
pub use kms_azure::AzureConfigKey;
#[cfg(feature = "ibmkp")]
pub use kms_ibmkp::IbmKpConfigKey;
#[cfg(feature = "kmip")]
pub use kms_kmip::KmipConfigKey;
#[cfg(feature = "vault")]
pub use kms_vault::VaultConfigKey;

/// Whether a provider of this workspace has a setting or an alias of this name. `None` if this build does not know the
/// provider's settings.
///
/// `provider` is a value of `KMS_PROVIDER`.
pub fn is_setting(provider: &str, name: &str) -> Option<bool> {
    crate::Registry::new().is_setting(provider, name)
}
