//! Builds a [`Kmip`] from settings, Secrets and files.

use std::{fmt, net::Ipv6Addr, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use kms_core::{
    ExposeSecret as _, KeyIndex, ProviderBuilder, Result, SecretData, SecretSource,
    config::{ConfigKey as _, Problems, Settings, SettingsSource},
    layer::{LayerOptions, step_limit},
};
use kms_tls::{Identity, Roots, SettingNames, Tls, TlsOptions, pem::certificates, source::file};
use rustls_pki_types::ServerName;
use zeroize::Zeroizing;

use crate::{
    api::Api,
    client::Client,
    config::{KmipConfigKey as Key, TOO_LONG},
    connection::{Endpoint, Limits},
    message::Version,
    pool::Pool,
    provider::Kmip,
};

/// The port of KMIP (KMIP 1.4 profiles §3.1.2).
const DEFAULT_PORT: u16 = 5696;
/// Rook's default for `READ_TIMEOUT` and `WRITE_TIMEOUT` (rook-behaviour §1.8).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_CONNECT: Duration = Duration::from_secs(5);
/// Long enough for the requests of one operation. Not longer: the buffers of a connection may hold a KEK.
const DEFAULT_IDLE: Duration = Duration::from_secs(2);
const DEFAULT_CONNECTIONS: u32 = 4;
const DEFAULT_RESPONSE: u32 = 1024 * 1024;
/// The names of our settings in messages about TLS.
const NAMES: SettingNames = SettingNames::new("CA_CERT", "CLIENT_CERT", "TLS_SERVER_NAME", "KMIP_ENDPOINT");
/// The longest time limit that is accepted. A longer one is a mistake, since an OSD waits for the response.
const LONGEST: Duration = Duration::from_secs(3600);

/// Builds a [`Kmip`]; see [`ProviderBuilder`].
///
/// The token Secret holds `CA_CERT`, `CLIENT_CERT` and `CLIENT_KEY`. They take precedence over settings of the same
/// names, as in Rook. Without an index, the provider finds objects by their names.
#[derive(Default)]
pub struct KmipBuilder {
    source: SettingsSource<Key>,
    cluster: Option<String>,
    index: Option<Arc<dyn KeyIndex>>,
}

#[async_trait]
impl ProviderBuilder for KmipBuilder {
    const TITLE: &'static str = "KMIP";
    const ENVIRONMENT_PREFIX: &'static str = "KMIP_";
    const USES_INDEX: bool = true;

    type Key = Key;
    type Parsed = Parsed;
    type Credentials = Credentials;
    type Provider = Kmip;

    kms_core::settings_source!(source);

    fn with_cluster(mut self, cluster: impl Into<String>) -> Self {
        // `namespace/` has no name, so the cluster is unknown and objects of every cluster count.
        self.cluster = Some(cluster.into()).filter(|cluster| !cluster.ends_with('/'));
        self
    }

    fn with_index(mut self, index: Arc<dyn KeyIndex>) -> Self {
        self.index = Some(index);
        self
    }

    fn parse(&self, settings: &Settings<Key>, problems: &mut Problems) -> Option<Parsed> {
        let endpoint = settings.required(Key::Endpoint, problems).map(endpoint);
        let endpoint = endpoint.and_then(|parsed| {
            parsed
                .map_err(|why| {
                    problems.add(format!(
                        "KMIP_ENDPOINT {why}; it is a host with or without port, such as kmip.example:5696 or \
                         [2001:db8::1]:5696"
                    ));
                })
                .ok()
        });
        let server_name = match settings.text(Key::TlsServerName) {
            Some(name) => server_name(name, "TLS_SERVER_NAME", problems),
            None => endpoint
                .as_ref()
                .and_then(|endpoint| server_name(&endpoint.host, "the host of KMIP_ENDPOINT", problems)),
        };
        let version = settings.text(Key::ProtocolVersion).and_then(|text| {
            let version = Version::ALL.into_iter().find(|version| version.to_string() == text);
            if version.is_none() {
                problems.add("KMIP_PROTOCOL_VERSION is not one of 1.0, 1.1, 1.2, 1.3, 1.4, 2.0, 2.1");
            }
            version
        });
        if let Some(cluster) = &self.cluster
            && cluster.contains(char::is_whitespace)
        {
            problems.add("the name of the cluster contains white space");
        }
        // A limit that is set counts as it is; the others follow the caller's deadline.
        let [usual, usual_connect] =
            [DEFAULT_TIMEOUT, DEFAULT_CONNECT].map(|usual| step_limit(usual).min(LONGEST));
        let read = time_limit(settings, Key::ReadTimeout, usual, problems);
        let write = time_limit(settings, Key::WriteTimeout, usual, problems);
        let connect = time_limit(settings, Key::ConnectTimeout, usual_connect, problems);
        if connect.is_zero() {
            problems.add("KMIP_CONNECT_TIMEOUT is 0, which leaves no time for any connection");
        }
        let idle = time_limit(settings, Key::IdleTimeout, DEFAULT_IDLE, problems);
        let connections = number(settings, Key::MaxConnections, DEFAULT_CONNECTIONS, 1..=64, problems);
        let response =
            number(settings, Key::MaxResponseSize, DEFAULT_RESPONSE, 1024..=64 * 1024 * 1024, problems);
        let limits = Limits {
            connect,
            read: Some(read).filter(|limit| !limit.is_zero()),
            write: Some(write).filter(|limit| !limit.is_zero()),
            idle,
            connections,
            response,
        };
        Some(Parsed { endpoint: endpoint?, server_name: server_name?, limits, version })
    }

    async fn read(
        &self,
        settings: &Settings<Key>,
        _parsed: Option<&Parsed>,
        secrets: &dyn SecretSource,
        problems: &mut Problems,
    ) -> Result<Option<Credentials>> {
        let secret = self.source.secret(secrets, problems).await?;
        if secret.is_none() && self.source.token_secret().is_some() {
            return Ok(None);
        }
        let mut text = |key: Key| pem(settings, key, secret.as_ref(), problems);
        let (ca, certificate, key) = (text(Key::CaCert)?, text(Key::ClientCert)?, text(Key::ClientKey)?);
        let mut options = TlsOptions::named(NAMES);
        if let (Some(certificate), Some(key)) = (certificate, key) {
            let identity = Identity::from_pem(&certificate, &key);
            options.identity = problems.absorb("CLIENT_CERT and CLIENT_KEY", identity)?;
        }
        let leaf = options.identity.as_ref().and_then(Identity::certificate).map(|leaf| leaf.to_vec());
        let Some(ca) = ca else { return Ok(None) };
        let Some(roots) = problems.absorb("CA_CERT", certificates(&ca))? else { return Ok(None) };
        options.roots = Roots::Only(roots);
        // Building the configuration checks that each root is a certificate.
        let tls = problems.absorb("CA_CERT", options.tls())?;
        Ok(tls.zip(leaf).map(|(tls, certificate)| Credentials { tls, certificate }))
    }

    async fn assemble(
        self,
        _settings: Settings<Key>,
        parsed: Parsed,
        credentials: Credentials,
    ) -> Result<Kmip> {
        let Parsed { endpoint, server_name, limits, version } = parsed;
        let Credentials { tls, certificate } = credentials;
        let client = Client::new(Pool::new(endpoint, server_name, tls, limits), version);
        Ok(Kmip { api: Api::new(client, self.cluster).into(), index: self.index, certificate })
    }

    /// Checks the settings without I/O. Reports a missing token Secret as one problem, not three.
    fn check(&self, problems: &mut Problems) {
        let settings = self.source.settings(problems);
        self.parse(&settings, problems);
        if self.source.token_secret().is_some() {
            return;
        }
        let missing: Vec<_> = [Key::CaCert, Key::ClientCert, Key::ClientKey]
            .into_iter()
            .filter(|key| settings.text(*key).is_none())
            .map(|key| key.as_str())
            .collect();
        if !missing.is_empty() {
            problems.add(format!(
                "there are no credentials: name a Secret with the keys CA_CERT, CLIENT_CERT and CLIENT_KEY in \
                 tokenSecretName (missing: {})",
                missing.join(", ")
            ));
        }
    }

    fn layer_options(provider: &Kmip, options: LayerOptions) -> LayerOptions {
        provider.layer_options(options)
    }
}

impl fmt::Debug for KmipBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, cluster, index } = self;
        f.debug_struct("KmipBuilder")
            .field("source", source)
            .field("cluster", cluster)
            .field("index", index)
            .finish()
    }
}

