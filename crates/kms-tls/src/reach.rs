//! Reaches a server step by step: its name, a TCP connection, a TLS handshake. Each step says what it found.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use kms_core::{Error, ErrorKind, KeyExchange, Probe, Result, Retry};
use rustls::{ClientConnection, ProtocolVersion};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    certificate::{Described, date, ends_soon},
    crypto,
    fault::fault,
    handshakes::{Handshakes, Trust},
    options::Tls,
};

/// How many addresses of a name are shown.
const ADDRESSES: usize = 4;

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Peer<'a> {
    host: &'a str,
    port: u16,
    limit: Duration,
    limit_setting: Option<&'static str>,
    to_do: Option<&'a str>,
    is_proxy: bool,
}

impl<'a> Peer<'a> {
    /// A host, by its name or address, and a port. Each step must end within `limit`.
    pub fn new(host: &'a str, port: u16, limit: Duration) -> Self {
        Self { host, port, limit, limit_setting: None, to_do: None, is_proxy: false }
    }

    /// Names the setting of the time limit in messages.
    pub fn with_limit_setting(mut self, name: &'static str) -> Self {
        self.limit_setting = Some(name);
        self
    }

    /// Says in errors of the name and of the TCP connection what to do next.
    pub fn with_advice(mut self, to_do: &'a str) -> Self {
        self.to_do = Some(to_do);
        self
    }

    /// Says in the steps that this is the proxy to the server.
    pub(crate) fn as_proxy(mut self) -> Self {
        self.is_proxy = true;
        self
    }

    /// Looks up the addresses of the host.
    ///
    /// # Errors
    ///
    /// `Unavailable` or `Timeout`.
    pub async fn resolve(&self) -> Result<Vec<SocketAddr>> {
        let found = tokio::net::lookup_host((self.host, self.port));
        match self.within("the name of the server was not resolved", found).await? {
            Ok(addresses) => Ok(addresses.collect()),
            Err(cause) => Err(unknown_host(self.host).source(cause)),
        }
    }

    /// Connects to the first address that accepts.
    ///
    /// # Errors
    ///
    /// `Unavailable` or `Timeout`.
    pub async fn connect(&self, addresses: &[SocketAddr]) -> Result<TcpStream> {
        let connected = self.within("no TCP connection", TcpStream::connect(addresses)).await?;
        connected.map_err(|cause| unreached(&cause).source(cause))
    }

    /// Performs the TLS handshake.
    ///
    /// # Errors
    ///
    /// Those of [`fault`]; `Unavailable` or `Timeout` if the connection ends before the handshake does.
    pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        name: ServerName<'static>,
        tls: &Tls,
        stream: S,
    ) -> Result<TlsStream<S>> {
        let connector = TlsConnector::from(Arc::clone(&tls.config));
        let done = self.within("no TLS handshake", connector.connect(name, stream)).await?;
        done.map_err(|cause| match cause.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(of_tls) => fault(of_tls, &tls.handshakes, Retry::Always),
            None => unreached(&cause).source(cause),
        })
    }

    /// Runs the steps of name and TCP, `steps` by name, and adds each to `probe`. `None` if one failed.
    pub async fn probe_tcp(&self, steps: [&'static str; 2], probe: &mut Probe) -> Option<TcpStream> {
        let [dns, tcp] = steps;
        let (host, port) = (self.host, self.port);
        let role = if self.is_proxy { "the proxy " } else { "" };
        let addresses = match self.resolve().await {
            Ok(addresses) => addresses,
            Err(error) => return probe.fail(dns, self.advised(error)).and(None),
        };
        let found = match host.parse::<IpAddr>() {
            Ok(_) => format!("{role}{host} is an address: no name is looked up"),
            Err(_) => format!("{role}{host} is {}", shown(&addresses)),
        };
        probe.pass(dns, found);
        match self.connect(&addresses).await {
            Ok(stream) => {
                let peer = stream.peer_addr().map_or_else(|_| format!("{host}:{port}"), |at| at.to_string());
                probe.pass(tcp, format!("connected to {role}{peer}"));
                Some(stream)
            }
            Err(error) => {
                let error = self.advised(error.context("server", shown(&addresses)));
                probe.fail(tcp, error).and(None)
            }
        }
    }

    /// Runs the step of TLS, `step` by name, and adds it to `probe`: the version, the certificates and their dates.
    /// `None` if it failed.
    pub async fn probe_tls<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        step: &'static str,
        name: ServerName<'static>,
        tls: &Tls,
        stream: S,
        probe: &mut Probe,
    ) -> Option<TlsStream<S>> {
        let shown_name = name.to_str().into_owned();
        match self.handshake(name, tls, stream).await {
            Ok(stream) => {
                report(step, stream.get_ref().1, &tls.handshakes, probe);
                Some(stream)
            }
            Err(error) => probe.fail(step, error.context("TLS server name", shown_name)).and(None),
        }
    }

    fn advised(&self, error: Error) -> Error {
        let error = if self.is_proxy { error.context("proxy", self.host) } else { error };
        match self.to_do {
            Some(to_do) => error.context("to do", to_do),
            None => error,
        }
    }

    async fn within<T>(&self, what: &str, step: impl Future<Output = T>) -> Result<T> {
        tokio::time::timeout(self.limit, step).await.map_err(|_elapsed| {
            let setting = self.limit_setting.map_or_else(String::new, |name| format!(" ({name})"));
            Error::new(ErrorKind::Timeout, format!("{what} within {:?}{setting}", self.limit))
                .retry(Retry::Always)
        })
    }
}

