//! Builds a [`Vault`] from settings.

use std::{fmt, fs, sync::Mutex, time::Duration};

use async_trait::async_trait;
use kms_core::{
    Error, ExposeSecret, ProviderBuilder, Result, SecretSource, SecretString,
    config::{ConfigKey, Problems, Settings, SettingsSource},
    layer::LayerOptions,
};
use kms_http::{
    HttpClientBuilder, Identity, Proxies, Roots, SettingNames, TlsOptions,
    address::AddressRules,
    http::HeaderValue,
    send::sensitive,
    tls::{
        pem::certificates,
        source::{ca_certificates, file, secret_or_file},
    },
    token::RateLimit,
};
use rustls_pki_types::{CertificateDer, ServerName};
use tracing::warn;
use url::Url;
use zeroize::Zeroizing;

use crate::{
    api::{Api, Seen},
    auth::{AccountToken, Auth, AuthMethod},
    config::{MOUNT_PATH, NAMESPACE, PROXY, SRV_LOOKUP, VaultConfigKey as Key},
    mount::{Declared, Mount},
    provider::Vault,
};

/// The upper limit of `VAULT_CLIENT_TIMEOUT`.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);
/// The time limit of a response if `VAULT_CLIENT_TIMEOUT` is absent.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The names of our settings in messages about TLS.
const NAMES: SettingNames =
    SettingNames::new("VAULT_CACERT", "VAULT_CLIENT_CERT", "VAULT_TLS_SERVER_NAME", "VAULT_ADDR");
/// The file in which Kubernetes mounts the token of a pod's service account.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// The KV mount that Rook uses if no setting names one (rook-behaviour §1.8).
const DEFAULT_MOUNT: &str = "secret";

/// Builds a [`Vault`]; see [`ProviderBuilder`].
///
/// The token Secret holds `token`, or for AppRole `secret_id` (and `role_id`). The usual proxy variables of the
/// environment apply unless `VAULT_PROXY_ADDR` is set.
#[derive(Default)]
pub struct VaultBuilder {
    source: SettingsSource<Key>,
    allow_http: bool,
    account_token: Option<SecretString>,
    token_lookup: bool,
}

impl fmt::Debug for VaultBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, allow_http, account_token: _, token_lookup } = self;
        f.debug_struct("VaultBuilder")
            .field("source", source)
            .field("allow_http", allow_http)
            .field("token_lookup", token_lookup)
            .finish_non_exhaustive()
    }
}

/// The settings that need neither Secrets nor files.
#[derive(Debug)]
#[expect(unnameable_types, reason = "only ProviderBuilder uses it")]
pub struct Parsed {
    base: Url,
    data_namespace: Option<HeaderValue>,
    auth_namespace: Option<HeaderValue>,
    follow_redirects: bool,
    rate_limit: Option<RateLimit>,
    mount: String,
    declared: Declared,
    timeout: Option<Duration>,
    retries: Option<u32>,
}

/// The credentials and certificates, read from Secrets and files.
#[derive(Debug)]
#[expect(unnameable_types, reason = "only ProviderBuilder uses it")]
pub struct Credentials {
    method: AuthMethod,
    tls: TlsOptions,
}

#[async_trait]
impl ProviderBuilder for VaultBuilder {
    const TITLE: &'static str = "Vault";
    const ENVIRONMENT_FILES: &'static [Key] = &[Key::CaCert, Key::ClientCert, Key::ClientKey];

    type Key = Key;
    type Parsed = Parsed;
    type Credentials = Credentials;
    type Provider = Vault;

    kms_core::settings_source!(source);

    fn with_allow_http(mut self, allow: bool) -> Self {
        self.allow_http = allow;
        self
    }

    fn with_account_token(mut self, token: &SecretString) -> Self {
        self.account_token = Some(token.clone());
        self
    }

    fn with_token_lookup(mut self, at_once: bool) -> Self {
        self.token_lookup = at_once;
        self
    }

