//! The provider: the operations of `KmsProvider` on one instance of Key Protect.

use std::fmt;

use async_trait::async_trait;
use kms_core::{
    Capability, DeleteMode, Error, Freshness, Guarantee, HistoryMode, Kek, KeyName, KeyStream, KeyVersion,
    KmsProvider, PastKek, Probe, PutMode, Result, Stored, UpdateRight, provider::Deleted,
};

use crate::{
    PROVIDER,
    api::Api,
    delete::{delete, purge, retire},
    get::get,
    history::{history, undelete},
    list::list,
    probe::probe,
    put::put,
    stored::Cluster,
};

/// The largest KEK, in bytes. IBM documents no limit for standard keys; 7,500 bytes of base64 are known to be
/// accepted, and a KEK that is not base64 grows by a third.
const MAX_KEK_BYTES: usize = 5_625;

/// An instance of IBM Key Protect that stores KEKs as Rook does.
pub struct IbmKeyProtect {
    pub(crate) api: Api,
}

impl fmt::Debug for IbmKeyProtect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Api { http: _, base, instance, key_ring, auth, cluster, page_size, locks: _ } = &self.api;
        f.debug_struct("IbmKeyProtect")
            .field("address", &base.as_str())
            .field("instance", instance)
            .field("key_ring", key_ring)
            .field("auth", auth)
            .field("cluster", &cluster.as_ref().map(Cluster::name))
            .field("page_size", page_size)
            .finish_non_exhaustive()
    }
}

impl IbmKeyProtect {
    /// Destroys every deleted key of this name permanently, and returns their number. Key Protect allows this from 4
    /// hours after the deletion, to clients with the service role KeyPurge, which an administrator has to grant.
    ///
    /// # Errors
    ///
    /// `NotFound` if no deleted key has this name; `Conflict` if it is too early.
    pub async fn purge(&self, name: &KeyName) -> Result<usize> {
        purge(&self.api, name).await.map_err(|error| annotate(error, "purge", name))
    }
}

/// Adds operation, provider and key to an error, as the contract layer does for the operations of the trait.
fn annotate(error: Error, operation: &'static str, name: &KeyName) -> Error {
    error.operation(operation).provider(PROVIDER).context("key", name.as_str())
}

#[async_trait]
impl KmsProvider for IbmKeyProtect {
    fn provider(&self) -> &'static str {
        PROVIDER
    }

    fn capability(&self) -> Capability {
        // The service gives an alias to one key only, so one of two creates fails. It has no conditional update: an
        // update is a sequence of requests, which is safe only if every writer keeps to their order.
        Capability::full().with_update(Guarantee::CheckThenAct).with_max_kek_bytes(MAX_KEK_BYTES)
    }

    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        put(&self.api, name, kek, &mode).await
    }

    async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
        get(&self.api, name, freshness).await
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        delete(&self.api, name, mode).await
    }

    fn list(&self) -> KeyStream<'_> {
        list(&self.api)
    }

    async fn undelete(&self, name: &KeyName) -> Result<KeyVersion> {
        undelete(&self.api, name).await
    }

    async fn history(&self, name: &KeyName, mode: HistoryMode) -> Result<Vec<PastKek>> {
        history(&self.api, name, mode).await
    }

    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
        retire(&self.api, name, current).await
    }

    /// `Unknown` for every key: Key Protect offers no way to ask.
    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        Ok(vec![UpdateRight::Unknown; names.len()])
    }

    async fn probe(&self, report: &mut Probe) {
        probe(&self.api, report).await;
    }
}
