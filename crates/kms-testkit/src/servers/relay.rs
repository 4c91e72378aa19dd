//! A TCP relay in front of a server that counts connections and breaks them as networks do.
//!
//! It passes bytes unchanged, so TLS and HTTP run between client and server.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What happens to one piece of traffic. Between client and server of these tests, a piece is a request or a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "these are all faults of the relay")]
pub enum Fault {
    /// A piece that the client sends is dropped and the connection is reset: the server does not get it.
    Cut,
    /// A piece that the server sends is dropped and the connection is reset.
    Lost,
    /// The first half of a piece that the server sends arrives, and the connection is closed.
    Half,
    /// A piece that the server sends does not arrive, nor does any later one, and the connection stays open.
    Stalled,
}

/// The treatment of traffic.
#[derive(Clone, Copy, Debug, Default)]
struct Orders {
    /// The delay of each piece that the server sends.
    delay: Duration,
    /// Nothing passes, in either direction; connections stay open.
    frozen: bool,
    /// A fault, and the number of pieces that pass before it.
    fault: Option<(usize, Fault)>,
    /// Connections of earlier ages are reset.
    age: u64,
    /// Nothing passes on the first so many connections; they stay open.
    forgotten: usize,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicUsize,
    open: AtomicUsize,
}

/// A relay on a free port of loopback; dropping it closes the port and resets every connection.
pub struct Relay {
    addr: SocketAddr,
    target: SocketAddr,
    counts: Arc<Counts>,
    orders: Arc<watch::Sender<Orders>>,
    listening: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addr, target, counts, orders: _, listening: _ } = self;
        f.debug_struct("Relay")
            .field("addr", addr)
            .field("target", target)
            .field("counts", counts)
            .finish_non_exhaustive()
    }
}

