//! A small HTTP/1.1 server for answers that no real server can be made to give.
//!
//! Cleartext on a free port of the loopback; it knows no API, only what bytes to send and when to stop.
//!
//! ```
//! use kms_testkit::fake::http::{Answer, HttpServer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let server = HttpServer::scripted([
//!     Answer::too_many_requests(Some("7")),
//!     Answer::json(200, r#"{"data": {"key": "va"#).promising(4096).close_after(20),
//!     Answer::json(200, r#"{"data": {}}"#),
//! ])
//! .await?;
//! // Point the client at `server.url()`, let it work, and then:
//! assert_eq!(server.requests().len(), 0);
//! # Ok(())
//! # }
//! ```

mod answer;

use std::{
    fmt::{self, Write as _},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

pub use self::answer::{Answer, Gate};
use self::answer::{Body, End, Framing, Head};

/// Bytes of a repeated body that are written at once.
const BLOCK: usize = 64 * 1024;

/// A request that came in.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Request {
    /// The method, as sent.
    pub method: String,
    /// The path with the query, as sent.
    pub path: String,
    /// The headers, in order, as sent.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Which connection it came over, counted from 1.
    pub connection: usize,
}

impl Request {
    /// The value of a header, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    ///
    /// # Panics
    ///
    /// If it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    /// Method and path in one, as in `GET /v1/sys/health`.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

type Handler = Box<dyn FnMut(&Request) -> Answer + Send>;

struct Shared {
    handler: Mutex<Handler>,
    requests: watch::Sender<Vec<Request>>,
    connections: watch::Sender<usize>,
}

/// The server. It stops when it is dropped, and all its connections with it.
pub struct HttpServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl HttpServer {
    /// Starts a server that asks `handler` for each answer, one request at a time.
    ///
    /// # Errors
    ///
    /// If there is no free port.
    pub async fn start(handler: impl FnMut(&Request) -> Answer + Send + 'static) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            handler: Mutex::new(Box::new(handler)),
            requests: watch::Sender::default(),
            connections: watch::Sender::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, accepting })
    }

    /// Starts a server that gives these answers in turn, whatever is asked; the last one again and again.
    ///
    /// # Errors
    ///
    /// If there is no free port.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    pub async fn scripted(answers: impl IntoIterator<Item = Answer>) -> io::Result<Self> {
        let mut answers = answers.into_iter().collect::<Vec<_>>().into_iter();
        let mut last = None;
        assert!(answers.len() > 0, "a script needs an answer");
        Self::start(move |_| {
            last = answers.next().or_else(|| last.take());
            last.clone().expect("there is an answer")
        })
        .await
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests so far, in the order in which they were complete.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.borrow().clone()
    }

    /// How many connections there were so far.
    pub fn connections(&self) -> usize {
        *self.shared.connections.borrow()
    }

    /// Waits until there were so many requests, and gives them.
    pub async fn wait_for_requests(&self, count: usize) -> Vec<Request> {
        let mut requests = self.shared.requests.subscribe();
        let requests = requests.wait_for(|requests| requests.len() >= count).await;
        requests.expect("the sender is in this struct").clone()
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl fmt::Debug for HttpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, shared: _, accepting: _ } = self;
        f.debug_struct("HttpServer").field("address", address).finish_non_exhaustive()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and with it every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                let mut number = 0;
                shared.connections.send_modify(|count| {
                    *count += 1;
                    number = *count;
                });
                let shared = Arc::clone(&shared);
                // A connection that breaks is the point of many a test.
                connections.spawn(async move { serve(stream, number, &shared).await.unwrap_or_default() });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, connection: usize, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream, connection).await? {
        let (answer, head_only) = {
            // A panic of the handler fails its test; the others of the server's requests may go on.
            let mut handler: MutexGuard<'_, Handler> =
                shared.handler.lock().unwrap_or_else(PoisonError::into_inner);
            (handler(&request), request.method == "HEAD")
        };
        shared.requests.send_modify(|requests| requests.push(request));
        if let Some(gate) = &answer.gate {
            gate.passed().await;
        }
        write(stream.get_mut(), &answer, head_only).await?;
        match answer.end {
            End::Keep => {}
            End::Close => return stream.get_mut().shutdown().await,
            End::Reset => return stream.get_mut().set_zero_linger(),
            End::Stall => {
                // Until the other side has enough of it.
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Reads a request; `None` if the connection was closed before one began.
async fn read(stream: &mut BufReader<TcpStream>, connection: usize) -> io::Result<Option<Request>> {
    let Some(start) = line(stream).await? else { return Ok(None) };
    let mut words = start.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
        connection,
    };
    while let Some(header) = line(stream).await?.filter(|line| !line.is_empty()) {
        let (name, value) = header.split_once(':').unwrap_or((&header, ""));
        request.headers.push((name.to_owned(), value.trim().to_owned()));
    }
    if request.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        loop {
            let size = line(stream).await?.unwrap_or_default();
            let size = u64::from_str_radix(&size, 16).map_err(io::Error::other)?;
            stream.take(size).read_to_end(&mut request.body).await?;
            line(stream).await?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = request.header("content-length") {
        let length = length.parse().map_err(io::Error::other)?;
        stream.take(length).read_to_end(&mut request.body).await?;
    }
    Ok(Some(request))
}

async fn line(stream: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut line = String::new();
    let read = stream.read_line(&mut line).await?;
    Ok((read > 0).then(|| line.trim_end().to_owned()))
}

async fn write(stream: &mut TcpStream, answer: &Answer, head_only: bool) -> io::Result<()> {
    let length = match &answer.body {
        Body::Bytes(bytes) => bytes.len() as u64,
        Body::Repeated(_, length) => *length,
    };
    match &answer.head {
        Head::None => return Ok(()),
        Head::Raw(bytes) => stream.write_all(bytes).await?,
        Head::Status(status) => {
            let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(*status));
            for (name, value) in &answer.headers {
                let _ = write!(head, "{name}: {value}\r\n");
            }
            match answer.framing {
                Framing::Length => drop(write!(head, "content-length: {length}\r\n")),
                Framing::Promised(length) => drop(write!(head, "content-length: {length}\r\n")),
                Framing::Chunked => head.push_str("transfer-encoding: chunked\r\n"),
                Framing::ToTheEnd => {}
            }
            head.push_str("\r\n");
            stream.write_all(head.as_bytes()).await?;
        }
    }
    if head_only {
        return stream.flush().await;
    }
    let whole = answer.sent.is_none();
    let mut left = answer.sent.unwrap_or(length).min(length);
    let mut at = 0;
    let piece = answer.pace.map_or(BLOCK, |(bytes, _)| bytes);
    let repeated = match &answer.body {
        Body::Repeated(byte, _) => vec![*byte; piece],
        Body::Bytes(_) => Vec::new(),
    };
    while left > 0 {
        let size = left.min(piece as u64) as usize;
        let block = match &answer.body {
            Body::Bytes(bytes) => &bytes[at..at + size],
            Body::Repeated(..) => &repeated[..size],
        };
        if let Some((_, pause)) = answer.pace {
            tokio::time::sleep(pause).await;
        }
        if matches!(answer.framing, Framing::Chunked) {
            stream.write_all(format!("{size:x}\r\n").as_bytes()).await?;
            stream.write_all(block).await?;
            stream.write_all(b"\r\n").await?;
        } else {
            stream.write_all(block).await?;
        }
        at += size;
        left -= size as u64;
    }
    if whole && matches!(answer.framing, Framing::Chunked) {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    stream.flush().await
}

/// The name of a status, for people who read a trace.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        412 => "Precondition Failed",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Scripted",
    }
}
