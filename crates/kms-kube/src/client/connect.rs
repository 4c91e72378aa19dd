//! The connection to the API server.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderValue, Uri, header::USER_AGENT};
use kms_core::{
    ClockDifference, Error, ErrorKind, Probe, ProxyRules, Result, clock::ServerClock, layer::step_limit,
};
use kms_tls::pem::certificates;
use kube::{
    Client, Config,
    config::{Cluster, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tracing::warn;

use super::{names::KUBERNETES, token_file::TokenFile, transport, warnings::Warnings};

/// The time-out for each read of a response and each write of a request.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);

/// The time-out for each read of the response to a watch. The API server ends a watch before.
const WATCH_TIMEOUT: Duration = Duration::from_secs(295);

/// How to reach the API server.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ConnectOptions {
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    inferred: bool,
    cleartext: bool,
    proxies: ProxyRules,
    watches: bool,
}

impl ConnectOptions {
    /// Options without a server: add [`with_kubeconfig`](Self::with_kubeconfig) or
    /// [`with_inferred_config`](Self::with_inferred_config).
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes server and credentials from this kubeconfig, and nothing from the environment.
    pub fn with_kubeconfig(mut self, path: impl Into<PathBuf>) -> Self {
        self.kubeconfig = Some(path.into());
        self
    }

    /// Uses this context of the kubeconfig instead of its current context.
    pub fn with_context(mut self, name: impl Into<String>) -> Self {
        self.context = Some(name.into());
        self
    }

    /// Finds server and credentials as `kubectl` does: in the kubeconfig that `KUBECONFIG` names, then in the one in the
    /// home directory, then in the service account of the pod.
    ///
    /// This reads the environment: `KUBECONFIG`, `HOME`, `KUBERNETES_SERVICE_HOST` and `_PORT`.
    pub fn with_inferred_config(mut self) -> Self {
        self.inferred = true;
        self
    }

    /// Uses these proxies for a server that a kubeconfig names, as `kubectl` does, unless the kubeconfig has a `proxy-url`
    /// of its own. A pod connects to its API server directly.
    pub fn with_proxies(mut self, proxies: ProxyRules) -> Self {
        self.proxies = proxies;
        self
    }

    /// Lets a response stay silent for as long as a watch without events does.
    pub fn with_watches(mut self) -> Self {
        self.watches = true;
        self
    }

    /// Allows an API server without TLS, such as `kubectl proxy`. Keys and credentials then cross the network in the
    /// clear.
    pub fn with_cleartext_allowed(mut self) -> Self {
        self.cleartext = true;
        self
    }
}

/// A connection to an API server. Clones share it.
#[derive(Clone)]
pub struct Connection {
    client: Client,
    server: Option<String>,
    way: Option<Arc<transport::Way>>,
    pub(crate) warnings: Warnings,
    clock: ServerClock,
}

impl Connection {
    /// The client, for other requests over the same connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The address of the API server; `None` if the caller made the client.
    pub fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// Looks up the host of the API server, connects to it, and performs a TLS handshake, as requests do. Adds each step
    /// to `probe`, by the names in `steps`. Does nothing if the caller made the client. `None` if a step failed.
    pub async fn probe(&self, steps: [&'static str; 3], probe: &mut Probe) -> Option<()> {
        match &self.way {
            Some(way) => way.probe(steps, probe).await,
            None => Some(()),
        }
    }

    /// How far the clock of this host is from that of the API server; `None` before the first response, and if the caller
    /// made the client.
    pub fn clock(&self) -> Option<ClockDifference> {
        self.clock.difference()
    }

    /// The clock of the API server, as all responses of the client show it.
    pub fn server_clock(&self) -> ServerClock {
        self.clock.clone()
    }

    /// The namespace of the kubeconfig's context or of the pod.
    pub fn kube_namespace(&self) -> &str {
        self.client.default_namespace().trim()
    }
}

impl From<Client> for Connection {
    fn from(client: Client) -> Self {
        Self { client, server: None, way: None, warnings: Warnings::default(), clock: ServerClock::default() }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client: _, server, way: _, warnings: _, clock: _ } = self;
        f.debug_struct("Connection").field("server", server).finish_non_exhaustive()
    }
}

/// Prepares a connection to the API server. Sends nothing, but may run the credential plugin of the kubeconfig.
///
/// The service-account token is read from its file for each request, so that a replaced token is never sent.
///
/// # Errors
///
/// `ConfigInvalid` if the kubeconfig or the service account of the pod cannot be used, or if the server has no TLS.
pub async fn connect(options: ConnectOptions) -> Result<Connection> {
    // This reads files and may run a credential plugin, so it must not block the runtime.
    let connect_limit = step_limit(transport::CONNECT_TIMEOUT);
    let made = tokio::task::spawn_blocking(move || client(&options, connect_limit)).await;
    made.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Unexpected, "the preparation of the connection was interrupted"))
    })
    .map_err(|error| error.operation("connect").provider(KUBERNETES))
}

