//! One TLS connection to a server, for one exchange at a time.

use std::{
    fmt,
    future::Future,
    io,
    task::{Context, Poll, Waker},
    time::Duration,
};

use kms_core::{Error, ErrorKind, Result, Retry};
use rustls::{ProtocolVersion, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tracing::debug;
use zeroize::Zeroizing;

use crate::{
    error::{is_end, malformed, timed_out, transport},
    ttlv::{HEADER, kind, tag},
};

/// The address of a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Endpoint {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Limits of time, connections and size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The time limit of each of name resolution, TCP connection and TLS handshake.
    pub(crate) connect: Duration,
    /// The time limit of a whole response.
    pub(crate) read: Option<Duration>,
    /// The time limit for sending a request.
    pub(crate) write: Option<Duration>,
    /// How long to keep an idle connection.
    pub(crate) idle: Duration,
    /// The maximum number of open connections.
    pub(crate) connections: usize,
    /// The maximum size of a response, in bytes.
    pub(crate) response: usize,
}

/// The TLS version and the server certificate of a handshake.
#[derive(Clone, Debug)]
pub(crate) struct Handshake {
    pub(crate) tls: &'static str,
    pub(crate) certificate: Option<Vec<u8>>,
}

/// A failed exchange.
pub(crate) struct Broken {
    pub(crate) error: Error,
    /// Whether the server may have received the whole request.
    pub(crate) sent: bool,
    /// Whether the connection was closed before the first byte of a response.
    pub(crate) closed: bool,
    /// Whether the response is larger than the limit.
    pub(crate) too_large: bool,
}

impl Broken {
    /// A failure before anything was sent.
    pub(crate) fn unsent(error: Error) -> Self {
        Self { error, sent: false, closed: false, too_large: false }
    }
}

/// An open connection.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    idle_since: Instant,
}

impl Connection {
    /// How long no request has used the connection.
    pub(crate) fn idle_time(&self) -> Duration {
        self.idle_since.elapsed()
    }

    /// Whether the connection still looks open. Sends nothing.
    ///
    /// `false` if the server has closed the connection, or if bytes have arrived while it was idle: the client would
    /// take them for the response to the next request.
    pub(crate) fn is_healthy(&mut self, limits: &Limits) -> bool {
        if self.idle_time() >= limits.idle {
            return false;
        }
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        let stream = std::pin::Pin::new(&mut self.stream);
        matches!(stream.poll_read(&mut context, &mut buffer), Poll::Pending)
    }

