//! Builds an [`IbmKeyProtect`] from settings.

use std::fmt;

use async_trait::async_trait;
use kms_core::{
    ExposeSecret, KeyLocks, ProviderBuilder, Result, SecretSource, SecretString,
    config::{ConfigKey as _, Problems, Settings, SettingsSource},
};
use kms_http::{
    HttpClientBuilder, Proxies, Roots, SettingNames, TlsOptions, address::AddressRules, http::HeaderValue,
    tls::source::ca_certificates,
};
use tracing::warn;
use url::Url;

use crate::{
    address::{base_url, instance, key_ring, token_path},
    api::Api,
    auth::Auth,
    config::IbmKpConfigKey as Key,
    provider::IbmKeyProtect,
    stored::Cluster,
};

/// The address of Key Protect that Rook uses if no setting gives one (rook-behaviour §1.8).
const DEFAULT_BASE_URL: &str = "https://us-south.kms.cloud.ibm.com";
/// The address of IAM that Rook uses if no setting gives one (rook-behaviour §1.8).
const DEFAULT_TOKEN_URL: &str = "https://iam.cloud.ibm.com/oidc/token";

/// The names of our settings in messages about TLS. The service asks for no client certificate, and has no other name.
const NAMES: SettingNames = SettingNames::new(
    "IBM_KP_CACERT",
    "a client certificate",
    "the host of IBM_KP_BASE_URL or IBM_KP_TOKEN_URL",
    "IBM_KP_BASE_URL or IBM_KP_TOKEN_URL",
);

/// The default number of keys in one page of a list, and the most that the service returns.
const PAGE_SIZES: (u32, u32) = (1_000, 5_000);

/// Builds an [`IbmKeyProtect`]; see [`ProviderBuilder`].
///
/// The token Secret holds the API key, under `IBM_KP_SERVICE_API_KEY`. The usual proxy variables of the environment
/// apply to both IAM and Key Protect.
#[derive(Default)]
pub struct IbmKeyProtectBuilder {
    source: SettingsSource<Key>,
    cluster: String,
    allow_http: bool,
    page_size: Option<u32>,
}

impl fmt::Debug for IbmKeyProtectBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, cluster, allow_http, page_size } = self;
        f.debug_struct("IbmKeyProtectBuilder")
            .field("source", source)
            .field("cluster", cluster)
            .field("allow_http", allow_http)
            .field("page_size", page_size)
            .finish()
    }
}

/// The settings that need neither Secrets nor files.
#[derive(Debug)]
#[expect(unnameable_types, reason = "only ProviderBuilder uses it")]
pub struct Parsed {
    base: Url,
    token_url: Url,
    instance: HeaderValue,
    key_ring: Option<HeaderValue>,
    cluster: Option<Cluster>,
    page_size: usize,
}

/// The credentials and certificates, read from Secrets and files.
#[derive(Debug)]
#[expect(unnameable_types, reason = "only ProviderBuilder uses it")]
pub struct Credentials {
    api_key: SecretString,
    tls: TlsOptions,
}

#[async_trait]
impl ProviderBuilder for IbmKeyProtectBuilder {
    const TITLE: &'static str = "Key Protect";
    const ENVIRONMENT_FILES: &'static [Key] = &[Key::CaCert];

    type Key = Key;
    type Parsed = Parsed;
    type Credentials = Credentials;
    type Provider = IbmKeyProtect;

    kms_core::settings_source!(source);

    /// Sets the cluster that owns the keys, as `namespace/name`. The name goes into the descriptions and tags of the
    /// keys. The provider neither returns nor changes a key that is marked as another cluster's.
    ///
    /// Clusters of the same namespace and name that share an instance need a longer name here.
    fn with_cluster(mut self, cluster: impl Into<String>) -> Self {
        self.cluster = cluster.into();
        self
    }

    fn with_allow_http(mut self, allow: bool) -> Self {
        self.allow_http = allow;
        self
    }

