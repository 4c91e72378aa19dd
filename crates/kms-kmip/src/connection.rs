//! One TLS connection to a server, for one exchange at a time.

use std::{
    fmt,
    future::Future,
    io,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use kms_core::{Error, ErrorKind, Probe, Result, Retry};
use kms_tls::{Handshakes, Peer, Tls};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::client::TlsStream;
use tracing::debug;
use zeroize::Zeroizing;

use crate::{
    error::{Step, is_end, malformed, timed_out, transport},
    ttlv::{HEADER, kind, tag},
};

/// The steps of a probe until the connection is open.
pub(crate) const STEPS: [&str; 3] = ["dns", "tcp", "tls"];

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

impl Endpoint {
    fn peer(&self, limit: Duration) -> Peer<'_> {
        Peer::new(&self.host, self.port, limit)
            .with_limit_setting("KMIP_CONNECT_TIMEOUT")
            .with_advice("check KMIP_ENDPOINT, and from this host or pod the DNS and the firewall")
    }
}

/// A request is one small segment, and we wait for its response, so Nagle's algorithm would only delay it.
fn in_small_segments(tcp: TcpStream) -> TcpStream {
    if let Err(cause) = tcp.set_nodelay(true) {
        debug!(%cause, "requests are sent with Nagle's algorithm");
    }
    tcp
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

/// A failed exchange.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) error: Error,
    /// Whether the server may have received the whole request, and so may have acted on it.
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
    handshakes: Arc<Handshakes>,
    idle_since: Instant,
    /// The number of requests that the server has answered on this connection.
    answers: u32,
}

impl Connection {
    /// How long no request has used the connection.
    pub(crate) fn idle_time(&self) -> Duration {
        self.idle_since.elapsed()
    }

    /// The number of requests that the server has answered on this connection.
    pub(crate) fn answers(&self) -> u32 {
        self.answers
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
        tls: &Tls,
        limit: Duration,
    ) -> Result<Self> {
        let peer = endpoint.peer(limit);
        let tcp = peer.connect(&peer.resolve().await?).await?;
        let stream = peer.handshake(server_name, tls, in_small_segments(tcp)).await?;
        debug!(server = %endpoint, "connected");
        Ok(Self::over(stream, tls))
    }

    /// Like [`open`](Self::open); adds each step to `probe`. `None` if one failed.
    pub(crate) async fn probe(
        endpoint: &Endpoint,
        server_name: ServerName<'static>,
        tls: &Tls,
        limit: Duration,
        probe: &mut Probe,
    ) -> Option<Self> {
        let [dns, tcp, of_tls] = STEPS;
        let peer = endpoint.peer(limit);
        let stream = in_small_segments(peer.probe_tcp([dns, tcp], probe).await?);
        let stream = peer.probe_tls(of_tls, server_name, tls, stream, probe).await?;
        Some(Self::over(stream, tls))
    }

    fn over(stream: TlsStream<TcpStream>, tls: &Tls) -> Self {
        Self { stream, handshakes: Arc::clone(&tls.handshakes), idle_since: Instant::now(), answers: 0 }
    }

    /// Sends a request, and receives its response.
    pub(crate) async fn exchange(
        &mut self,
        request: &[u8],
        limits: &Limits,
    ) -> Result<Zeroizing<Vec<u8>>, Broken> {
        let frame = exchange(&mut self.stream, request, limits, &self.handshakes).await?;
        self.idle_since = Instant::now();
        self.answers = self.answers.saturating_add(1);
        Ok(frame)
    }
}

/// Sends a request on a stream, and receives its response.
async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &[u8],
    limits: &Limits,
    handshakes: &Handshakes,
) -> Result<Zeroizing<Vec<u8>>, Broken> {
    let write = async {
        stream.write_all(request).await?;
        stream.flush().await
    };
    // A server acts on whole requests only, so a request that has not left us entirely has no effect.
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
            return Err(Broken {
                error: transport(&cause, Step::Request, handshakes),
                sent: false,
                closed: is_end(&cause),
                too_large: false,
            });
        }
        None => {
            let limit = limits.write.unwrap_or_default();
            let what = "the server has not read the request";
            return Err(Broken::unsent(timed_out(what, limit, "WRITE_TIMEOUT", Retry::Always)));
        }
    }
    match limited(limits.read, receive(stream, limits.response, handshakes)).await {
        Some(result) => result,
        None => {
            let limit = limits.read.unwrap_or_default();
            let error = timed_out("no response", limit, "READ_TIMEOUT", Retry::IfIdempotent);
            Err(Broken { error, sent: true, closed: false, too_large: false })
        }
    }
}

