//! Reaches a server step by step, as requests do, and sends no request.

use kms_core::Probe;
use kms_tls::{Address, Route};
use url::Url;

use crate::client::{CONNECT_LIMIT, HttpClient};

/// The usual names of the steps of [`HttpClient::probe`].
pub const STEPS: [&str; 3] = ["dns", "tcp", "tls"];

impl HttpClient {
    /// Looks up the host of `url`, connects to it, and performs a TLS handshake with the configuration of the requests,
    /// through the proxy of the requests. Adds each step to `probe`, by the names in `steps`. `None` if one failed.
    pub async fn probe(&self, url: &Url, steps: [&'static str; 3], probe: &mut Probe) -> Option<()> {
        let proxy = match self.proxy_for(url) {
            Ok(proxy) => proxy,
            Err(error) => {
                let [dns, ..] = steps;
                return probe.fail(dns, error);
            }
        };
        // The authority of a URL is `user:password@host:port`.
        let user = proxy.as_ref().and_then(|proxy| proxy.authority().rsplit_once('@')).map(|(user, _)| user);
        let named = address(url, None);
        let host = self.host.as_deref();
        let route = Route {
            server: Address { host: host.unwrap_or(named.host), ..named },
            proxy: proxy.as_ref().map(|proxy| address(proxy, user)),
            server_name: host.map(|_| named.host),
            limit: CONNECT_LIMIT,
        };
        route.probe(&self.tls, steps, probe).await
    }
}

fn address<'a>(url: &'a Url, user: Option<&'a str>) -> Address<'a> {
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
    Address { scheme: url.scheme(), host, port, user }
}
