//! From settings to a provider.

use std::fmt;

use kms_core::{
    ConnectionDetails, Error, ExposeSecret, Result, SecretSource, SecretString,
    config::{ConfigKey as _, Problems, Settings, SettingsSource},
};
use kms_http::{
    HttpClientBuilder, Proxies, Roots, TlsOptions, http::HeaderValue, pem::secret_or_file, tls::certificates,
};
use tracing::warn;
use url::Url;

use crate::{
    address::{address, base_url, instance, key_ring, token_path},
    api::Api,
    auth::Auth,
    config::IbmKpConfigKey as Key,
    provider::IbmKeyProtect,
    stored::Cluster,
};

/// Where Key Protect is when nothing is said (spec 1.8).
const DEFAULT_BASE_URL: &str = "https://us-south.kms.cloud.ibm.com";
/// Where IAM is when nothing is said (spec 1.8).
const DEFAULT_TOKEN_URL: &str = "https://iam.cloud.ibm.com/oidc/token";

/// How many keys are asked for at once, and the most that the service gives.
const PAGE_SIZES: (u32, u32) = (1_000, 5_000);

/// Builds an [`IbmKeyProtect`].
///
/// Nothing is parsed before [`build`](Self::build), which reports every problem at once.
#[derive(Default)]
pub struct IbmKeyProtectBuilder {
    source: SettingsSource<Key>,
    cluster: String,
    allow_http: bool,
    page_size: Option<u32>,
}

impl IbmKeyProtectBuilder {
    /// A builder without settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the settings of a CephCluster.
    #[must_use]
    pub fn with_details(mut self, details: &ConnectionDetails) -> Self {
        self.source.add_details(details);
        self
    }

    /// Sets one setting.
    #[must_use]
    pub fn with_config(mut self, key: Key, value: impl Into<String>) -> Self {
        self.source.add(key, value);
        self
    }

