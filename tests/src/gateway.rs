//! A gateway without TLS before a server with TLS. It passes everything unchanged but the time that responses show.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use anyhow::Result;
use jiff::{SignedDuration, Timestamp, fmt::rfc2822::DateTimePrinter};
use kms_testkit::servers::pki::Pki;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

/// The start of the header of responses with the time, as Go writes it.
const DATE: &[u8] = b"\r\nDate: ";

/// A running gateway. Dropping it closes its port.
#[derive(Debug)]
pub struct Gateway {
    addr: SocketAddr,
    shift: Arc<AtomicI64>,
    listening: JoinHandle<()>,
}

impl Gateway {
    /// Starts a gateway to a server at an address of loopback, whose certificate `ca` has signed.
    ///
    /// # Errors
    ///
    /// If there is no free port.
    pub async fn start(port: u16, ca: &str) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let shift = Arc::new(AtomicI64::new(0));
        let connector = TlsConnector::from(Arc::new(Pki::client_config(ca, None)?));
        let of_connections = Arc::clone(&shift);
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // An error of a connection is one that the client sees.
                tokio::spawn(pass(client, port, connector.clone(), Arc::clone(&of_connections)));
            }
        });
        Ok(Self { addr, shift, listening })
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Moves the clock of the server by so many seconds from the real time.
    pub fn shift(&self, seconds: i64) {
        self.shift.store(seconds, Ordering::SeqCst);
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn pass(client: TcpStream, port: u16, connector: TlsConnector, shift: Arc<AtomicI64>) -> Result<()> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let server =
        connector.connect(ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST)), server).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    tokio::spawn(async move {
        let _ended = copy(&mut from_client, &mut to_server).await;
        let _closed = to_server.shutdown().await;
    });
    // Larger than a record of TLS, and the server writes the headers of a response into one.
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let length = from_server.read(&mut buffer).await?;
        let Some(piece) = buffer.get_mut(..length).filter(|piece| !piece.is_empty()) else { return Ok(()) };
        if let Some(at) = piece.windows(DATE.len()).position(|window| window == DATE) {
            let date = date(shift.load(Ordering::SeqCst))?;
            let start = at + DATE.len();
            if let Some(old) = piece.get_mut(start..start + date.len()) {
                old.copy_from_slice(date.as_bytes());
            }
        }
        to_client.write_all(piece).await?;
    }
}

/// The time in so many seconds from now, as HTTP writes it. Its length is always the same.
fn date(seconds: i64) -> Result<String> {
    let time = Timestamp::now().checked_add(SignedDuration::from_secs(seconds))?;
    Ok(DateTimePrinter::new().timestamp_to_rfc9110_string(&time)?)
}