    fn parse(&self, settings: &Settings<Key>, problems: &mut Problems) -> Option<Parsed> {
        self.check_credentials(settings, problems);
        let base = self.base_url(settings, problems);
        if settings.boolean(Key::SrvLookup, problems) == Some(true) {
            problems.add(SRV_LOOKUP.problem());
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
        let declared = match settings.text(Key::Backend) {
            None => Declared::Nothing,
            Some("kv" | "v1") => Declared::V1,
            Some("v2") => Declared::V2,
            Some("kv-v2") => Declared::KvV2,
            Some(_) => {
                warn!(
                    "VAULT_BACKEND is not one of kv, v1, kv-v2, v2 and does not count: the server is asked"
                );
                Declared::Nothing
            }
        };
        let mount = joined(settings.text(Key::BackendPath).unwrap_or(DEFAULT_MOUNT));
        if mount.is_empty() || mount.split('/').any(|segment| matches!(segment, "." | "..")) {
            problems.add(MOUNT_PATH.problem());
        }
        // As for Vault's own clients, 0 means the default.
        let timeout = settings
            .duration(Key::ClientTimeout, problems)
            .filter(|timeout| !timeout.is_zero())
            .map(|timeout| timeout.min(LONGEST_TIMEOUT));
        if let Some((key, url)) = proxy(settings)
            && Proxies::all(url).check().is_err()
        {
            problems.add(PROXY.problem_of(key));
        }
        if let Some(name) = settings.text(Key::TlsServerName)
            && ServerName::try_from(name).is_err()
        {
            problems.add("VAULT_TLS_SERVER_NAME is not a host name such as vault.example (without a port)");
        }
        Some(Parsed {
            base: base?,
            data_namespace,
            auth_namespace,
            follow_redirects: !settings.boolean(Key::DisableRedirects, problems).unwrap_or(false),
            rate_limit,
            mount,
            declared,
            timeout,
            retries: settings.number(Key::MaxRetries, problems),
        })
    }

    async fn read(
        &self,
        settings: &Settings<Key>,
        _parsed: Option<&Parsed>,
        secrets: &dyn SecretSource,
        problems: &mut Problems,
    ) -> Result<Option<Credentials>> {
        let method = self.method(settings, secrets, problems).await?;
        let tls = tls(settings, secrets, problems).await?;
        Ok(method.map(|method| Credentials { method, tls }))
    }

    async fn assemble(
        self,
        settings: Settings<Key>,
        parsed: Parsed,
        credentials: Credentials,
    ) -> Result<Vault> {
        let proxies = match proxy(&settings) {
            Some((_, url)) => Proxies::all(url),
            None => Proxies::from_environment(self.source.environment()),
        };
        let http = HttpClientBuilder::new()
            .with_tls(credentials.tls)
            .with_proxies(proxies)
            .with_server_name(settings.text(Key::TlsServerName).map(ToOwned::to_owned))
            .with_read_timeout(parsed.timeout.unwrap_or(READ_TIMEOUT))
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
        let auth = Auth::new(credentials.method, self.token_lookup);
        let mount = Mount::new(api, auth, parsed.mount, parsed.declared);
        Ok(Vault::new(mount, parsed.timeout, parsed.retries))
    }

    /// Applies `VAULT_CLIENT_TIMEOUT` and `VAULT_MAX_RETRIES`.
    fn layer_options(vault: &Vault, mut options: LayerOptions) -> LayerOptions {
        if let Some(timeout) = vault.timeout {
            options.attempt_timeout = timeout;
        }
        if let Some(retries) = vault.retries {
            options.retry.attempts = retries.saturating_add(1);
        }
        options
    }
}

impl VaultBuilder {
    /// Checks the settings for credentials and certificates without reading any Secret. Reading them later finds the
    /// same problems again; the report contains each problem once.
    fn check_credentials(&self, settings: &Settings<Key>, problems: &mut Problems) {
        settings.boolean(Key::SkipVerify, problems);
        match (settings.text(Key::ClientCert), settings.text(Key::ClientKey)) {
            (Some(_), None) => problems.add("VAULT_CLIENT_CERT needs VAULT_CLIENT_KEY"),
            (None, Some(_)) => problems.add("VAULT_CLIENT_KEY needs VAULT_CLIENT_CERT"),
            _ => {}
        }
        let method = settings.text(Key::AuthMethod);
        if self.source.is_given(Key::Token) {
            if self.source.token_secret().is_some() || method.is_some_and(|method| method != "token") {
                warn!(
                    "VAULT_TOKEN in connectionDetails counts, and not the token Secret or VAULT_AUTH_METHOD, as in Rook"
                );
            }
            return;
        }
        if self.source.token_secret().is_some() {
            if !matches!(method, None | Some("token" | "approle")) {
                warn!("VAULT_AUTH_METHOD does not count, since a token Secret is named, as in Rook");
            }
            return;
        }
        let has_token = settings.text(Key::Token).is_some();
        match method {
            Some("kubernetes") => drop(settings.required(Key::AuthKubernetesRole, problems)),
            Some("cert") if settings.text(Key::ClientCert).is_none() => {
                problems.add("VAULT_AUTH_METHOD is cert, which needs VAULT_CLIENT_CERT and VAULT_CLIENT_KEY");
            }
            Some("approle") if settings.text(Key::ApproleSecretId).is_none() => {
                problems.add(
                    "approle needs a secret id: name a Secret with the key secret_id in tokenSecretName, or set \
                     VAULT_APPROLE_SECRET_ID",
                );
            }
            Some("approle" | "cert" | "agent") => {}
            None | Some("token") if !has_token => problems.add(
                "there are no credentials: name a Secret with the key token in tokenSecretName, or set \
                 VAULT_AUTH_METHOD (kubernetes, approle, cert or agent)",
            ),
            None | Some("token") => {}
            Some(_) if has_token => {
                warn!("VAULT_AUTH_METHOD is not known and does not count: VAULT_TOKEN does")
            }
            Some(_) => {
                problems.add("VAULT_AUTH_METHOD is not one of token, kubernetes, approle, cert, agent");
            }
        }
    }