fn client(options: &ConnectOptions, connect_limit: Duration) -> Result<Connection> {
    let mut config = config(options)?;
    let server = check_server(&config.cluster_url, options.cleartext)?;
    if config.accept_invalid_certs {
        warn!(%server, "the certificate of the API server is not verified (insecure-skip-tls-verify)");
    }
    config.connect_timeout = Some(connect_limit);
    config.read_timeout = Some(if options.watches { WATCH_TIMEOUT } else { SILENCE_TIMEOUT });
    config.write_timeout = Some(SILENCE_TIMEOUT);
    // Otherwise the idle time of a pooled connection counts towards the time-out.
    config.reset_reader_on_write = true;
    // kube would retry writes whose outcome is unknown. `kms_core::layer` retries, and reads back first.
    config.default_retry = false;
    let agent = concat!("rook-kms/", env!("CARGO_PKG_VERSION"));
    config.headers.push((USER_AGENT, HeaderValue::from_static(agent)));

    let token_file = config.auth_info.token_file.take().map(TokenFile::new);
    if let Some(file) = &token_file {
        // As with kubectl, the file wins over a token in the kubeconfig.
        config.auth_info.token = None;
        file.header().map_err(|cause| Error::config(cause.to_string()).source(cause))?;
    }
    let (warnings, clock) = (Warnings::default(), ServerClock::default());
    let (client, way) = transport::client(&mut config, token_file.as_ref(), &clock)?;
    Ok(Connection { client, server: Some(server), way: Some(Arc::new(way)), warnings, clock })
}

fn config(options: &ConnectOptions) -> Result<Config> {
    let ConnectOptions { kubeconfig, context, inferred, cleartext: _, proxies, watches: _ } = options;
    let found = match (kubeconfig, inferred) {
        (Some(path), _) => Kubeconfig::read_from(path),
        (None, true) => Kubeconfig::read(),
        (None, false) => {
            return Err(Error::config(
                "no API server is configured: give a kubeconfig, or ask for the inferred configuration",
            ));
        }
    };
    let inferred = kubeconfig.is_none();
    let mut kubeconfig = match found {
        // Without a kubeconfig, or with an empty one, the service account of the pod is used.
        Err(KubeconfigError::FindPath) if inferred => return in_cluster(context.as_deref(), None),
        Err(KubeconfigError::ReadConfig(cause, path))
            if inferred && cause.kind() == std::io::ErrorKind::NotFound =>
        {
            return in_cluster(context.as_deref(), Some(&path));
        }
        Ok(kubeconfig) if inferred && kubeconfig.clusters.is_empty() && kubeconfig.contexts.is_empty() => {
            return in_cluster(context.as_deref(), None);
        }
        found => found.map_err(bad_kubeconfig)?,
    };
    let has_proxy = has_proxy(&mut kubeconfig, context.as_deref());
    let roots = take_roots(&mut kubeconfig, context.as_deref())?;
    let chosen = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
    // The function is async but never waits.
    let mut config =
        futures_util::FutureExt::now_or_never(Config::from_custom_kubeconfig(kubeconfig, &chosen))
            .unwrap_or(Err(KubeconfigError::CurrentContextNotSet))
            .map_err(bad_kubeconfig)?;
    config.root_cert = roots;
    if !has_proxy {
        // kube has taken a proxy from HTTPS_PROXY of the process, and knows no NO_PROXY.
        config.proxy_url = proxy_for(proxies, &config.cluster_url)?;
    }
    Ok(config)
}

