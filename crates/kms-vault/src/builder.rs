//! From settings to a provider.

use std::{fmt, fs, sync::Mutex, time::Duration};

use kms_core::{
    ConnectionDetails, Error, Result, SecretSource, SecretString,
    config::{ConfigKey, Problems, Settings, SettingsSource},
};
use kms_http::{
    HttpClientBuilder, Identity, Proxies, Roots, TlsOptions,
    http::HeaderValue,
    pem::{file, secret_or_file},
    tls::certificates,
    token::RateLimit,
};
use tracing::warn;
use url::Url;
use zeroize::Zeroizing;

use crate::{
    api::{Api, Seen},
    auth::{Auth, Method},
    config::VaultConfigKey as Key,
    provider::Vault,
    stored::KvVersion,
};

/// Nobody waits longer than this for one answer.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);
/// Where Kubernetes puts the token of a pod's service account.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// The KV mount that Rook takes when none is set (spec 1.8).
const DEFAULT_MOUNT: &str = "secret";

/// Builds a [`Vault`].
///
/// Nothing is parsed before [`build`](Self::build), which reports every problem at once.
#[derive(Default)]
pub struct VaultBuilder {
    source: SettingsSource<Key>,
    allow_http: bool,
}

impl VaultBuilder {
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
    /// proxy variables are understood too.
    #[must_use]
    pub fn with_environment<'a>(mut self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        self.source.add_environment(pairs, &[Key::CaCert, Key::ClientCert, Key::ClientKey]);
        self
    }

    /// Names the Secret with the credentials: `token`, or for AppRole `secret_id` (and `role_id`).
    #[must_use]
    pub fn with_token_secret(mut self, name: impl Into<String>) -> Self {
        self.source.set_token_secret(name);
        self
    }

    /// Allows `http://` addresses, as `VAULT_ALLOW_HTTP` does.
    #[must_use]
    pub fn with_allow_http(mut self, allow: bool) -> Self {
        self.allow_http = allow;
        self
    }

    /// Checks the settings without asking for any Secret and without I/O.
    pub fn check(&self, problems: &mut Problems) {
        let settings = self.source.settings(problems);
        self.parse(&settings, problems);
        self.check_credentials(&settings, problems);
    }

    /// What can be said of credentials and certificates without reading any Secret. The same problems come up again
    /// where they are read; they are noted once.
    fn check_credentials(&self, settings: &Settings<Key>, problems: &mut Problems) {
        settings.boolean(Key::SkipVerify, problems);
        match (settings.text(Key::ClientCert), settings.text(Key::ClientKey)) {
            (Some(_), None) => problems.add("VAULT_CLIENT_CERT needs VAULT_CLIENT_KEY"),
            (None, Some(_)) => problems.add("VAULT_CLIENT_KEY needs VAULT_CLIENT_CERT"),
            _ => {}
        }
        let given = self.source.token_secret().is_some();
        if given && self.source.given_names().any(|name| Key::find(name) == Some(Key::Token)) {
            warn!("VAULT_TOKEN in connectionDetails is not used, since a token Secret is named");
        }
        match settings.text(Key::AuthMethod) {
            Some("kubernetes") if !given => {
                settings.required(Key::AuthKubernetesRole, problems);
            }
            Some("cert") if !given && settings.text(Key::ClientCert).is_none() => {
                problems.add("VAULT_AUTH_METHOD is cert, which needs VAULT_CLIENT_CERT and VAULT_CLIENT_KEY");
            }
            Some("approle") if !given && settings.text(Key::ApproleSecretId).is_none() => {
                problems.add(
                    "approle needs a secret id: name a Secret with the key secret_id in tokenSecretName, or set \
                     VAULT_APPROLE_SECRET_ID",
                );
            }
            None | Some("token") if !given && settings.text(Key::Token).is_none() => problems.add(
                "there are no credentials: name a Secret with the key token in tokenSecretName, or set \
                 VAULT_AUTH_METHOD (kubernetes, approle, cert or agent)",
            ),
            None | Some("token" | "kubernetes" | "approle" | "cert" | "agent") => {}
            Some(_) => problems.add("VAULT_AUTH_METHOD is none of token, kubernetes, approle, cert, agent"),
        }
    }

    /// Builds the provider. Secrets and files are read, the server is not asked yet.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` with every problem of the settings; else those of the source of Secrets.
    pub async fn build(self, secrets: &dyn SecretSource) -> Result<Vault> {
        self.build_noting(secrets, Problems::new()).await
    }

    /// Builds the provider, as [`build`](Self::build) does, and fails with `problems` too if there are any.
    ///
    /// # Errors
    ///
    /// As those of [`build`](Self::build).
    pub async fn build_noting(self, secrets: &dyn SecretSource, mut problems: Problems) -> Result<Vault> {
        let settings = self.source.settings(&mut problems);
        let parsed = self.parse(&settings, &mut problems);
        self.check_credentials(&settings, &mut problems);
        let read = async {
            let method = self.method(&settings, secrets, &mut problems).await?;
            Ok((method, self.tls(&settings, secrets, &mut problems).await?))
        };
        let (method, tls) = match read.await {
            Ok(read) => read,
            Err(error) => return Err(problems.with(error)),
        };
        let proxies = self.proxies(&settings);
        let (Some(parsed), Some(method), true) = (parsed, method, problems.is_empty()) else {
            problems.into_result()?;
            return Err(Error::config("the settings of Vault are not complete"));
        };
        let http = HttpClientBuilder::new()
            .with_tls(tls)
            .with_proxies(proxies)
            .with_server_name(settings.text(Key::TlsServerName).map(ToOwned::to_owned))
            .with_read_timeout(parsed.timeout.unwrap_or(Duration::from_secs(30)))
            .build()?;
        let (http, base) = http.at(&parsed.base).await?;
        let api = Api {
            http,
            base,
            data_namespace: parsed.data_namespace,
            auth_namespace: parsed.auth_namespace,
            follow_redirects: parsed.follow_redirects,
            rate_limit: parsed.rate_limit,
            seen: Mutex::new(Seen::default()),
        };
        Ok(Vault::new(api, Auth::new(method), parsed.mount, parsed.version, parsed.timeout, parsed.retries))
    }

    /// Everything that needs neither Secrets nor files.
    fn parse(&self, settings: &Settings<Key>, problems: &mut Problems) -> Option<Parsed> {
        let allow_http = settings.boolean(Key::AllowHttp, problems).unwrap_or(false) || self.allow_http;
        let address = match settings.text(Key::AgentAddr) {
            Some(agent) => Some((Key::AgentAddr, agent)),
            None => settings.required(Key::Addr, problems).map(|address| (Key::Addr, address)),
        };
        let base = address.and_then(|(key, text)| base_url(key, text, allow_http, problems));
        if settings.boolean(Key::SrvLookup, problems) == Some(true) {
            problems.add("VAULT_SRV_LOOKUP is not supported: DNS SRV records are not looked up; set VAULT_ADDR to the address itself");
        }
        let data_namespace = namespace(settings, Key::Namespace, problems);
        let auth_namespace =
            namespace(settings, Key::AuthNamespace, problems).or_else(|| data_namespace.clone());
        let rate_limit = settings.text(Key::RateLimit).and_then(|text| {
            let limit = rate_limit(text);
            if limit.is_none() {
                problems.add("VAULT_RATE_LIMIT is not of the form rate or rate:burst, such as 100 or 100:20");
            }
            limit
        });
        let version = match settings.text(Key::Backend) {
            None => None,
            Some("kv" | "v1") => Some(KvVersion::V1),
            Some("kv-v2" | "v2") => Some(KvVersion::V2),
            Some(_) => {
                problems.add("VAULT_BACKEND is none of kv, v1, kv-v2, v2");
                None
            }
        };
        let mount = settings.text(Key::BackendPath).unwrap_or(DEFAULT_MOUNT).trim_matches('/');
        if mount.is_empty()
            || mount.split('/').any(|segment| segment.is_empty() || segment == "." || segment == "..")
        {
            problems.add("VAULT_BACKEND_PATH is not a path of a mount such as rook or rook/ver1");
        }
        let timeout = settings.duration(Key::ClientTimeout, problems);
        if timeout == Some(Duration::ZERO) {
            problems.add("VAULT_CLIENT_TIMEOUT is 0, which leaves no time for any request");
        }
        if timeout.is_some_and(|timeout| timeout > LONGEST_TIMEOUT) {
            problems.add("VAULT_CLIENT_TIMEOUT is more than an hour");
        }
        if let Some(name) = settings.text(Key::TlsServerName)
            && rustls_pki_types::ServerName::try_from(name).is_err()
        {
            problems.add("VAULT_TLS_SERVER_NAME is not a host name such as vault.example (without a port)");
        }
        if !matches!(settings.text(Key::SecretEngine), None | Some("kv" | "kv-v2" | "transit")) {
            problems.add("VAULT_SECRET_ENGINE is neither kv nor transit");
        }
        Some(Parsed {
            base: base?,
            data_namespace,
            auth_namespace,
            follow_redirects: !settings.boolean(Key::DisableRedirects, problems).unwrap_or(false),
            rate_limit,
            mount: mount.to_owned(),
            version,
            timeout,
            retries: settings.number(Key::MaxRetries, problems),
        })
    }

    /// Which credentials to use (spec 1.5): a token Secret beats `VAULT_AUTH_METHOD`, which beats a token in the
    /// environment. That a forgotten `VAULT_TOKEN` beats the method that the cluster asks for is one of Rook's faults.
    async fn method(
        &self,
        settings: &Settings<Key>,
        secrets: &dyn SecretSource,
        problems: &mut Problems,
    ) -> Result<Option<Method>> {
        let method = settings.text(Key::AuthMethod);
        let mount =
            |default: &str| settings.text(Key::AuthMountPath).unwrap_or(default).trim_matches('/').to_owned();
        let secret = self.source.secret(secrets, problems).await?;
        let given = self.source.token_secret().is_some();
        Ok(match method {
            Some("kubernetes") if !given => {
                if settings.text(Key::Token).is_some() {
                    warn!("VAULT_TOKEN is set and not used, since VAULT_AUTH_METHOD is kubernetes");
                }
                let role = settings.text(Key::AuthKubernetesRole);
                let path = settings.text(Key::AuthKubernetesTokenPath).unwrap_or(SERVICE_ACCOUNT_TOKEN);
                role.map(|role| Method::Kubernetes {
                    mount: mount("kubernetes"),
                    role: role.to_owned(),
                    path: path.into(),
                })
            }
            Some("approle") => {
                let of_secret =
                    |key: &str| secret.as_ref().filter(|secret| secret.keys().any(|have| have == key));
                let role_id = match of_secret("role_id") {
                    Some(secret) => problems.absorb("tokenSecretName", secret.text("role_id"))?,
                    None => settings.required(Key::ApproleRoleId, problems).map(SecretString::from),
                };
                let secret_id = match (settings.secret(Key::ApproleSecretId), &secret) {
                    (None, Some(secret)) => problems.absorb("tokenSecretName", secret.text("secret_id"))?,
                    (None, None) => None,
                    (secret_id, _) => secret_id,
                };
                role_id.zip(secret_id).map(|(role_id, secret_id)| Method::AppRole {
                    mount: mount("approle"),
                    role_id: kms_core::ExposeSecret::expose_secret(&role_id).to_owned(),
                    secret_id,
                })
            }
            Some("cert") if !given => {
                if settings.text(Key::ClientCert).is_none() {
                    problems
                        .add("VAULT_AUTH_METHOD is cert, which needs VAULT_CLIENT_CERT and VAULT_CLIENT_KEY");
                }
                Some(Method::Certificate {
                    mount: mount("cert"),
                    name: settings.text(Key::AuthCertName).map(ToOwned::to_owned),
                })
            }
            Some("agent") if !given => Some(Method::Agent),
            None | Some("token" | "kubernetes" | "cert" | "agent") => {
                if given && method.is_some_and(|method| method != "token") {
                    warn!("VAULT_AUTH_METHOD is not used, since a token Secret is named");
                }
                let token = match secret {
                    Some(secret) => problems.absorb("tokenSecretName", secret.text("token"))?,
                    None if given => None,
                    None => settings.secret(Key::Token),
                };
                match token {
                    Some(token) => {
                        let header = kms_http::send::sensitive(
                            "the Vault token",
                            kms_core::ExposeSecret::expose_secret(&token),
                        );
                        problems.absorb("token", header)?.map(|_| Method::Token(token))
                    }
                    None => None,
                }
            }
            Some(_) => None,
        })
    }

    async fn tls(
        &self,
        settings: &Settings<Key>,
        secrets: &dyn SecretSource,
        problems: &mut Problems,
    ) -> Result<TlsOptions> {
        let mut tls = TlsOptions::new();
        tls.skip_verify = settings.boolean(Key::SkipVerify, problems).unwrap_or(false);
        let mut roots = Vec::new();
        if let Some(pem) = settings.text(Key::CaCertBytes) {
            roots.extend(
                problems.absorb("VAULT_CACERT_BYTES", certificates(pem.as_bytes()))?.unwrap_or_default(),
            );
        } else if let Some(pem) = self.pem(settings, Key::CaCert, "cert", secrets, problems).await? {
            roots.extend(problems.absorb("VAULT_CACERT", certificates(&pem))?.unwrap_or_default());
        }
        if let Some(folder) = settings.text(Key::CaPath) {
            roots
                .extend(problems.absorb("VAULT_CAPATH", folder_of_certificates(folder))?.unwrap_or_default());
        }
        if !roots.is_empty() {
            tls.roots = Roots::Only(roots);
        }
        let certificate = self.pem(settings, Key::ClientCert, "cert", secrets, problems).await?;
        let key = self.pem(settings, Key::ClientKey, "key", secrets, problems).await?;
        if let (Some(certificate), Some(key)) = (certificate, key) {
            tls.identity = problems
                .absorb("VAULT_CLIENT_CERT and VAULT_CLIENT_KEY", Identity::from_pem(&certificate, &key))?;
        }
        Ok(tls)
    }

    /// The PEM text that a setting names.
    async fn pem(
        &self,
        settings: &Settings<Key>,
        key: Key,
        entry: &str,
        secrets: &dyn SecretSource,
        problems: &mut Problems,
    ) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let Some(value) = settings.text(key) else { return Ok(None) };
        problems.absorb(key.as_str(), secret_or_file(value, entry, secrets).await)
    }

    fn proxies(&self, settings: &Settings<Key>) -> Proxies {
        match settings.text(Key::ProxyAddr).or_else(|| settings.text(Key::HttpProxy)) {
            Some(url) => Proxies::all(url),
            None => Proxies::from_environment(self.source.environment()),
        }
    }
}