    fn parse(&self, settings: &Settings<Key>, problems: &mut Problems) -> Option<Parsed> {
        if self.source.token_secret().is_none() && settings.text(Key::ServiceApiKey).is_none() {
            problems.add(
                "there are no credentials: name a Secret with the key IBM_KP_SERVICE_API_KEY in tokenSecretName",
            );
        }
        let rules = AddressRules {
            example: "https://eu-de.kms.cloud.ibm.com",
            exposed: "API key and keys",
            allow_http_setting: "IBM_KP_ALLOW_HTTP",
            allow_http: settings.boolean(Key::AllowHttp, problems).unwrap_or(false) || self.allow_http,
        };
        let base = settings.text(Key::BaseUrl).unwrap_or(DEFAULT_BASE_URL);
        let base = rules.parse(Key::BaseUrl.as_str(), base, problems).and_then(|url| base_url(url, problems));
        let token_url = settings.text(Key::TokenUrl).unwrap_or(DEFAULT_TOKEN_URL);
        let token_url = rules
            .parse(Key::TokenUrl.as_str(), token_url, problems)
            .and_then(|url| token_path(url, problems));
        let instance =
            settings.required(Key::ServiceInstanceId, problems).and_then(|text| instance(text, problems));
        let key_ring = match settings.text(Key::KeyRing) {
            None => Some(None),
            Some(text) => key_ring(text, problems).map(Some),
        };
        let (default, most) = PAGE_SIZES;
        let page_size = self.page_size.unwrap_or(default).clamp(1, most);
        Some(Parsed {
            base: base?,
            token_url: token_url?,
            instance: instance?,
            key_ring: key_ring?,
            cluster: Some(self.cluster.trim()).filter(|name| !name.is_empty()).map(Cluster::new),
            page_size: usize::try_from(page_size).unwrap_or(1),
        })
    }

    async fn read(
        &self,
        settings: &Settings<Key>,
        _parsed: Option<&Parsed>,
        secrets: &dyn SecretSource,
        problems: &mut Problems,
    ) -> Result<Option<Credentials>> {
        self.warn_of_spellings();
        let api_key = self.api_key(settings, secrets, problems).await?;
        let mut tls = TlsOptions::named(NAMES);
        let roots =
            ca_certificates(Key::CaCert.as_str(), settings.text(Key::CaCert), secrets, problems).await?;
        if let Some(roots) = roots {
            tls.roots = Roots::Only(roots);
        }
        Ok(api_key.map(|api_key| Credentials { api_key, tls }))
    }

    async fn assemble(
        self,
        _settings: Settings<Key>,
        parsed: Parsed,
        credentials: Credentials,
    ) -> Result<IbmKeyProtect> {
        // One client for both hosts: CA and proxy apply to both IAM and Key Protect (rook-behaviour W35).
        let http = HttpClientBuilder::new()
            .with_tls(credentials.tls)
            .with_proxies(Proxies::from_environment(self.source.environment()))
            .build()?;
        let Parsed { base, token_url, instance, key_ring, cluster, page_size } = parsed;
        let auth = Auth::new(http.clone(), token_url, credentials.api_key);
        let locks = KeyLocks::new();
        Ok(IbmKeyProtect { api: Api { http, base, instance, key_ring, auth, cluster, page_size, locks } })
    }
}

impl IbmKeyProtectBuilder {
    /// Sets the number of keys in one page of a list, from 1 to 5,000. Default 1,000.
    #[must_use]
    pub fn with_page_size(mut self, keys: u32) -> Self {
        self.page_size = Some(keys);
        self
    }

    /// Warns of spellings that Rook does not read: a cluster that goes back to Rook would use the default address
    /// (field-reports SR-05).
    fn warn_of_spellings(&self) {
        for key in [Key::BaseUrl, Key::TokenUrl] {
            for alias in
                key.aliases().iter().filter(|alias| self.source.given_names().any(|name| name == **alias))
            {
                warn!(
                    "{alias} counts as {key}; it is the name in Rook's documentation, which Rook's code does not read"
                );
            }
        }
    }

