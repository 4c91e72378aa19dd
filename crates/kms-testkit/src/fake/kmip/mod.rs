//! A KMIP server in the process of the test, with malformed frames, broken connections and the quirks of other vendors.
//!
//! Tests of regular behaviour use a real server, [PyKMIP](crate::servers::PyKmip).

mod clock;
mod codec;
mod engine;
mod habits;
mod quirks;
mod serve;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    net::TcpSocket,
    sync::{Notify, watch},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

pub use self::habits::{HABITS, Habit, Unindexed};
pub use self::quirks::{Batch, Continuation, Filter, Keeps, Order, Pace, Quirks};
use self::{
    engine::{Engine, Object},
    serve::serve,
};
use crate::servers::{Pki, pki};

/// A trick that the server plays on a request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Trick {
    /// The connection is closed without a response, and the request has no effect.
    Close,
    /// The request takes effect, and the connection is closed without a response.
    DoAndClose,
    /// The connection is closed after this many bytes of the response.
    Cut(usize),
    /// No response arrives, and the connection stays open. The request has no effect.
    Silence,
    /// The request takes effect, no response arrives, and the connection stays open.
    DoAndSilence,
    /// These bytes are the response.
    Raw(Vec<u8>),
    /// The response arrives byte by byte, with this pause.
    Drip(Duration),
    /// The connection is closed after the response.
    AnswerAndClose,
    /// The request waits for this notification, and is then executed and answered.
    Hold(Arc<Notify>),
}

/// The request that a trick is for.
#[derive(Debug)]
enum Target {
    /// The request with this number.
    Number(usize),
    /// The next request with this operation.
    Operation(u32),
}

/// The planned tricks.
#[derive(Debug, Default)]
struct Plan {
    tricks: Vec<(Target, Trick)>,
    seen: usize,
}

impl Plan {
    /// The trick for a request with these operations.
    fn next(&mut self, operations: &[u32]) -> Option<Trick> {
        let now = self.seen;
        self.seen += 1;
        let found = self.tricks.iter().position(|(target, _)| match target {
            Target::Number(at) => *at == now,
            Target::Operation(operation) => operations.contains(operation),
        });
        found.map(|found| self.tricks.remove(found).1)
    }
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    handshakes: AtomicUsize,
}

/// The receive buffer of a server that reads nothing, in bytes.
const SMALL_BUFFER: u32 = 4096;

struct Shared {
    engine: Mutex<Engine>,
    plan: Mutex<Plan>,
    counts: Counts,
    tricked: Notify,
    /// The time of the double's clock in milliseconds, when a test last moved it.
    moved: watch::Sender<u64>,
    log: Mutex<Vec<u32>>,
}

