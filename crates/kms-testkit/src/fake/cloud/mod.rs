//! The common part of doubles of cloud services: two services over TLS, one that gives tokens and one that keeps keys.
//!
//! A double is written from the documentation of the service and from what the vendor's clients send, not from our
//! providers. It is strict: it refuses what the documentation does not allow, as the service does.

mod cuts;
mod fault;
mod idle;
pub(super) mod text;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{task::JoinHandle, time::sleep};
use tokio_rustls::TlsAcceptor;

use self::text::Clock;
pub use self::{
    cuts::CutWay,
    fault::{Action, RequestFault},
    idle::PassingTime,
};
use super::http::{Interferer, Request, Response, wire};
use crate::servers::{Pki, pki};

/// Selects one of the two services.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "every double has these two services")]
pub enum Host {
    /// The service that keeps keys.
    Keys,
    /// The service that gives tokens.
    Tokens,
}

/// Counters of one service.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct HostCounts {
    /// TLS handshakes that succeeded.
    pub handshakes: usize,
    /// Requests.
    pub requests: usize,
}

/// Counters of both services.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Counts {
    /// The service that keeps keys.
    pub keys: HostCounts,
    /// The service that gives tokens.
    pub tokens: HostCounts,
    /// Tokens that were issued.
    pub issued: usize,
    /// Requests without a token that got a challenge.
    pub challenges: usize,
}

impl Counts {
    fn of(&mut self, host: Host) -> &mut HostCounts {
        match host {
            Host::Keys => &mut self.keys,
            Host::Tokens => &mut self.tokens,
        }
    }
}

/// State that all doubles have.
pub struct Base {
    pub(super) clock: Clock,
    pub(super) counts: Counts,
    /// The number of handshakes, requests and responses since the start.
    events: u64,
    /// The ports of the services that keep keys and that give tokens.
    ports: [u16; 2],
    faults: Vec<RequestFault>,
    requests: Vec<(Host, Request)>,
    interferer: Arc<Interferer>,
}

impl Base {
    /// The address of a service, without a slash at the end.
    pub(super) fn url(&self, host: Host) -> String {
        let [keys, tokens] = self.ports;
        format!("https://localhost:{}", if host == Host::Keys { keys } else { tokens })
    }
}

/// The state and behaviour of both services of one double.
pub trait Cloud: Send + 'static {
    /// Behaviour that tests may change.
    type Switches: Clone + Send;

    /// The services before their first request.
    fn new(base: Base) -> Self;

    /// The common part of the state.
    fn base(&mut self) -> &mut Base;

    /// Behaviour that tests may change.
    fn switches(&mut self) -> &mut Self::Switches;

    /// Does what the request asks for, and returns the response.
    fn handle(&mut self, host: Host, request: &Request) -> Response;
}

/// Both services, each on its own port of the loopback. Dropping the double stops them.
pub struct Double<S> {
    pki: Pki,
    ports: [u16; 2],
    state: Arc<Mutex<S>>,
    tasks: [JoinHandle<()>; 2],
}