    /// Reads the API key from the token Secret if the settings name one, as in Rook, otherwise from the settings.
    async fn api_key(
        &self,
        settings: &Settings<Key>,
        secrets: &dyn SecretSource,
        problems: &mut Problems,
    ) -> Result<Option<SecretString>> {
        let api_key = match (self.source.secret(secrets, problems).await?, self.source.token_secret()) {
            (Some(secret), _) => {
                problems.absorb("tokenSecretName", secret.text(Key::ServiceApiKey.as_str()))?
            }
            (None, Some(_)) => None,
            (None, None) => settings.secret(Key::ServiceApiKey),
        };
        let Some(api_key) = api_key else { return Ok(None) };
        if api_key.expose_secret().bytes().any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control()) {
            problems.add("IBM_KP_SERVICE_API_KEY has blanks or line breaks in it; write the API key alone");
            return Ok(None);
        }
        Ok(Some(api_key))
    }
}

#[cfg(test)]
mod tests {
    use kms_core::{
        ConnectionDetails,
        secret::{SecretData, SecretMap},
    };

    use super::*;

    const INSTANCE: (&str, &str) = ("IBM_KP_SERVICE_INSTANCE_ID", "11111111-2222-3333-4444-555555555555");

    fn secrets() -> SecretMap {
        let mut map = SecretMap::new("the test");
        map.insert(SecretData::new("api-key").with("IBM_KP_SERVICE_API_KEY", b" canary-key \n\n".to_vec()));
        map.insert(SecretData::new("broken").with("IBM_KP_SERVICE_API_KEY", b"can ary".to_vec()));
        map.insert(SecretData::new("garbage").with("cert", b"canary".to_vec()));
        map
    }

    async fn build(token_secret: &str, pairs: &[(&str, &str)]) -> Result<IbmKeyProtect> {
        let details: ConnectionDetails = pairs.iter().copied().collect();
        IbmKeyProtectBuilder::new()
            .with_details(&details)
            .with_token_secret(token_secret)
            .build(&secrets())
            .await
    }

