//! Connections to one server, and requests over them.

use std::{
    fmt,
    future::Future,
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use kms_core::{Error, ErrorKind, Result, Retry};
use rustls::{ProtocolVersion, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    sync::{OnceCell, Semaphore},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tracing::debug;
use zeroize::Zeroizing;

use crate::{
    api::{self, Operation, Version},
    error::{Class, Fault, is_end, malformed, timed_out, transport},
    ttlv::{Field, HEADER, Item, tag},
};

/// Where the server is.
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

/// How long things may take, and how much of them there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connect: Duration,
    pub(crate) read: Option<Duration>,
    pub(crate) write: Option<Duration>,
    pub(crate) idle: Duration,
    pub(crate) connections: usize,
    pub(crate) response: usize,
}

/// What was seen of the server in the last handshake.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) tls: &'static str,
    pub(crate) certificate: Option<Vec<u8>>,
}

struct Connection {
    stream: TlsStream<TcpStream>,
    idle_since: Instant,
}

impl Connection {
    /// Whether it is still open, as far as can be told without sending anything.
    ///
    /// A server that closes an idle connection has told so by now, and nothing else may have come: an answer that
    /// nobody waits for would be taken for that of the next request.
    fn is_healthy(&mut self, limits: &Limits) -> bool {
        if self.idle_since.elapsed() >= limits.idle {
            return false;
        }
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        let stream = std::pin::Pin::new(&mut self.stream);
        matches!(stream.poll_read(&mut context, &mut buffer), Poll::Pending)
    }
}

/// How an exchange failed.
struct Broken {
    error: Error,
    /// Whether the server may have the whole request.
    sent: bool,
    /// Whether the connection ended before the first byte of an answer.
    closed: bool,
}

