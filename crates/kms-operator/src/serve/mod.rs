//! The HTTP server of a replica: metrics, probes and the status page. It only reads, and answers GET and HEAD alone.

mod access;
mod answer;
mod certificate;
mod cluster;

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use self::{access::Gate, answer::Site};
pub use self::{
    access::{Access, Reviewer, Verdict},
    certificate::Certificate,
    cluster::ClusterReviewer,
};
use crate::{metrics::Metrics, source::Source};

/// How many connections are served at a time. Others wait in the queue of the system.
const CONNECTIONS: usize = 64;
/// The largest head of a request, in bytes. A token of a service account has about 1 kB.
const HEAD_BYTES: usize = 16 * 1024;
/// The most header fields of a request.
const HEAD_FIELDS: usize = 64;
/// The time-out for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The time-out for a whole connection, which has one request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait if no connection can be accepted, such as without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves until the future is dropped, which also ends every connection.
///
/// `/livez` and `/readyz` are for everyone; `/metrics` and `/`, the page, for those whom `access` allows. Without a
/// certificate there is no TLS, and tokens cross the network in the clear.
pub async fn serve(
    listener: TcpListener,
    source: Arc<dyn Source>,
    metrics: Metrics,
    access: Access,
    certificate: Option<Certificate>,
) -> Infallible {
    let site = Arc::new(Site::new(source, metrics, Gate::new(access)));
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed, so a permit always comes.
        let permit = Arc::clone(&permits).acquire_owned().await.ok();
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let (site, acceptor) = (Arc::clone(&site), certificate.as_ref().map(Certificate::acceptor));
                drop(connections.spawn(async move {
                    match acceptor {
                        None => connection(stream, site).await,
                        Some(acceptor) => match timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await {
                            Ok(Ok(stream)) => connection(stream, site).await,
                            Ok(Err(cause)) => debug!("a TLS handshake failed: {cause}"),
                            Err(_) => debug!("a TLS handshake took too long"),
                        },
                    }
                    drop(permit);
                }));
            }
            Err(cause) => {
                warn!("no connection is accepted: {cause}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves the one request of a connection.
async fn connection(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, site: Arc<Site>) {
    let respond = service_fn(|request| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(site.respond(&request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEAD_FIELDS)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), respond);
    match timeout(CONNECTION_TIMEOUT, served).await {
        Ok(Ok(())) => (),
        // The error of hyper names what was wrong, and quotes nothing of the request.
        Ok(Err(cause)) => debug!("a connection failed: {cause}"),
        Err(_) => debug!("a connection took longer than {} s", CONNECTION_TIMEOUT.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        task::JoinHandle,
        time::Instant,
    };

    use super::*;
    use crate::test_data::Fixed;

    /// A connection whose other end holds this many bytes.
    fn open(bytes: usize) -> (DuplexStream, JoinHandle<()>) {
        let source: Arc<dyn Source> = Arc::new(Fixed::new());
        let metrics = Metrics::new(Arc::clone(&source));
        let site = Arc::new(Site::new(source, metrics, Gate::new(Access::Everyone)));
        let (ours, theirs) = duplex(bytes);
        (ours, tokio::spawn(connection(theirs, site)))
    }

    async fn ask(request: &str) -> String {
        let (mut stream, served) = open(1 << 20);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // The server closes the connection after one request.
        stream.read_to_string(&mut answer).await.unwrap();
        served.await.unwrap();
        answer
    }

    #[tokio::test]
    async fn head_has_the_length_of_the_body_and_no_body() {
        let get = ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let (head, body) = get.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("connection: close"), "{head}");
        let length = format!("content-length: {}", body.len());
        assert!(body.contains("<h1>Keys of encrypted OSDs</h1>") && head.contains(&length), "{head}");
        let only = ask("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(only.contains(&length) && only.ends_with("\r\n\r\n"), "{only}");
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        for head in [
            format!("x: {}\r\n", "a".repeat(HEAD_BYTES)),
            (0..=HEAD_FIELDS).map(|field| format!("x-{field}: a\r\n")).collect(),
        ] {
            let answer = ask(&format!("GET /livez HTTP/1.1\r\n{head}\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_or_reads_too_slowly_is_cut_off() {
        let began = Instant::now();
        let (mut silent, served) = open(1 << 20);
        silent.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        served.await.unwrap();
        assert_eq!(began.elapsed().as_secs(), HEAD_TIMEOUT.as_secs());
        let began = Instant::now();
        let (mut full, served) = open(100);
        full.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        served.await.unwrap();
        assert_eq!(began.elapsed().as_secs(), CONNECTION_TIMEOUT.as_secs());
    }
}