    fn problems(pairs: &[(&str, &str)]) -> String {
        let details: ConnectionDetails = pairs.iter().copied().collect();
        let mut problems = Problems::new();
        IbmKeyProtectBuilder::new().with_details(&details).with_token_secret("any").check(&mut problems);
        problems.into_result().map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[tokio::test]
    async fn the_least_settings_and_the_defaults_are_those_of_rook() {
        let provider = build("api-key", &[("KMS_PROVIDER", "ibmkeyprotect"), INSTANCE]).await.unwrap();
        assert_eq!(provider.api.base.as_str(), "https://us-south.kms.cloud.ibm.com/api/v2");
        assert_eq!(provider.api.auth.url.as_str(), "https://iam.cloud.ibm.com/oidc/token");
        assert!(!format!("{provider:?}").contains("canary"), "{provider:?}");
    }

    #[tokio::test]
    async fn both_spellings_count_and_must_agree() {
        let (base, token) = ("https://eu-de.kms.cloud.ibm.com", "https://iam.example/identity/token");
        for names in [("IBM_BASE_URL", "IBM_TOKEN_URL"), ("IBM_KP_BASE_URL", "IBM_KP_TOKEN_URL")] {
            let provider = build("api-key", &[INSTANCE, (names.0, base), (names.1, token)]).await.unwrap();
            assert_eq!(provider.api.base.as_str(), format!("{base}/api/v2"));
            assert_eq!(provider.api.auth.url.as_str(), token);
        }
        assert_eq!(problems(&[INSTANCE, ("IBM_BASE_URL", base), ("IBM_KP_BASE_URL", base)]), "");
        let error = problems(&[
            INSTANCE,
            ("IBM_BASE_URL", base),
            ("IBM_KP_BASE_URL", "https://us-east.kms.cloud.ibm.com"),
        ]);
        assert_eq!(error, "IBM_KP_BASE_URL is given twice, with different values; remove one of them");
    }

    #[tokio::test]
    async fn every_problem_is_reported_in_one_error_and_no_value_is_echoed() {
        let error = build(
            "nosuch",
            &[
                ("IBM_KP_BASE_URI", "https://canary"),
                ("IBM_KP_BASE_URL", "canary"),
                ("IBM_KP_TOKEN_URL", "https://canary"),
                ("IBM_KP_SERVICE_INSTANCE_ID", "crn:v1:canary"),
                ("IBM_KP_KEY_RING", "canary ring"),
                ("IBM_KP_CACERT", "garbage"),
                ("IBM_KP_ALLOW_HTTP", "canary"),
            ],
        )
        .await
        .unwrap_err();
        let text = error.to_string();
        for problem in [
            "did you mean IBM_KP_BASE_URL?",
            "IBM_KP_BASE_URL is not a URL",
            "IBM_KP_TOKEN_URL has no path",
            "IBM_KP_SERVICE_INSTANCE_ID is the CRN",
            "IBM_KP_KEY_RING is not the id of a key ring",
            "IBM_KP_CACERT: no certificate found",
            "IBM_KP_ALLOW_HTTP is neither",
            "tokenSecretName: Secret \"nosuch\" was not found",
        ] {
            assert!(text.contains(problem), "{problem:?} is not in: {text}");
        }
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }

    #[test]
    fn addresses_are_checked_for_their_shape() {
        for (url, why) in [
            ("http://eu-de.kms.cloud.ibm.com", "is an http address"),
            ("https://kms.cloud.ibm.com", "has no region"),
            ("https://private.kms.cloud.ibm.com", "has no region"),
            ("https://iam.cloud.ibm.com", "is not an address of Key Protect"),
            ("https://eu-de.kms.cloud.ibm.com/api/v2/keys", "has the path of the API"),
            ("https://user:canary@eu-de.kms.cloud.ibm.com", "user information"),
            ("https://eu-de.kms.cloud.ibm.com?canary", "query"),
            ("eu-de.kms.cloud.ibm.com", "scheme"),
            ("https://private.eu-de.kms.cloud.ibm.com", ""),
            ("https://kms.gateway.example/base/", ""),
        ] {
            let found = problems(&[INSTANCE, ("IBM_KP_BASE_URL", url)]);
            assert!(found.contains(why) && found.is_empty() == why.is_empty(), "{url}: {found}");
            assert!(!found.contains("canary"), "{found}");
        }
        let allowed = [INSTANCE, ("IBM_KP_BASE_URL", "http://localhost:1"), ("IBM_KP_ALLOW_HTTP", "true")];
        assert_eq!(problems(&allowed), "");
    }

    #[tokio::test]
    async fn credentials_are_asked_for_and_checked() {
        let error = build("", &[INSTANCE]).await.unwrap_err();
        assert!(error.to_string().contains("there are no credentials"), "{error}");
        let error = build("garbage", &[INSTANCE]).await.unwrap_err();
        assert!(error.to_string().contains("has no key \"IBM_KP_SERVICE_API_KEY\""), "{error}");
        let error = build("broken", &[INSTANCE]).await.unwrap_err();
        assert!(error.to_string().contains("IBM_KP_SERVICE_API_KEY has blanks"), "{error}");
        assert!(!format!("{error:?}").contains("ary"), "{error:?}");
        // In a pod, Rook passes the API key as a variable of the environment (rook-behaviour §13.1).
        IbmKeyProtectBuilder::new()
            .with_environment([INSTANCE, ("IBM_KP_SERVICE_API_KEY", "canary")])
            .build(&secrets())
            .await
            .unwrap();
    }
}