impl fmt::Debug for VaultBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, allow_http } = self;
        f.debug_struct("VaultBuilder").field("source", source).field("allow_http", allow_http).finish()
    }
}

/// Settings that are parsed.
struct Parsed {
    base: Url,
    data_namespace: Option<HeaderValue>,
    auth_namespace: Option<HeaderValue>,
    follow_redirects: bool,
    rate_limit: Option<RateLimit>,
    mount: String,
    version: Option<KvVersion>,
    timeout: Option<Duration>,
    retries: Option<u32>,
}

/// The address with `/v1` at its end.
fn base_url(key: Key, text: &str, allow_http: bool, problems: &mut Problems) -> Option<Url> {
    let mut wrong = |why: &str| {
        problems.add(format!("{key} {why}"));
        None
    };
    let Ok(mut url) = Url::parse(text) else {
        return wrong("is not a URL such as https://vault.example:8200 (is the scheme missing?)");
    };
    match url.scheme() {
        "https" => {}
        "http" if allow_http => warn!("{key} is an http address: token and keys can be read on the way"),
        "http" => {
            return wrong(
                "is an http address, over which everybody on the way can read token and keys; use https, or allow it \
                 with VAULT_ALLOW_HTTP: \"true\" or --allow-http",
            );
        }
        _ => return wrong("is neither an https nor an http address (is the scheme missing?)"),
    }
    if url.host_str().is_none_or(str::is_empty) {
        return wrong("has no host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return wrong("has user information in it; credentials belong into the token Secret");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return wrong("has a query or a fragment; give scheme, host, port and at most a path");
    }
    let path = format!("{}/v1", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Some(url)
}

fn namespace(settings: &Settings<Key>, key: Key, problems: &mut Problems) -> Option<HeaderValue> {
    let text = settings.text(key)?.trim_matches('/');
    let valid = !text.is_empty() && text.bytes().all(|byte| (0x21..0x7f).contains(&byte));
    match HeaderValue::from_str(text) {
        Ok(value) if valid => Some(value),
        _ => {
            problems.add(format!("{key} is not the path of a namespace such as team or team/storage"));
            None
        }
    }
}

fn rate_limit(text: &str) -> Option<RateLimit> {
    let (rate, burst) = match text.split_once(':') {
        Some((rate, burst)) => (rate, Some(burst.parse().ok()?)),
        None => (text, None),
    };
    let rate: f64 = rate.parse().ok()?;
    // What a Vault client does without a burst: one second's worth.
    let burst = burst.unwrap_or_else(|| rate.ceil() as u32);
    RateLimit::new(rate, burst)
}

fn folder_of_certificates(folder: &str) -> Result<Vec<rustls_pki_types::CertificateDer<'static>>> {
    let unreadable = |cause: std::io::Error| {
        Error::config(format!("folder {folder:?} cannot be read")).context("cause", cause.kind().to_string())
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        // A mounted Secret has folders with names of dots beside its files.
        if path.is_file() {
            found.extend(
                certificates(&file(&path)?)
                    .map_err(|error| error.context("file", path.display().to_string()))?,
            );
        }
    }
    if found.is_empty() {
        return Err(Error::config(format!("folder {folder:?} has no certificates in it")));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use kms_core::secret::{SecretData, SecretMap};

    use super::*;

    fn secrets() -> SecretMap {
        let mut map = SecretMap::new("the test");
        map.insert(SecretData::new("vault-token").with("token", b"s.canary\n".to_vec()));
        map.insert(SecretData::new("broken-token").with("token", b"s.can\nary".to_vec()));
        map.insert(
            SecretData::new("garbage").with("cert", b"canary".to_vec()).with("key", b"canary".to_vec()),
        );
        map
    }

    async fn build(token_secret: &str, pairs: &[(&str, &str)]) -> Result<Vault> {
        let details: ConnectionDetails = pairs.iter().copied().collect();
        VaultBuilder::new().with_details(&details).with_token_secret(token_secret).build(&secrets()).await
    }

    #[tokio::test]
    async fn the_sample_of_the_documentation_is_taken() {
        let vault = build(
            "vault-token",
            &[
                ("KMS_PROVIDER", "vault"),
                ("VAULT_ADDR", "https://vault.default.svc.cluster.local:8200"),
                ("VAULT_BACKEND_PATH", "rook"),
                ("VAULT_SECRET_ENGINE", "kv"),
                ("VAULT_AUTH_METHOD", "token"),
            ],
        )
        .await
        .unwrap();
        assert!(!format!("{vault:?}").contains("canary"), "{vault:?}");
    }

    #[tokio::test]
    async fn every_problem_is_reported_in_one_error_and_no_value_is_echoed() {
        let error = build(
            "nosuch",
            &[
                ("VAULT_ADRR", "https://canary"),
                ("VAULT_BACKEND", "canary"),
                ("VAULT_CACERT", "garbage"),
                ("VAULT_CLIENT_CERT", "missing-secret"),
                ("VAULT_SKIP_VERIFY", "canary"),
                ("VAULT_NAMESPACE", "can\u{e4}ary"),
                ("VAULT_RATE_LIMIT", "canary"),
                ("VAULT_WRAP_TTL", "canary"),
                ("VAULT_SRV_LOOKUP", "true"),
                ("VAULT_CLIENT_TIMEOUT", "0"),
            ],
        )
        .await
        .unwrap_err();
        let text = error.to_string();
        for problem in [
            "did you mean VAULT_ADDR?",
            "VAULT_ADDR is missing",
            "VAULT_BACKEND is none of kv, v1, kv-v2, v2",
            "VAULT_CACERT: no certificate found",
            "VAULT_CLIENT_CERT: Secret \"missing-secret\" was not found",
            "VAULT_CLIENT_CERT needs VAULT_CLIENT_KEY",
            "VAULT_SKIP_VERIFY is neither",
            "VAULT_NAMESPACE is not the path",
            "VAULT_RATE_LIMIT is not of the form",
            "VAULT_WRAP_TTL is not supported",
            "VAULT_SRV_LOOKUP is not supported",
            "VAULT_CLIENT_TIMEOUT is 0",
            "tokenSecretName: Secret \"nosuch\" was not found",
        ] {
            assert!(text.contains(problem), "{problem:?} is not in: {text}");
        }
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }

    #[test]
    fn addresses_are_checked_and_normalised() {
        for (text, allow_http, expected) in [
            ("https://v:8200", false, Ok("https://v:8200/v1")),
            ("https://v:8200/", false, Ok("https://v:8200/v1")),
            ("https://v/base/", false, Ok("https://v/base/v1")),
            ("https://[::1]:8200", false, Ok("https://[::1]:8200/v1")),
            ("http://v:8200", true, Ok("http://v:8200/v1")),
            ("http://v:8200", false, Err("is an http address")),
            ("v:8200", false, Err("scheme missing")),
            ("vault", false, Err("scheme missing")),
            ("https://user:canary@v", false, Err("user information")),
            ("https://v?canary", false, Err("query")),
            ("https://v#canary", false, Err("query")),
        ] {
            let mut problems = Problems::new();
            let url = base_url(Key::Addr, text, allow_http, &mut problems);
            match expected {
                Ok(expected) => assert_eq!(url.unwrap().as_str(), expected),
                Err(why) => {
                    let error = problems.into_result().unwrap_err().to_string();
                    assert!(error.contains(why) && !error.contains("canary"), "{text}: {error}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_forgotten_token_in_the_environment_does_not_beat_the_method_that_is_set() {
        let build = |details: &[(&str, &str)]| {
            let details: ConnectionDetails = details.iter().copied().collect();
            VaultBuilder::new()
                .with_details(&details)
                .with_environment([("VAULT_TOKEN", "s.stale"), ("VAULT_ADDR", "https://v")])
        };
        let kubernetes = [("VAULT_AUTH_METHOD", "kubernetes"), ("VAULT_AUTH_KUBERNETES_ROLE", "rook-ceph")];
        let vault = build(&kubernetes).build(&secrets()).await.unwrap();
        assert!(vault.auth.method.describe().starts_with("kubernetes"));
        let vault = build(&[]).build(&secrets()).await.unwrap();
        assert_eq!(vault.auth.method.describe(), "token");
    }

    #[tokio::test]
    async fn a_token_with_a_line_break_inside_is_refused() {
        let error = build("broken-token", &[("VAULT_ADDR", "https://v")]).await.unwrap_err();
        assert!(error.to_string().contains("the Vault token has characters"), "{error}");
        assert!(!format!("{error:?}").contains("ary"), "{error:?}");
    }

    #[tokio::test]
    async fn without_credentials_the_error_says_what_to_set() {
        let error = build("", &[("VAULT_ADDR", "https://v")]).await.unwrap_err();
        assert!(error.to_string().contains("there are no credentials"), "{error}");
    }
}