/// The settings, parsed.
#[expect(unnameable_types, reason = "only ProviderBuilder uses it")]
pub struct Parsed {
    endpoint: Endpoint,
    server_name: ServerName<'static>,
    limits: Limits,
    version: Option<Version>,
}

/// The TLS configuration with our client certificate, and a copy of that certificate for a probe.
#[expect(unnameable_types, reason = "only ProviderBuilder uses it")]
pub struct Credentials {
    tls: Tls,
    certificate: Vec<u8>,
}

/// Parses host and port. An IPv6 address needs brackets only if a port follows.
fn endpoint(text: &str) -> Result<Endpoint, &'static str> {
    if text.contains("://") {
        return Err("has a scheme in front");
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("has a bracket that is not closed")?;
        if host.parse::<Ipv6Addr>().is_err() {
            return Err("has brackets around text that is not an IPv6 address");
        }
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err("has text after the bracket that is not a port"),
        }
    } else if text.parse::<Ipv6Addr>().is_ok() {
        (text, None)
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/' || c == '@') {
        return Err("has no valid host");
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or("has an invalid port")?,
    };
    Ok(Endpoint { host: host.to_owned(), port })
}

fn server_name(name: &str, setting: &str, problems: &mut Problems) -> Option<ServerName<'static>> {
    let parsed = ServerName::try_from(name.to_owned()).ok();
    if parsed.is_none() {
        problems.add(format!("{setting} is neither a host name nor an IP address"));
    }
    parsed
}