fn lock<S>(state: &Mutex<S>) -> MutexGuard<'_, S> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Cloud> Double<S> {
    /// Starts both services on free ports of the loopback.
    ///
    /// # Errors
    ///
    /// If no port is free.
    pub async fn start() -> Result<Self> {
        let pki = Pki::new()?;
        let mut config = pki::server_config(&pki.server, None)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tls = TlsAcceptor::from(Arc::new(config));
        let (keys, keys_address) = wire::bind().await.context("find a free port")?;
        let (tokens, tokens_address) = wire::bind().await.context("find a free port")?;
        let ports = [keys_address.port(), tokens_address.port()];
        let (clock, counts) = (Clock::default(), Counts::default());
        let (faults, requests, interferer) = (Vec::new(), Vec::new(), Arc::default());
        let base = Base { clock, counts, events: 0, ports, faults, requests, interferer };
        let state = Arc::new(Mutex::new(S::new(base)));
        let tasks = [(Host::Keys, keys), (Host::Tokens, tokens)].map(|(host, listener)| {
            let service = Service { host, state: Arc::clone(&state) };
            wire::serve(listener, Some(tls.clone()), Arc::new(service))
        });
        Ok(Self { pki, ports, state, tasks })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, S> {
        lock(&self.state)
    }

    /// The certificate of the CA, as PEM.
    #[must_use]
    pub fn ca(&self) -> &str {
        &self.pki.ca.cert
    }

    /// All certificates.
    #[must_use]
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The address of a service, without a slash at the end.
    #[must_use]
    pub fn url(&self, host: Host) -> String {
        self.state().base().url(host)
    }

    /// Changes the behaviour.
    pub fn switch(&self, change: impl FnOnce(&mut S::Switches)) {
        change(self.state().switches());
    }

    /// Moves the clock of both services forward.
    pub fn advance(&self, time: Duration) {
        self.state().base().clock.offset += milliseconds(time);
    }

    /// Moves the clock of both services back.
    pub fn back(&self, time: Duration) {
        self.state().base().clock.offset -= milliseconds(time);
    }

    /// Adds a fault. A request meets the first fault that fits it.
    pub fn fault(&self, fault: RequestFault) {
        self.state().base().faults.push(fault);
    }

    /// Removes all faults.
    pub fn heal(&self) {
        self.state().base().faults.clear();
    }

    /// The switch that replaces responses of the service that keeps keys.
    #[must_use]
    pub fn interferer(&self) -> Arc<Interferer> {
        Arc::clone(&self.state().base().interferer)
    }

    /// The counters since the start or the last [`forget`](Self::forget).
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.state().base().counts
    }

    /// The requests to both services, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.state().base().requests.iter().map(|(_, request)| request.clone()).collect()
    }

    /// The requests to one service, in order.
    #[must_use]
    pub fn requests_to(&self, host: Host) -> Vec<Request> {
        let mut state = self.state();
        let requests = state.base().requests.iter().filter(|(to, _)| *to == host);
        requests.map(|(_, request)| request.clone()).collect()
    }

    /// Forgets requests and counters.
    pub fn forget(&self) {
        let mut state = self.state();
        let base = state.base();
        base.requests.clear();
        base.counts = Counts::default();
    }
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).expect("a sensible time")
}

/// One service, as the HTTP server sees it.
struct Service<S> {
    host: Host,
    state: Arc<Mutex<S>>,
}

impl<S: Cloud> wire::Service for Service<S> {
    fn connected(&self) -> usize {
        let mut state = lock(&self.state);
        state.base().events += 1;
        let counts = state.base().counts.of(self.host);
        counts.handshakes += 1;
        counts.handshakes
    }

    async fn respond(&self, request: Request) -> Option<Response> {
        let host = self.host;
        let action = {
            let mut state = lock(&self.state);
            let base = state.base();
            base.counts.of(host).requests += 1;
            base.events += 1;
            base.requests.push((host, request.clone()));
            if host == Host::Keys
                && let Some(response) = base.interferer.response(&request)
            {
                base.events += 1;
                return Some(response);
            }
            base.faults.iter_mut().find_map(|fault| fault.strikes(host, &request))
        };
        let handle = || {
            let mut state = lock(&self.state);
            state.base().events += 1;
            state.handle(host, &request)
        };
        match action {
            None => Some(handle()),
            Some(Action::LoseRequest) => None,
            Some(Action::LoseAnswer) => {
                handle();
                None
            }
            Some(Action::Delay(time)) => {
                sleep(time).await;
                Some(handle())
            }
            Some(Action::DelayAnswer(time)) => {
                let response = handle();
                sleep(time).await;
                Some(response)
            }
            Some(Action::Meet(all)) => {
                let response = handle();
                all.wait().await;
                Some(response)
            }
            Some(Action::Reply { status, retry_after, body }) => {
                Some(Response::html(status, body).retry_after(retry_after))
            }
            Some(Action::DoneBut(status)) => {
                handle();
                Some(Response::html(status, "<html>upstream error</html>"))
            }
            Some(Action::Edit(edit)) => Some(handle().edit(edit)),
        }
    }
}

impl<S> Drop for Double<S> {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl<S> fmt::Debug for Double<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pki: _, ports, state: _, tasks: _ } = self;
        f.debug_struct("Double").field("ports", ports).finish_non_exhaustive()
    }
}
