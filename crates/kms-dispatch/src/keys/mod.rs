//! The settings of the providers (spec 1.8), each from the crate of its provider.

#[cfg(feature = "azure")]
pub use kms_azure::AzureConfigKey;
#[cfg(feature = "ibmkp")]
pub use kms_ibmkp::IbmKpConfigKey;
#[cfg(feature = "kmip")]
pub use kms_kmip::KmipConfigKey;
#[cfg(feature = "vault")]
pub use kms_vault::VaultConfigKey;

/// The entry of `connectionDetails` that belongs to no provider, since it names one.
pub(crate) const KMS_PROVIDER: &str = "KMS_PROVIDER";
