//! A KMIP server in the process of the test, with malformed frames, broken connections and the quirks of other vendors.
//!
//! Tests of regular behaviour use a real server, [PyKMIP](crate::servers::PyKmip).

mod codec;
mod engine;

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
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use self::{codec::Node, engine::Engine};
use crate::servers::{Pki, pki};

/// Differences between a server and PyKMIP. All are off by default.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "tests set what they need and take the rest from the default")]
pub struct Quirks {
    /// The supported versions.
    pub versions: Vec<(i32, i32)>,
    /// Discover Versions is unknown in every version.
    pub no_discovery: bool,
    /// Discover Versions works in 1.0 too.
    pub discovery_at_1_0: bool,
    /// An unknown minor version is accepted.
    pub lenient_versions: bool,
    /// The header of an error repeats the version of the request; otherwise it has 1.0.
    pub echo_version: bool,
    /// The time stamp of an error is 0.
    pub zero_time: bool,
    /// Errors have neither operation nor batch id.
    pub bare_errors: bool,
    /// An operation that the state of the object forbids gets Wrong Key Lifecycle State.
    pub lifecycle_reason: bool,
    /// Get after Destroy gets Object Destroyed, and the attributes of the object remain.
    pub destroyed_reason: bool,
    /// A second Destroy succeeds.
    pub destroy_twice: bool,
    /// An unknown object gets Object Not Found.
    pub later_not_found: bool,
    /// Identifiers are UUIDs.
    pub uuids: bool,
    /// Objects are active from the beginning.
    pub born_active: bool,
    /// Get returns active objects only.
    pub get_needs_active: bool,
    /// Revoke gets Permission Denied.
    pub no_revoke: bool,
    /// Modify Attribute is unknown.
    pub no_modify: bool,
    /// Application Specific Information is refused.
    pub no_application: bool,
    /// An object has one name at most.
    pub one_name: bool,
    /// Names are refused.
    pub no_names: bool,
    /// Names are unique.
    pub unique_names: bool,
    /// Register accepts only Rook's objects: Opaque, with a length of 256.
    pub only_rooks: bool,
    /// The longest symmetric key, in bits.
    pub longest_key: Option<usize>,
    /// Locate ignores its filter and returns every object.
    pub locate_ignores_filter: bool,
    /// Locate gets Item Not Found if no object fits.
    pub locate_not_found: bool,
    /// Responses omit empty payloads.
    pub no_empty_payload: bool,
}

impl Default for Quirks {
    fn default() -> Self {
        Self {
            versions: vec![(2, 0), (1, 4), (1, 3), (1, 2), (1, 1), (1, 0)],
            no_discovery: false,
            discovery_at_1_0: false,
            lenient_versions: false,
            echo_version: false,
            zero_time: false,
            bare_errors: false,
            lifecycle_reason: false,
            destroyed_reason: false,
            destroy_twice: false,
            later_not_found: false,
            uuids: false,
            born_active: false,
            get_needs_active: false,
            no_revoke: false,
            no_modify: false,
            no_application: false,
            one_name: false,
            no_names: false,
            unique_names: false,
            only_rooks: false,
            longest_key: None,
            locate_ignores_filter: false,
            locate_not_found: false,
            no_empty_payload: false,
        }
    }
}

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
}

/// The planned tricks, each with the number of its request.
#[derive(Debug, Default)]
struct Plan {
    tricks: Vec<(usize, Trick)>,
    seen: usize,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    handshakes: AtomicUsize,
}

struct Shared {
    engine: Mutex<Engine>,
    plan: Mutex<Plan>,
    counts: Counts,
    tricked: Notify,
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
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            engine: Mutex::new(Engine::new(quirks)),
            plan: Mutex::default(),
            counts: Counts::default(),
            tricked: Notify::new(),
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

    /// The codes of the requested operations so far.
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
        locked(&self.shared.engine).insert(material, 2, bits, &[], &[])
    }

    /// Adds an object with these names and application specific information.
    pub fn insert(&self, material: &[u8], names: &[&str], application: &[(&str, &str)]) -> String {
        locked(&self.shared.engine).insert(material, 1, 1024, names, application)
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
        plan.tricks.push((at, trick));
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

async fn serve(tcp: TcpStream, acceptor: &TlsAcceptor, shared: &Shared) -> Result<()> {
    tcp.set_nodelay(true)?;
    let mut stream = acceptor.accept(tcp).await?;
    shared.counts.handshakes.fetch_add(1, Ordering::SeqCst);
    loop {
        let mut frame = vec![0; 8];
        stream.read_exact(&mut frame).await?;
        let length = u32::from_be_bytes(frame[4..8].try_into()?) as usize;
        anyhow::ensure!(length <= 1024 * 1024, "the request is too large");
        frame.resize(8 + length, 0);
        stream.read_exact(&mut frame[8..]).await?;
        let request = Node::read(&frame);
        if let Some(operation) = request.as_deref().and_then(engine::operation) {
            locked(&shared.log).push(operation);
        }
        let trick = {
            let mut plan = locked(&shared.plan);
            let now = plan.seen;
            plan.seen += 1;
            plan.tricks.iter().position(|(at, _)| *at == now).map(|found| plan.tricks.remove(found).1)
        };
        let answer = || locked(&shared.engine).answer(request.as_deref()).write();
        if trick.is_some() {
            shared.tricked.notify_one();
        }
        match trick {
            None => stream.write_all(&answer()).await?,
            Some(Trick::Close) => return Ok(()),
            Some(Trick::DoAndClose) => {
                answer();
                return Ok(());
            }
            Some(Trick::Cut(bytes)) => {
                let answer = answer();
                stream.write_all(&answer[..bytes.min(answer.len())]).await?;
                stream.flush().await?;
                return close(stream).await;
            }
            Some(Trick::Silence) => std::future::pending().await,
            Some(Trick::DoAndSilence) => {
                answer();
                std::future::pending().await
            }
            Some(Trick::Raw(bytes)) => {
                // The client may close the connection before the end.
                let _ = stream.write_all(&bytes).await;
            }
            Some(Trick::Drip(pause)) => {
                for byte in answer() {
                    stream.write_all(&[byte]).await?;
                    stream.flush().await?;
                    tokio::time::sleep(pause).await;
                }
            }
            Some(Trick::AnswerAndClose) => {
                stream.write_all(&answer()).await?;
                return close(stream).await;
            }
        }
    }
}

async fn close(mut stream: TlsStream<TcpStream>) -> Result<()> {
    stream.shutdown().await?;
    Ok(())
}