/// The error for a host without an address.
pub fn unknown_host(host: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the name {host:?} could not be resolved"))
        .retry(Retry::Always)
}

/// The error for a connection that ended before the handshake did.
fn unreached(cause: &io::Error) -> Error {
    let message = match cause.kind() {
        io::ErrorKind::ConnectionRefused => "the connection was refused: nothing listens there",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "there is no route to the host",
        _ => "the connection was closed during the handshake: check that a server with TLS listens there",
    };
    Error::new(ErrorKind::Unavailable, message).retry(Retry::Always)
}

fn shown(addresses: &[SocketAddr]) -> String {
    let more = if addresses.len() > ADDRESSES { ", …" } else { "" };
    let shown: Vec<_> = addresses.iter().take(ADDRESSES).map(|address| address.ip().to_string()).collect();
    shown.join(", ") + more
}

/// Adds what a handshake has shown.
fn report(step: &'static str, session: &ClientConnection, handshakes: &Handshakes, probe: &mut Probe) {
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "TLS",
    };
    let suite = session.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
    let group = session.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()));
    let group = group.unwrap_or_else(|| "an unknown key exchange".to_owned());
    let is_post_quantum = group.contains("MLKEM");
    let quantum = if is_post_quantum { "post-quantum" } else { "not post-quantum" };
    let suite = suite.unwrap_or_else(|| "an unknown cipher suite".to_owned());
    let module = crypto::module();
    probe.pass(step, format!("{version}, {suite}, key exchange {group} ({quantum}), by {module}"));
    probe.key_exchanges.push(KeyExchange::new(step, group, is_post_quantum));

    let ca = handshakes.names.ca;
    let verified = match handshakes.trust {
        _ if handshakes.is_pinned() => format!("pinned by {ca}"),
        Trust::Settings => format!("verified with {ca}"),
        Trust::System => "verified with the CAs of the operating system".to_owned(),
        Trust::Unverified => "not verified".to_owned(),
    };
    let server = session.peer_certificates().and_then(<[_]>::first);
    let certificate = server.and_then(|der| Described::of(der)).map_or_else(
        || "certificate unreadable".to_owned(),
        |leaf| {
            format!(
                "certificate {} issued by {}, for {}, valid from {} to {}",
                leaf.subject,
                leaf.issuer,
                leaf.shown_names(),
                date(leaf.not_before),
                date(leaf.not_after)
            )
        },
    );
    probe.pass(step, format!("{certificate}, {verified}"));
    if handshakes.trust == Trust::Unverified {
        probe.warn(
            step,
            "the server's certificate is not verified: an attacker on the network can read every key",
        );
    }
    for warning in
        [server, handshakes.identity.as_ref()].into_iter().flatten().filter_map(|der| ends_soon(der))
    {
        probe.warn(step, warning);
    }
    if handshakes.has_been_asked() {
        let client = handshakes.names.client;
        let answer = match handshakes.identity.as_deref().and_then(Described::of) {
            Some(ours) => format!("gets {} of {client}, which ends {}", ours.subject, date(ours.not_after)),
            None if handshakes.has_identity => format!("gets the one of {client}"),
            None => format!("gets none: {client} is not set"),
        };
        probe.pass(step, format!("the server asks for a client certificate and {answer}"));
    }
}
