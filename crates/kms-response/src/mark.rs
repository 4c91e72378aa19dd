//! Marks requests that belong together.

use http::{HeaderMap, HeaderValue};
use kms_core::{Trace, trace::TRACEPARENT};

/// Adds the id of the group of requests that [is running](Trace::current), if there is one.
pub fn mark(headers: &mut HeaderMap) {
    if let Some(value) = Trace::current().and_then(|trace| HeaderValue::try_from(trace.header()).ok()) {
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
            headers.get(TRACEPARENT).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(marked(), None);
        let trace = Trace::random();
        assert_eq!(trace.run(async { marked() }).await, Some(trace.header()));
    }
}