    /// Offers the variables of the environment: those that are known count where nothing else is given. The usual
    /// proxy variables are understood too, and hold for IAM and Key Protect alike.
    #[must_use]
    pub fn with_environment<'a>(mut self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        self.source.add_environment(pairs, &[Key::CaCert]);
        self
    }

    /// Names the Secret with the API key, under `IBM_KP_SERVICE_API_KEY`.
    #[must_use]
    pub fn with_token_secret(mut self, name: impl Into<String>) -> Self {
        self.source.set_token_secret(name);
        self
    }

    /// Says which cluster the keys are for, `namespace/name`: it goes into their descriptions and tags, and keys that
    /// are marked as another cluster's are left alone.
    ///
    /// Clusters of the same namespace and name that share an instance need something more to tell them apart.
    #[must_use]
    pub fn with_cluster(mut self, cluster: impl Into<String>) -> Self {
        self.cluster = cluster.into();
        self
    }

    /// Allows `http://` addresses, as `IBM_KP_ALLOW_HTTP` does.
    #[must_use]
    pub fn with_allow_http(mut self, allow: bool) -> Self {
        self.allow_http = allow;
        self
    }

    /// How many keys of a list are asked for at once, from 1 to 5,000. Default 1,000.
    #[must_use]
    pub fn with_page_size(mut self, keys: u32) -> Self {
        self.page_size = Some(keys);
        self
    }

    /// Checks the settings without asking for any Secret and without I/O.
    pub fn check(&self, problems: &mut Problems) {
        let settings = self.source.settings(problems);
        self.parse(&settings, problems);
        self.check_credentials(&settings, problems);
    }

    fn check_credentials(&self, settings: &Settings<Key>, problems: &mut Problems) {
        if self.source.token_secret().is_none() && settings.text(Key::ServiceApiKey).is_none() {
            problems.add(
                "there are no credentials: name a Secret with the key IBM_KP_SERVICE_API_KEY in tokenSecretName",
            );
        }
    }

    /// Builds the provider. Secrets and files are read, neither IAM nor Key Protect is asked yet.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` with every problem of the settings; else those of the source of Secrets.
    pub async fn build(self, secrets: &dyn SecretSource) -> Result<IbmKeyProtect> {
        self.build_noting(secrets, Problems::new()).await
    }

    /// Builds the provider, as [`build`](Self::build) does, and fails with `problems` too if there are any.
    ///
    /// # Errors
    ///
    /// As those of [`build`](Self::build).
    pub async fn build_noting(
        self,
        secrets: &dyn SecretSource,
        mut problems: Problems,
    ) -> Result<IbmKeyProtect> {
        self.warn_of_spellings();
        let settings = self.source.settings(&mut problems);
        let parsed = self.parse(&settings, &mut problems);
        self.check_credentials(&settings, &mut problems);
        let read = async {
            let api_key = self.api_key(&settings, secrets, &mut problems).await?;
            Ok((api_key, self.tls(&settings, secrets, &mut problems).await?))
        };
        let (api_key, tls) = match read.await {
            Ok(read) => read,
            Err(error) => return Err(problems.with(error)),
        };
        let (Some(parsed), Some(api_key), true) = (parsed, api_key, problems.is_empty()) else {
            problems.into_result()?;
            return Err(Error::config("the settings of Key Protect are not complete"));
        };
        // One client for both hosts: CA and proxy hold for IAM and Key Protect alike (W35).
        let http = HttpClientBuilder::new()
            .with_tls(tls)
            .with_proxies(Proxies::from_environment(self.source.environment()))
            .build()?;
        let Parsed { base, token_url, instance, key_ring, cluster, page_size } = parsed;
        let auth = Auth::new(http.clone(), token_url, api_key);
        let api = Api { http, base, instance, key_ring, auth };
        Ok(IbmKeyProtect { api, cluster, page_size, turns: Default::default() })
    }

    /// A cluster that goes back to Rook finds the default address where only the other spelling is set (SR-05).
    fn warn_of_spellings(&self) {
        for key in [Key::BaseUrl, Key::TokenUrl] {
            for alias in key.aliases() {
                if self.source.given_names().any(|name| name == *alias) {
                    warn!(
                        "{alias} counts as {key}; Rook's documentation calls it so, and its code does not read it"
                    );
                }
            }
        }
    }

    /// Everything that needs neither Secrets nor files.
    fn parse(&self, settings: &Settings<Key>, problems: &mut Problems) -> Option<Parsed> {
        let allow_http = settings.boolean(Key::AllowHttp, problems).unwrap_or(false) || self.allow_http;
        let base = settings.text(Key::BaseUrl).unwrap_or(DEFAULT_BASE_URL);
        let base = address(Key::BaseUrl, base, allow_http, problems).and_then(|url| base_url(url, problems));
        let token_url = settings.text(Key::TokenUrl).unwrap_or(DEFAULT_TOKEN_URL);
        let token_url =
            address(Key::TokenUrl, token_url, allow_http, problems).and_then(|url| token_path(url, problems));
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

    /// The API key: of the token Secret if one is named, as in Rook, else of the settings.
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
            problems.add("the API key has blanks or line breaks in it");
            return Ok(None);
        }
        Ok(Some(api_key))
    }

    async fn tls(
        &self,
        settings: &Settings<Key>,
        secrets: &dyn SecretSource,
        problems: &mut Problems,
    ) -> Result<TlsOptions> {
        let mut tls = TlsOptions::new();
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

/// Settings that are parsed.
struct Parsed {
    base: Url,
    token_url: Url,
    instance: HeaderValue,
    key_ring: Option<HeaderValue>,
    cluster: Option<Cluster>,
    page_size: usize,
}

#[cfg(test)]
mod tests {
    use kms_core::secret::{SecretData, SecretMap};

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
        assert_eq!(error, "IBM_KP_BASE_URL is given twice, with different values");
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
        assert!(error.to_string().contains("the API key has blanks"), "{error}");
        assert!(!format!("{error:?}").contains("ary"), "{error:?}");
        // In a pod Rook gives it as a variable of the environment (spec 13.1).
        IbmKeyProtectBuilder::new()
            .with_environment([INSTANCE, ("IBM_KP_SERVICE_API_KEY", "canary")])
            .build(&secrets())
            .await
            .unwrap();
    }
}
