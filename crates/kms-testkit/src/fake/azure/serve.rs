//! HTTP/1.1 over TLS for both services.

use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::{Response, body::Bytes, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{net::TcpListener, task::JoinHandle, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use super::{
    Action, Answer, Body, Host,
    world::{Request, World},
};
use crate::servers::Identity;

/// Starts a service, and gives its port.
pub(super) async fn listen(
    host: Host,
    identity: &Identity,
    world: Arc<Mutex<World>>,
) -> Result<(u16, JoinHandle<()>)> {
    let chain = CertificateDer::pem_slice_iter(identity.cert.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("find a free port")?;
    let port = listener.local_addr()?.port();
    lock(&world).ports.insert(host, port);
    let task = tokio::spawn(async move {
        // Dropped with this task, and with it every connection.
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Ok((stream, _)) = listener.accept() => {
                    let (acceptor, world) = (acceptor.clone(), Arc::clone(&world));
                    connections.spawn(async move {
                        stream.set_nodelay(true).ok();
                        // Handshakes that fail are the point of some tests.
                        let Ok(stream) = acceptor.accept(stream).await else { return };
                        lock(&world).counts.of(host).handshakes += 1;
                        let service = service_fn(|request| answer(host, Arc::clone(&world), request));
                        let connection =
                            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                        // A connection ends in an error where a fault wants it to.
                        connection.await.ok();
                    });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    });
    Ok((port, task))
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers a request. An error ends the connection.
async fn answer(
    host: Host,
    world: Arc<Mutex<World>>,
    request: hyper::Request<hyper::body::Incoming>,
) -> io::Result<Response<Full<Bytes>>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let request = Request {
        host,
        method: parts.method.to_string(),
        path: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let action = {
        let mut world = lock(&world);
        world.counts.of(host).requests += 1;
        world.requests.push(request.clone());
        world.faults.iter_mut().find_map(|fault| fault.strikes(&request).then(|| fault.action.clone()))
    };
    match &action {
        Some(Action::LoseRequest) => return Err(io::Error::other("the request is lost")),
        Some(Action::Delay(time)) => tokio::time::sleep(*time).await,
        _ => {}
    }
    let answer = match action.as_ref().and_then(Action::instead) {
        Some(answer) => answer,
        None => {
            let mut world = lock(&world);
            match host {
                Host::Vault if !world.within_rate() => too_many(world.switches.retry_after),
                Host::Vault => world.vault(&request),
                Host::Entra => world.entra(&request),
            }
        }
    };
    match &action {
        Some(Action::DelayAnswer(time)) => tokio::time::sleep(*time).await,
        Some(Action::Meet(all)) => {
            all.wait().await;
        }
        _ => {}
    }
    let answer = match &action {
        Some(Action::LoseAnswer) => return Err(io::Error::other("the answer is lost")),
        Some(action) => action.spoil(answer),
        None => answer,
    };
    Ok(written(answer))
}

/// What a vault says to too many requests.
fn too_many(retry_after: Option<&'static str>) -> Answer {
    let message = "Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached";
    let answer = super::vault::refused(429, "Throttled", message, None);
    match retry_after {
        Some(wait) => answer.header("retry-after", wait),
        None => answer,
    }
}

fn written(answer: Answer) -> Response<Full<Bytes>> {
    let Answer { status, headers, body } = answer;
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(name, value);
    }
    let body = match body {
        Body::None => String::new(),
        Body::Json(json) => {
            builder = builder.header("content-type", "application/json; charset=utf-8");
            json.to_string()
        }
        Body::Raw(text) => text,
    };
    builder.body(Full::new(Bytes::from(body))).expect("the answer is one")
}
