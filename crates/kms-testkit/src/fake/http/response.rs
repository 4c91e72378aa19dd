//! A response, and the ways in which its transmission goes wrong.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::sync::Semaphore;

/// Holds responses back until the test opens it.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    /// Returns a closed gate.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets all waiting and all later responses pass.
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

/// A response, and the way in which its transmission goes wrong.
#[derive(Clone, Debug)]
pub struct Response {
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
    /// No bytes.
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

impl Response {
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

    /// A response with this status and no body.
    pub fn status(status: u16) -> Self {
        Self::new(Head::Status(status))
    }

    /// A response with this status and body, and the content type of JSON.
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::status(status).header("content-type", "application/json").body(body)
    }

    /// A response with this status and a JSON value as its body.
    pub(in crate::fake) fn value(status: u16, body: Value) -> Self {
        Self::json(status, body.to_string())
    }

    /// Names the character set in the content type of JSON, as Microsoft's services do.
    pub(in crate::fake) fn utf8(mut self) -> Self {
        for (_, value) in self.headers.iter_mut().filter(|(_, value)| value == "application/json") {
            value.push_str("; charset=utf-8");
        }
        self
    }

    /// A response with this status and HTML, as a proxy in front of a service sends it.
    pub(in crate::fake) fn html(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::status(status).header("content-type", "text/html").body(body)
    }

    /// Adds `Retry-After`, if there is a value.
    pub(in crate::fake) fn retry_after(self, wait: Option<&str>) -> Self {
        match wait {
            Some(wait) => self.header("retry-after", wait),
            None => self,
        }
    }

    /// Edits the body, if it is JSON.
    pub(in crate::fake) fn edit(mut self, edit: impl FnOnce(&mut Value)) -> Self {
        if let Body::Bytes(bytes) = &self.body
            && let Ok(mut value) = serde_json::from_slice(bytes)
        {
            edit(&mut value);
            self.body = Body::Bytes(value.to_string().into_bytes());
        }
        self
    }

    /// A 429, with or without a `Retry-After`.
    pub fn too_many_requests(retry_after: Option<&str>) -> Self {
        Self::json(429, r#"{"errors":["request path is rate limited"]}"#).retry_after(retry_after)
    }

    /// Sends these bytes, which need not be HTTP, and closes the connection.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { end: End::Close, ..Self::new(Head::Raw(bytes.into())) }
    }

    /// Sends nothing and resets the connection.
    pub fn reset() -> Self {
        Self { end: End::Reset, ..Self::new(Head::None) }
    }

    /// Sends nothing and closes the connection.
    pub fn close() -> Self {
        Self { end: End::Close, ..Self::new(Head::None) }
    }

    /// Sends nothing and keeps the connection open.
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

    /// Sets a body that repeats one byte; it is never held in memory.
    #[must_use]
    pub fn huge(mut self, byte: u8, length: u64) -> Self {
        self.body = Body::Repeated(byte, length);
        self
    }

    /// Sends the body in chunks, without a length.
    #[must_use]
    pub fn chunked(mut self) -> Self {
        self.framing = Framing::Chunked;
        self
    }

    /// Sends the body without a length; the end of the connection ends it.
    #[must_use]
    pub fn to_the_end(mut self) -> Self {
        self.framing = Framing::ToTheEnd;
        self.end = End::Close;
        self
    }

    /// Sends this `Content-Length`, whatever the length of the body.
    #[must_use]
    pub fn promising(mut self, length: u64) -> Self {
        self.framing = Framing::Promised(length);
        self
    }

    /// Resets the connection after this many bytes of the body.
    #[must_use]
    pub fn reset_after(mut self, bytes: u64) -> Self {
        self.sent = Some(bytes);
        self.end = End::Reset;
        self
    }

    /// Closes the connection after this many bytes of the body; with 0, right after the headers.
    #[must_use]
    pub fn close_after(mut self, bytes: u64) -> Self {
        self.sent = Some(bytes);
        self.end = End::Close;
        self
    }

    /// Stops after this many bytes of the body and keeps the connection open.
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

    /// Closes the connection after the whole response without announcing it, as servers do with idle connections.
    #[must_use]
    pub fn then_close(mut self) -> Self {
        self.end = End::Close;
        self
    }

    /// Sends nothing until the gate is open.
    #[must_use]
    pub fn held(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }
}
