//! Receives a body into memory that is wiped.

use http::{HeaderMap, header::CONTENT_LENGTH};
use kms_core::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

/// The size of the largest accepted body, in bytes. A list of 100,000 keys has 10 MB.
const MAX_BODY: usize = 32 * 1024 * 1024;
/// The largest first buffer, in bytes, whatever size the server announces.
const MAX_FIRST: usize = 1024 * 1024;

/// A body that is being received, which may hold a KEK. It is wiped on drop, and so is each buffer that was too small.
pub struct ReceivedBody(Zeroizing<Vec<u8>>);

impl ReceivedBody {
    /// An empty body of a response with these headers. Without an announced size it has no buffer yet: most responses without
    /// one have no body, and a buffer would be wiped in vain.
    pub fn of(headers: &HeaderMap) -> Self {
        let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Self(Zeroizing::new(Vec::with_capacity(announced.unwrap_or(0).min(MAX_FIRST))))
    }

    /// Appends what has been received.
    ///
    /// # Errors
    ///
    /// `Protocol` if the body has more than 32 MiB.
    pub fn append(&mut self, chunk: &[u8]) -> Result<()> {
        let Self(buffer) = self;
        let needed = buffer.len().saturating_add(chunk.len());
        if needed > MAX_BODY {
            let message = format!("the response has more than {MAX_BODY} bytes");
            return Err(Error::new(ErrorKind::Protocol, message));
        }
        if needed > buffer.capacity() {
            // A Vec that grows by itself does not wipe its old buffer.
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.saturating_mul(2)));
            larger.extend_from_slice(buffer);
            *buffer = larger;
        }
        buffer.extend_from_slice(chunk);
        Ok(())
    }

    /// The whole body.
    pub fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

impl std::fmt::Debug for ReceivedBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(buffer) = self;
        write!(f, "ReceivedBody({} bytes)", buffer.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcing(length: &'static str) -> ReceivedBody {
        ReceivedBody::of(&HeaderMap::from_iter([(CONTENT_LENGTH, length.parse().unwrap())]))
    }

    #[test]
    fn a_body_is_whole_whatever_size_was_announced() {
        let chunk: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        for mut body in [ReceivedBody::of(&HeaderMap::new()), announcing("3"), announcing("many")] {
            body.append(&chunk).unwrap();
            body.append(&[]).unwrap();
            body.append(&chunk).unwrap();
            assert_eq!(*body.into_bytes(), [chunk.clone(), chunk.clone()].concat());
        }
    }

    #[test]
    fn a_response_without_a_body_needs_no_buffer() {
        assert_eq!(ReceivedBody::of(&HeaderMap::new()).0.capacity(), 0);
    }

    #[test]
    fn a_server_that_announces_much_gets_little_and_one_that_sends_too_much_is_refused() {
        let mut body = announcing("4000000000");
        assert!(body.0.capacity() <= 2 * MAX_FIRST, "{}", body.0.capacity());
        let chunk = vec![0; MAX_BODY];
        body.append(&chunk).unwrap();
        let error = body.append(&[1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        assert_eq!(body.into_bytes().len(), MAX_BODY);
    }
}
