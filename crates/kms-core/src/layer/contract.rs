//! The layer that fulfils the part of the [`KmsProvider`] contract that all providers share.

use async_trait::async_trait;
use futures_util::StreamExt;

use crate::{
    Capability, DeleteMode, Error, Freshness, Guarantee, HistoryMode, Kek, KeyName, KeyStream, KeyVersion,
    KmsProvider, PastKek, Probe, PutMode, Result, Stored, UpdateRight, provider::Deleted,
};

/// Refuses the puts that a provider cannot do, and adds operation, provider and key to its errors.
///
/// This is the innermost of the [standard](super::standard) layers, and a provider relies on it: the provider never
/// gets a put that its [`Capability`] excludes or a KEK that is too large, and it leaves operation, provider and key
/// out of its errors.
/// A test without the standard layers wraps its provider in this one; the conformance suite does so itself.
#[derive(Debug)]
pub struct Contract<P> {
    inner: P,
}

impl<P: KmsProvider> Contract<P> {
    /// Wraps a provider.
    pub fn new(inner: P) -> Self {
        Self { inner }
    }

    /// The wrapped provider.
    pub fn inner(&self) -> &P {
        &self.inner
    }

    /// Adds operation and provider to an error, unless the provider itself has set them.
    fn annotate(&self, operation: &'static str, error: Error) -> Error {
        error.operation(operation).provider(self.inner.provider())
    }

    /// Adds operation, provider and key to an error, the key last.
    fn annotate_key<T>(&self, operation: &'static str, name: &KeyName, result: Result<T>) -> Result<T> {
        result.map_err(|error| self.annotate(operation, error).context("key", name.as_str()))
    }

    /// Fails with `Unsupported` unless the provider can do `mode`, and with `ConfigInvalid` if the KEK is too large for
    /// the provider.
    fn check_put(&self, kek: &Kek, mode: &PutMode) -> Result<()> {
        let capability = self.inner.capability();
        let (guarantee, what) = match mode {
            PutMode::Create => (capability.create, "create a key only if it is absent"),
            PutMode::Update(_) => (capability.update, "update a key only if it has not changed"),
            PutMode::Overwrite => (Guarantee::Atomic, ""),
        };
        if guarantee == Guarantee::Unsupported {
            return Err(Error::new(crate::ErrorKind::Unsupported, format!("this provider cannot {what}")));
        }
        let (bytes, most) = (kek.expose_secret_bytes().len(), capability.max_kek_bytes);
        if bytes > most {
            return Err(Error::config(format!(
                "the KEK has {bytes} bytes, this provider takes at most {most}"
            )));
        }
        Ok(())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<P: KmsProvider> KmsProvider for Contract<P> {
    fn provider(&self) -> &'static str {
        self.inner.provider()
    }

    fn capability(&self) -> Capability {
        self.inner.capability()
    }

    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        // The error does not name the key, since the provider did not get the request.
        self.check_put(kek, &mode).map_err(|error| self.annotate("put", error))?;
        self.annotate_key("put", name, self.inner.put(name, kek, mode).await)
    }

    async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
        self.annotate_key("get", name, self.inner.get(name, freshness).await)
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        self.annotate_key("delete", name, self.inner.delete(name, mode).await)
    }

    fn list(&self) -> KeyStream<'_> {
        Box::pin(self.inner.list().map(|item| item.map_err(|error| self.annotate("list", error))))
    }

    async fn undelete(&self, name: &KeyName) -> Result<KeyVersion> {
        self.annotate_key("undelete", name, self.inner.undelete(name).await)
    }

    async fn history(&self, name: &KeyName, mode: HistoryMode) -> Result<Vec<PastKek>> {
        self.annotate_key("history", name, self.inner.history(name, mode).await)
    }

    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
        self.annotate_key("retire", name, self.inner.retire_superseded(name, current).await)
    }

    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        self.inner.may_update(names).await.map_err(|error| self.annotate("rights", error))
    }

    async fn probe(&self, probe: &mut Probe) {
        self.inner.probe(probe).await;
        probe.failed = probe.failed.take().map(|(step, error)| (step, self.annotate("probe", error)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::Memory;

    #[tokio::test]
    async fn every_error_names_operation_provider_and_key() {
        let kms = Contract::new(Arc::new(Memory::new()) as Arc<dyn KmsProvider>);
        let name = KeyName::new("set1-data-0").unwrap();
        let error = kms.get(&name, Freshness::Fresh).await.unwrap_err();
        assert_eq!(error.to_string(), "memory: get: there is no such key (key: set1-data-0)");
        let error = kms.retire_superseded(&name, &KeyVersion::new("1")).await.unwrap_err();
        assert_eq!(error.to_string(), "memory: retire: there is no such key (key: set1-data-0)");
    }
}
