//! How many requests a run has sent to a KMS, by provider, operation and outcome; and how long its token lives.
//!
//! `kms-core` has an event for each try, and one for a token that was looked up. This takes note of them, whether they are
//! logged or not.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use kms_core::{layer::TRIED, token_life};
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

use crate::time::rfc3339;

/// The counts, and the token. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    tried: BTreeMap<Tried, u64>,
    token: Option<TokenLife>,
}

/// What is known of the token of the settings.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct TokenLife {
    provider: String,
    /// When it ends, in RFC 3339 and by the clock of this host; absent if it never ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    renewable: bool,
}

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
        filter_fn(|metadata| [TRIED, token_life::TARGET].contains(&metadata.target()))
    }

    /// The counts so far.
    pub(crate) fn counts(&self) -> Vec<Count> {
        let seen = self.seen();
        let count = |(tried, count): (&Tried, &u64)| {
            let Tried { provider, operation, outcome } = tried.clone();
            Count { provider, operation, outcome, count: *count }
        };
        seen.tried.iter().map(count).collect()
    }

    /// The token of the settings, if it was looked up.
    pub(crate) fn token(&self) -> Option<TokenLife> {
        self.seen().token.clone()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for Requests {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == token_life::TARGET {
            let mut life = TokenLife::default();
            event.record(&mut life);
            self.seen().token = Some(life);
            return;
        }
        let mut tried = Tried::default();
        event.record(&mut tried);
        if !tried.operation.is_empty() {
            let mut seen = self.seen();
            let count = seen.tried.entry(tried).or_default();
            *count = count.saturating_add(1);
        }
    }
}

impl Visit for TokenLife {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "provider" {
            value.clone_into(&mut self.provider);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "seconds" && value > 0 {
            self.expires = SystemTime::now().checked_add(Duration::from_secs(value)).and_then(rfc3339);
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "renewable" {
            self.renewable = value;
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
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

    #[test]
    fn a_token_that_never_ends_has_no_time() {
        let requests = Requests::default();
        let subscriber = tracing_subscriber::registry().with(requests.layer());
        let _guard = tracing::subscriber::set_default(subscriber);
        assert!(requests.token().is_none());
        token_life::learnt("vault", Some(Duration::from_secs(3600)), true);
        let life = requests.token().unwrap();
        let expires: jiff::Timestamp = life.expires.unwrap().parse().unwrap();
        let left = expires.duration_since(jiff::Timestamp::now()).as_secs();
        assert!((3500..=3600).contains(&left) && life.renewable, "{left}");
        token_life::learnt("vault", None, false);
        let never = serde_json::to_value(requests.token().unwrap()).unwrap();
        assert_eq!(never, serde_json::json!({"provider": "vault", "renewable": false}));
    }
}
