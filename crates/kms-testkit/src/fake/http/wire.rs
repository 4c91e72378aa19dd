//! HTTP/1.1 on a connection: requests read, responses written byte for byte, over TCP or TLS.

use std::{
    fmt::Write as _,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::response::{Body, End, Framing, Head, Response};

/// Bytes of a repeated body that are written at once.
const BLOCK: usize = 64 * 1024;

/// A request as the server received it.
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
    /// The number of its connection, counted from 1.
    pub connection: usize,
}

impl Request {
    /// The value of a header; the case of its name does not matter.
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
    /// If the body is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    /// Method and path, as in `GET /v1/sys/health`.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// A TCP connection, with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    fn tcp(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Stream for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// The part of a server that decides on responses.
pub(in crate::fake) trait Service: Send + Sync + 'static {
    /// Notes a new connection after its TLS handshake, and returns its number.
    fn connected(&self) -> usize;

    /// Responds to a request; `None` drops the connection.
    fn respond(&self, request: Request) -> impl Future<Output = Option<Response>> + Send;
}

/// Binds a free port of the loopback.
pub(in crate::fake) async fn bind() -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Serves connections until the task is aborted, which ends all connections too.
pub(in crate::fake) fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    service: Arc<impl Service>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Ok((stream, _)) = listener.accept() => {
                    let (tls, service) = (tls.clone(), Arc::clone(&service));
                    connections.spawn(async move {
                        stream.set_nodelay(true).ok();
                        // Many tests break connections and handshakes on purpose.
                        let _ended = match tls {
                            None => converse(stream, &*service).await,
                            Some(tls) => match tls.accept(stream).await {
                                Ok(stream) => converse(stream, &*service).await,
                                Err(error) => Err(error),
                            },
                        };
                    });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    })
}

async fn converse<T: Stream>(stream: T, service: &impl Service) -> io::Result<()> {
    let connection = service.connected();
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream, connection).await? {
        let head_only = request.method == "HEAD";
        let Some(response) = service.respond(request).await else { return Ok(()) };
        write(stream.get_mut(), &response, head_only).await?;
        match response.end {
            End::Keep => {}
            End::Close => return stream.get_mut().shutdown().await,
            End::Reset => return stream.get_ref().tcp().set_zero_linger(),
            End::Stall => {
                // Until the client closes the connection.
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Reads a request; `None` if the client closed the connection before one began.
async fn read<T: Stream>(stream: &mut BufReader<T>, connection: usize) -> io::Result<Option<Request>> {
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

async fn line<T: Stream>(stream: &mut BufReader<T>) -> io::Result<Option<String>> {
    let mut line = String::new();
    let read = stream.read_line(&mut line).await?;
    Ok((read > 0).then(|| line.trim_end().to_owned()))
}

async fn write<T: Stream>(stream: &mut T, response: &Response, head_only: bool) -> io::Result<()> {
    let length = match &response.body {
        Body::Bytes(bytes) => bytes.len() as u64,
        Body::Repeated(_, length) => *length,
    };
    match &response.head {
        Head::None => return Ok(()),
        Head::Raw(bytes) => stream.write_all(bytes).await?,
        Head::Status(status) => {
            let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(*status));
            for (name, value) in &response.headers {
                let _ = write!(head, "{name}: {value}\r\n");
            }
            match response.framing {
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
    let whole = response.sent.is_none();
    let mut left = response.sent.unwrap_or(length).min(length);
    let mut at = 0;
    let piece = response.pace.map_or(BLOCK, |(bytes, _)| bytes);
    let repeated = match &response.body {
        Body::Repeated(byte, _) => vec![*byte; piece],
        Body::Bytes(_) => Vec::new(),
    };
    while left > 0 {
        let size = left.min(piece as u64) as usize;
        let block = match &response.body {
            Body::Bytes(bytes) => &bytes[at..at + size],
            Body::Repeated(..) => &repeated[..size],
        };
        if let Some((_, pause)) = response.pace {
            tokio::time::sleep(pause).await;
        }
        if matches!(response.framing, Framing::Chunked) {
            stream.write_all(format!("{size:x}\r\n").as_bytes()).await?;
            stream.write_all(block).await?;
            stream.write_all(b"\r\n").await?;
        } else {
            stream.write_all(block).await?;
        }
        at += size;
        left -= size as u64;
    }
    if whole && matches!(response.framing, Framing::Chunked) {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    stream.flush().await
}

/// The name of a status, for people who read a trace.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        409 => "Conflict",
        412 => "Precondition Failed",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Scripted",
    }
}
