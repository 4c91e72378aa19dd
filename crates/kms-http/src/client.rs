//! The HTTP client, one per configuration, and its proxies.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use kms_core::{Error, Result, config::Problems};
use reqwest::{
    Proxy,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use url::Url;

use crate::{
    error::{UnknownHost, unknown_host},
    tls::TlsOptions,
};

/// How long an idle connection stays open.
const IDLE: Duration = Duration::from_secs(90);

/// The proxies that requests go through. The caller passes the environment; nothing here reads it.
#[derive(Clone, Default)]
pub struct Proxies {
    /// The proxy for every request. It takes precedence over the others, and `NO_PROXY` does not apply to it.
    all: Option<String>,
    http: Option<String>,
    https: Option<String>,
    none: Option<String>,
}

impl Proxies {
    /// Uses no proxy.
    pub fn none() -> Self {
        Self::default()
    }

    /// Uses this proxy for every request.
    pub fn all(url: impl Into<String>) -> Self {
        Self { all: Some(url.into()), ..Self::default() }
    }

    /// Uses the proxies of the usual variables: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, in upper or lower
    /// case. `HTTP_PROXY` in upper case is valid too, since no program of ours is a CGI script.
    pub fn from_environment<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut proxies = Self::default();
        let mut fallback = None;
        for (name, value) in pairs {
            let value = value.trim();
            let slot = match name.to_ascii_lowercase().as_str() {
                "https_proxy" => &mut proxies.https,
                "http_proxy" => &mut proxies.http,
                "all_proxy" => &mut fallback,
                "no_proxy" => &mut proxies.none,
                _ => continue,
            };
            if !value.is_empty() {
                slot.get_or_insert_with(|| value.to_owned());
            }
        }
        proxies.https = proxies.https.or_else(|| fallback.clone());
        proxies.http = proxies.http.or(fallback);
        proxies
    }

    /// Whether a request may go through a proxy.
    pub fn is_some(&self) -> bool {
        self.all.is_some() || self.http.is_some() || self.https.is_some()
    }

    fn build(&self) -> Result<Vec<Proxy>> {
        let Self { all, http, https, none } = self;
        if let Some(url) = all {
            let target = proxy_url(url).ok_or_else(|| wrong_proxy("given"))?;
            return Ok(vec![Proxy::all(target).map_err(|_cause| wrong_proxy("given"))?]);
        }
        let exclusions = Exclusions::of(none.as_deref().unwrap_or_default());
        let mut proxies = Vec::new();
        for (scheme, what, url) in [("https", "HTTPS", https), ("http", "HTTP", http)] {
            let Some(url) = url else { continue };
            let target = proxy_url(url).ok_or_else(|| wrong_proxy(what))?;
            let exclusions = exclusions.clone();
            proxies.push(Proxy::custom(move |to| {
                (to.scheme() == scheme && !exclusions.cover(to)).then(|| target.clone())
            }));
        }
        Ok(proxies)
    }
}

/// Makes an error about a proxy. It does not show the address, which may hold a password.
fn wrong_proxy(what: &'static str) -> Error {
    Error::config(format!(
        "the address of the {what} proxy is not valid; give a URL such as http://proxy:3128"
    ))
}

/// Parses the address of a proxy. Only HTTP proxies are supported; an address without a scheme means one, as in curl.
fn proxy_url(text: &str) -> Option<Url> {
    let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some())
}

/// The hosts that `NO_PROXY` excludes from the proxies. `reqwest` does not support all of these forms.
///
/// A name, with or without a leading dot, matches itself and its subdomains; an address matches itself; a range such
/// as `10.0.0.0/8` matches its addresses; `name:port` matches that port only; `*` matches every host.
#[derive(Clone, Debug, Default)]
struct Exclusions(Vec<String>);

impl Exclusions {
    fn of(text: &str) -> Self {
        let entries = text.split(',').map(|entry| entry.trim().to_ascii_lowercase());
        Self(entries.filter(|entry| !entry.is_empty()).collect())
    }

    fn cover(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
        let port = url.port_or_known_default().unwrap_or_default();
        self.0.iter().any(|entry| covers(entry, &host, port))
    }
}

fn covers(entry: &str, host: &str, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    if let Some((network, bits)) = entry.split_once('/') {
        return host.parse().is_ok_and(|address| in_range(network, bits, address));
    }
    let address = entry.trim_matches(['[', ']']);
    if let Ok(address) = address.parse::<IpAddr>() {
        return host.parse() == Ok(address);
    }
    let name = match entry.rsplit_once(':') {
        Some((name, only)) if only.parse() == Ok(port) => name.trim_matches(['[', ']']),
        Some(_) => return false,
        None => entry,
    };
    let name = name.trim_start_matches('.');
    host == name || host.strip_suffix(name).is_some_and(|before| before.ends_with('.'))
}

fn in_range(network: &str, bits: &str, address: IpAddr) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    let (network, address, width) = match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (u128::from(network.to_bits()), u128::from(address.to_bits()), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => (network.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    // `/0` shifts every bit out, which `>>` does not allow.
    bits <= width && (network ^ address).checked_shr(width - bits).unwrap_or(0) == 0
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The addresses may hold passwords.
        let Self { all, http, https, none } = self;
        f.debug_struct("Proxies")
            .field("all", &all.is_some())
            .field("http", &http.is_some())
            .field("https", &https.is_some())
            .field("none", none)
            .finish()
    }
}