    /// Connects to the server and performs the TLS handshake.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        server_name: ServerName<'static>,
        connector: &TlsConnector,
        limit: Duration,
    ) -> Result<(Self, Handshake)> {
        let Endpoint { host, port } = endpoint;
        let within = |what: &str| timed_out(what, limit, "KMIP_CONNECT_TIMEOUT", Retry::Always);
        let resolved = tokio::time::timeout(limit, tokio::net::lookup_host((host.as_str(), *port))).await;
        let addresses: Vec<_> = match resolved {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(cause)) => {
                let message = format!("the name {host:?} could not be resolved");
                return Err(Error::new(ErrorKind::Unavailable, message).retry(Retry::Always).source(cause));
            }
            Err(_) => return Err(within("the name of the server was not resolved")),
        };
        let tcp = match tokio::time::timeout(limit, TcpStream::connect(addresses.as_slice())).await {
            Ok(Ok(tcp)) => tcp,
            Ok(Err(cause)) => return Err(transport(&cause, false)),
            Err(_) => return Err(within("no TCP connection")),
        };
        // A request is one small segment, and we wait for its response, so Nagle's algorithm would only delay it.
        tcp.set_nodelay(true).map_err(|cause| transport(&cause, false))?;
        let handshake = connector.connect(server_name, tcp);
        let stream = match tokio::time::timeout(limit, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(cause)) => return Err(transport(&cause, false)),
            Err(_) => return Err(within("no TLS handshake")),
        };
        let (_, session) = stream.get_ref();
        let seen = Handshake {
            tls: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
                Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
                _ => "TLS",
            },
            certificate: session
                .peer_certificates()
                .and_then(<[_]>::first)
                .map(|certificate| certificate.as_ref().to_vec()),
        };
        debug!(server = %endpoint, tls = seen.tls, "connected");
        Ok((Self { stream, idle_since: Instant::now() }, seen))
    }

    /// Sends a request, and receives its response.
    pub(crate) async fn exchange(
        &mut self,
        request: &[u8],
        limits: &Limits,
    ) -> Result<Zeroizing<Vec<u8>>, Broken> {
        let stream = &mut self.stream;
        let write = async {
            stream.write_all(request).await?;
            stream.flush().await
        };
        match limited(limits.write, write).await {
            Some(Ok(())) => {}
            Some(Err(cause)) => {
                // The server may have sent an alert, which says more about the cause.
                let mut byte = [0];
                let waiting = limited(Some(Duration::from_millis(100)), stream.read(&mut byte)).await;
                let cause = match waiting {
                    Some(Err(better)) if !is_end(&better) => better,
                    _ => cause,
                };
                let closed = is_end(&cause);
                return Err(Broken {
                    error: transport(&cause, false),
                    sent: false,
                    closed,
                    too_large: false,
                });
            }
            None => {
                let limit = limits.write.unwrap_or_default();
                let error = timed_out(
                    "the server has not read the request",
                    limit,
                    "WRITE_TIMEOUT",
                    Retry::IfIdempotent,
                );
                return Err(Broken { error, sent: true, closed: false, too_large: false });
            }
        }
        match limited(limits.read, receive(stream, limits.response)).await {
            Some(result) => {
                self.idle_since = Instant::now();
                result
            }
            None => {
                let limit = limits.read.unwrap_or_default();
                let error = timed_out("no response", limit, "READ_TIMEOUT", Retry::IfIdempotent);
                Err(Broken { error, sent: true, closed: false, too_large: false })
            }
        }
    }
}

/// Receives one frame. Compares the announced length with the limit before it allocates anything.
async fn receive(stream: &mut TlsStream<TcpStream>, limit: usize) -> Result<Zeroizing<Vec<u8>>, Broken> {
    let mut header = [0; HEADER];
    let mut filled = 0;
    while let Some(rest) = header.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let closed = filled == 0;
        match stream.read(rest).await {
            Ok(0) => return Err(ended(&io::ErrorKind::UnexpectedEof.into(), closed, filled)),
            Ok(read) => filled += read,
            Err(cause) => return Err(ended(&cause, closed, filled)),
        }
    }
    let wrong = |error: Error| Broken {
        error: error.retry(Retry::IfIdempotent),
        sent: true,
        closed: false,
        too_large: false,
    };
    let [first, second, third, kind, length @ ..] = header;
    let is_response = u32::from_be_bytes([0, first, second, third]) == tag::RESPONSE_MESSAGE;
    if !is_response || kind != kind::STRUCTURE {
        return Err(wrong(malformed("it does not begin like a KMIP response")));
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > limit {
        // The next response would be as large.
        let error = Error::new(
            ErrorKind::Protocol,
            "the server's response is larger than KMIP_MAX_RESPONSE_SIZE: raise KMIP_MAX_RESPONSE_SIZE (at most \
             67108864 bytes)",
        )
        .context("announced", length.to_string())
        .context("limit", limit.to_string());
        return Err(Broken { error, sent: true, closed: false, too_large: true });
    }
    let mut frame = Zeroizing::new(vec![0; HEADER + length]);
    let (head, body) = frame.split_at_mut(HEADER);
    head.copy_from_slice(&header);
    match stream.read_exact(body).await {
        Ok(_) => Ok(frame),
        Err(cause) => Err(ended(&cause, false, HEADER)),
    }
}

/// The error for a connection that ended while a response was read.
fn ended(cause: &io::Error, closed: bool, received: usize) -> Broken {
    let end = is_end(cause);
    let error = if end && !closed {
        Error::new(ErrorKind::Unavailable, "the connection was closed in the middle of the response")
            .retry(Retry::IfIdempotent)
            .context("received", format!("{received} bytes or more"))
    } else {
        transport(cause, true)
    };
    Broken { error, sent: true, closed: closed && end, too_large: false }
}

/// Runs `work` within `limit`; `None` if it takes longer.
async fn limited<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await.ok(),
        None => Some(work.await),
    }
}
