//! The HTTP client, one per configuration.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use kms_core::{ClockDifference, Error, Result, clock::ServerClock, config::Problems, layer::step_limit};
use kms_tls::{Tls, TlsOptions, unknown_host};
use reqwest::{
    Proxy,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use rustls::ClientConfig;
use url::Url;

use crate::{error::UnknownHost, proxy::Proxies};

/// The time limit to connect, the TLS handshake included. It grows with the deadline for which the client is
/// [prepared](kms_core::layer::preparing).
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Builds an [`HttpClient`].
#[derive(Clone, Debug)]
pub struct HttpClientBuilder {
    tls: TlsOptions,
    proxies: Proxies,
    read_timeout: Duration,
    server_name: Option<String>,
}

impl Default for HttpClientBuilder {
    fn default() -> Self {
        Self {
            tls: TlsOptions::new(),
            proxies: Proxies::none(),
            read_timeout: Duration::from_secs(30),
            server_name: None,
        }
    }
}

impl HttpClientBuilder {
    /// Starts with the roots of the operating system and no proxy.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the roots and the client certificate.
    #[must_use]
    pub fn with_tls(mut self, tls: TlsOptions) -> Self {
        self.tls = tls;
        self
    }

    /// Sets the proxies.
    #[must_use]
    pub fn with_proxies(mut self, proxies: Proxies) -> Self {
        self.proxies = proxies;
        self
    }

    /// Limits how long the server may be silent until its response is complete. Default 30 s; it grows with a deadline
    /// that is longer than usual ([`step_limit`]).
    #[must_use]
    pub fn with_read_timeout(mut self, limit: Duration) -> Self {
        self.read_timeout = limit;
        self
    }

    /// Sets the TLS server name: the client sends it, and the server's certificate must have it, whatever the address.
    #[must_use]
    pub fn with_server_name(mut self, name: Option<String>) -> Self {
        self.server_name = name;
        self
    }

    /// Builds the client. Its only I/O is reading the roots of the operating system.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` for malformed certificates, and for a malformed proxy that every request would have.
    pub fn build(self) -> Result<HttpClient> {
        let mut problems = Problems::new();
        problems.absorb("proxy", self.proxies.check())?;
        let tls = problems.absorb("TLS", self.tls.tls())?;
        problems.into_result()?;
        let tls = tls.ok_or_else(|| Error::config("TLS cannot be set up"))?;
        self.assemble(tls, |builder| builder.dns_resolver(Resolver))
    }

    /// The same settings for a host that [`HttpClient::at`] has found to need no proxy.
    fn without_proxies(&self) -> Self {
        Self { proxies: Proxies::none(), ..self.clone() }
    }

    fn assemble(
        self,
        tls: Tls,
        resolve: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
    ) -> Result<HttpClient> {
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(step_limit(CONNECT_LIMIT))
            .pool_idle_timeout(kms_tls::IDLE)
            .tcp_nodelay(true)
            .user_agent(concat!("rook-kms/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(ClientConfig::clone(&tls.config));
        if self.proxies.is_some() {
            let proxies = self.proxies.clone();
            // `send` has reported the error already.
            builder = builder.proxy(Proxy::custom(move |url| proxies.for_url(url).ok().flatten()));
        }
        let client = resolve(builder)
            .build()
            .map_err(|cause| Error::config("the HTTP client cannot be set up").source(cause.without_url()))?;
        Ok(HttpClient {
            client,
            tls,
            has_answered: Arc::default(),
            builder: Arc::new(self),
            clock: ServerClock::default(),
            host: None,
        })
    }
}

/// A pool of connections. Clones share it.
#[derive(Clone)]
pub struct HttpClient {
    pub(crate) client: reqwest::Client,
    pub(crate) tls: Tls,
    /// Whether a server has answered any request.
    pub(crate) has_answered: Arc<AtomicBool>,
    builder: Arc<HttpClientBuilder>,
    pub(crate) clock: ServerClock,
    /// The host to connect to, if URLs have the TLS server name in its place.
    pub(crate) host: Option<String>,
}

impl HttpClient {
    /// The proxy that requests for `url` go through; `None` if they go to the server directly.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the proxy for it cannot be used.
    pub(crate) fn proxy_for(&self, url: &Url) -> Result<Option<Url>> {
        self.builder.proxies.for_url(url)
    }

    /// The setting that names the proxy for `url`.
    pub(crate) fn proxy_setting(&self, url: &Url) -> &'static str {
        self.builder.proxies.setting_for(url)
    }

    /// How long the server may be silent.
    pub(crate) fn read_timeout(&self) -> Duration {
        self.builder.read_timeout
    }

    /// Whether the certificates of servers are verified.
    pub(crate) fn verifies(&self) -> bool {
        !self.builder.tls.skip_verify
    }

    /// How far the clock of this host is from that of the server that has answered last; `None` before its first response.
    pub fn clock(&self) -> Option<ClockDifference> {
        self.clock.difference()
    }

    /// Returns the client and the URL with which requests for `url` are sent. If a TLS server name is set, it replaces
    /// the host in the URL, and the addresses of the host are looked up here.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the host cannot be found; `ConfigInvalid` for a server name together with a proxy, since the
    /// client would ask the proxy to connect to that name.
    pub async fn at(self, url: &Url) -> Result<(Self, Url)> {
        let Some(name) = self.builder.server_name.clone() else { return Ok((self, url.clone())) };
        if self.proxy_for(url)?.is_some() {
            return Err(Error::config(
                "a TLS server name cannot be combined with a proxy: give the address by that name, or add the host of \
                 the address to NO_PROXY",
            ));
        }
        let wrong = || Error::config("the TLS server name is not a host name");
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or_default();
        let found = tokio::net::lookup_host((host.as_str(), port)).await;
        let addresses: Vec<SocketAddr> = found.map_err(|cause| unknown_host(&host).source(cause))?.collect();
        let mut named = url.clone();
        named.set_host(Some(&name)).map_err(|_cause| wrong())?;
        let tls = self.builder.tls.tls()?;
        let client = self
            .builder
            .without_proxies()
            .assemble(tls, |builder| builder.resolve_to_addrs(&name, &addresses))?;
        Ok((Self { host: Some(host), ..client }, named))
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client: _, tls: _, has_answered: _, builder, clock: _, host: _ } = self;
        f.debug_struct("HttpClient").field("builder", builder).finish_non_exhaustive()
    }
}

/// Resolves host names with the operating system, and marks failures as [`UnknownHost`].
struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            match tokio::net::lookup_host((name.as_str(), 0)).await {
                Ok(addresses) => Ok(Box::new(addresses.collect::<Vec<_>>().into_iter()) as Addrs),
                Err(cause) => Err(UnknownHost { host: name.as_str().to_owned(), cause }.into()),
            }
        })
    }
}
