//! The layer that limits the time of each try.

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};

use super::limited;
use crate::{
    Capability, DeleteMode, Error, Freshness, HistoryMode, Kek, KeyName, KeyStream, KeyVersion, KmsProvider,
    PastKek, Probe, PutMode, Result, Stored, UpdateRight, provider::Deleted,
};

/// A provider whose calls all end within a time limit. In a list the limit is for each page.
#[derive(Debug)]
pub struct TimedOut<P> {
    inner: P,
    limit: Duration,
}

impl<P: KmsProvider> TimedOut<P> {
    /// Wraps a provider.
    pub fn new(inner: P, limit: Duration) -> Self {
        Self { inner, limit }
    }

    async fn limited<T>(
        &self,
        operation: &'static str,
        name: &KeyName,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let result = limited(self.limit, call).await;
        result.map_err(|error| self.annotate(operation, error).context("key", name.as_str()))
    }

    /// Adds what the [`Contract`](super::Contract) adds to the errors of the provider itself.
    fn annotate(&self, operation: &'static str, error: Error) -> Error {
        error.operation(operation).provider(self.inner.provider())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<P: KmsProvider> KmsProvider for TimedOut<P> {
    fn provider(&self) -> &'static str {
        self.inner.provider()
    }

    fn capability(&self) -> Capability {
        self.inner.capability()
    }

    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        self.limited("put", name, self.inner.put(name, kek, mode)).await
    }

    async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
        self.limited("get", name, self.inner.get(name, freshness)).await
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        self.limited("delete", name, self.inner.delete(name, mode)).await
    }

    fn list(&self) -> KeyStream<'_> {
        Box::pin(stream::unfold(Some(self.inner.list()), move |keys| async move {
            let mut keys = keys?;
            match limited(self.limit, async { Ok(keys.next().await) }).await {
                Ok(item) => item.map(|item| (item, Some(keys))),
                Err(error) => Some((Err(self.annotate("list", error)), None)),
            }
        }))
    }

    async fn undelete(&self, name: &KeyName) -> Result<KeyVersion> {
        self.limited("undelete", name, self.inner.undelete(name)).await
    }

    async fn history(&self, name: &KeyName, mode: HistoryMode) -> Result<Vec<PastKek>> {
        self.limited("history", name, self.inner.history(name, mode)).await
    }

    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
        self.limited("retire", name, self.inner.retire_superseded(name, current)).await
    }

    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        let rights = limited(self.limit, self.inner.may_update(names)).await;
        rights.map_err(|error| self.annotate("rights", error))
    }

    async fn probe(&self, probe: &mut Probe) {
        let result = limited(self.limit, async {
            self.inner.probe(probe).await;
            Ok(())
        });
        if let Err(error) = result.await {
            probe.cut_off(self.annotate("probe", error));
        }
    }
}
