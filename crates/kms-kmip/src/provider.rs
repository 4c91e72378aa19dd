//! The provider: the operations of `KmsProvider` on one KMIP server.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures_util::{TryStreamExt as _, stream};
use kms_core::{
    Capability, DeleteMode, Error, ErrorKind, Freshness, Guarantee, HistoryMode, Kek, KeyIndex, KeyName,
    KeyStream, KeyVersion, KmsProvider, PastKek, Probe, PutMode, Result, Stored, UpdateRight,
    layer::LayerOptions, provider::Deleted,
};

use crate::{
    PROVIDER,
    api::Api,
    delete::{delete, retire},
    get::get,
    history::history,
    index::Index,
    list::{Listing, list},
    probe::probe,
    put::put,
};

/// A KMIP server that stores KEKs so that Rook can read them.
pub struct Kmip {
    pub(crate) api: Arc<Api>,
    pub(crate) index: Option<Arc<dyn KeyIndex>>,
    /// Our client certificate, which a probe describes.
    pub(crate) certificate: Vec<u8>,
}

impl fmt::Debug for Kmip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { api, index, certificate: _ } = self;
        f.debug_struct("Kmip").field("api", api).field("index", index).finish_non_exhaustive()
    }
}

impl Kmip {
    /// Raises the time limits of the layers, so that an attempt never ends before `READ_TIMEOUT` and `WRITE_TIMEOUT`
    /// do.
    #[must_use]
    pub fn layer_options(&self, mut options: LayerOptions) -> LayerOptions {
        let limits = &self.api.client.pool.limits;
        // Name resolution, TCP connection, TLS handshake, and one exchange.
        let longest = limits
            .connect
            .saturating_mul(3)
            .saturating_add(limits.read.unwrap_or_default())
            .saturating_add(limits.write.unwrap_or_default());
        options.attempt_timeout = options.attempt_timeout.max(longest);
        options.retry.deadline = options.retry.deadline.max(longest);
        options
    }

    fn index(&self) -> Index<'_> {
        self.index.as_deref()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl KmsProvider for Kmip {
    fn provider(&self) -> &'static str {
        PROVIDER
    }

    /// With an index, the index decides between two writers. Without one, the order of the objects does: each writer
    /// looks, registers, looks until no other object can come first any more, and destroys its own object unless it is
    /// the first. The server itself checks nothing, so this is no compare-and-set.
    fn capability(&self) -> Capability {
        let guarantee = if self.index.is_some() { Guarantee::Atomic } else { Guarantee::CheckThenAct };
        Capability::full()
            .with_create(guarantee)
            .with_update(guarantee)
            .with_soft_delete(false)
            .with_base64_only(true)
    }

    /// Stores a KEK. A dropped future may leave one superfluous object on the server; no reader takes it for the KEK.
    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        put(&self.api, self.index(), name, kek, &mode).await
    }

    async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
        get(&self.api, self.index(), name, freshness).await
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        delete(&self.api, self.index(), name, mode).await
    }

    fn list(&self) -> KeyStream<'_> {
        let keys = stream::once(list(&self.api, self.index()));
        let items =
            |(keys, incomplete): Listing| stream::iter(keys.into_iter().map(Ok).chain(incomplete.map(Err)));
        Box::pin(keys.map_ok(items).try_flatten())
    }

    async fn undelete(&self, _: &KeyName) -> Result<KeyVersion> {
        Err(Error::new(
            ErrorKind::Unsupported,
            "KMIP has no soft delete: a destroyed object is gone for good",
        ))
    }

    /// Reads only, in either mode: KMIP has no soft delete.
    async fn history(&self, name: &KeyName, _mode: HistoryMode) -> Result<Vec<PastKek>> {
        history(&self.api, self.index(), name).await
    }

    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
        retire(&self.api, self.index(), name, current.as_str()).await
    }

    /// `Unknown` for every key: KMIP offers no way to ask.
    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        Ok(vec![UpdateRight::Unknown; names.len()])
    }

    async fn probe(&self, report: &mut Probe) {
        probe(&self.api, self.index(), &self.certificate, report).await;
    }
}
