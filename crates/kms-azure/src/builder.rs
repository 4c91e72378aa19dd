//! Builds an [`AzureKeyVault`] from settings, Secrets and files.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use kms_core::{
    Error, ExposeSecret, KeyLocks, ProviderBuilder, Result, SecretSource, SecretString,
    config::{ConfigKey, Problems, Settings, SettingsSource},
    layer::LayerOptions,
    secret::SecretData,
};
use kms_http::{
    HttpClientBuilder, Proxies, Roots, SettingNames, TlsOptions,
    tls::{pem::certificates, source::secret_or_file},
};
use tracing::warn;
use url::Url;

use crate::{
    address::{client, cloud, host, tenant},
    api::Api,
    auth::{Auth, Source},
    certificate::Certificate,
    config::{AzureConfigKey as Key, CLIENT_SECRET},
    provider::AzureKeyVault,
    soft_delete::{SoftDelete, SoftDeleted},
    transport::ToEntra,
};

/// The data key of the certificate in its Secret, as in Rook (rook-behaviour §7.1).
const CLIENT_CERT: &str = "CLIENT_CERT";
/// The names of our settings in messages about TLS. The services ask for no client certificate, and have no other name.
const NAMES: SettingNames = SettingNames::new(
    "AZURE_CACERT",
    "a client certificate",
    "the host of AZURE_VAULT_URL or AZURE_AUTHORITY_HOST",
    "AZURE_VAULT_URL or AZURE_AUTHORITY_HOST",
);
/// The default time to wait for the vault to complete a deletion.
const WAIT: Duration = Duration::from_secs(60);

/// Builds an [`AzureKeyVault`]; see [`ProviderBuilder`].
///
/// The usual proxy variables of the environment apply to both Entra ID and the vault. Rook needs no token Secret for
/// Key Vault; a client secret (`AZURE_CLIENT_SECRET`) and the password of a PKCS#12 file (`AZURE_CLIENT_CERT_PASSWORD`)
/// are safer in a token Secret than in the settings.
#[derive(Default)]
pub struct AzureKeyVaultBuilder {
    source: SettingsSource<Key>,
    page_size: Option<u32>,
}

/// The type of credential.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Choice {
    Certificate,
    Workload,
    Managed,
    Secret,
}

/// The settings, parsed.
#[expect(unnameable_types, reason = "only ProviderBuilder uses it")]
pub struct Parsed {
    vault: Url,
    authority: Url,
    /// The domain of the cloud's vaults.
    domain: &'static str,
    choice: Choice,
    tenant: String,
    client: Option<String>,
    send_chain: bool,
    soft_delete: SoftDelete,
}

/// The credentials and certificates, read from Secrets and files.
#[expect(unnameable_types, reason = "only ProviderBuilder uses it")]
pub struct Credentials {
    certificate: Option<Certificate>,
    client_secret: Option<SecretString>,
    tls: TlsOptions,
}

#[async_trait]
impl ProviderBuilder for AzureKeyVaultBuilder {
    const TITLE: &'static str = "Key Vault";
    const ENVIRONMENT_FILES: &'static [Key] = &[Key::CaCert];

    type Key = Key;
    type Parsed = Parsed;
    type Credentials = Credentials;
    type Provider = AzureKeyVault;

    kms_core::settings_source!(source);

