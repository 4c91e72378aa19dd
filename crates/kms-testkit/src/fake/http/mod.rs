//! A small HTTP/1.1 server that sends responses byte by byte as a test scripts them.
//!
//! It listens on a free port of the loopback, in cleartext or with TLS. It knows no API, only which bytes to send and when to stop.
//!
//! ```
//! use kms_testkit::fake::http::{HttpServer, Response};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let server = HttpServer::scripted([
//!     Response::too_many_requests(Some("7")),
//!     Response::json(200, r#"{"data": {"key": "va"#).promising(4096).close_after(20),
//!     Response::json(200, r#"{"data": {}}"#),
//! ])
//! .await?;
//! // Point the client at `server.url()`, let it work, and then:
//! assert_eq!(server.requests().len(), 0);
//! # Ok(())
//! # }
//! ```

mod forwarder;
mod interferer;
mod response;
pub(super) mod wire;

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{sync::watch, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

use crate::servers::pki::{Identity, server_config};

pub use self::{
    forwarder::Forwarder,
    interferer::{Interferer, common_habits},
    response::{Gate, Response},
    wire::Request,
};

type Handler = Box<dyn FnMut(&Request) -> Response + Send>;

struct Shared {
    handler: Mutex<Handler>,
    requests: watch::Sender<Vec<Request>>,
    connections: watch::Sender<usize>,
}

impl wire::Service for Shared {
    fn connected(&self) -> usize {
        let mut number = 0;
        self.connections.send_modify(|count| {
            *count += 1;
            number = *count;
        });
        number
    }

    async fn respond(&self, request: Request) -> Option<Response> {
        // A panic of the handler fails its test; other requests to the server still get their responses.
        let response = (self.handler.lock().unwrap_or_else(PoisonError::into_inner))(&request);
        self.requests.send_modify(|requests| requests.push(request));
        if let Some(gate) = &response.gate {
            gate.passed().await;
        }
        Some(response)
    }
}

/// The server. Dropping it stops it and ends its connections.
pub struct HttpServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl HttpServer {
    /// Starts a server that calls `handler` for each request, one at a time.
    ///
    /// # Errors
    ///
    /// If no port is free.
    pub async fn start(handler: impl FnMut(&Request) -> Response + Send + 'static) -> io::Result<Self> {
        Self::serve(None, handler).await
    }

    /// Starts a server with TLS that shows `identity` and, if `client_ca` is set, demands client certificates of that CA
    /// (PEM). It calls `handler` for each request, one at a time.
    ///
    /// # Errors
    ///
    /// If no port is free, or if the PEM does not parse.
    pub async fn start_tls(
        identity: &Identity,
        client_ca: Option<&str>,
        handler: impl FnMut(&Request) -> Response + Send + 'static,
    ) -> io::Result<Self> {
        let config = server_config(identity, client_ca).map_err(io::Error::other)?;
        Self::serve(Some(TlsAcceptor::from(Arc::new(config))), handler).await
    }

    async fn serve(
        tls: Option<TlsAcceptor>,
        handler: impl FnMut(&Request) -> Response + Send + 'static,
    ) -> io::Result<Self> {
        let (listener, address) = wire::bind().await?;
        let shared = Arc::new(Shared {
            handler: Mutex::new(Box::new(handler)),
            requests: watch::Sender::default(),
            connections: watch::Sender::default(),
        });
        Ok(Self { address, serving: wire::serve(listener, tls, Arc::clone(&shared)), shared })
    }

    /// Starts a server that sends these responses in turn, whatever the request; it repeats the last one.
    ///
    /// # Errors
    ///
    /// If no port is free.
    ///
    /// # Panics
    ///
    /// If the script is empty.
    pub async fn scripted(responses: impl IntoIterator<Item = Response>) -> io::Result<Self> {
        let mut responses = responses.into_iter().collect::<Vec<_>>().into_iter();
        let mut last = None;
        assert!(responses.len() > 0, "a script needs a response");
        Self::start(move |_| {
            last = responses.next().or_else(|| last.take());
            last.clone().expect("the script has a response")
        })
        .await
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests so far, in the order in which they were complete.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.borrow().clone()
    }

    /// The number of connections so far.
    pub fn connections(&self) -> usize {
        *self.shared.connections.borrow()
    }

    /// Waits until at least `count` requests have arrived, and returns them.
    pub async fn wait_for_requests(&self, count: usize) -> Vec<Request> {
        let mut requests = self.shared.requests.subscribe();
        let requests = requests.wait_for(|requests| requests.len() >= count).await;
        requests.expect("the sender is in this struct").clone()
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl fmt::Debug for HttpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, shared: _, serving: _ } = self;
        f.debug_struct("HttpServer").field("address", address).finish_non_exhaustive()
    }
}