/// The proxy for the server, by the rules that the KMS providers follow too.
fn proxy_for(proxies: &ProxyRules, server: &Uri) -> Result<Option<Uri>> {
    let scheme = server.scheme_str().unwrap_or_default();
    let port = server.port_u16().unwrap_or(if scheme == "http" { 80 } else { 443 });
    let Some(proxy) = proxies.proxy_for(scheme, server.host().unwrap_or_default(), port)? else {
        return Ok(None);
    };
    let proxy = if proxy.contains("://") { proxy.to_owned() } else { format!("http://{proxy}") };
    // The address may hold a password, and the parser's error may quote it.
    let proxy = proxy.parse::<Uri>().ok().filter(|proxy| proxy.host().is_some());
    proxy.map(Some).ok_or_else(|| {
        let variable = if scheme == "http" { "HTTP_PROXY" } else { "HTTPS_PROXY" };
        Error::config(format!(
            "{variable} is not the address of a proxy; give a URL such as http://proxy:3128"
        ))
    })
}

/// Whether the kubeconfig itself names a proxy for the server of the chosen context.
fn has_proxy(kubeconfig: &mut Kubeconfig, context: Option<&str>) -> bool {
    let cluster = cluster(kubeconfig, context).and_then(|cluster| cluster.proxy_url.as_deref());
    cluster.is_some_and(|url| !url.is_empty())
}

/// Takes the CA certificates of the chosen context's server out of the kubeconfig, so that a damaged block among them does
/// not stop kube. The result is `None` if the kubeconfig names no CA.
fn take_roots(kubeconfig: &mut Kubeconfig, context: Option<&str>) -> Result<Option<Vec<Vec<u8>>>> {
    let Some(cluster) = cluster(kubeconfig, context) else { return Ok(None) };
    let (data, file) = (cluster.certificate_authority_data.take(), cluster.certificate_authority.take());
    let wrong = |why: String| {
        Error::config(format!("the certificate-authority of the kubeconfig is not a PEM certificate: {why}"))
    };
    let pem = match (data.filter(|data| !data.is_empty()), file) {
        (Some(data), _) => STANDARD.decode(data).map_err(|_cause| wrong("it is not base64".to_owned()))?,
        (None, Some(file)) => std::fs::read(&file).map_err(|cause| {
            Error::config("the certificate-authority of the kubeconfig cannot be read")
                .context("file", file)
                .source(cause)
        })?,
        (None, None) => return Ok(None),
    };
    let found = certificates(&pem).map_err(|error| wrong(error.to_string()))?;
    Ok(Some(found.iter().map(|certificate| certificate.to_vec()).collect()))
}

/// The server of the chosen context.
fn cluster<'a>(kubeconfig: &'a mut Kubeconfig, context: Option<&str>) -> Option<&'a mut Cluster> {
    let context = context.or(kubeconfig.current_context.as_deref());
    let context = kubeconfig.contexts.iter().find(|named| Some(named.name.as_str()) == context)?;
    let name = context.context.as_ref()?.cluster.as_str();
    kubeconfig.clusters.iter_mut().find(|named| named.name == name)?.cluster.as_mut()
}

/// The configuration of the pod's service account. `missing` is the kubeconfig that was not found.
fn in_cluster(context: Option<&str>, missing: Option<&Path>) -> Result<Config> {
    let found = match context {
        Some(context) => {
            Err(Error::config(format!("the context {context:?} needs a kubeconfig, and none was found")))
        }
        None => Config::incluster_env().map_err(|cause| {
            Error::config(
                "found neither a kubeconfig (KUBECONFIG, or .kube/config in the home directory) nor the service \
                 account of a pod",
            )
            .source(cause)
        }),
    };
    found.map_err(|error| match missing {
        Some(path) => error.context("kubeconfig", path.display().to_string()),
        None => error,
    })
}

