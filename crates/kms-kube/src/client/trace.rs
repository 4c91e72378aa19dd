//! W3C Trace Context: requests that belong together carry the same id, and a server that logs it shows which they are.

use std::{
    fmt,
    hash::{BuildHasher as _, Hasher as _, RandomState},
};

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header (Trace Context §3.2).
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

tokio::task_local! {
    static CURRENT: Trace;
}

/// The id of a group of requests to the API server.
///
/// The sampled flag is not set: this program records no spans itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trace {
    trace: [u64; 2],
    parent: u64,
}

impl Trace {
    /// A new random id.
    pub fn random() -> Self {
        // All zeros are not valid.
        let number = || RandomState::new().build_hasher().finish().max(1);
        Self { trace: [number(), number()], parent: number() }
    }

    /// Runs a future whose requests carry the id. Those of tasks that it spawns, and of watches, do not.
    pub async fn run<F: Future>(self, future: F) -> F::Output {
        CURRENT.scope(self, future).await
    }

    fn header(self) -> Option<HeaderValue> {
        HeaderValue::from_str(&format!("00-{self}-{:016x}-00", self.parent)).ok()
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.trace;
        write!(f, "{first:016x}{second:016x}")
    }
}

/// Adds the id of the current group, if there is one.
pub(super) fn mark(headers: &mut HeaderMap) {
    if let Some(value) = CURRENT.try_with(|trace| trace.header()).ok().flatten() {
        headers.insert(TRACEPARENT, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_of_a_group_carry_its_id_and_others_none() {
        let marked = || {
            let mut headers = HeaderMap::new();
            mark(&mut headers);
            headers.get(&TRACEPARENT).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(marked(), None);
        let trace = Trace::random();
        let header = trace.run(async { marked() }).await.unwrap();
        let parts: Vec<_> = header.split('-').collect();
        assert_eq!((parts[0], parts[1], parts[3]), ("00", trace.to_string().as_str(), "00"));
        assert_eq!((parts[1].len(), parts[2].len(), parts.len()), (32, 16, 4));
        assert_eq!(trace.run(async { marked() }).await.unwrap(), header);
        assert_ne!(Trace::random(), trace);
        assert_eq!(marked(), None);
    }
}
