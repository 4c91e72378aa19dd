//! What is sent for a request, and how it goes wrong.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

/// Holds answers back until the test opens it, however many wait.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    /// A shut gate.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Opens it for all that wait and will wait.
    pub fn open(&self) {
        self.0.close();
    }

    pub(super) async fn passed(&self) {
        // There are no permits, so this returns when the semaphore is closed.
        let _ = self.0.acquire().await;
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

/// What is sent for a request, and how it goes wrong.
#[derive(Clone, Debug)]
pub struct Answer {
    pub(super) head: Head,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Body,
    pub(super) framing: Framing,
    pub(super) sent: Option<u64>,
    pub(super) pace: Option<(usize, Duration)>,
    pub(super) end: End,
    pub(super) gate: Option<Gate>,
}

#[derive(Clone, Debug)]
pub(super) enum Head {
    /// Nothing at all.
    None,
    Raw(Vec<u8>),
    Status(u16),
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    Bytes(Vec<u8>),
    Repeated(u8, u64),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Framing {
    Chunked,
    Length,
    Promised(u64),
    ToTheEnd,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    Close,
    Keep,
    Reset,
    Stall,
}

impl Answer {
    fn new(head: Head) -> Self {
        Self {
            head,
            headers: Vec::new(),
            body: Body::Bytes(Vec::new()),
            framing: Framing::Length,
            sent: None,
            pace: None,
            end: End::Keep,
            gate: None,
        }
    }

    /// An answer with this status and no body.
    pub fn status(status: u16) -> Self {
        Self::new(Head::Status(status))
    }

    /// An answer with this status and body, said to be JSON.
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::status(status).header("content-type", "application/json").body(body)
    }

    /// A 429, with or without a `Retry-After`.
    pub fn too_many_requests(retry_after: Option<&str>) -> Self {
        let answer = Self::json(429, r#"{"errors":["request path is rate limited"]}"#);
        match retry_after {
            Some(wait) => answer.header("retry-after", wait),
            None => answer,
        }
    }

    /// These bytes and then the end of the connection, whether or not they are HTTP.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { end: End::Close, ..Self::new(Head::Raw(bytes.into())) }
    }

    /// No answer: the connection is reset.
    pub fn reset() -> Self {
        Self { end: End::Reset, ..Self::new(Head::None) }
    }

    /// No answer: the connection is closed in good order.
    pub fn close() -> Self {
        Self { end: End::Close, ..Self::new(Head::None) }
    }

    /// No answer, ever, while the connection stays open.
    pub fn never() -> Self {
        Self { end: End::Stall, ..Self::new(Head::None) }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Body::Bytes(body.into());
        self
    }

    /// Sets a body of one byte, again and again; it is never held in memory.
    #[must_use]
    pub fn huge(mut self, byte: u8, length: u64) -> Self {
        self.body = Body::Repeated(byte, length);
        self
    }

    /// Sends the body in chunks, without its length.
    #[must_use]
    pub fn chunked(mut self) -> Self {
        self.framing = Framing::Chunked;
        self
    }

    /// Sends the body without its length; it ends with the connection.
    #[must_use]
    pub fn to_the_end(mut self) -> Self {
        self.framing = Framing::ToTheEnd;
        self.end = End::Close;
        self
    }

    /// Sends this `Content-Length`, whatever the body has.
    #[must_use]
    pub fn promising(mut self, length: u64) -> Self {
        self.framing = Framing::Promised(length);
        self
    }

    /// Resets the connection after so many bytes of the body.
    #[must_use]
    pub fn reset_after(mut self, bytes: u64) -> Self {
        self.sent = Some(bytes);
        self.end = End::Reset;
        self
    }

    /// Closes the connection after so many bytes of the body; with 0, right after the headers.
    #[must_use]
    pub fn close_after(mut self, bytes: u64) -> Self {
        self.sent = Some(bytes);
        self.end = End::Close;
        self
    }

    /// Sends no more after so many bytes of the body, while the connection stays open.
    #[must_use]
    pub fn stall_after(mut self, bytes: u64) -> Self {
        self.sent = Some(bytes);
        self.end = End::Stall;
        self
    }

    /// Sends the body in pieces of `bytes` bytes, each after a pause.
    #[must_use]
    pub fn slow(mut self, bytes: usize, pause: Duration) -> Self {
        self.pace = Some((bytes.max(1), pause));
        self
    }

    /// Closes the connection after the whole answer without announcing it, as a server does with idle ones.
    #[must_use]
    pub fn then_close(mut self) -> Self {
        self.end = End::Close;
        self
    }

    /// Sends nothing before the gate is open.
    #[must_use]
    pub fn held(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }
}
