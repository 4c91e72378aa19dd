//! The layer that traces each try and its duration.

use std::time::Instant;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tracing::debug;

use crate::{
    Capability, DeleteMode, Freshness, HistoryMode, Kek, KeyName, KeyStream, KeyVersion, KmsProvider,
    PastKek, Probe, PutMode, Result, Stored, UpdateRight, provider::Deleted,
};

/// A provider that logs an event at level `DEBUG` for each try: operation, key name, duration and outcome.
#[derive(Debug)]
pub struct Traced<P> {
    inner: P,
}

impl<P: KmsProvider> Traced<P> {
    /// Wraps a provider.
    pub fn new(inner: P) -> Self {
        Self { inner }
    }

    fn done<T>(&self, operation: &'static str, key: &str, start: Instant, result: Result<T>) -> Result<T> {
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        let outcome = result.as_ref().map_or_else(|error| error.kind().as_str(), |_| "done");
        debug!(provider = self.inner.provider(), operation, key, milliseconds, outcome, "tried");
        result
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<P: KmsProvider> KmsProvider for Traced<P> {
    fn provider(&self) -> &'static str {
        self.inner.provider()
    }

    fn capability(&self) -> Capability {
        self.inner.capability()
    }

    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        let start = Instant::now();
        self.done("put", name.as_str(), start, self.inner.put(name, kek, mode).await)
    }

    async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
        let start = Instant::now();
        self.done("get", name.as_str(), start, self.inner.get(name, freshness).await)
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        let start = Instant::now();
        self.done("delete", name.as_str(), start, self.inner.delete(name, mode).await)
    }

    fn list(&self) -> KeyStream<'_> {
        let start = Instant::now();
        Box::pin(stream::unfold(Some(self.inner.list()), move |list| async move {
            let mut list = list?;
            match list.next().await {
                Some(Ok(info)) => Some((Ok(info), Some(list))),
                Some(Err(error)) => Some((self.done("list", "", start, Err(error)), None)),
                None => {
                    let _ = self.done("list", "", start, Ok(()));
                    None
                }
            }
        }))
    }

    async fn undelete(&self, name: &KeyName) -> Result<KeyVersion> {
        let start = Instant::now();
        self.done("undelete", name.as_str(), start, self.inner.undelete(name).await)
    }

    async fn history(&self, name: &KeyName, mode: HistoryMode) -> Result<Vec<PastKek>> {
        let start = Instant::now();
        self.done("history", name.as_str(), start, self.inner.history(name, mode).await)
    }

    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
        let start = Instant::now();
        self.done("retire", name.as_str(), start, self.inner.retire_superseded(name, current).await)
    }

    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        let start = Instant::now();
        self.done("rights", "", start, self.inner.may_update(names).await)
    }

    async fn probe(&self, probe: &mut Probe) {
        let start = Instant::now();
        self.inner.probe(probe).await;
        let (step, result) = match probe.failed.take() {
            Some((step, error)) => (step, Err(error)),
            None => ("", Ok(())),
        };
        probe.failed = self.done("probe", "", start, result).err().map(|error| (step, error));
    }
}
