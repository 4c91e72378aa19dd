//! A server on a port of the loopback, and requests to it.

use std::{net::SocketAddr, sync::Arc};

use kms_operator::{
    Source,
    metrics::Metrics,
    serve::{Access, Certificate, serve},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

/// A running server, which ends when it is dropped.
pub(crate) struct Served {
    pub(crate) at: SocketAddr,
    task: AbortHandle,
}

/// The answer to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Served {
    pub(crate) async fn start(source: Arc<dyn Source>, access: Access) -> Self {
        Self::start_with(source, access, None).await
    }

    pub(crate) async fn start_with(
        source: Arc<dyn Source>,
        access: Access,
        certificate: Option<Certificate>,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (at, metrics) = (listener.local_addr().unwrap(), Metrics::new(Arc::clone(&source)));
        let task = tokio::spawn(serve(listener, source, metrics, access, certificate)).abort_handle();
        Self { at, task }
    }

    /// Sends a GET with more lines in its head.
    pub(crate) async fn get(&self, path: &str, head: &str) -> Answer {
        let mut stream = TcpStream::connect(self.at).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n{head}\r\n", self.at);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}
