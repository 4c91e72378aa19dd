//! The settings of Key Vault (rook-behaviour §1.8), and a few of our own.

use kms_core::config::Support;

kms_core::config_keys! {
    /// A setting of Key Vault.
    pub enum AzureConfigKey of "Key Vault" {
        /// Address of the vault, such as `https://name.vault.azure.net`. Required.
        VaultUrl = "AZURE_VAULT_URL";
        /// Directory (tenant) of the service principal. Required, but for a managed identity.
        TenantId = "AZURE_TENANT_ID";
        /// Application (client) id of the service principal, or that of a user-assigned managed identity. Required but for a system-assigned managed identity.
        ClientId = "AZURE_CLIENT_ID";
        /// Secret with certificate and private key under `CLIENT_CERT`, as PEM or PKCS#12. Required for the credential `certificate`.
        CertSecretName = "AZURE_CERT_SECRET_NAME";
        /// Password of a PKCS#12 file or of an encrypted key. The first alias is how Rook's library spells it.
        ClientCertPassword = secret "AZURE_CLIENT_CERT_PASSWORD" | "AZURE_CIENT_CERT_PASSWORD" | "AZURE_CLIENT_CERTIFICATE_PASSWORD";
        /// Where Rook puts its temporary copy of the certificate.
        ClientCertPath = "AZURE_CLIENT_CERT_PATH", Support::NoEffect("the certificate is read from its Secret, never from a file");
        /// Which credential: `certificate` (default), `workload-identity`, `managed-identity` or `client-secret`. Not known to Rook.
        Credential = "AZURE_CREDENTIAL";
        /// Client secret, for the credential `client-secret`. Better kept in the token Secret, under this same name.
        ClientSecret = secret "AZURE_CLIENT_SECRET";
        /// File with the token of the service account, for the credential `workload-identity`; read anew each time.
        FederatedTokenFile = "AZURE_FEDERATED_TOKEN_FILE";
        /// Whether the whole certificate chain is sent (`x5c`), for authentication by subject name and issuer.
        SendChain = "AZURE_CLIENT_SEND_CERTIFICATE_CHAIN";
        /// Cloud: `AzurePublicCloud` (default), `AzureUSGovernment` or `AzureChinaCloud`.
        Environment = "AZURE_ENVIRONMENT";
        /// Address of Entra ID, in place of that of the cloud.
        AuthorityHost = "AZURE_AUTHORITY_HOST";
        /// CA certificates for vault and Entra ID: name of a Secret with the key `cert`, or a file. Not known to Rook.
        CaCert = "AZURE_CACERT";
        /// What a create does with a soft-deleted secret of the same name: `recover` (default) or `purge`. Not known to Rook.
        SoftDeleted = "AZURE_SOFT_DELETED";
        /// How long to wait until the vault has completed a deletion, recovery or purge. Default 60s. Not known to Rook.
        SoftDeleteWait = "AZURE_SOFT_DELETE_WAIT";
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