/// Refuses a server without TLS unless that is allowed. Returns the address without path, query and user.
fn check_server(url: &Uri, cleartext: bool) -> Result<String> {
    let scheme = url.scheme_str().unwrap_or_default();
    let Some(host) = url.host() else {
        return Err(Error::config("the address of the API server has no host"));
    };
    let server = match url.port() {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    };
    match scheme {
        "https" => Ok(server),
        "http" if cleartext => {
            warn!(%server, "keys and credentials cross the network to the API server without TLS");
            Ok(server)
        }
        "http" => Err(Error::config(
            "the API server has an http address, so keys and credentials could be read on the way: use https",
        )
        .context("server", server)),
        _ => {
            Err(Error::config("the address of the API server must begin with https")
                .context("server", server))
        }
    }
}

/// The error for a kubeconfig. It omits the error of the parser, which quotes lines that may hold a token.
fn bad_kubeconfig(cause: KubeconfigError) -> Error {
    match cause {
        KubeconfigError::Parse(_) => Error::config("the kubeconfig is not valid YAML of its kind"),
        KubeconfigError::ReadConfig(cause, path) => Error::config("the kubeconfig cannot be read")
            .context("file", path.display().to_string())
            .source(cause),
        KubeconfigError::CurrentContextNotSet => {
            Error::config("the kubeconfig has no current context: set current-context, or choose a context")
        }
        KubeconfigError::LoadContext(name) => {
            Error::config(format!("the kubeconfig has no context {name:?}"))
        }
        KubeconfigError::LoadClusterOfContext(name) => {
            Error::config(format!("the kubeconfig has no cluster {name:?}, which its context names"))
        }
        KubeconfigError::ParseCertificates(_) => {
            Error::config("the certificate-authority of the kubeconfig is not a PEM certificate")
        }
        cause => Error::config("the kubeconfig cannot be used").source(cause),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(folder: &Path, text: &str) -> ConnectOptions {
        let path = folder.join("kubeconfig");
        fs::write(&path, text).unwrap();
        ConnectOptions::new().with_kubeconfig(path)
    }

    fn kubeconfig(server: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: '{server}'}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n\
             contexts: [{{name: x, context: {{cluster: c, user: u, namespace: rook-ceph}}}}]\n\
             current-context: x\n"
        )
    }

    #[tokio::test]
    async fn a_kubeconfig_gives_server_and_namespace() {
        let folder = tempfile::tempdir().unwrap();
        let options = write(folder.path(), &kubeconfig("https://example.test:6443/path", "token: canary"));
        let connection = connect(options).await.unwrap();
        assert_eq!(connection.server(), Some("https://example.test:6443"));
        assert_eq!(connection.kube_namespace(), "rook-ceph");
        assert!(!format!("{connection:?}").contains("canary"));
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_named_without_its_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let good = kubeconfig("https://example.test", "token: canary");
        let cases = [
            (kubeconfig("http://example.test", "token: canary"), "could be read on the way"),
            ("users: [{name: u, user: {token: {canary: 1}}}]\n".to_owned(), "not valid YAML"),
            (good.replace("current-context: x", ""), "no current context"),
            (good.replace("current-context: x", "current-context: y"), "no context \"y\""),
            (good.replace("cluster: c,", "cluster: d,"), "no cluster \"d\""),
            (kubeconfig("https://example.test", "tokenFile: nosuch"), "nosuch cannot be read"),
            (
                kubeconfig(
                    "https://example.test",
                    "exec: {apiVersion: client.authentication.k8s.io/v1, command: sh, args: ['-c', 'echo canary; exit \
                     3'], interactiveMode: Never}",
                ),
                "failed with exit status: 3",
            ),
        ];
        for (text, what) in cases {
            let error = connect(write(folder.path(), &text)).await.unwrap_err();
            assert!(error.to_string().contains(what), "{what}: {error}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
        let options = write(folder.path(), &good).with_context("other");
        assert!(connect(options).await.unwrap_err().to_string().contains("no context \"other\""));
        let error = connect(ConnectOptions::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        let missing = ConnectOptions::new().with_kubeconfig(folder.path().join("nosuch"));
        assert!(connect(missing).await.unwrap_err().to_string().contains("cannot be read"));
    }

    /// The answers of Go's own library: see `tests/go/httpproxy`.
    const GO: &str = include_str!("../../../../tests/go/httpproxy/cases.json");

    #[test]
    fn the_api_server_is_reached_as_the_library_of_go_would() {
        let cases: Vec<serde_json::Value> = serde_json::from_str(GO).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        // An address of an API server is in ASCII, in a certificate too.
        for case in cases.iter().filter(|case| case.to_string().is_ascii()) {
            let env: Vec<(String, String)> = case["env"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(name, value)| (name.clone(), text(value)))
                .collect();
            let rules = ProxyRules::from_environment(env.iter().map(|(name, value)| (&**name, &**value)));
            let server: Uri = text(&case["url"]).parse().unwrap();
            match proxy_for(&rules, &server) {
                Ok(found) => {
                    let expected = case["proxy"].as_str().map(|proxy| proxy.parse::<Uri>().unwrap());
                    assert_eq!((found, &case["refused"]), (expected, &serde_json::json!(false)), "{case}");
                }
                Err(error) => assert_eq!(case["refused"], true, "{case}: {error}"),
            }
        }
    }

    #[tokio::test]
    async fn proxies_come_from_the_caller_and_a_proxy_url_wins() {
        let folder = tempfile::tempdir().unwrap();
        let proxies = || {
            ProxyRules::from_environment([
                ("HTTPS_PROXY", "http://user:canary@env.example:1"),
                ("NO_PROXY", "direct.example"),
            ])
        };
        let found = |text: &str| {
            let options = write(folder.path(), text).with_proxies(proxies());
            config(&options).unwrap().proxy_url.map(|url| url.host().unwrap().to_owned())
        };
        let of = |server: &str| kubeconfig(server, "token: t");
        assert_eq!(found(&of("https://api.example:6443")).as_deref(), Some("env.example"));
        for direct in ["https://a.direct.example:6443", "https://127.0.0.1:6443", "https://localhost:6443"] {
            assert_eq!(found(&of(direct)), None, "{direct}");
        }
        let own =
            of("https://127.0.0.1:6443").replace("server:", "proxy-url: 'http://own.example:2', server:");
        assert_eq!(found(&own).as_deref(), Some("own.example"));

        let wrong = ProxyRules::from_environment([("HTTPS_PROXY", "canary canary")]);
        let options = write(folder.path(), &of("https://api.example")).with_proxies(wrong);
        let error = connect(options.clone()).await.unwrap_err();
        assert!(error.to_string().contains("HTTPS_PROXY"), "{error}");
        assert!(!format!("{error:?}{options:?}").contains("canary"), "{error:?}");
    }

    #[tokio::test]
    async fn damaged_and_foreign_blocks_of_the_ca_are_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let block =
            |label: &str, body: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
        let good = block("CERTIFICATE", "MAA=");
        let bundle = block("CERTIFICATE", "!!!") + &block("X509 CRL", "MAA=") + &good;
        let of = |entry: &str| {
            kubeconfig("https://api.example", "token: t").replace("server:", &format!("{entry}, server:"))
        };
        let data = of(&format!("certificate-authority-data: {}", STANDARD.encode(&bundle)));
        assert_eq!(config(&write(folder.path(), &data)).unwrap().root_cert.unwrap(), [[0x30, 0]]);
        let file = folder.path().join("ca.crt");
        fs::write(&file, &bundle).unwrap();
        let file = of(&format!("certificate-authority: '{}'", file.display()));
        assert_eq!(config(&write(folder.path(), &file)).unwrap().root_cert.unwrap(), [[0x30, 0]]);
    }

    #[tokio::test]
    async fn cleartext_has_to_be_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let options = write(folder.path(), &kubeconfig("http://127.0.0.1:8001", "token: canary"));
        let connection = connect(options.with_cleartext_allowed()).await.unwrap();
        assert_eq!(connection.server(), Some("http://127.0.0.1:8001"));
    }
}