fn time_limit(settings: &Settings<Key>, key: Key, default: Duration, problems: &mut Problems) -> Duration {
    let limit = settings.duration(key, problems).unwrap_or(default);
    if limit > LONGEST {
        problems.add(TOO_LONG.problem_of(key));
    }
    limit
}

fn number(
    settings: &Settings<Key>,
    key: Key,
    default: u32,
    range: std::ops::RangeInclusive<u32>,
    problems: &mut Problems,
) -> usize {
    let number = settings.number(key, problems).unwrap_or(default);
    if !range.contains(&number) {
        problems.add(format!("{key} is not from {} to {}", range.start(), range.end()));
    }
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Reads PEM text from the token Secret, or else from the setting. The setting holds PEM, or a file path with a slash.
fn pem(
    settings: &Settings<Key>,
    key: Key,
    secret: Option<&SecretData>,
    problems: &mut Problems,
) -> Result<Option<Zeroizing<Vec<u8>>>> {
    if let Some(secret) = secret {
        let text = problems.absorb("tokenSecretName", secret.text(key.as_str()))?;
        return Ok(text.map(|text| Zeroizing::new(text.expose_secret().as_bytes().to_vec())));
    }
    let Some(value) = settings.required(key, problems) else { return Ok(None) };
    // The base64 in PEM has slashes too.
    if value.contains('/') && !value.contains("-----BEGIN") {
        return problems.absorb(key.as_str(), file(Path::new(value)));
    }
    Ok(Some(Zeroizing::new(value.as_bytes().to_vec())))
}

#[cfg(test)]
mod tests {
    use kms_core::{ConnectionDetails, layer::preparing, secret::SecretMap};
    use kms_testkit::servers::Pki;

    use super::*;

    #[test]
    fn an_endpoint_is_a_host_with_or_without_port() {
        for (text, host, port, shown) in [
            ("kmip.example", "kmip.example", 5696, "kmip.example:5696"),
            ("kmip.example:1", "kmip.example", 1, "kmip.example:1"),
            ("10.0.0.1:5697", "10.0.0.1", 5697, "10.0.0.1:5697"),
            ("[::1]:5697", "::1", 5697, "[::1]:5697"),
            ("[2001:db8::1]", "2001:db8::1", 5696, "[2001:db8::1]:5696"),
            ("::1", "::1", 5696, "[::1]:5696"),
        ] {
            let found = endpoint(text).unwrap();
            assert_eq!((found.host.as_str(), found.port), (host, port), "{text}");
            assert_eq!(found.to_string(), shown);
        }
        for text in [
            "https://kmip.example",
            "kmip.example:",
            "kmip.example:0",
            "kmip.example:65536",
            "kmip.example:x",
            ":5696",
            "[::1",
            "[kmip.example]:1",
            "[::1]x",
            "a b:1",
            "user@host:1",
            "host/path:1",
        ] {
            assert!(endpoint(text).is_err(), "{text}");
        }
    }

    fn secrets(pki: &Pki) -> SecretMap {
        let mut secrets = SecretMap::new("the test");
        let bytes = |text: &str| text.as_bytes().to_vec();
        for (name, ca, certificate, key) in [
            ("good", &pki.ca.cert, &pki.client1.cert, &pki.client1.key),
            ("swapped", &pki.ca.cert, &pki.client1.key, &pki.client1.cert),
            ("mixed", &pki.ca.cert, &pki.client1.cert, &pki.client2.key),
            ("garbage", &"garbage".to_owned(), &pki.client1.cert, &pki.client1.key),
            ("damaged", &pki.ca.cert.replace("MII", "!!!"), &pki.client1.cert, &pki.client1.key),
        ] {
            secrets.insert(
                SecretData::new(name)
                    .with("CA_CERT", bytes(&format!("{ca}\n")))
                    .with("CLIENT_CERT", bytes(certificate))
                    .with("CLIENT_KEY", bytes(key)),
            );
        }
        secrets.insert(SecretData::new("partial").with("CA_CERT", bytes(&pki.ca.cert)));
        secrets
    }

    fn builder() -> KmipBuilder {
        KmipBuilder::new().with_config(Key::Endpoint, "kmip.example").with_token_secret("good")
    }

    #[tokio::test]
    async fn timeouts_do_what_the_readme_says() {
        let pki = Pki::new().unwrap();
        let secrets = secrets(&pki);
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for key in [Key::ReadTimeout, Key::WriteTimeout] {
            for (text, limit) in [
                ("", Some(seconds(10))),
                ("10", Some(seconds(10))),
                ("0", Some(None)),
                ("5s", Some(seconds(5))),
                ("1.5s", Some(Some(Duration::from_millis(1500)))),
                ("1m", Some(seconds(60))),
                ("300", Some(seconds(300))),
                ("-1", None),
                ("abc", None),
                ("1.5", None),
                ("3601", None),
            ] {
                match (builder().with_config(key, text).build(&secrets).await, limit) {
                    (Ok(kmip), Some(limit)) => {
                        let limits = kmip.api.client.pool.limits;
                        let found = if key == Key::ReadTimeout { limits.read } else { limits.write };
                        assert_eq!(found, limit, "{text}");
                        let options = kmip.layer_options(LayerOptions::default());
                        let least = limit.unwrap_or_default();
                        assert!(options.attempt_timeout >= least && options.retry.deadline >= least);
                    }
                    (Err(error), None) => {
                        assert!(error.to_string().starts_with(key.as_str()), "{text}: {error}");
                    }
                    (result, _) => panic!("{text}: {result:?}"),
                }
            }
        }
        let default = builder().build(&secrets).await.unwrap().api.client.pool.limits;
        assert_eq!((default.read, default.write), (seconds(10), seconds(10)));
    }

    #[tokio::test]
    async fn limits_that_are_not_set_follow_the_deadline() {
        let pki = Pki::new().unwrap();
        let secrets = secrets(&pki);
        let limits = async |builder: KmipBuilder| {
            let kmip = preparing(Some(Duration::from_secs(600)), builder.build(&secrets)).await.unwrap();
            kmip.api.client.pool.limits
        };
        let seconds = Duration::from_secs;
        let found = limits(builder()).await;
        assert_eq!(
            (found.connect, found.read, found.write),
            (seconds(100), Some(seconds(100)), Some(seconds(100)))
        );
        assert_eq!(found.idle, DEFAULT_IDLE);
        let set = builder().with_config(Key::ConnectTimeout, "7").with_config(Key::ReadTimeout, "8");
        let found = limits(set).await;
        assert_eq!(
            (found.connect, found.read, found.write),
            (seconds(7), Some(seconds(8)), Some(seconds(100)))
        );
    }

    #[tokio::test]
    async fn credentials_that_do_not_fit_are_told_apart() {
        let pki = Pki::new().unwrap();
        let secrets = secrets(&pki);
        builder().build(&secrets).await.unwrap();
        for (secret, why) in [
            ("swapped", "CLIENT_CERT and CLIENT_KEY: no certificate found"),
            ("mixed", "do not belong together"),
            ("garbage", "CA_CERT: no certificate found"),
            ("damaged", "CA_CERT: the PEM text"),
            ("partial", "no key \"CLIENT_CERT\"; it has: CA_CERT; "),
            ("absent", "absent"),
        ] {
            let error = builder().with_token_secret(secret).build(&secrets).await.unwrap_err();
            assert_eq!(error.kind(), kms_core::ErrorKind::ConfigInvalid);
            assert!(error.to_string().contains(why), "{secret}: {error}");
        }
    }

    #[tokio::test]
    async fn certificates_may_be_texts_or_files() {
        let pki = Pki::new().unwrap();
        let folder = kms_testkit::servers::Scratch::new().unwrap();
        pki.write(folder.path()).unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        let none = SecretMap::new("the test");
        KmipBuilder::new()
            .with_config(Key::Endpoint, "kmip.example")
            .with_config(Key::CaCert, &pki.ca.cert)
            .with_config(Key::ClientCert, file("client1.crt"))
            .with_config(Key::ClientKey, file("client1.key"))
            .build(&none)
            .await
            .unwrap();
        let error = KmipBuilder::new()
            .with_config(Key::CaCert, file("missing"))
            .with_config(Key::ClientKey, "canary")
            .build(&none)
            .await
            .unwrap_err()
            .to_string();
        for part in ["KMIP_ENDPOINT is missing", "CA_CERT: file", "CLIENT_CERT is missing"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!error.contains("canary"));
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let details: ConnectionDetails = [
            ("KMS_PROVIDER", "kmip"),
            ("KMIP_ENDPIONT", "x"),
            ("TLS_SERVER_NAME", "a b"),
            ("KMIP_PROTOCOL_VERSION", "1.9"),
            ("KMIP_MAX_CONNECTIONS", "0"),
            ("KMIP_MAX_RESPONSE_SIZE", "1"),
            ("KMIP_CONNECT_TIMEOUT", "0"),
        ]
        .into_iter()
        .collect();
        let mut problems = Problems::new();
        KmipBuilder::new().with_details(&details).check(&mut problems);
        let found = problems.iter().collect::<Vec<_>>().join("\n");
        for part in [
            "did you mean KMIP_ENDPOINT?",
            "KMIP_ENDPOINT is missing",
            "TLS_SERVER_NAME is neither",
            "KMIP_PROTOCOL_VERSION is not one of",
            "KMIP_MAX_CONNECTIONS is not from 1 to 64",
            "KMIP_MAX_RESPONSE_SIZE is not from",
            "KMIP_CONNECT_TIMEOUT is 0",
            "there are no credentials",
        ] {
            assert!(found.contains(part), "{part}: {found}");
        }
    }
}