/// A KMIP server on a free port of loopback, which demands client certificates of its [`Pki`]; dropping it closes it.
pub struct KmipDouble {
    address: SocketAddr,
    pki: Arc<Pki>,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl fmt::Debug for KmipDouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, pki: _, shared: _, _tasks: _ } = self;
        f.debug_struct("KmipDouble").field("address", address).finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KmipDouble {
    /// Starts a server.
    ///
    /// # Errors
    ///
    /// If there is no free port or no randomness.
    pub async fn start(quirks: Quirks) -> Result<Self> {
        let pki = Arc::new(Pki::new()?);
        let tls = pki::server_config(&pki.server, Some(&pki.ca.cert))?;
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let socket = TcpSocket::new_v4()?;
        if quirks.deaf {
            socket.set_recv_buffer_size(SMALL_BUFFER)?;
        }
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(1024).context("listen")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            engine: Mutex::new(Engine::new(quirks)),
            plan: Mutex::default(),
            counts: Counts::default(),
            tricked: Notify::new(),
            moved: watch::Sender::new(0),
            log: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        let served = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                served.counts.connections.fetch_add(1, Ordering::SeqCst);
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&served));
                connections.spawn(async move {
                    // Clients that leave or fail the handshake end their connections.
                    let _ = serve(tcp, &acceptor, &shared).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, pki, shared, _tasks: tasks })
    }

    /// Host and port.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// The certificates.
    #[must_use]
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The number of completed TLS handshakes.
    #[must_use]
    pub fn handshakes(&self) -> usize {
        self.shared.counts.handshakes.load(Ordering::SeqCst)
    }

    /// The number of requests so far. A batch is one request.
    #[must_use]
    pub fn requests(&self) -> usize {
        locked(&self.shared.plan).seen
    }

    /// The codes of the requested operations so far, each item of a batch for itself.
    #[must_use]
    pub fn operations(&self) -> Vec<u32> {
        locked(&self.shared.log).clone()
    }

    /// The number of objects that are not destroyed.
    #[must_use]
    pub fn objects(&self) -> usize {
        locked(&self.shared.engine).count()
    }

    /// Adds an object as Rook registers it: Opaque, without a name, with the length `bits` for any key.
    pub fn insert_rooks(&self, material: &[u8], bits: i32) -> String {
        self.add(Object { kind: 2, format: 2, bits, material: material.to_vec(), ..Object::default() })
    }

    /// Adds an object with these names and application specific information.
    pub fn insert(&self, material: &[u8], names: &[&str], application: &[(&str, &str)]) -> String {
        self.insert_kind(2, material, names, application)
    }

    /// Adds an object of any Object Type: 1 certificate, 2 symmetric key, 3 public key, 4 private key, 5 split key,
    /// 6 template, 7 secret data, 8 opaque object.
    pub fn insert_kind(
        &self,
        kind: u32,
        material: &[u8],
        names: &[&str],
        application: &[(&str, &str)],
    ) -> String {
        self.add(Object {
            kind,
            format: 1,
            bits: 1024,
            material: material.to_vec(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            application: application.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
            ..Object::default()
        })
    }

    fn add(&self, object: Object) -> String {
        locked(&self.shared.engine).add(object)
    }

    /// Moves the double's clock, and closes connections that have been idle for too long.
    pub fn advance(&self, by: Duration) {
        let now = {
            let clock = &mut locked(&self.shared.engine).clock;
            clock.advance(by);
            clock.millis()
        };
        self.shared.moved.send_replace(now);
    }

    /// The time of the double's clock, in whole seconds of the Unix epoch.
    #[must_use]
    pub fn time(&self) -> i64 {
        locked(&self.shared.engine).clock.seconds()
    }

    /// The names of an object; empty if there is no such object.
    #[must_use]
    pub fn names(&self, uid: &str) -> Vec<String> {
        locked(&self.shared.engine).names(uid)
    }

    /// Destroys an object, as Rook does. `false` if no object that is not destroyed has this identifier.
    pub fn destroy_as_rook(&self, uid: &str) -> bool {
        locked(&self.shared.engine).bury(uid)
    }

    /// Deactivates an object without a revocation, as a server does when the time of a key is over.
    pub fn deactivate(&self, uid: &str) {
        locked(&self.shared.engine).deactivate(uid);
    }

    /// Changes the quirks, from the next request on.
    pub fn change(&self, change: impl FnOnce(&mut Quirks)) {
        change(&mut locked(&self.shared.engine).quirks);
    }

    /// Plays a trick on the request after the next `after` requests.
    pub fn trick(&self, after: usize, trick: Trick) {
        let mut plan = locked(&self.shared.plan);
        let at = plan.seen + after;
        plan.tricks.push((Target::Number(at), trick));
    }

    /// Plays a trick on the next request with this operation.
    pub fn trick_on(&self, operation: u32, trick: Trick) {
        locked(&self.shared.plan).tricks.push((Target::Operation(operation), trick));
    }

    /// Cancels the planned tricks.
    pub fn no_tricks(&self) {
        locked(&self.shared.plan).tricks.clear();
    }

    /// Waits for the next trick.
    pub async fn tricked(&self) {
        self.shared.tricked.notified().await;
    }
}
