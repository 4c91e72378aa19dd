//! The settings of Key Vault (rook-behaviour §1.8), and a few of our own.

use kms_core::config::{Facts, Stricter, Support};

/// The message of the refusal stands in this row.
#[rustfmt::skip]
pub(crate) const CLIENT_SECRET: Stricter = Stricter { setting: "AZURE_CLIENT_SECRET", input: ("AZURE_CLIENT_SECRET", "example"), rook: "uses it in place of the certificate", reason: "is given, and Rook would use it in place of the certificate", why: "a password would silently take the place of a certificate", remedy: "set AZURE_CREDENTIAL to certificate or client-secret" };

/// The message of the refusal stands in this row.
#[rustfmt::skip]
pub(crate) const ENVIRONMENT: Stricter = Stricter { setting: "AZURE_ENVIRONMENT", input: ("AZURE_ENVIRONMENT", "AzureGermanCloud"), rook: "leaves the cloud unset, which means the public one", reason: "is not one of the known clouds", why: "a misspelt cloud would send credentials to another cloud", remedy: "write AzurePublicCloud, AzureUSGovernment or AzureChinaCloud" };

/// What this provider refuses and Rook takes, beside the settings that are not supported.
#[rustfmt::skip]
pub const STRICTER: &[Stricter] = &[
    Stricter { setting: "AZURE_VAULT_URL", input: ("AZURE_VAULT_URL", "https://user:password@name.vault.azure.net"), rook: "takes the address as it is", reason: "has a user or a password in it", why: "credentials in an address end up in logs", remedy: "remove them: Entra ID issues the credential" },
    Stricter { setting: "AZURE_VAULT_URL", input: ("AZURE_VAULT_URL", "https://name.vault.azure.net?x=1"), rook: "sends the query with each request", reason: "has a query or a fragment", why: "each request has a query of its own", remedy: "remove it" },
    ENVIRONMENT,
    CLIENT_SECRET,
];

kms_core::config_keys! {
    /// A setting of Key Vault.
    pub enum AzureConfigKey of "Key Vault" {
        /// Address of the vault, such as `https://name.vault.azure.net`.
        VaultUrl = "AZURE_VAULT_URL" { values: "a URL", default: "none; required", rook: Facts::SAME, example: "https://name.vault.azure.net" };
        /// Directory (tenant) of the service principal.
        TenantId = "AZURE_TENANT_ID" { values: "a GUID or a domain name", default: "none; required, but for a managed identity", rook: Facts::SAME, example: "11111111-1111-1111-1111-111111111111" };
        /// Application (client) id of the service principal, or that of a user-assigned managed identity.
        ClientId = "AZURE_CLIENT_ID" { values: "a GUID", default: "none; required, but for a managed identity", rook: Facts::SAME, example: "22222222-2222-2222-2222-222222222222" };
        /// Secret with certificate and private key under `CLIENT_CERT`, as PEM or PKCS#12.
        CertSecretName = "AZURE_CERT_SECRET_NAME" { values: "the name of a Secret", default: "none; required for `certificate`", rook: Facts::SAME, example: "azure-cert" };
        /// Password of a PKCS#12 file or of an encrypted key. The first alias is how Rook's library spells it.
        ClientCertPassword = secret "AZURE_CLIENT_CERT_PASSWORD" | "AZURE_CIENT_CERT_PASSWORD" | "AZURE_CLIENT_CERTIFICATE_PASSWORD" { values: "a password", default: "none", rook: "reads the spelling `AZURE_CIENT_CERT_PASSWORD` alone", example: "example" };
        /// Where Rook puts its temporary copy of the certificate.
        ClientCertPath = "AZURE_CLIENT_CERT_PATH" { values: "a file", default: "none", rook: "writes it itself", example: "/tmp/cert.pem" }, Support::NoEffect("the certificate is read from its Secret, never from a file");
        /// Which credential: `certificate` (default), `workload-identity`, `managed-identity` or `client-secret`.
        Credential = "AZURE_CREDENTIAL" { values: "`certificate`, `workload-identity`, `managed-identity` or `client-secret`", default: "`certificate`", rook: Facts::UNKNOWN, example: "workload-identity" };
        /// Client secret, for the credential `client-secret`. Better kept in the token Secret, under this same name.
        ClientSecret = secret "AZURE_CLIENT_SECRET" { values: "a secret", default: "the key of this name of the token Secret", rook: "uses it in place of the certificate", example: "example" };
        /// File with the token of the service account, for the credential `workload-identity`; read anew each time.
        FederatedTokenFile = "AZURE_FEDERATED_TOKEN_FILE" { values: "a file", default: "none; required for `workload-identity`", rook: Facts::UNKNOWN, example: "/var/run/secrets/azure/tokens/azure-identity-token" };
        /// Whether the whole certificate chain is sent (`x5c`), for authentication by subject name and issuer.
        SendChain = "AZURE_CLIENT_SEND_CERTIFICATE_CHAIN" { values: Facts::BOOLEAN, default: "`false`", rook: Facts::UNKNOWN, example: "true" };
        /// Cloud: `AzurePublicCloud` (default), `AzureUSGovernment` or `AzureChinaCloud`.
        Environment = "AZURE_ENVIRONMENT" { values: "`AzurePublicCloud`, `AzureUSGovernment` or `AzureChinaCloud`", default: "`AzurePublicCloud`", rook: "reads it, and takes every other word for the public cloud", example: "AzureUSGovernment" };
        /// Address of Entra ID, in place of that of the cloud.
        AuthorityHost = "AZURE_AUTHORITY_HOST" { values: "a URL", default: "the address of the cloud", rook: "reads it from the environment alone, in the public cloud", example: "https://login.microsoftonline.us" };
        /// CA certificates for vault and Entra ID: name of a Secret with the key `cert`, or a file.
        CaCert = "AZURE_CACERT" { values: Facts::SECRET_OR_FILE, default: "the CAs of the operating system", rook: Facts::UNKNOWN, example: "azure-ca" };
        /// What a create does with a soft-deleted secret of the same name: `recover` (default) or `purge`.
        SoftDeleted = "AZURE_SOFT_DELETED" { values: "`recover` or `purge`", default: "`recover`", rook: "does not know it; a create fails while the name is soft-deleted", example: "purge" };
        /// How long to wait until the vault has completed a deletion, recovery or purge.
        SoftDeleteWait = "AZURE_SOFT_DELETE_WAIT" { values: Facts::DURATION, default: "60 s", rook: Facts::UNKNOWN, example: "90s" };
    }
}

#[cfg(test)]
mod tests {
    use kms_core::config::ConfigKey as _;

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
