//! The HTTP client for the API server, with the TLS of `kms-tls`.

use std::time::Duration;

use http::{HeaderValue, Uri};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{
        Builder,
        connect::{Connection, HttpConnector, proxy::Tunnel},
    },
    rt::{TokioExecutor, TokioTimer},
};
use kms_core::{Error, Probe, Result, clock::ServerClock, proxy::basic_credentials};
use kms_tls::{Address, IDLE, Roots, Route, SettingNames, Tls, TlsOptions, crypto};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt as _},
};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, ServerName},
};
use tower::{BoxError, Service, ServiceBuilder};

use super::{token_file::TokenFile, unusable::unusable};

/// The time-out for opening a connection.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The names of the kubeconfig's settings in messages about TLS.
pub(super) const NAMES: SettingNames = SettingNames::new(
    "certificate-authority of the kubeconfig",
    "client-certificate of the kubeconfig",
    "tls-server-name of the kubeconfig",
    "server of the kubeconfig",
);

/// Builds the client as kube would, but for TLS.
///
/// Every response of the client is recorded in `clock`, that of a watch too.
///
/// # Errors
///
/// `ConfigInvalid` if certificates, proxy or credentials of the kubeconfig cannot be used.
pub(super) fn client(
    config: &mut Config,
    token_file: Option<&TokenFile>,
    clock: &ServerClock,
) -> Result<(Client, Way)> {
    // As with kubectl, an empty name is an absent one.
    config.tls_server_name.take_if(|name| name.is_empty());
    let tls = tls(config)?;
    let https = Https { config: ClientConfig::clone(&tls.config), server_name: server_name(config)? };
    let way = Way {
        server: config.cluster_url.clone(),
        proxy: config.proxy_url.clone(),
        server_name: config.tls_server_name.clone(),
        limit: config.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
        tls,
    };
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    // Otherwise a request waits up to 40 ms for the acknowledgement of what TLS has sent before it.
    http.set_nodelay(true);
    let Some(proxy) = config.proxy_url.clone() else {
        return Ok((assemble(https.over(http), config, token_file, clock)?, way));
    };
    let client = match proxy.scheme_str() {
        Some("http") => assemble(https.over(tunnel(&proxy, http)), config, token_file, clock),
        Some("https") => {
            // The name of the API server is not the proxy's.
            let to_proxy = Https { server_name: None, ..https.clone() }.over(http);
            assemble(https.over(tunnel(&proxy, to_proxy)), config, token_file, clock)
        }
        _ => Err(unusable(kube::Error::ProxyProtocolUnsupported { proxy_url: Box::new(proxy) })),
    }?;
    Ok((client, way))
}

/// The way to the API server, for a probe.
pub(super) struct Way {
    server: Uri,
    proxy: Option<Uri>,
    server_name: Option<String>,
    limit: Duration,
    tls: Tls,
}

impl Way {
    /// Reaches the API server step by step, as requests do, and sends no request. `None` if a step failed.
    pub(super) async fn probe(&self, steps: [&'static str; 3], probe: &mut Probe) -> Option<()> {
        let Self { server, proxy, server_name, limit, tls } = self;
        let route = Route {
            server: address(server),
            proxy: proxy.as_ref().map(address),
            server_name: server_name.as_deref(),
            limit: *limit,
        };
        route.probe(tls, steps, probe).await
    }
}

fn address(uri: &Uri) -> Address<'_> {
    let scheme = uri.scheme_str().unwrap_or_default();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    Address {
        scheme,
        host: uri.host().unwrap_or_default(),
        port: uri.port_u16().unwrap_or(if scheme == "http" { 80 } else { 443 }),
        user: authority.rsplit_once('@').map(|(user, _)| user),
    }
}

/// The configuration of TLS. kube reads the client certificate, since a credential plugin may hand it out.
fn tls(config: &mut Config) -> Result<Tls> {
    let mut options = TlsOptions::named(NAMES);
    options.skip_verify = config.accept_invalid_certs;
    // kube would verify with these; without a file it does not read them again either.
    config.root_cert_file = None;
    if let Some(roots) = config.root_cert.replace(Vec::new()) {
        options.roots = Roots::Only(roots.into_iter().map(CertificateDer::from).collect());
    }
    crypto::install();
    let identity = config.rustls_client_config().map_err(unusable)?.client_auth_cert_resolver;
    options.tls_with(identity)
}

fn server_name(config: &Config) -> Result<Option<ServerName<'static>>> {
    let name = config.tls_server_name.clone().map(ServerName::try_from).transpose();
    name.map_err(|_cause| Error::config("tls-server-name of the kubeconfig is not the name of a host"))
}

/// What turns a connection into one with TLS.
#[derive(Clone)]
struct Https {
    config: ClientConfig,
    server_name: Option<ServerName<'static>>,
}

impl Https {
    fn over<H>(&self, connector: H) -> HttpsConnector<H> {
        let builder = HttpsConnectorBuilder::new().with_tls_config(self.config.clone()).https_or_http();
        let builder = match &self.server_name {
            Some(name) => builder.with_server_name_resolver(FixedServerNameResolver::new(name.clone())),
            None => builder,
        };
        builder.enable_http1().wrap_connector(connector)
    }
}

/// A tunnel through a proxy, with the credentials of its address.
fn tunnel<C>(proxy: &Uri, connector: C) -> Tunnel<C> {
    let tunnel = Tunnel::new(proxy.clone(), connector);
    let user = proxy.authority().and_then(|authority| authority.as_str().rsplit_once('@'));
    match user.and_then(|(user, _)| HeaderValue::from_str(&basic_credentials(user)).ok()) {
        Some(mut header) => {
            header.set_sensitive(true);
            tunnel.with_auth(header)
        }
        None => tunnel,
    }
}

fn assemble<H>(
    connector: H,
    config: &Config,
    token_file: Option<&TokenFile>,
    clock: &ServerClock,
) -> Result<Client>
where
    H: Service<Uri> + Clone + Send + Sync + 'static,
    H::Response: Connection + hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    H::Future: Send + 'static,
    H::Error: Into<BoxError>,
{
    let mut connector = TimeoutConnector::new(connector);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let client: hyper_util::client::legacy::Client<_, Body> = Builder::new(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        // Its buffers may hold a Secret.
        .pool_idle_timeout(IDLE)
        .build(connector);
    let clock = clock.clone();
    let service = ServiceBuilder::new()
        .map_response(move |response: http::Response<_>| {
            kms_response::record_time(&clock, response.headers());
            response
        })
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(unusable)?)
        .layer(config.extra_headers_layer().map_err(unusable)?)
        .map_err(BoxError::from)
        .service(client);
    let builder = ClientBuilder::new(service, config.default_namespace.clone());
    Ok(match token_file {
        Some(file) => builder.with_layer(file).build(),
        None => builder.build(),
    })
}