/// Builds an [`HttpClient`].
#[derive(Clone, Debug)]
pub struct HttpClientBuilder {
    tls: TlsOptions,
    proxies: Proxies,
    connect_timeout: Duration,
    read_timeout: Duration,
    server_name: Option<String>,
}

impl Default for HttpClientBuilder {
    fn default() -> Self {
        Self {
            tls: TlsOptions::new(),
            proxies: Proxies::none(),
            connect_timeout: Duration::from_secs(10),
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

    /// Limits the time to connect, the TLS handshake included. Default 10 s.
    #[must_use]
    pub fn with_connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Limits how long the server may be silent until its response is complete. Default 30 s.
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
    /// `ConfigInvalid` for malformed certificates and proxies, and for a server name together with a proxy, since the
    /// client would ask the proxy to connect to that name.
    pub fn build(self) -> Result<HttpClient> {
        let mut problems = Problems::new();
        if self.server_name.is_some() && self.proxies.is_some() {
            problems.add("a TLS server name cannot be combined with a proxy: give the address by that name");
        }
        let proxies = problems.absorb("proxy", self.proxies.build())?;
        let config = problems.absorb("TLS", self.tls.client_config())?;
        problems.into_result()?;
        let client =
            self.assemble(config, proxies.unwrap_or_default(), |builder| builder.dns_resolver(Resolver))?;
        Ok(HttpClient { client, builder: Arc::new(self) })
    }

    fn assemble(
        &self,
        config: Option<rustls::ClientConfig>,
        proxies: Vec<Proxy>,
        resolve: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
    ) -> Result<reqwest::Client> {
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(self.connect_timeout)
            .read_timeout(self.read_timeout)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .user_agent(concat!("rook-kms/", env!("CARGO_PKG_VERSION")));
        if let Some(config) = config {
            builder = builder.tls_backend_preconfigured(config);
        }
        for proxy in proxies {
            builder = builder.proxy(proxy);
        }
        resolve(builder)
            .build()
            .map_err(|cause| Error::config("the HTTP client cannot be set up").source(cause.without_url()))
    }
}

/// A pool of connections. Clones share it.
#[derive(Clone)]
pub struct HttpClient {
    pub(crate) client: reqwest::Client,
    builder: Arc<HttpClientBuilder>,
}

impl HttpClient {
    /// Whether requests may go through a proxy.
    pub(crate) fn uses_proxy(&self) -> bool {
        self.builder.proxies.is_some()
    }

    /// Returns the client and the URL with which requests for `url` are sent. If a TLS server name is set, it replaces
    /// the host in the URL, and the addresses of the host are looked up here.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the host cannot be found.
    pub async fn at(self, url: &Url) -> Result<(Self, Url)> {
        let Some(name) = self.builder.server_name.clone() else { return Ok((self, url.clone())) };
        let wrong = || Error::config("the TLS server name is not a host name");
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or_default();
        let found = tokio::net::lookup_host((host.as_str(), port)).await;
        let addresses: Vec<SocketAddr> = found.map_err(|cause| unknown_host(&host).source(cause))?.collect();
        let mut named = url.clone();
        named.set_host(Some(&name)).map_err(|_cause| wrong())?;
        let config = self.builder.tls.client_config()?;
        let client = self
            .builder
            .assemble(Some(config), Vec::new(), |builder| builder.resolve_to_addrs(&name, &addresses))?;
        Ok((Self { client, builder: self.builder }, named))
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client: _, builder } = self;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_variables_name_the_proxies() {
        let proxies = Proxies::from_environment([
            ("https_proxy", "http://user:canary@proxy:3128"),
            ("NO_PROXY", ".svc,10.0.0.0/8"),
            ("PATH", "/bin"),
        ]);
        assert!(proxies.is_some());
        assert_eq!(proxies.build().unwrap().len(), 1);
        assert!(!format!("{proxies:?}").contains("canary"));
        assert!(!Proxies::from_environment([("HTTPS_PROXY", " ")]).is_some());
    }

    #[test]
    fn exclusions_of_every_form_are_known() {
        for (entries, url, covered) in [
            ("*", "https://127.0.0.1:8200", true),
            ("other, * ", "https://vault.example", true),
            ("vault.example", "https://Vault.example:8200", true),
            ("example", "https://vault.example", true),
            (".example", "https://vault.example", true),
            ("ample", "https://vault.example", false),
            ("vault.example:8200", "https://vault.example:8200", true),
            ("vault.example:443", "https://vault.example", true),
            ("vault.example:8201", "https://vault.example:8200", false),
            ("127.0.0.1:8200", "https://127.0.0.1:8200", true),
            ("[::1]:8200", "https://[::1]:8200", true),
            ("::1", "https://[::1]:8200", true),
            ("10.0.0.0/8", "https://10.1.2.3", true),
            ("10.0.0.0/8", "https://11.1.2.3", false),
            ("0.0.0.0/0", "https://11.1.2.3", true),
            ("::/0,fd00::/8", "https://[fd00::1]", true),
            ("fd00::/8", "https://[fe00::1]", false),
            ("10.0.0.0/33,x/8,10.0.0.0/x", "https://10.1.2.3", false),
            ("", "https://vault.example", false),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(Exclusions::of(entries).cover(&url), covered, "{entries} {url}");
        }
    }

    #[test]
    fn a_malformed_proxy_is_refused_without_echoing_it() {
        let error = HttpClientBuilder::new().with_proxies(Proxies::all("canary:::")).build().unwrap_err();
        assert!(error.to_string().contains("proxy"), "{error}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
}
