//! The connections to one server: opens them, keeps idle ones, and sends a request again where that is safe.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kms_core::{Error, ErrorKind, Probe, Result};
use kms_tls::Tls;
use rustls::pki_types::ServerName;
use tokio::sync::Semaphore;
use tracing::debug;
use zeroize::Zeroizing;

use crate::{
    connection::{Broken, Connection, Endpoint, Limits},
    habits::{Connections, Habits},
};

/// How long after a response a connection is certainly alive. Afterwards a NAT or a server may have dropped it in
/// silence.
const ALIVE: Duration = Duration::from_secs(2);

/// The connections that no request uses.
struct Idle {
    /// The most recently used last.
    connections: Vec<Connection>,
    /// Whether a task is running that closes them in time.
    is_watched: bool,
}

/// The connections to a server.
pub(crate) struct Pool {
    pub(crate) endpoint: Endpoint,
    pub(crate) server_name: ServerName<'static>,
    pub(crate) limits: Limits,
    pub(crate) tls: Tls,
    pub(crate) habits: Habits,
    idle: Arc<Mutex<Idle>>,
    /// Limits the number of open connections.
    permits: Semaphore,
    /// Whether the server has ever responded.
    responded: AtomicBool,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, server_name, limits, tls: _, habits, idle: _, permits: _, responded: _ } = self;
        f.debug_struct("Pool")
            .field("endpoint", endpoint)
            .field("server_name", server_name)
            .field("limits", limits)
            .field("habits", habits)
            .finish_non_exhaustive()
    }
}

impl Pool {
    pub(crate) fn new(
        endpoint: Endpoint,
        server_name: ServerName<'static>,
        tls: Tls,
        limits: Limits,
    ) -> Self {
        Self {
            endpoint,
            server_name,
            limits,
            tls,
            habits: Habits::default(),
            idle: Arc::new(Mutex::new(Idle { connections: Vec::new(), is_watched: false })),
            permits: Semaphore::new(limits.connections),
            responded: AtomicBool::new(false),
        }
    }

    /// Opens a connection for the next request, and adds each step to `probe`. `None` if one failed.
    pub(crate) async fn probe(&self, probe: &mut Probe) -> Option<()> {
        let name = self.server_name.clone();
        let connection =
            Connection::probe(&self.endpoint, name, &self.tls, self.limits.connect, probe).await?;
        self.keep(connection);
        Some(())
    }

    /// Sends a request and receives its response, over an idle connection or a new one.
    ///
    /// Servers close idle connections at any time. If the connection turns out to be closed, the client sends the
    /// request once more over a new one, provided that the request has certainly not arrived, or is `repeatable`.
    pub(crate) async fn exchange(
        &self,
        request: &[u8],
        repeatable: bool,
    ) -> Result<Zeroizing<Vec<u8>>, Broken> {
        let permit = self.permits.acquire().await;
        let _permit = permit.map_err(|_closed| {
            Broken::unsent(Error::new(ErrorKind::Unexpected, "the connections have been closed"))
        })?;
        let mut retried = false;
        loop {
            let idle = if retried { None } else { self.alive(repeatable) };
            let reused = idle.is_some();
            let mut connection = match idle {
                Some(connection) => connection,
                None => self.connect().await.map_err(Broken::unsent)?,
            };
            let failed = match connection.exchange(request, &self.limits).await {
                Ok(frame) => {
                    self.responded.store(true, Ordering::Relaxed);
                    self.keep(connection);
                    return Ok(frame);
                }
                Err(failed) => failed,
            };
            if reused {
                self.habits.set_ended(if failed.closed { connection.answers() } else { 0 });
                // The other idle connections are most likely lost too.
                self.idle().connections.clear();
            }
            if failed.closed && !retried && (repeatable || (reused && !failed.sent)) {
                debug!(server = %self.endpoint, reused, "the connection was closed; trying a new one");
                retried = true;
            } else {
                return Err(self.explain(failed, reused));
            }
        }
    }

    async fn connect(&self) -> Result<Connection> {
        Connection::open(&self.endpoint, self.server_name.clone(), &self.tls, self.limits.connect).await
    }

    /// Takes an idle connection that is still open. `None` if there is no such connection.
    ///
    /// A server that closes each connection after its response closes this one only moments after we have looked. So a
    /// request that is not `repeatable` gets a connection only from a server that is known to keep connections, and only
    /// if the connection has responded moments ago.
    fn alive(&self, repeatable: bool) -> Option<Connection> {
        let mut idle = self.idle();
        let keeps = self.habits.connections() == Connections::Kept;
        while let Some(mut connection) = idle.connections.pop() {
            if !connection.is_healthy(&self.limits) {
                if connection.idle_time() < self.limits.idle {
                    self.habits.set_ended(connection.answers());
                }
            } else if repeatable || (keeps && connection.idle_time() < ALIVE) {
                return Some(connection);
            } else {
                // This connection makes room for a new one.
                return None;
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
        let mut idle = self.idle();
        if connection.answers() > 1 {
            self.habits.set_kept();
        }
        if limit.is_zero() || self.habits.connections() == Connections::Closed {
            return;
        }
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

    /// Says more about a connection that the server closed without a response.
    fn explain(&self, mut failed: Broken, reused: bool) -> Broken {
        if failed.closed && reused {
            failed.error = failed.error.context(
                "hint",
                "the server had closed the idle connection; set KMIP_IDLE_TIMEOUT to less than the server keeps an idle \
                 connection, or to 0",
            );
        } else if failed.closed && !self.responded.load(Ordering::Relaxed) {
            // A server that refuses our certificate without an alert looks the same (field-reports UP-114).
            let message = "the server accepts the connection and closes it without a response: check that the KMIP \
                           server is up, also behind a load balancer, and its log for a refusal";
            failed.error = Error::new(ErrorKind::Unavailable, message).retry(failed.error.retryable());
        }
        failed
    }
}