    /// The address with `/v1` at its end.
    fn base_url(&self, settings: &Settings<Key>, problems: &mut Problems) -> Option<Url> {
        let rules = AddressRules {
            example: "https://vault.example:8200",
            exposed: "token and keys",
            allow_http_setting: "VAULT_ALLOW_HTTP",
            allow_http: settings.boolean(Key::AllowHttp, problems).unwrap_or(false) || self.allow_http,
        };
        let (key, text) = match settings.text(Key::AgentAddr) {
            Some(agent) => (Key::AgentAddr, agent),
            None => (Key::Addr, settings.required(Key::Addr, problems)?),
        };
        let mut url = rules.parse(key.as_str(), text, problems)?;
        let path = format!("{}/v1", url.path().trim_end_matches('/'));
        url.set_path(&path);
        Some(url)
    }

    /// Chooses the credentials as Rook does (rook-behaviour §1.5, §4.3): `VAULT_TOKEN` of the CephCluster, the token
    /// Secret, `VAULT_AUTH_METHOD`, `VAULT_TOKEN` of the environment. In Rook the last one takes precedence over the
    /// method that the cluster asks for (rook-behaviour W9).
    async fn method(
        &self,
        settings: &Settings<Key>,
        secrets: &dyn SecretSource,
        problems: &mut Problems,
    ) -> Result<Option<AuthMethod>> {
        let mount =
            |default: &str| settings.text(Key::AuthMountPath).unwrap_or(default).trim_matches('/').to_owned();
        let is_given = self.source.is_given(Key::Token);
        let has_token_secret = !is_given && self.source.token_secret().is_some();
        let secret = if is_given { None } else { self.source.secret(secrets, problems).await? };
        let has = |entry: &str| secret.iter().any(|secret| secret.keys().any(|key| key == entry));
        let method = settings.text(Key::AuthMethod).filter(|_| !is_given);
        if method == Some("approle") && has("token") {
            warn!("VAULT_AUTH_METHOD does not count, since the token Secret has a token, as in Rook");
        }
        Ok(match method {
            Some("kubernetes") if !has_token_secret => {
                if settings.text(Key::Token).is_some() {
                    warn!("VAULT_TOKEN is set and not used, since VAULT_AUTH_METHOD is kubernetes");
                }
                let path = || settings.text(Key::AuthKubernetesTokenPath).unwrap_or(SERVICE_ACCOUNT_TOKEN);
                let token = match &self.account_token {
                    Some(token) => AccountToken::Given(token.clone()),
                    None => AccountToken::File(path().into()),
                };
                settings.text(Key::AuthKubernetesRole).map(|role| AuthMethod::Kubernetes {
                    mount: mount("kubernetes"),
                    role: role.to_owned(),
                    token,
                })
            }
            Some("approle") if !has("token") => {
                let with_role = secret.as_ref().filter(|secret| secret.keys().any(|key| key == "role_id"));
                let role_id = match with_role {
                    Some(secret) => problems.absorb("tokenSecretName", secret.text("role_id"))?,
                    None => settings.required(Key::ApproleRoleId, problems).map(SecretString::from),
                };
                let secret_id = match (settings.secret(Key::ApproleSecretId), &secret) {
                    (None, Some(secret)) => problems.absorb("tokenSecretName", secret.text("secret_id"))?,
                    (secret_id, _) => secret_id,
                };
                role_id.zip(secret_id).map(|(role_id, secret_id)| AuthMethod::AppRole {
                    mount: mount("approle"),
                    role_id: role_id.expose_secret().to_owned(),
                    secret_id,
                })
            }
            Some("cert") if !has_token_secret => Some(AuthMethod::Certificate {
                mount: mount("cert"),
                name: settings.text(Key::AuthCertName).map(ToOwned::to_owned),
            }),
            Some("agent") if !has_token_secret => Some(AuthMethod::Agent),
            _ => {
                let (setting, token) = match secret {
                    Some(secret) => {
                        ("tokenSecretName", problems.absorb("tokenSecretName", secret.text("token"))?)
                    }
                    None if has_token_secret => return Ok(None),
                    None => (Key::Token.as_str(), settings.secret(Key::Token)),
                };
                let Some(token) = token else { return Ok(None) };
                let header = sensitive("the Vault token", token.expose_secret());
                problems.absorb(setting, header)?.map(|_| AuthMethod::Token(token))
            }
        })
    }
}

/// The proxy of the settings, and the setting that names it.
fn proxy(settings: &Settings<Key>) -> Option<(Key, &str)> {
    [Key::ProxyAddr, Key::HttpProxy].into_iter().find_map(|key| Some((key, settings.text(key)?)))
}

async fn tls(
    settings: &Settings<Key>,
    secrets: &dyn SecretSource,
    problems: &mut Problems,
) -> Result<TlsOptions> {
    let mut tls = TlsOptions::named(NAMES);
    tls.skip_verify = settings.boolean(Key::SkipVerify, problems).unwrap_or(false);
    let roots = match settings.text(Key::CaCertBytes) {
        Some(pem) => problems.absorb("VAULT_CACERT_BYTES", certificates(pem.as_bytes()))?,
        None => ca_certificates("VAULT_CACERT", settings.text(Key::CaCert), secrets, problems).await?,
    };
    let mut roots = roots.unwrap_or_default();
    if let Some(folder) = settings.text(Key::CaPath) {
        roots.extend(problems.absorb("VAULT_CAPATH", certificates_in(folder))?.unwrap_or_default());
    }
    if !roots.is_empty() {
        tls.roots = Roots::Only(roots);
    }
    let certificate = pem(settings, Key::ClientCert, "cert", secrets, problems).await?;
    let key = pem(settings, Key::ClientKey, "key", secrets, problems).await?;
    if let (Some(certificate), Some(key)) = (certificate, key) {
        tls.identity = problems
            .absorb("VAULT_CLIENT_CERT and VAULT_CLIENT_KEY", Identity::from_pem(&certificate, &key))?;
    }
    Ok(tls)
}

/// Reads the PEM text that a setting names: a file, or the data key `entry` of a Secret.
async fn pem(
    settings: &Settings<Key>,
    key: Key,
    entry: &str,
    secrets: &dyn SecretSource,
    problems: &mut Problems,
) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let Some(value) = settings.text(key) else { return Ok(None) };
    problems.absorb(key.as_str(), secret_or_file(value, entry, secrets).await)
}

