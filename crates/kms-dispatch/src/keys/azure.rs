//! The settings of Azure Key Vault.

use kms_core::{
    KmsSpec,
    config::{Problems, Settings},
};

use super::{KMS_PROVIDER, Row, config_key, https_url};

/// A setting of Azure Key Vault.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum AzureConfigKey {
    /// `AZURE_CERT_SECRET_NAME`
    CertSecretName,
    /// `AZURE_CIENT_CERT_PASSWORD`, misspelt like that in the library that Rook uses.
    ClientCertPassword,
    /// `AZURE_CLIENT_CERT_PATH`
    ClientCertPath,
    /// `AZURE_CLIENT_ID`
    ClientId,
    /// `AZURE_CLIENT_SECRET`
    ClientSecret,
    /// `AZURE_ENVIRONMENT`
    Environment,
    /// `AZURE_TENANT_ID`
    TenantId,
    /// `AZURE_VAULT_URL`
    VaultUrl,
}

impl AzureConfigKey {
    const fn row(self) -> Row {
        match self {
            Self::CertSecretName => Row::new(
                "AZURE_CERT_SECRET_NAME",
                "The Secret whose key `CLIENT_CERT` holds certificate and private key, as PEM or PKCS#12.",
            ),
            Self::ClientCertPassword => {
                Row::new("AZURE_CLIENT_CERT_PASSWORD", "The password of a PKCS#12 certificate.")
                    .aliases(&["AZURE_CIENT_CERT_PASSWORD"])
                    .secret()
            }
            Self::ClientCertPath => Row::new(
                "AZURE_CLIENT_CERT_PATH",
                "A path that Rook leaves behind in the environment of its pods.",
            )
            .no_effect("the certificate is read from its Secret, and never written to a file"),
            Self::ClientId => Row::new("AZURE_CLIENT_ID", "The client (application) id. Required."),
            Self::ClientSecret => {
                Row::new("AZURE_CLIENT_SECRET", "A client secret; it is used instead of the certificate.")
                    .secret()
            }
            Self::Environment => Row::new(
                "AZURE_ENVIRONMENT",
                "The cloud: `AzurePublicCloud` (the default), `AzureUSGovernment` or `AzureChinaCloud`.",
            ),
            Self::TenantId => Row::new("AZURE_TENANT_ID", "The tenant id. Required."),
            Self::VaultUrl => {
                Row::new("AZURE_VAULT_URL", "The vault, as in `https://name.vault.azure.net`. Required.")
            }
        }
    }
}

config_key!(
    AzureConfigKey,
    [
        CertSecretName,
        ClientCertPassword,
        ClientCertPath,
        ClientId,
        ClientSecret,
        Environment,
        TenantId,
        VaultUrl,
    ]
);

/// Notes everything that is wrong with the settings. Those that are not given come from the environment, as in the
/// library that Rook uses (spec 1.4).
pub(crate) fn check<'a>(
    spec: &KmsSpec,
    environment: impl IntoIterator<Item = (&'a str, &'a str)>,
    problems: &mut Problems,
) {
    const CLOUDS: [&str; 3] = ["AzurePublicCloud", "AzureUSGovernment", "AzureChinaCloud"];

    let mut settings = Settings::from_pairs(spec.connection_details.iter(), &[KMS_PROVIDER], problems);
    settings.fill_from(environment, problems);
    for key in [AzureConfigKey::VaultUrl, AzureConfigKey::TenantId, AzureConfigKey::ClientId] {
        settings.required(key, problems);
    }
    https_url(&settings, AzureConfigKey::VaultUrl, problems);
    if settings.text(AzureConfigKey::ClientSecret).is_none() {
        settings.required(AzureConfigKey::CertSecretName, problems);
    }
    if let Some(cloud) = settings.text(AzureConfigKey::Environment)
        && !CLOUDS.iter().any(|known| known.eq_ignore_ascii_case(cloud))
    {
        problems.add(format!("AZURE_ENVIRONMENT is none of {}", CLOUDS.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use kms_core::ConnectionDetails;

    use super::*;

    fn problems_of(details: &[(&str, &str)], environment: &[(&str, &str)]) -> Vec<String> {
        let spec = KmsSpec::new(ConnectionDetails::from_iter(details.iter().copied()), "");
        let mut problems = Problems::new();
        check(&spec, environment.iter().copied(), &mut problems);
        problems.iter().map(str::to_owned).collect()
    }

    #[test]
    fn both_spellings_of_the_password_are_the_same_setting() {
        use kms_core::config::ConfigKey;
        for name in ["AZURE_CIENT_CERT_PASSWORD", "AZURE_CLIENT_CERT_PASSWORD"] {
            assert_eq!(AzureConfigKey::find(name), Some(AzureConfigKey::ClientCertPassword));
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_told_at_once() {
        let found = problems_of(
            &[
                ("KMS_PROVIDER", "azure-kv"),
                ("AZURE_VAULT_URL", "http://canary"),
                ("AZURE_ENVIRONMENT", "canary"),
                ("AZURE_CLIENTID", "canary"),
            ],
            &[("AZURE_TENANT_ID", "from the environment")],
        );
        assert_eq!(
            found,
            [
                "AZURE_CLIENTID is not a known setting; did you mean AZURE_CLIENT_ID?",
                "AZURE_CLIENT_ID is missing",
                "AZURE_VAULT_URL does not begin with https://",
                "AZURE_CERT_SECRET_NAME is missing",
                "AZURE_ENVIRONMENT is none of AzurePublicCloud, AzureUSGovernment, AzureChinaCloud",
            ]
        );
    }
}