    fn parse(&self, settings: &Settings<Key>, problems: &mut Problems) -> Option<Parsed> {
        let vault =
            settings.required(Key::VaultUrl, problems).and_then(|text| host(Key::VaultUrl, text, problems));
        let cloud = cloud(settings.text(Key::Environment), problems);
        let authority = match settings.text(Key::AuthorityHost) {
            Some(text) => host(Key::AuthorityHost, text, problems),
            None => cloud.and_then(|(text, _)| host(Key::AuthorityHost, text, problems)),
        };
        // A client secret in the environment does not choose the credential: other programs may use it.
        let has_secret = self.source.is_given(Key::ClientSecret);
        let choice = choice(settings, has_secret, problems);
        let managed = choice == Some(Choice::Managed);
        let tenant = if managed {
            Some(String::new())
        } else {
            settings.required(Key::TenantId, problems).and_then(|text| tenant(text, problems))
        };
        let id =
            if managed { settings.text(Key::ClientId) } else { settings.required(Key::ClientId, problems) };
        let client = id.and_then(|text| client(text, problems));
        match choice {
            Some(Choice::Certificate) => drop(settings.required(Key::CertSecretName, problems)),
            Some(Choice::Workload) => drop(settings.required(Key::FederatedTokenFile, problems)),
            Some(Choice::Secret) if self.source.token_secret().is_none() => {
                settings.required(Key::ClientSecret, problems);
            }
            _ => {}
        }
        let send_chain = settings.boolean(Key::SendChain, problems).unwrap_or(false);
        let policy = match settings.text(Key::SoftDeleted) {
            None => Some(SoftDeleted::Recover),
            Some(text) if text.eq_ignore_ascii_case("recover") => Some(SoftDeleted::Recover),
            Some(text) if text.eq_ignore_ascii_case("purge") => Some(SoftDeleted::Purge),
            Some(_) => {
                problems.add(format!("{} is neither \"recover\" nor \"purge\"", Key::SoftDeleted));
                None
            }
        };
        let wait = settings.duration(Key::SoftDeleteWait, problems).unwrap_or(WAIT);
        Some(Parsed {
            vault: vault?,
            authority: authority?,
            domain: cloud?.1,
            choice: choice?,
            tenant: tenant?,
            client,
            send_chain,
            soft_delete: SoftDelete { policy: policy?, wait },
        })
    }

    async fn read(
        &self,
        settings: &Settings<Key>,
        parsed: Option<&Parsed>,
        secrets: &dyn SecretSource,
        problems: &mut Problems,
    ) -> Result<Option<Credentials>> {
        let choice = parsed.map(|parsed| parsed.choice);
        let token_secret = self.source.secret(secrets, problems).await?;
        let certificate = match choice {
            Some(Choice::Certificate) => {
                self.certificate(settings, token_secret.as_ref(), secrets, problems).await?
            }
            _ => None,
        };
        let client_secret = match choice {
            Some(Choice::Secret) => self.client_secret(settings, token_secret.as_ref(), problems),
            _ => None,
        };
        let tls = self.tls(settings, secrets, problems).await?;
        Ok(Some(Credentials { certificate, client_secret, tls }))
    }

    async fn assemble(
        self,
        settings: Settings<Key>,
        parsed: Parsed,
        credentials: Credentials,
    ) -> Result<AzureKeyVault> {
        let Parsed { vault, authority, domain, choice, tenant, client, send_chain, soft_delete } = parsed;
        let Credentials { certificate, client_secret, tls } = credentials;
        let incomplete = || Error::config("the credential of Key Vault is not complete");
        let id = || client.clone().ok_or_else(incomplete);
        let source = match choice {
            Choice::Certificate => Source::Certificate {
                tenant,
                client: id()?,
                certificate: Arc::new(certificate.ok_or_else(incomplete)?),
                send_chain,
            },
            Choice::Workload => {
                let file = settings.text(Key::FederatedTokenFile).ok_or_else(incomplete)?;
                Source::Workload { tenant, client: id()?, file: file.into() }
            }
            Choice::Managed => Source::Managed { client },
            Choice::Secret => {
                warn!(
                    "a client secret is a long-lived password; prefer a certificate or a workload identity"
                );
                Source::Secret { tenant, client: id()?, secret: client_secret.ok_or_else(incomplete)? }
            }
        };
        // CA and proxy apply to both Entra ID and the vault (rook-behaviour W35).
        let client = HttpClientBuilder::new().with_tls(tls);
        let proxies = Proxies::from_environment(self.source.environment());
        let http = client.clone().with_proxies(proxies).build()?;
        // The metadata service for managed identities is local to this host, so no proxy can reach it.
        let managed = choice == Choice::Managed;
        let path = authority.path().trim_end_matches('/').to_owned();
        let entra = ToEntra { http: if managed { client.build()? } else { http.clone() }, managed, path };
        let api = Api::new(Auth::new(source, authority, entra, vault, domain), http)?;
        let page_size = self.page_size.and_then(|size| i32::try_from(size.max(1)).ok());
        Ok(AzureKeyVault { api, soft_delete, page_size, locks: KeyLocks::new() })
    }

