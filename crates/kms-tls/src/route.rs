//! The way to a server, step by step: through a proxy or not, with TLS or not.

use std::{error::Error as StdError, net::IpAddr, time::Duration};

use kms_core::{Error, ErrorKind, Probe, Result, Retry, proxy::basic_credentials};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use zeroize::Zeroizing;

use crate::{options::Tls, reach::Peer};

/// The longest accepted header of a proxy's response, in bytes.
const MAX_HEADER: usize = 16 * 1024;

/// What to do about a proxy that does not help.
const PROXY_ADVICE: &str = "check the proxy, or add the host of the server to NO_PROXY";

/// The parts of a URL that a connection depends on.
#[derive(Clone, Copy)]
#[expect(clippy::exhaustive_structs, reason = "the callers fill in the parts of their own type of URL")]
#[expect(missing_debug_implementations, reason = "the user information may hold a password")]
pub struct Address<'a> {
    /// The scheme: `https` means TLS.
    pub scheme: &'a str,
    /// The name or address of the host, with or without brackets.
    pub host: &'a str,
    /// The port.
    pub port: u16,
    /// `user:password`, percent-encoded; only proxies have it.
    pub user: Option<&'a str>,
}

impl<'a> Address<'a> {
    fn host(&self) -> &'a str {
        self.host.trim_matches(['[', ']'])
    }

    fn has_tls(&self) -> bool {
        self.scheme == "https"
    }

    /// Whether a connection never leaves this host.
    fn is_loopback(&self) -> bool {
        self.host() == "localhost" || self.host().parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// The way that requests take to a server.
#[expect(clippy::exhaustive_structs, reason = "the callers fill in what they know of their requests")]
#[expect(missing_debug_implementations, reason = "the address of a proxy may hold a password")]
pub struct Route<'a> {
    /// The server.
    pub server: Address<'a>,
    /// The proxy between client and server.
    pub proxy: Option<Address<'a>>,
    /// The TLS server name, if it is not the host of the server.
    pub server_name: Option<&'a str>,
    /// The time limit of each step.
    pub limit: Duration,
}

/// A connection, with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Route<'_> {
    /// Looks up the host, connects, and performs a TLS handshake with the configuration of the requests. Sends no request
    /// to the server. Adds each step to `probe`, by the names in `steps`. `None` if one failed.
    ///
    /// If there is a proxy, the first two steps are about the proxy, and the second one ends when the proxy has connected
    /// to the server.
    pub async fn probe(&self, tls: &Tls, steps: [&'static str; 3], probe: &mut Probe) -> Option<()> {
        let [dns, tcp, of_tls] = steps;
        let Self { server, proxy, server_name, limit } = self;
        let to_do = format!(
            "check {}, and from this host or pod the DNS and the firewall",
            tls.handshakes.names.address
        );
        let peer = Peer::new(server.host(), server.port, *limit).with_advice(&to_do);
        let stream = match proxy {
            None => Box::new(peer.probe_tcp([dns, tcp], probe).await?),
            Some(proxy) => self.probe_proxy(proxy, tls, [dns, tcp], probe).await?,
        };
        if !server.has_tls() {
            probe.pass(of_tls, "none: the address begins with http");
            if !server.is_loopback() {
                probe.warn(of_tls, "an attacker on the network can read every key and credential: use https");
            }
            return Some(());
        }
        let name = match named(server_name.unwrap_or(server.host())) {
            Ok(name) => name,
            Err(error) => return probe.fail(of_tls, error),
        };
        let mut stream = peer.probe_tls(of_tls, name, tls, stream, probe).await?;
        // The server may have closed the connection already.
        let _ = stream.shutdown().await;
        Some(())
    }

    async fn probe_proxy(
        &self,
        proxy: &Address<'_>,
        tls: &Tls,
        steps: [&'static str; 2],
        probe: &mut Probe,
    ) -> Option<Box<dyn Stream>> {
        let [_, tcp] = steps;
        let peer = Peer::new(proxy.host(), proxy.port, self.limit).with_advice(PROXY_ADVICE).as_proxy();
        let stream = peer.probe_tcp(steps, probe).await?;
        let reached = async {
            let stream: Box<dyn Stream> = if proxy.has_tls() {
                Box::new(peer.handshake(named(proxy.host())?, tls, stream).await?)
            } else {
                Box::new(stream)
            };
            // Requests without TLS go to the proxy itself.
            if self.server.has_tls() { tunnel(stream, proxy, &self.server).await } else { Ok(stream) }
        };
        let reached = tokio::time::timeout(self.limit, reached).await.unwrap_or_else(|_elapsed| {
            let message = format!("the proxy did not connect to the server within {:?}", self.limit);
            Err(Error::new(ErrorKind::Timeout, message).retry(Retry::Always))
        });
        match reached {
            Ok(stream) => {
                if self.server.has_tls() {
                    probe.pass(tcp, format!("the proxy connects to {}", authority(&self.server)));
                }
                Some(stream)
            }
            Err(error) => probe.fail(tcp, error.context("to do", PROXY_ADVICE)).and(None),
        }
    }
}

fn named(host: &str) -> Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned())
        .map_err(|_cause| Error::config(format!("{host:?} is not the name of a host, as TLS needs it")))
}