/// Receives one frame. Compares the announced length with the limit before it allocates anything.
async fn receive(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
    handshakes: &Handshakes,
) -> Result<Zeroizing<Vec<u8>>, Broken> {
    let mut header = [0; HEADER];
    let mut filled = 0;
    while let Some(rest) = header.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let closed = filled == 0;
        match stream.read(rest).await {
            Ok(0) => return Err(ended(&io::ErrorKind::UnexpectedEof.into(), closed, filled, handshakes)),
            Ok(read) => filled += read,
            Err(cause) => return Err(ended(&cause, closed, filled, handshakes)),
        }
    }
    let wrong = |error: Error| Broken {
        error: error.retry(Retry::IfIdempotent),
        sent: true,
        closed: false,
        too_large: false,
    };
    let [first, second, third, kind, length @ ..] = header;
    if header.starts_with(b"HTTP/") {
        return Err(wrong(malformed(
            "it is one of HTTP, so a web server or a proxy has answered; check host and port in KMIP_ENDPOINT",
        )));
    }
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
        Err(cause) => Err(ended(&cause, false, HEADER, handshakes)),
    }
}

/// The error for a connection that ended while a response was read.
fn ended(cause: &io::Error, closed: bool, received: usize, handshakes: &Handshakes) -> Broken {
    let end = is_end(cause);
    let error = if end && !closed {
        Error::new(ErrorKind::Unavailable, "the connection was closed in the middle of the response")
            .retry(Retry::IfIdempotent)
            .context("received", format!("{received} bytes or more"))
    } else {
        transport(cause, Step::Response, handshakes)
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

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const REQUEST: [u8; 4096] = [7; 4096];

    fn limits() -> Limits {
        let second = Duration::from_secs(1);
        Limits {
            connect: second,
            read: Some(second),
            write: Some(second),
            idle: second,
            connections: 1,
            response: 1024,
        }
    }

    /// Sends a request to `peer` through a pipe that holds `buffer` bytes.
    async fn against<F>(buffer: usize, peer: impl FnOnce(DuplexStream) -> F) -> Broken
    where
        F: Future<Output = ()>,
    {
        let (mut ours, theirs) = duplex(buffer);
        let (limits, none) = (limits(), Handshakes::default());
        let (result, ()) = tokio::join!(exchange(&mut ours, &REQUEST, &limits, &none), peer(theirs));
        result.expect_err("no response is complete")
    }

    /// Reads the whole request, responds with `response`, and returns the stream.
    async fn answer(mut stream: DuplexStream, response: &[u8]) -> DuplexStream {
        stream.read_exact(&mut [0; REQUEST.len()]).await.unwrap();
        stream.write_all(response).await.unwrap();
        stream
    }

    /// The header of a response with 16 bytes, and half of them.
    const HALF: &[u8] = b"\x42\x00\x7b\x01\0\0\0\x1012345678";

    /// What is known about the request: (arrived, closed without a response, may be repeated).
    fn outcome(broken: &Broken) -> (bool, bool, Retry) {
        (broken.sent, broken.closed, broken.error.retryable())
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_the_server_does_not_read_has_no_effect_and_may_be_repeated() {
        let reads_nothing = |stream| async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(stream);
        };
        let broken = against(512, reads_nothing).await;
        assert_eq!(outcome(&broken), (false, false, Retry::Always));
        assert_eq!(broken.error.kind(), ErrorKind::Timeout);
        assert!(broken.error.to_string().contains("WRITE_TIMEOUT"), "{}", broken.error);
        // The server reads half of the request, and closes.
        let reads_half = |mut stream: DuplexStream| async move {
            stream.read_exact(&mut [0; REQUEST.len() / 2]).await.unwrap();
        };
        let broken = against(512, reads_half).await;
        assert_eq!(outcome(&broken), (false, true, Retry::Always));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_whole_request_the_outcome_is_unknown_however_the_response_fails() {
        let big = 2 * REQUEST.len();
        let closed = against(big, |stream| async { drop(answer(stream, b"").await) }).await;
        assert_eq!(outcome(&closed), (true, true, Retry::IfIdempotent));
        for (response, what) in [(&HALF[..4], "cut in the header"), (HALF, "cut in the body")] {
            let cut = against(big, |stream| async { drop(answer(stream, response).await) }).await;
            assert_eq!(outcome(&cut), (true, false, Retry::IfIdempotent), "{what}");
            assert_eq!(cut.error.kind(), ErrorKind::Unavailable, "{what}");
        }
        for (response, what) in [(&b""[..], "silent"), (&HALF[..4], "stalled"), (HALF, "half")] {
            let stalls = |stream| async {
                let stream = answer(stream, response).await;
                tokio::time::sleep(Duration::from_secs(60)).await;
                drop(stream);
            };
            let stalled = against(big, stalls).await;
            assert_eq!(outcome(&stalled), (true, false, Retry::IfIdempotent), "{what}");
            assert_eq!(stalled.error.kind(), ErrorKind::Timeout, "{what}");
        }
    }
}