/// A server, its connections, and the version that is spoken with it.
pub(crate) struct Client {
    pub(crate) endpoint: Endpoint,
    pub(crate) server_name: ServerName<'static>,
    pub(crate) limits: Limits,
    connector: TlsConnector,
    /// Idle ones, the one that was used last at the end.
    idle: Mutex<Vec<Connection>>,
    slots: Semaphore,
    version: OnceCell<Version>,
    /// Whether the server has ever answered.
    answered: AtomicBool,
    seen: Mutex<Option<Seen>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            endpoint,
            server_name,
            limits,
            connector: _,
            idle: _,
            slots: _,
            version,
            answered: _,
            seen: _,
        } = self;
        f.debug_struct("Client")
            .field("endpoint", endpoint)
            .field("server_name", server_name)
            .field("limits", limits)
            .field("version", &version.get())
            .finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) fn new(
        endpoint: Endpoint,
        server_name: ServerName<'static>,
        connector: TlsConnector,
        limits: Limits,
        version: Option<Version>,
    ) -> Self {
        Self {
            endpoint,
            server_name,
            limits,
            connector,
            idle: Mutex::default(),
            slots: Semaphore::new(limits.connections),
            version: OnceCell::new_with(version),
            answered: AtomicBool::new(false),
            seen: Mutex::default(),
        }
    }

    /// The version that is spoken: given, or negotiated once.
    pub(crate) async fn version(&self) -> Result<Version> {
        self.version.get_or_try_init(|| self.negotiate()).await.copied()
    }

    /// What was seen in the last handshake.
    pub(crate) fn seen(&self) -> Option<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a request and reads its answer with `read`.
    pub(crate) async fn call<'a, T>(
        &self,
        operation: Operation,
        payload: impl FnOnce(Version) -> Vec<Field<'a>>,
        read: impl FnOnce(&Item<'_>) -> Result<T>,
    ) -> Result<T, Fault> {
        let version = self.version().await?;
        self.call_at(version, operation, payload(version), read).await
    }

    async fn call_at<T>(
        &self,
        version: Version,
        operation: Operation,
        payload: Vec<Field<'_>>,
        read: impl FnOnce(&Item<'_>) -> Result<T>,
    ) -> Result<T, Fault> {
        let mut batch_id = [0; 16];
        getrandom::fill(&mut batch_id).map_err(|cause| {
            Error::new(ErrorKind::Unexpected, "the operating system gave no random bytes")
                .context("cause", cause.to_string())
        })?;
        let request = api::request(version, operation, &batch_id, payload);
        let frame = self.exchange(&request, operation.is_idempotent()).await.map_err(|broken| Fault {
            class: if broken.closed { Class::Closed } else { Class::Other },
            error: self.located(broken.error).context("request", operation.as_str()),
        })?;
        drop(request);
        let result = api::response(&frame, operation, &batch_id).and_then(|payload| Ok(read(&payload)?));
        result.map_err(|mut fault| {
            // The server has answered, so the outcome is known, unless the answer makes no sense.
            if fault.class == Class::Other && !operation.is_idempotent() {
                fault.error = fault.error.retry(Retry::IfIdempotent);
            }
            Fault { error: self.located(fault.error), ..fault }
        })
    }

    fn located(&self, error: Error) -> Error {
        error.context("server", self.endpoint.to_string())
    }

    /// Asks which versions the server speaks, and picks the best of those that we do.
    ///
    /// The question itself has to be of some version. A server that refuses 1.4 is asked at 1.1, the oldest that has
    /// the question, and at 2.0 and 2.1; one that refuses them all, or does not know the question, speaks 1.0.
    async fn negotiate(&self) -> Result<Version> {
        let mut closed = None;
        let mut answered = false;
        for asked in [Version::V1_4, Version::V1_1, Version::V2_0, Version::V2_1] {
            let payload = api::discover(&Version::ALL);
            let read = |payload: &Item<'_>| Ok(api::versions(payload));
            match self.call_at(asked, Operation::DiscoverVersions, payload, read).await {
                Ok(theirs) => {
                    return match Version::ALL.iter().find(|ours| theirs.contains(ours)) {
                        Some(version) => {
                            debug!(version = %version, "version negotiated");
                            Ok(*version)
                        }
                        None => Err(self.no_common_version(asked, theirs).await),
                    };
                }
                Err(fault) => match fault.class {
                    Class::NoOperation | Class::Form => answered = true,
                    Class::Closed => {
                        closed.get_or_insert(fault.error);
                    }
                    _ => return Err(fault.error),
                },
            }
        }
        match closed {
            // Not one answer: it is not the version that it does not like.
            Some(error) if !answered => Err(error),
            _ => {
                debug!("the server does not know Discover Versions, so it is taken for one of KMIP 1.0");
                Ok(Version::V1_0)
            }
        }
    }

    async fn no_common_version(&self, asked: Version, mut theirs: Vec<Version>) -> Error {
        if theirs.is_empty() {
            // It has only left out what it does not know.
            theirs = self.versions_at(asked).await.unwrap_or_default();
        }
        let error = Error::new(ErrorKind::Protocol, "the server and we have no KMIP version in common")
            .context("ours", listed(&Version::ALL))
            .context("theirs", listed(&theirs));
        self.located(error)
    }

    /// All versions that the server speaks.
    pub(crate) async fn versions_at(&self, asked: Version) -> Result<Vec<Version>> {
        let read = |payload: &Item<'_>| Ok(api::versions(payload));
        Ok(self.call_at(asked, Operation::DiscoverVersions, Vec::new(), read).await?)
    }

    /// Sends a request and receives its answer, over an idle connection or a new one.
    ///
    /// A request that surely has not arrived, or does no harm when it arrives twice, is sent once more over a new
    /// connection if the old one turns out to be closed: servers close idle connections when they like.
    async fn exchange(&self, request: &[u8], idempotent: bool) -> Result<Zeroizing<Vec<u8>>, Broken> {
        let broken = |error| Broken { error, sent: false, closed: false };
        let slot = self.slots.acquire().await;
        let _slot = slot.map_err(|_closed| {
            broken(Error::new(ErrorKind::Unexpected, "the connections have been closed"))
        })?;
        let mut repeated = false;
        loop {
            let idle = if repeated { None } else { self.healthy() };
            let reused = idle.is_some();
            let mut connection = match idle {
                Some(connection) => connection,
                None => self.connect().await.map_err(broken)?,
            };
            match self.converse(&mut connection, request).await {
                Ok(frame) => {
                    self.answered.store(true, Ordering::Relaxed);
                    connection.idle_since = Instant::now();
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                    return Ok(frame);
                }
                Err(failed) if failed.closed && !repeated && (idempotent || (reused && !failed.sent)) => {
                    debug!(server = %self.endpoint, reused, "the connection was closed; trying a new one");
                    // What was idle beside it is most likely closed as well.
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
                    repeated = true;
                }
                Err(failed) => return Err(self.explained(failed)),
            }
        }
    }

    fn healthy(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(mut connection) = idle.pop() {
            if connection.is_healthy(&self.limits) {
                return Some(connection);
            }
        }
        None
    }

    /// A server that closes a connection without a word most often does not like our certificate: on TLS 1.3 it can
    /// say so only after the handshake is done for us, and some do not say it at all (UP-114).
    fn explained(&self, mut failed: Broken) -> Broken {
        if failed.closed && !self.answered.load(Ordering::Relaxed) {
            failed.error = Error::new(
                ErrorKind::Unauthenticated,
                "the server accepts the connection and closes it without an answer: most often it does not accept \
                 CLIENT_CERT, or knows no user for its name",
            );
        }
        failed
    }

    async fn connect(&self) -> Result<Connection> {
        let Endpoint { host, port } = &self.endpoint;
        let limit = self.limits.connect;
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
        // A request is one small piece and waits for its answer.
        tcp.set_nodelay(true).map_err(|cause| transport(&cause, false))?;
        let handshake = self.connector.connect(self.server_name.clone(), tcp);
        let stream = match tokio::time::timeout(limit, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(cause)) => return Err(transport(&cause, false)),
            Err(_) => return Err(within("no TLS handshake")),
        };
        let (_, session) = stream.get_ref();
        let seen = Seen {
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
        debug!(server = %self.endpoint, tls = seen.tls, "connected");
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        Ok(Connection { stream, idle_since: Instant::now() })
    }

    async fn converse(
        &self,
        connection: &mut Connection,
        request: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Broken> {
        let stream = &mut connection.stream;
        let write = async {
            stream.write_all(request).await?;
            stream.flush().await
        };
        match limited(self.limits.write, write).await {
            Some(Ok(())) => {}
            Some(Err(cause)) => {
                // The alert with which the server turned us away may be waiting to be read.
                let mut byte = [0];
                let waiting = limited(Some(Duration::from_millis(100)), stream.read(&mut byte)).await;
                let cause = match waiting {
                    Some(Err(better)) if !is_end(&better) => better,
                    _ => cause,
                };
                let closed = is_end(&cause);
                return Err(Broken { error: transport(&cause, false), sent: false, closed });
            }
            None => {
                let limit = self.limits.write.unwrap_or_default();
                let error =
                    timed_out("the request was not taken", limit, "WRITE_TIMEOUT", Retry::IfIdempotent);
                return Err(Broken { error, sent: true, closed: false });
            }
        }
        match limited(self.limits.read, receive(stream, self.limits.response)).await {
            Some(result) => result,
            None => {
                let limit = self.limits.read.unwrap_or_default();
                let error = timed_out("no answer", limit, "READ_TIMEOUT", Retry::IfIdempotent);
                Err(Broken { error, sent: true, closed: false })
            }
        }
    }
}

/// Receives one frame. Nothing is allocated before its announced length has been compared with the limit.
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
    let wrong = |error: Error| Broken { error: error.retry(Retry::IfIdempotent), sent: true, closed: false };
    let [first, second, third, kind, length @ ..] = header;
    let is_response = u32::from_be_bytes([0, first, second, third]) == tag::RESPONSE_MESSAGE;
    if !is_response || kind != crate::ttlv::kind::STRUCTURE {
        return Err(wrong(malformed("it does not begin as a KMIP response")));
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > limit {
        let error = malformed("it is announced as larger than KMIP_MAX_RESPONSE_SIZE")
            .context("announced", length.to_string())
            .context("limit", limit.to_string());
        return Err(wrong(error));
    }
    let mut frame = Zeroizing::new(vec![0; HEADER + length]);
    let (head, body) = frame.split_at_mut(HEADER);
    head.copy_from_slice(&header);
    match stream.read_exact(body).await {
        Ok(_) => Ok(frame),
        Err(cause) => Err(ended(&cause, false, HEADER)),
    }
}

fn ended(cause: &io::Error, closed: bool, received: usize) -> Broken {
    let end = is_end(cause);
    let error = if end && !closed {
        Error::new(ErrorKind::Unavailable, "the connection was closed in the middle of the answer")
            .retry(Retry::IfIdempotent)
            .context("received", format!("{received} bytes or more"))
    } else {
        transport(cause, true)
    };
    Broken { error, sent: true, closed: closed && end }
}

async fn limited<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await.ok(),
        None => Some(work.await),
    }
}

pub(crate) fn listed(versions: &[Version]) -> String {
    if versions.is_empty() {
        return "none".to_owned();
    }
    versions.iter().take(16).map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