/// The header of a namespace. `None` for the root namespace, which is `/` too.
fn namespace(settings: &Settings<Key>, key: Key, problems: &mut Problems) -> Option<HeaderValue> {
    let text = joined(settings.text(key)?);
    let valid = text.bytes().all(|byte| (0x21..0x7f).contains(&byte));
    match HeaderValue::from_str(&text) {
        Ok(value) if valid => Some(value).filter(|value| !value.is_empty()),
        _ => {
            problems.add(NAMESPACE.problem_of(key));
            None
        }
    }
}

/// A path without slashes at its ends and without empty segments, as Rook joins it (rook-behaviour §4.5).
fn joined(path: &str) -> String {
    path.split('/').filter(|segment| !segment.is_empty()).collect::<Vec<_>>().join("/")
}

fn rate_limit(text: &str) -> Option<RateLimit> {
    let (rate, burst) = match text.split_once(':') {
        Some((rate, burst)) => (rate, Some(burst.parse().ok()?)),
        None => (text, None),
    };
    let rate: f64 = rate.parse().ok()?;
    // Without a burst, Vault's own clients allow one second's worth of requests.
    let burst = burst.unwrap_or_else(|| rate.ceil() as u32);
    RateLimit::new(rate, burst)
}

fn certificates_in(folder: &str) -> Result<Vec<CertificateDer<'static>>> {
    let unreadable = |cause: std::io::Error| {
        Error::config(format!("folder {folder:?} cannot be read")).context("cause", cause.kind().to_string())
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        // A mounted Secret has, beside its files, folders whose names begin with two dots.
        if path.is_file() {
            let certificates = certificates(&file(&path)?);
            found.extend(certificates.map_err(|error| error.context("file", path.display().to_string()))?);
        }
    }
    if found.is_empty() {
        return Err(Error::config(format!("folder {folder:?} has no certificates")));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use kms_core::{
        ConnectionDetails,
        secret::{SecretData, SecretMap},
    };

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
                ("VAULT_CACERT", "garbage"),
                ("VAULT_CLIENT_CERT", "missing-secret"),
                ("VAULT_SKIP_VERIFY", "canary"),
                ("VAULT_NAMESPACE", "can\u{e4}ary"),
                ("VAULT_RATE_LIMIT", "canary"),
                ("VAULT_WRAP_TTL", "canary"),
                ("VAULT_SRV_LOOKUP", "true"),
                ("VAULT_CLIENT_TIMEOUT", "-1"),
                ("VAULT_BACKEND_PATH", "../canary"),
            ],
        )
        .await
        .unwrap_err();
        let text = error.to_string();
        for problem in [
            "did you mean VAULT_ADDR?",
            "VAULT_ADDR is missing",
            "VAULT_CACERT: no certificate found",
            "VAULT_CLIENT_CERT: Secret \"missing-secret\" was not found",
            "VAULT_CLIENT_CERT needs VAULT_CLIENT_KEY",
            "VAULT_SKIP_VERIFY is neither",
            "VAULT_NAMESPACE is not the path",
            "VAULT_RATE_LIMIT is not of the form",
            "VAULT_WRAP_TTL is not supported",
            "VAULT_SRV_LOOKUP is not supported",
            "VAULT_CLIENT_TIMEOUT is negative",
            "VAULT_BACKEND_PATH is not the path",
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
            let settings = Settings::from_pairs([("VAULT_ADDR", text)], &[], &mut problems);
            let url = VaultBuilder::new().with_allow_http(allow_http).base_url(&settings, &mut problems);
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
    async fn settings_mean_what_they_mean_to_rook() {
        let parsed = |pairs: &[(&str, &str)]| {
            let details: ConnectionDetails = pairs.iter().copied().collect();
            let builder = VaultBuilder::new().with_details(&details).with_config(Key::Addr, "https://v");
            let builder = builder.with_token_secret("vault-token");
            let mut problems = Problems::new();
            let parsed = builder.parse(&builder.source.settings(&mut problems), &mut problems).unwrap();
            problems.into_result().map(|()| parsed)
        };
        for (path, expected) in
            [("", "secret"), ("rook", "rook"), ("/rook//ver1/", "rook/ver1"), ("rookv2/data/", "rookv2/data")]
        {
            assert_eq!(parsed(&[("VAULT_BACKEND_PATH", path)]).unwrap().mount, expected, "{path:?}");
        }
        for path in ["/", "rook/../other", "./rook"] {
            assert!(parsed(&[("VAULT_BACKEND_PATH", path)]).is_err(), "{path:?}");
        }
        for (name, expected) in [
            ("", None),
            ("/", None),
            ("//", None),
            ("/team/storage/", Some("team/storage")),
            ("team//storage", Some("team/storage")),
        ] {
            let namespace = parsed(&[("VAULT_NAMESPACE", name)]).unwrap().data_namespace;
            assert_eq!(namespace.as_ref().map(|value| value.to_str().unwrap()), expected, "{name:?}");
        }
        for (backend, expected) in [
            ("", Declared::Nothing),
            ("kv", Declared::V1),
            ("v1", Declared::V1),
            ("kv-v2", Declared::KvV2),
            ("v2", Declared::V2),
            ("V2", Declared::Nothing),
            ("transit", Declared::Nothing),
        ] {
            assert_eq!(parsed(&[("VAULT_BACKEND", backend)]).unwrap().declared, expected, "{backend:?}");
        }
        for (timeout, expected) in [
            ("0", None),
            ("0s", None),
            ("1.5s", Some(Duration::from_millis(1500))),
            ("90", Some(Duration::from_secs(90))),
            ("2d", Some(LONGEST_TIMEOUT)),
        ] {
            assert_eq!(
                parsed(&[("VAULT_CLIENT_TIMEOUT", timeout)]).unwrap().timeout,
                expected,
                "{timeout:?}"
            );
        }
        for engine in ["kv", "transit", "anything", ""] {
            assert!(parsed(&[("VAULT_SECRET_ENGINE", engine)]).is_ok(), "{engine:?}");
        }
    }

    #[tokio::test]
    async fn the_credential_that_counts_is_that_of_rook() {
        let secrets = || {
            let mut map = secrets();
            map.insert(SecretData::new("approle").with("secret_id", b"canary".to_vec()));
            map
        };
        let given = ("VAULT_TOKEN", "s.given");
        let kubernetes = [("VAULT_AUTH_METHOD", "kubernetes"), ("VAULT_AUTH_KUBERNETES_ROLE", "rook-ceph")];
        let approle = [("VAULT_AUTH_METHOD", "approle"), ("VAULT_APPROLE_ROLE_ID", "role")];
        let method = |word| [("VAULT_AUTH_METHOD", word)];
        for (details, secret, environment, expected) in [
            // The token of the CephCluster is first, whatever else is set.
            (&[given][..], "", "", Ok("s.given")),
            (&[given], "vault-token", "s.env", Ok("s.given")),
            (&[given, kubernetes[0], kubernetes[1]], "", "", Ok("s.given")),
            (&[given, ("VAULT_AUTH_METHOD", "ldap")], "vault-token", "", Ok("s.given")),
            (&[("VAULT_TOKEN", " ")], "vault-token", "s.env", Ok("s.canary")),
            // The token Secret beats every method, known or not.
            (&[], "vault-token", "s.env", Ok("s.canary")),
            (&kubernetes, "vault-token", "", Ok("s.canary")),
            (&method("kubernetes"), "vault-token", "", Ok("s.canary")),
            (&method("agent"), "vault-token", "", Ok("s.canary")),
            (&method("ldap"), "vault-token", "", Ok("s.canary")),
            (&method("Kubernetes"), "vault-token", "", Ok("s.canary")),
            (&approle, "vault-token", "", Ok("s.canary")),
            (&approle, "approle", "", Ok("approle (mount approle, role id role)")),
            // Without them the method counts. A token left in the environment does not beat it, as it does in Rook.
            (&kubernetes, "", "s.stale", Ok("kubernetes (mount kubernetes, role rook-ceph,")),
            (&method("agent"), "", "s.stale", Ok("agent")),
            (&[], "", "s.env", Ok("s.env")),
            (&method("token"), "", "s.env", Ok("s.env")),
            (&method("ldap"), "", "s.env", Ok("s.env")),
            (&method("ldap"), "", "", Err("VAULT_AUTH_METHOD is not one of")),
            (&method("kubernetes"), "", "", Err("VAULT_AUTH_KUBERNETES_ROLE is missing")),
            (&method("token"), "", "", Err("there are no credentials")),
        ] {
            let map: ConnectionDetails = details.iter().copied().collect();
            let builder = VaultBuilder::new()
                .with_details(&map)
                .with_environment([("VAULT_TOKEN", environment), ("VAULT_ADDR", "https://v")])
                .with_token_secret(secret);
            let found = builder.build(&secrets()).await.map(|vault| match &vault.mount.auth.method {
                AuthMethod::Token(token) => token.expose_secret().trim().to_owned(),
                other => other.describe(),
            });
            let case = format!("{details:?}, Secret {secret:?}, environment {environment:?}");
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert!(found.starts_with(expected), "{case}: {found}"),
                (Err(error), Err(expected)) => {
                    assert!(error.to_string().contains(expected), "{case}: {error}")
                }
                (found, _) => panic!("{case}: {found:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_choice_that_may_surprise_logs_a_warning_and_others_log_none() {
        let kubernetes = [("VAULT_AUTH_METHOD", "kubernetes"), ("VAULT_AUTH_KUBERNETES_ROLE", "rook-ceph")];
        let token = ("VAULT_TOKEN", "s.given");
        let approle = [("VAULT_AUTH_METHOD", "approle"), ("VAULT_APPROLE_ROLE_ID", "role")];
        let ldap = ("VAULT_AUTH_METHOD", "ldap");
        for (details, secret, environment, expected) in [
            (&[][..], "vault-token", "", None),
            (&[("VAULT_BACKEND", "kv-v2"), ("VAULT_AUTH_METHOD", "token")], "vault-token", "s.env", None),
            (&kubernetes, "", "", None),
            (&[token], "", "", None),
            (&[("VAULT_BACKEND", "transit")], "vault-token", "", Some("VAULT_BACKEND is not one of kv, v1,")),
            (&[("VAULT_BACKEND", "V2")], "vault-token", "", Some("the server is asked")),
            (&[token], "vault-token", "", Some("VAULT_TOKEN in connectionDetails counts, and not the token")),
            (&[token, kubernetes[0], kubernetes[1]], "", "", Some("VAULT_TOKEN in connectionDetails counts")),
            (&kubernetes, "vault-token", "", Some("VAULT_AUTH_METHOD does not count, since a token Secret")),
            (&[ldap], "vault-token", "", Some("VAULT_AUTH_METHOD does not count, since a token Secret")),
            (&approle, "vault-token", "", Some("does not count, since the token Secret has a token")),
            (&[ldap], "", "s.env", Some("VAULT_AUTH_METHOD is not known and does not count: VAULT_TOKEN")),
            (&kubernetes, "", "s.env", Some("VAULT_TOKEN is set and not used, since VAULT_AUTH_METHOD is")),
        ] {
            let map: ConnectionDetails = details.iter().copied().collect();
            let builder = VaultBuilder::new()
                .with_details(&map)
                .with_environment([("VAULT_TOKEN", environment), ("VAULT_ADDR", "https://v")])
                .with_token_secret(secret);
            let secrets = secrets();
            let (built, seen) = kms_testkit::warnings::warnings(builder.build(&secrets)).await;
            built.unwrap();
            let case = format!("{details:?}, Secret {secret:?}, environment {environment:?}: {seen:?}");
            assert_eq!(seen.len(), usize::from(expected.is_some()), "{case}");
            assert!(seen.iter().zip(expected).all(|(seen, expected)| seen.contains(expected)), "{case}");
            assert!(!case.contains("s.canary"), "{case}");
        }
    }

    #[tokio::test]
    async fn a_token_with_a_line_break_inside_is_refused() {
        let error = build("broken-token", &[("VAULT_ADDR", "https://v")]).await.unwrap_err();
        assert!(error.to_string().contains("tokenSecretName: the Vault token has characters"), "{error}");
        assert!(!format!("{error:?}").contains("ary"), "{error:?}");
    }

    #[tokio::test]
    async fn without_credentials_the_error_says_what_to_set() {
        let error = build("", &[("VAULT_ADDR", "https://v")]).await.unwrap_err();
        assert!(error.to_string().contains("there are no credentials"), "{error}");
    }
}