impl Relay {
    /// Starts a relay to `target`.
    ///
    /// # Errors
    ///
    /// If there is no free port.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let relay = Self {
            addr: listener.local_addr()?,
            target,
            counts: Arc::default(),
            orders: Arc::new(watch::Sender::new(Orders::default())),
            listening: Mutex::new(None),
        };
        relay.listen(listener);
        Ok(relay)
    }

    /// The address on which it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL of a TLS server behind the relay.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.addr)
    }

    /// The number of accepted connections.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    /// The number of open connections.
    #[must_use]
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// Resets all connections; new ones are accepted.
    pub fn cut(&self) {
        self.orders.send_modify(|orders| orders.age += 1);
    }

    /// Delays each piece that the server sends.
    pub fn delay(&self, delay: Duration) {
        self.orders.send_modify(|orders| orders.delay = delay);
    }

    /// Stops or resumes all traffic. Meanwhile connections are accepted and stay open, as with a dead network.
    pub fn freeze(&self, frozen: bool) {
        self.orders.send_modify(|orders| orders.frozen = frozen);
    }

    /// Drops what present connections send from now on, in silence: as a NAT that has forgotten them. New ones work.
    pub fn forget(&self) {
        let accepted = self.accepted();
        self.orders.send_modify(|orders| orders.forgotten = accepted);
    }

    /// Passes the next request, drops its reply and resets the connection, so that the outcome is unknown.
    pub fn lose_next_reply(&self) {
        self.fault(0, Fault::Lost);
    }

    /// Plans a fault for the piece after the next `after` pieces of its direction.
    pub fn fault(&self, after: usize, fault: Fault) {
        self.orders.send_modify(|orders| orders.fault = Some((after, fault)));
    }

    /// Cancels the planned fault. `false` if it has happened already.
    pub fn cancel_fault(&self) -> bool {
        let mut planned = false;
        self.orders.send_modify(|orders| planned = orders.fault.take().is_some());
        planned
    }

    /// Closes the port, so that new connections are refused, and resets open connections.
    pub async fn refuse(&self) {
        let task = self.listening.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
            // The port closes with the task.
            let _ = task.await;
        }
        self.cut();
    }

    /// Opens the port again after [`refuse`](Self::refuse).
    ///
    /// # Errors
    ///
    /// If another process has taken the port.
    pub async fn accept_again(&self) -> io::Result<()> {
        self.listen(TcpListener::bind(self.addr).await?);
        Ok(())
    }

    fn listen(&self, listener: TcpListener) {
        let (target, counts, orders) = (self.target, Arc::clone(&self.counts), Arc::clone(&self.orders));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = counts.accepted.fetch_add(1, Ordering::SeqCst);
                counts.open.fetch_add(1, Ordering::SeqCst);
                let (counts, orders) = (Arc::clone(&counts), Arc::clone(&orders));
                // The age is read here, since a cut must reach connections whose task has not run yet.
                let age = orders.borrow().age;
                tokio::spawn(async move {
                    // A failed end ends the connection: the other side sees the reset.
                    let _ = pass(client, target, (age, number), &orders).await;
                    counts.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        *self.listening.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(task) = self.listening.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
        self.cut();
    }
}

/// Passes bytes until an end closes or the connection is cut. `number`: how many connections came before this one.
async fn pass(
    client: TcpStream,
    target: SocketAddr,
    (age, number): (u64, usize),
    orders: &watch::Sender<Orders>,
) -> io::Result<()> {
    let server = TcpStream::connect(target).await?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut cut = orders.subscribe();
    let up = async {
        let mut buffer = vec![0; 16 * 1024];
        let mut watched = orders.subscribe();
        loop {
            let length = from_client.read(&mut buffer).await?;
            thawed(&mut watched, number).await;
            let piece = buffer.get(..length).unwrap_or_default();
            if piece.is_empty() {
                return to_server.shutdown().await;
            }
            if strikes(orders, |fault| fault == Fault::Cut).is_some() {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            to_server.write_all(piece).await?;
        }
    };
    let down = async {
        let mut buffer = vec![0; 16 * 1024];
        let mut watched = orders.subscribe();
        loop {
            let length = from_server.read(&mut buffer).await?;
            let fault = if length > 0 { strikes(orders, |fault| fault != Fault::Cut) } else { None };
            match fault {
                Some(Fault::Cut | Fault::Lost) => return Err(io::ErrorKind::ConnectionReset.into()),
                Some(Fault::Half) => {
                    to_client.write_all(buffer.get(..length / 2).unwrap_or_default()).await?;
                    to_client.shutdown().await?;
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Some(Fault::Stalled) => std::future::pending().await,
                None => {}
            }
            let delay = watched.borrow().delay;
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            thawed(&mut watched, number).await;
            let piece = buffer.get(..length).unwrap_or_default();
            if piece.is_empty() {
                return to_client.shutdown().await;
            }
            to_client.write_all(piece).await?;
        }
    };
    let result = tokio::select! {
        result = async { tokio::try_join!(up, down) } => result.map(|_| ()),
        _ = cut.wait_for(|orders| orders.age > age) => Err(io::ErrorKind::ConnectionReset.into()),
    };
    // After half of a piece the close is in good order, since a reset could take that half back.
    if result.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::UnexpectedEof) {
        // With a linger time of zero the close is a reset, as from a peer that has crashed.
        for stream in [to_client.as_ref(), to_server.as_ref()] {
            let _ = stream.set_zero_linger();
        }
        // Dropping a write half would close the connection in good order.
        to_client.forget();
        to_server.forget();
    }
    result
}

/// Takes the planned fault if it is one of these and its turn has come. Only the first connection here gets it.
fn strikes(orders: &watch::Sender<Orders>, of: impl Fn(Fault) -> bool) -> Option<Fault> {
    let mut struck = None;
    orders.send_if_modified(|orders| {
        let Some((after, fault)) = orders.fault.filter(|(_, fault)| of(*fault)) else { return false };
        orders.fault = after.checked_sub(1).map(|after| (after, fault));
        struck = orders.fault.is_none().then_some(fault);
        true
    });
    struck
}

/// Waits while traffic is frozen, or for ever if the connection is forgotten.
async fn thawed(orders: &mut watch::Receiver<Orders>, number: usize) {
    // The sender outlives the connection, so this waits for the end of the freeze.
    let _ = orders.wait_for(|orders| !orders.frozen && number >= orders.forgotten).await;
}
