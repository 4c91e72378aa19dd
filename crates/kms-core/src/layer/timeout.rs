//! The layer that limits the time of each try.

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::time::timeout;

use crate::{
    Capability, DeleteMode, Error, ErrorKind, Freshness, HistoryMode, Kek, KeyName, KeyStream, KeyVersion,
    KmsProvider, PastKek, Probe, PutMode, Result, Retry, Stored, UpdateRight, provider::Deleted,
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
        match timeout(self.limit, call).await {
            Ok(result) => result,
            Err(_) => Err(self.too_late(operation).context("key", name.as_str())),
        }
    }

    /// Makes the error for a call that was cut off. The server may or may not have applied it.
    fn too_late(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::Timeout, format!("no answer within {:?}", self.limit))
            .retry(Retry::IfIdempotent)
            .operation(operation)
            .provider(self.inner.provider())
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
            match timeout(self.limit, keys.next()).await {
                Ok(item) => item.map(|item| (item, Some(keys))),
                Err(_) => Some((Err(self.too_late("list")), None)),
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
        match timeout(self.limit, self.inner.may_update(names)).await {
            Ok(result) => result,
            Err(_) => Err(self.too_late("rights")),
        }
    }

    async fn probe(&self) -> Probe {
        match timeout(self.limit, self.inner.probe()).await {
            Ok(probe) => probe,
            Err(_) => Probe::new().fail("connect", self.too_late("probe"), &[]),
        }
    }
}