    fn layer_options(provider: &AzureKeyVault, options: LayerOptions) -> LayerOptions {
        provider.layer_options(options)
    }
}

impl AzureKeyVaultBuilder {
    /// Sets the number of secrets in one page of a list. Default: the vault's own page size, 25.
    #[must_use]
    pub fn with_page_size(mut self, secrets: u32) -> Self {
        self.page_size = Some(secrets);
        self
    }

    async fn certificate(
        &self,
        settings: &Settings<Key>,
        token_secret: Option<&SecretData>,
        secrets: &dyn SecretSource,
        problems: &mut Problems,
    ) -> Result<Option<Certificate>> {
        let setting = Key::CertSecretName.as_str();
        let Some(name) = settings.text(Key::CertSecretName) else { return Ok(None) };
        let Some(secret) = problems.absorb(setting, secrets.secret(name).await)? else { return Ok(None) };
        let kept = |secret: &SecretData| secret.text(Key::ClientCertPassword.as_str()).ok();
        let password = settings
            .secret(Key::ClientCertPassword)
            .or_else(|| token_secret.and_then(kept))
            .or_else(|| kept(&secret))
            .unwrap_or_default();
        let parsed =
            secret.bytes(CLIENT_CERT).and_then(|bytes| Certificate::parse(bytes, password.expose_secret()));
        problems.absorb(&format!("{setting} (Secret {name:?}, key {CLIENT_CERT})"), parsed)
    }

    fn client_secret(
        &self,
        settings: &Settings<Key>,
        token_secret: Option<&SecretData>,
        problems: &mut Problems,
    ) -> Option<SecretString> {
        if let Some(secret) = settings.secret(Key::ClientSecret) {
            return Some(secret);
        }
        match token_secret?.text(Key::ClientSecret.as_str()) {
            Ok(secret) => Some(secret),
            Err(error) => {
                problems.add(format!("tokenSecretName: {error}"));
                None
            }
        }
    }

    async fn tls(
        &self,
        settings: &Settings<Key>,
        secrets: &dyn SecretSource,
        problems: &mut Problems,
    ) -> Result<TlsOptions> {
        let mut tls = TlsOptions::named(NAMES);
        let setting = Key::CaCert.as_str();
        let Some(value) = settings.text(Key::CaCert) else { return Ok(tls) };
        let pem = problems.absorb(setting, secret_or_file(value, "cert", secrets).await)?;
        if let Some(pem) = pem
            && let Some(roots) = problems.absorb(setting, certificates(&pem))?
        {
            tls.roots = Roots::Only(roots);
        }
        Ok(tls)
    }
}

/// Chooses the type of credential. If the settings hold a client secret too, they must name the type to use.
fn choice(settings: &Settings<Key>, has_secret: bool, problems: &mut Problems) -> Option<Choice> {
    let text = settings.text(Key::Credential).map(str::to_ascii_lowercase);
    match text.as_deref() {
        None if has_secret => {
            problems.add(CLIENT_SECRET.problem());
            None
        }
        None | Some("certificate") => Some(Choice::Certificate),
        Some("workload-identity") => Some(Choice::Workload),
        Some("managed-identity") => Some(Choice::Managed),
        Some("client-secret") => Some(Choice::Secret),
        Some(_) => {
            problems.add(format!(
                "{} is not one of certificate, workload-identity, managed-identity and client-secret",
                Key::Credential
            ));
            None
        }
    }
}