/// Asks a proxy to connect to the server (RFC 9110 §9.3.6).
///
/// # Errors
///
/// `Unavailable` if the proxy refuses, which its status explains.
async fn tunnel(
    mut stream: Box<dyn Stream>,
    proxy: &Address<'_>,
    server: &Address<'_>,
) -> Result<Box<dyn Stream>> {
    let server = authority(server);
    let unavailable = |message: String| Error::new(ErrorKind::Unavailable, message).retry(Retry::Always);
    let lost = |cause: std::io::Error| {
        unavailable(format!("the connection to the proxy was lost before it connected to {server}"))
            .source(cause)
    };
    stream.write_all(request(&server, proxy.user).as_bytes()).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    let mut header = Vec::new();
    // Byte by byte: what follows the header belongs to TLS.
    while !header.ends_with(b"\r\n\r\n") && header.len() < MAX_HEADER {
        header.push(stream.read_u8().await.map_err(lost)?);
    }
    let status = header.strip_prefix(b"HTTP/1.").and_then(|rest| std::str::from_utf8(rest.get(2..5)?).ok());
    match status {
        Some(status) if status.starts_with('2') => Ok(stream),
        // Asking again changes nothing.
        Some("407") => Err(unavailable(format!(
            "the proxy asks for credentials, or for others than ours, before it connects to {server} (HTTP status 407)"
        ))
        .retry(Retry::Never)),
        Some(status) if status.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(unavailable(format!("the proxy does not connect to {server}: HTTP status {status}")))
        }
        _ => Err(unavailable("the proxy does not answer as an HTTP proxy".to_owned())),
    }
}

/// Whether a request failed since a proxy asks for credentials before it connects (RFC 9110 §15.5.8). The library that asks
/// proxies says so in words alone.
pub fn needs_proxy_credentials(error: &(dyn StdError + 'static)) -> bool {
    error.to_string() == "tunnel error: proxy authorization required"
        || error.source().is_some_and(needs_proxy_credentials)
}

/// Host and port, as a request names them.
fn authority(server: &Address<'_>) -> String {
    let host = server.host();
    if host.contains(':') { format!("[{host}]:{}", server.port) } else { format!("{host}:{}", server.port) }
}

/// The request to a proxy. It may hold a password.
fn request(server: &str, user: Option<&str>) -> Zeroizing<String> {
    let credentials = user.map(basic_credentials).unwrap_or_default();
    let mut request = Zeroizing::new(String::with_capacity(128 + 2 * server.len() + credentials.len()));
    for part in ["CONNECT ", server, " HTTP/1.1\r\nHost: ", server, "\r\n"] {
        request.push_str(part);
    }
    if !credentials.is_empty() {
        for part in ["Proxy-Authorization: ", &credentials, "\r\n"] {
            request.push_str(part);
        }
    }
    request.push_str("\r\n");
    request
}
