//! The settings of Key Vault, as operators know them (spec 1.8).

use std::{fmt, str::FromStr};

use kms_core::{
    Error,
    config::{ConfigKey, Support},
};

const SUPPORTED: Support = Support::Supported;

macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $aliases:expr, $secret:literal, $support:expr;)*) => {
        /// A setting of Key Vault.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[non_exhaustive]
        pub enum AzureConfigKey {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl ConfigKey for AzureConfigKey {
            const ALL: &'static [Self] = &[$(Self::$variant,)*];

            fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            fn aliases(self) -> &'static [&'static str] {
                match self {
                    $(Self::$variant => &$aliases,)*
                }
            }

            fn is_secret(self) -> bool {
                match self {
                    $(Self::$variant => $secret,)*
                }
            }

            fn doc(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+),)*
                }
            }

            fn support(self) -> Support {
                match self {
                    $(Self::$variant => $support,)*
                }
            }
        }
    };
}

keys! {
    /// Address of the vault, such as `https://name.vault.azure.net`. Required.
    VaultUrl = "AZURE_VAULT_URL", [], false, SUPPORTED;
    /// Directory (tenant) of the service principal. Required, but for a managed identity.
    TenantId = "AZURE_TENANT_ID", [], false, SUPPORTED;
    /// Application (client) id of the service principal, or that of a user-assigned managed identity. Required but for a system-assigned managed identity.
    ClientId = "AZURE_CLIENT_ID", [], false, SUPPORTED;
    /// Secret with certificate and private key under `CLIENT_CERT`, as PEM or PKCS#12. Required for the credential `certificate`.
    CertSecretName = "AZURE_CERT_SECRET_NAME", [], false, SUPPORTED;
    /// Password of a PKCS#12 file or of an encrypted key. The first alias is how Rook's library spells it.
    ClientCertPassword = "AZURE_CLIENT_CERT_PASSWORD", ["AZURE_CIENT_CERT_PASSWORD", "AZURE_CLIENT_CERTIFICATE_PASSWORD"], true, SUPPORTED;
    /// Where Rook puts its temporary copy of the certificate.
    ClientCertPath = "AZURE_CLIENT_CERT_PATH", [], false, Support::NoEffect("the certificate is read from its Secret, never from a file");
    /// Which credential: `certificate` (default), `workload-identity`, `managed-identity` or `client-secret`. Not known to Rook.
    Credential = "AZURE_CREDENTIAL", [], false, SUPPORTED;
    /// Client secret, for the credential `client-secret`. Better kept in the token Secret, under this same name.
    ClientSecret = "AZURE_CLIENT_SECRET", [], true, SUPPORTED;
    /// File with the token of the service account, for the credential `workload-identity`; read anew each time.
    FederatedTokenFile = "AZURE_FEDERATED_TOKEN_FILE", [], false, SUPPORTED;
    /// Whether the whole certificate chain is sent (`x5c`), for authentication by subject name and issuer.
    SendChain = "AZURE_CLIENT_SEND_CERTIFICATE_CHAIN", [], false, SUPPORTED;
    /// Cloud: `AzurePublicCloud` (default), `AzureUSGovernment` or `AzureChinaCloud`.
    Environment = "AZURE_ENVIRONMENT", [], false, SUPPORTED;
    /// Address of Entra ID, in place of that of the cloud.
    AuthorityHost = "AZURE_AUTHORITY_HOST", [], false, SUPPORTED;
    /// CA certificates for vault and Entra ID: name of a Secret with the key `cert`, or a file. Not known to Rook.
    CaCert = "AZURE_CACERT", [], false, SUPPORTED;
    /// What a create does with a soft-deleted secret of the same name: `recover` (default) or `purge`. Not known to Rook.
    SoftDeleted = "AZURE_SOFT_DELETED", [], false, SUPPORTED;
    /// How long to wait until the vault has completed a deletion, recovery or purge. Default 60s. Not known to Rook.
    SoftDeleteWait = "AZURE_SOFT_DELETE_WAIT", [], false, SUPPORTED;
}

impl FromStr for AzureConfigKey {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::find(name).ok_or_else(|| Error::config(format!("{name} is not a setting of Key Vault")))
    }
}

impl fmt::Display for AzureConfigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_setting() {
        for key in AzureConfigKey::ALL {
            assert_eq!(key.to_string().parse::<AzureConfigKey>().unwrap(), *key);
            assert_eq!(key.as_str().to_lowercase().parse::<AzureConfigKey>().unwrap(), *key);
            for alias in key.aliases() {
                assert_eq!(alias.parse::<AzureConfigKey>().unwrap(), *key);
            }
            assert!(key.doc().trim().ends_with('.'), "{key}");
        }
        assert!("AZURE_VAULT_URI".parse::<AzureConfigKey>().is_err());
    }
}