impl fmt::Debug for AzureKeyVaultBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, page_size } = self;
        f.debug_struct("AzureKeyVaultBuilder").field("source", source).field("page_size", page_size).finish()
    }
}

#[cfg(test)]
mod tests {
    use kms_core::{ConnectionDetails, secret::SecretMap};

    use super::*;

    const LEAST: [(&str, &str); 4] = [
        ("AZURE_VAULT_URL", "https://a.vault.azure.net"),
        ("AZURE_TENANT_ID", "11111111-1111-1111-1111-111111111111"),
        ("AZURE_CLIENT_ID", "22222222-2222-2222-2222-222222222222"),
        ("AZURE_CERT_SECRET_NAME", "cert"),
    ];

    async fn build(pairs: &[(&str, &str)]) -> Result<AzureKeyVault> {
        let mut secrets = SecretMap::new("the test");
        let pem =
            [include_str!("../tests/certificates/key.pem"), include_str!("../tests/certificates/cert.pem")]
                .concat();
        secrets.insert(SecretData::new("cert").with(CLIENT_CERT, pem.into_bytes()));
        let p12 = include_bytes!("../tests/certificates/modern.p12").to_vec();
        secrets.insert(SecretData::new("p12").with(CLIENT_CERT, p12));
        secrets.insert(SecretData::new("empty"));
        let details: ConnectionDetails = pairs.iter().copied().collect();
        AzureKeyVaultBuilder::new().with_details(&details).build(&secrets).await
    }

    #[tokio::test]
    async fn the_settings_of_rook_are_enough() {
        let provider = build(&[&LEAST[..], &[("KMS_PROVIDER", "azure-kv")]].concat()).await.unwrap();
        assert_eq!(provider.api.auth.authority.as_str(), "https://login.microsoftonline.com/");
        assert_eq!(provider.soft_delete.policy, SoftDeleted::Recover);
        // The setting that Rook leaves behind does no harm (rook-behaviour W4).
        let left = [&LEAST[..], &[("AZURE_CLIENT_CERT_PATH", "cert.pem123")]].concat();
        build(&left).await.unwrap();
    }

    #[tokio::test]
    async fn the_password_is_taken_in_each_spelling() {
        for name in ["AZURE_CLIENT_CERT_PASSWORD", "AZURE_CIENT_CERT_PASSWORD"] {
            let pairs =
                [&LEAST[..3], &[("AZURE_CERT_SECRET_NAME", "p12"), (name, "canary-password")]].concat();
            let provider = build(&pairs).await.unwrap();
            assert!(!format!("{provider:?}").contains("canary"));
        }
    }

    #[tokio::test]
    async fn a_managed_identity_needs_the_vault_alone() {
        build(&[LEAST[0], ("AZURE_CREDENTIAL", "managed-identity")]).await.unwrap();
    }

    #[tokio::test]
    async fn every_problem_is_reported_in_one_error_and_no_value_is_echoed() {
        let error = build(&[
            ("AZURE_VAULT_URL", "http://canary/secrets/x"),
            ("AZURE_TENANT_ID", "can/ary"),
            ("AZURE_CERT_SECRET_NAME", "nosuch"),
            ("AZURE_ENVIRONMENT", "canary"),
            ("AZURE_SOFT_DELETED", "canary"),
            ("AZURE_VAULT_URI", "canary"),
        ])
        .await
        .unwrap_err()
        .to_string();
        for part in [
            "AZURE_VAULT_URL has to begin with https://",
            "AZURE_TENANT_ID is neither",
            "AZURE_CLIENT_ID is missing",
            "AzureUSGovernment",
            "AZURE_SOFT_DELETED is neither",
            "did you mean AZURE_VAULT_URL?",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!error.contains("canary"), "{error}");
        let pairs = [&LEAST[..3], &[("AZURE_CERT_SECRET_NAME", "empty")]].concat();
        let error = build(&pairs).await.unwrap_err().to_string();
        assert!(error.contains("has no key \"CLIENT_CERT\""), "{error}");
    }
}
