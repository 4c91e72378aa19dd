//! The settings of the providers (spec 1.8), each from the crate of its provider.

#[cfg(feature = "azure")]
pub use kms_azure::AzureConfigKey;
#[cfg(any(feature = "azure", feature = "ibmkp", feature = "kmip", feature = "vault"))]
use kms_core::config::ConfigKey;
#[cfg(feature = "ibmkp")]
pub use kms_ibmkp::IbmKpConfigKey;
#[cfg(feature = "kmip")]
pub use kms_kmip::KmipConfigKey;
#[cfg(feature = "vault")]
pub use kms_vault::VaultConfigKey;

/// The entry of `connectionDetails` that belongs to no provider, since it names one.
pub(crate) const KMS_PROVIDER: &str = "KMS_PROVIDER";

/// Whether a provider has a setting or an alias of this name. `None` if this build does not know the provider's settings.
///
/// `provider` is a value of `KMS_PROVIDER`.
#[cfg_attr(
    not(any(feature = "azure", feature = "ibmkp", feature = "kmip", feature = "vault")),
    expect(unused_variables, reason = "this build has no provider with settings")
)]
pub fn is_setting(provider: &str, name: &str) -> Option<bool> {
    match provider {
        #[cfg(feature = "azure")]
        "azure-kv" => Some(AzureConfigKey::find(name).is_some()),
        #[cfg(feature = "ibmkp")]
        "ibmkeyprotect" => Some(IbmKpConfigKey::find(name).is_some()),
        #[cfg(feature = "kmip")]
        "kmip" => Some(KmipConfigKey::find(name).is_some()),
        #[cfg(feature = "vault")]
        "vault" => Some(VaultConfigKey::find(name).is_some()),
        _ => None,
    }
}
