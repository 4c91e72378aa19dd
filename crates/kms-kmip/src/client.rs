//! Sends requests to one server: pools connections, negotiates the version, and retries once over a new connection.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use kms_core::{Error, ErrorKind, Result, Retry};
use rustls::pki_types::ServerName;
use tokio::sync::{OnceCell, Semaphore};
use tokio_rustls::TlsConnector;
use tracing::debug;
use zeroize::Zeroizing;

use crate::{
    connection::{Broken, Connection, Endpoint, Handshake, Limits},
    error::{Class, ExchangeError},
    message::{Operation, Version, discover, join, request, response, versions},
    ttlv::{Field, Item},
};

/// A server, its connections, and the negotiated protocol version.
pub(crate) struct Client {
    pub(crate) endpoint: Endpoint,
    pub(crate) server_name: ServerName<'static>,
    pub(crate) limits: Limits,
    connector: TlsConnector,
    idle: Arc<Mutex<Idle>>,
    /// Limits the number of open connections.
    permits: Semaphore,
    version: OnceCell<Version>,
    /// Whether the server has ever responded.
    responded: AtomicBool,
    seen: Mutex<Option<Handshake>>,
}

/// The connections that no request uses.
#[derive(Default)]
struct Idle {
    /// The most recently used last.
    connections: Vec<Connection>,
    /// Whether a task is running that closes them in time.
    is_watched: bool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            endpoint,
            server_name,
            limits,
            connector: _,
            idle: _,
            permits: _,
            version,
            responded: _,
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
            idle: Arc::default(),
            permits: Semaphore::new(limits.connections),
            version: OnceCell::new_with(version),
            responded: AtomicBool::new(false),
            seen: Mutex::default(),
        }
    }

    /// The protocol version: from the settings, or negotiated once.
    pub(crate) async fn version(&self) -> Result<Version> {
        self.version.get_or_try_init(|| self.negotiate()).await.copied()
    }

    /// The TLS version and the server certificate of the last handshake.
    pub(crate) fn seen(&self) -> Option<Handshake> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a request, and parses the payload of its response with `read`.
    pub(crate) async fn call<'a, T>(
        &self,
        operation: Operation,
        payload: impl FnOnce(Version) -> Vec<Field<'a>>,
        read: impl FnOnce(&Item<'_>) -> Result<T>,
    ) -> Result<T, ExchangeError> {
        let version = self.version().await?;
        self.call_at(version, operation, payload(version), read).await
    }

    async fn call_at<T>(
        &self,
        version: Version,
        operation: Operation,
        payload: Vec<Field<'_>>,
        read: impl FnOnce(&Item<'_>) -> Result<T>,
    ) -> Result<T, ExchangeError> {
        let mut batch_id = [0; 16];
        getrandom::fill(&mut batch_id).map_err(|cause| {
            Error::new(ErrorKind::Unexpected, "the operating system gave no random bytes")
                .context("cause", cause.to_string())
        })?;
        let message = request(version, operation, &batch_id, payload);
        let frame =
            self.exchange(&message, operation.is_idempotent()).await.map_err(|broken| ExchangeError {
                class: match &broken {
                    Broken { closed: true, .. } => Class::Closed,
                    Broken { too_large: true, .. } => Class::TooLarge,
                    _ => Class::Other,
                },
                error: self.located(broken.error).context("request", operation.as_str()),
            })?;
        drop(message);
        let result = response(&frame, operation, &batch_id).and_then(|payload| Ok(read(&payload)?));
        result.map_err(|mut failed| {
            // The server has responded, so the outcome is known, unless the response is malformed.
            if failed.class == Class::Other && !operation.is_idempotent() {
                failed.error = failed.error.retry(Retry::IfIdempotent);
            }
            ExchangeError { error: self.located(failed.error), ..failed }
        })
    }

    fn located(&self, error: Error) -> Error {
        error.context("server", self.endpoint.to_string())
    }

    /// Asks the server for its versions, and returns the common version that we prefer.
    ///
    /// The request Discover Versions itself needs a version. The client sends it in 1.4. If the server refuses that,
    /// the client sends it in 1.1, the oldest version that has the operation, and in 2.0 and 2.1. A server that refuses
    /// all of them does not know the operation, so it is taken for a KMIP 1.0 server.
    async fn negotiate(&self) -> Result<Version> {
        let mut closed = None;
        let mut answered = false;
        for asked in [Version::V1_4, Version::V1_1, Version::V2_0, Version::V2_1] {
            let payload = discover(&Version::ALL);
            let read = |payload: &Item<'_>| Ok(versions(payload));
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
                Err(failed) => match failed.class {
                    Class::NoOperation | Class::Form => answered = true,
                    Class::Closed => {
                        closed.get_or_insert(failed.error);
                    }
                    _ => return Err(failed.error),
                },
            }
        }
        match closed {
            // The server has not responded at all, so the version is not the cause.
            Some(error) if !answered => Err(error),
            _ => {
                debug!("the server does not support Discover Versions, so KMIP 1.0 is used");
                Ok(Version::V1_0)
            }
        }
    }

    async fn no_common_version(&self, asked: Version, mut theirs: Vec<Version>) -> Error {
        if theirs.is_empty() {
            // The server returned the intersection with our versions. In response to an empty request it returns all
            // its versions.
            theirs = self.versions_at(asked).await.unwrap_or_default();
        }
        let error = Error::new(ErrorKind::Protocol, "the server and we have no KMIP version in common")
            .context("ours", join(&Version::ALL))
            .context("theirs", join(&theirs));
        self.located(error)
    }

    /// Requests all versions that the server supports.
    pub(crate) async fn versions_at(&self, asked: Version) -> Result<Vec<Version>> {
        let read = |payload: &Item<'_>| Ok(versions(payload));
        Ok(self.call_at(asked, Operation::DiscoverVersions, Vec::new(), read).await?)
    }

    /// Sends a request and receives its response, over an idle connection or a new one.
    ///
    /// Servers close idle connections at any time. If the connection turns out to be closed, the client sends the
    /// request once more over a new one, provided that the request has certainly not arrived, or is idempotent.
    async fn exchange(&self, request: &[u8], idempotent: bool) -> Result<Zeroizing<Vec<u8>>, Broken> {
        let permit = self.permits.acquire().await;
        let _permit = permit.map_err(|_closed| {
            Broken::unsent(Error::new(ErrorKind::Unexpected, "the connections have been closed"))
        })?;
        let mut retried = false;
        loop {
            let idle = if retried { None } else { self.healthy() };
            let reused = idle.is_some();
            let mut connection = match idle {
                Some(connection) => connection,
                None => self.connect().await.map_err(Broken::unsent)?,
            };
            match connection.exchange(request, &self.limits).await {
                Ok(frame) => {
                    self.responded.store(true, Ordering::Relaxed);
                    self.keep(connection);
                    return Ok(frame);
                }
                Err(failed) if failed.closed && !retried && (idempotent || (reused && !failed.sent)) => {
                    debug!(server = %self.endpoint, reused, "the connection was closed; trying a new one");
                    // The other idle connections are most likely closed too.
                    self.idle().connections.clear();
                    retried = true;
                }
                Err(failed) => return Err(self.explain(failed)),
            }
        }
    }

    async fn connect(&self) -> Result<Connection> {
        let (connection, handshake) =
            Connection::open(&self.endpoint, self.server_name.clone(), &self.connector, self.limits.connect)
                .await?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(handshake);
        Ok(connection)
    }

    /// Takes an idle connection that is still open. `None` if there is no such connection.
    fn healthy(&self) -> Option<Connection> {
        let mut idle = self.idle();
        while let Some(mut connection) = idle.connections.pop() {
            if connection.is_healthy(&self.limits) {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request, and closes it when it has been idle for too long.
    ///
    /// The buffers of a connection hold what it has received last, which may be a KEK. A rotation waits for minutes after
    /// that, so the connection must not stay until the next request.
    fn keep(&self, connection: Connection) {
        let limit = self.limits.idle;
        if limit.is_zero() {
            return;
        }
        let mut idle = self.idle();
        idle.connections.push(connection);
        if std::mem::replace(&mut idle.is_watched, true) {
            return;
        }
        let watched = Arc::downgrade(&self.idle);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(limit).await;
                let Some(idle) = watched.upgrade() else { return };
                let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
                idle.connections.retain(|connection| connection.idle_time() < limit);
                if idle.connections.is_empty() {
                    idle.is_watched = false;
                    return;
                }
            }
        });
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names the likely cause if a server closes the connection without a response: the server refuses our certificate.
    /// With TLS 1.3 the server's alert arrives after our handshake. Some servers send no alert (field-reports UP-114).
    fn explain(&self, mut failed: Broken) -> Broken {
        if failed.closed && !self.responded.load(Ordering::Relaxed) {
            failed.error = Error::new(
                ErrorKind::Unauthenticated,
                "the server accepts the connection and closes it without a response: most often it does not accept \
                 CLIENT_CERT, or has no user of that name",
            );
        }
        failed
    }
}
