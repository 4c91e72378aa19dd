//! How many requests a run has sent to a KMS: by provider, operation and outcome.
//!
//! The trace layer of `kms-core` has an event for each try. This counts them, whether they are logged or not.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    filter::filter_fn,
    layer::{Context, Filter},
    registry::LookupSpan,
};

/// The module of the trace layer, whose events have the fields `provider`, `operation` and `outcome`.
const TRACE: &str = "kms_core::layer::trace";

/// The counts. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests(Arc<Mutex<BTreeMap<Tried, u64>>>);

/// What was tried, and how that ended.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
struct Tried {
    provider: String,
    operation: String,
    outcome: String,
}

/// The tries of one kind.
#[derive(Debug, Serialize)]
pub(crate) struct Count {
    provider: String,
    operation: String,
    /// `done`, or the kind of the error.
    outcome: String,
    count: u64,
}

impl Requests {
    /// The layer that counts, with its filter.
    pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        self.clone().with_filter(Self::filter())
    }

    fn filter<S>() -> impl Filter<S> {
        filter_fn(|metadata| metadata.target() == TRACE)
    }

    /// The counts so far.
    pub(crate) fn counts(&self) -> Vec<Count> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |(tried, count): (&Tried, &u64)| {
            let Tried { provider, operation, outcome } = tried.clone();
            Count { provider, operation, outcome, count: *count }
        };
        counts.iter().map(count).collect()
    }
}

impl<S: Subscriber> Layer<S> for Requests {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut tried = Tried::default();
        event.record(&mut tried);
        if !tried.operation.is_empty() {
            let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(tried).or_default();
            *count = count.saturating_add(1);
        }
    }
}

impl Visit for Tried {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "provider" => value.clone_into(&mut self.provider),
            "operation" => value.clone_into(&mut self.operation),
            "outcome" => value.clone_into(&mut self.outcome),
            // The name of the key is no part of a count.
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kms_core::memory::Memory;
    use kms_core::{
        ErrorKind, KmsProvider as _,
        layer::{LayerOptions, standard},
    };
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[tokio::test]
    async fn each_try_counts_although_nothing_is_logged() {
        let requests = Requests::default();
        let subscriber = tracing_subscriber::registry().with(requests.layer());
        let _guard = tracing::subscriber::set_default(subscriber);
        let kms = standard(Arc::new(Memory::new()), &LayerOptions::default());
        for _ in 0..2 {
            let error = kms.get(&"a".parse().unwrap(), kms_core::Freshness::Any).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
        let counts = serde_json::to_value(requests.counts()).unwrap();
        let provider = kms.provider();
        assert_eq!(
            counts,
            serde_json::json!([
                {"provider": provider, "operation": "get", "outcome": "not-found", "count": 2},
            ])
        );
        assert!(!format!("{requests:?}").contains("\"a\""));
    }
}
