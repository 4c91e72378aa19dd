//! A proxy in front of a real server, which a test lets respond in the server's place.

use std::{fmt, net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result};
use reqwest::{Client, Method, redirect::Policy};
use tokio::task::JoinHandle;

use super::{Interferer, Request, Response, wire};
use crate::servers::pki::{Identity, Pki};

/// Headers that belong to one connection.
const OF_THE_CONNECTION: [&str; 4] = ["connection", "content-length", "host", "transfer-encoding"];

/// A proxy in cleartext on a free port of the loopback. Dropping it stops it.
pub struct Forwarder {
    address: SocketAddr,
    interferer: Arc<Interferer>,
    serving: JoinHandle<()>,
}

impl Forwarder {
    /// Starts a proxy in front of the server at `upstream` (`https://host:port`) that trusts `ca` (PEM) and shows
    /// `identity`.
    ///
    /// # Errors
    ///
    /// If no port is free, or the PEM does not parse.
    pub async fn start(upstream: &str, ca: &str, identity: Option<&Identity>) -> Result<Self> {
        let (listener, address) = wire::bind().await.context("find a free port")?;
        let client = Client::builder()
            .tls_backend_preconfigured(Pki::client_config(ca, identity)?)
            .no_proxy()
            .redirect(Policy::none())
            .build()?;
        let interferer = Arc::new(Interferer::new());
        let service = Passing { client, upstream: upstream.to_owned(), interferer: Arc::clone(&interferer) };
        Ok(Self { address, interferer, serving: wire::serve(listener, None, Arc::new(service)) })
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The switch that replaces responses.
    pub fn interferer(&self) -> Arc<Interferer> {
        Arc::clone(&self.interferer)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, interferer: _, serving: _ } = self;
        f.debug_struct("Forwarder").field("address", address).finish_non_exhaustive()
    }
}

struct Passing {
    client: Client,
    upstream: String,
    interferer: Arc<Interferer>,
}

impl Passing {
    async fn pass(&self, request: Request) -> Result<Response> {
        let passes = |name: &str| !OF_THE_CONNECTION.iter().any(|own| own.eq_ignore_ascii_case(name));
        let url = format!("{}{}", self.upstream, request.path);
        let mut sent = self.client.request(Method::from_bytes(request.method.as_bytes())?, url);
        for (name, value) in request.headers.iter().filter(|(name, _)| passes(name)) {
            sent = sent.header(name, value);
        }
        let found = sent.body(request.body).send().await?;
        let mut response = Response::status(found.status().as_u16());
        for (name, value) in found.headers().iter().filter(|(name, _)| passes(name.as_str())) {
            response = response.header(name.as_str(), value.to_str()?);
        }
        Ok(response.body(found.bytes().await?.to_vec()))
    }
}

impl wire::Service for Passing {
    fn connected(&self) -> usize {
        0
    }

    async fn respond(&self, request: Request) -> Option<Response> {
        match self.interferer.response(&request) {
            Some(response) => Some(response),
            None => self.pass(request).await.ok(),
        }
    }
}
