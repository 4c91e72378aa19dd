//! The provider: the operations of `KmsProvider` on one vault. Writes hold the lock of their key.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use kms_core::{
    Capability, DeleteMode, Freshness, Guarantee, HistoryMode, Kek, KeyLocks, KeyName, KeyStream, KeyVersion,
    KmsProvider, PastKek, Probe, PutMode, Result, Stored, UpdateRight, layer::LayerOptions,
    provider::Deleted,
};

use crate::{
    PROVIDER,
    api::Api,
    delete::{delete, retire},
    get::get,
    history::{history, undelete},
    list::list,
    probe::probe,
    put::put,
    soft_delete::SoftDelete,
};

/// An Azure Key Vault that stores KEKs as Rook does.
pub struct AzureKeyVault {
    pub(crate) api: Api,
    pub(crate) soft_delete: SoftDelete,
    pub(crate) page_size: Option<i32>,
    /// Serialises the writers of one name within this process, so that they do not compete at the vault.
    pub(crate) locks: KeyLocks,
}

impl fmt::Debug for AzureKeyVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { api, soft_delete, page_size, locks: _ } = self;
        f.debug_struct("AzureKeyVault")
            .field("api", api)
            .field("soft_delete", soft_delete)
            .field("page_size", page_size)
            .finish_non_exhaustive()
    }
}

impl AzureKeyVault {
    /// Raises the time limits of the layers, since one attempt may wait for the vault to complete a deletion.
    #[must_use]
    pub fn layer_options(&self, mut options: LayerOptions) -> LayerOptions {
        let whole = self.soft_delete.wait + Duration::from_secs(15);
        options.attempt_timeout = options.attempt_timeout.max(whole);
        options.retry.deadline = options.retry.deadline.max(whole);
        options
    }
}

#[async_trait]
impl KmsProvider for AzureKeyVault {
    fn provider(&self) -> &'static str {
        PROVIDER
    }

    fn capability(&self) -> Capability {
        // Key Vault has no conditional write. Creators agree on one KEK by comparing all versions, which works only if
        // every writer does so. The vault may store both of two concurrent updates.
        Capability::full().with_create(Guarantee::CheckThenAct).with_update(Guarantee::CheckThenAct)
    }

    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        let _lock = self.locks.lock(name.as_str()).await;
        put(&self.api, &self.soft_delete, name, kek, &mode).await
    }

    async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
        get(&self.api, name, freshness).await
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        let _lock = self.locks.lock(name.as_str()).await;
        delete(&self.api, &self.soft_delete, name, mode).await
    }

    fn list(&self) -> KeyStream<'_> {
        list(&self.api, self.page_size)
    }

    async fn undelete(&self, name: &KeyName) -> Result<KeyVersion> {
        let _lock = self.locks.lock(name.as_str()).await;
        undelete(&self.api, &self.soft_delete, name).await
    }

    async fn history(&self, name: &KeyName, mode: HistoryMode) -> Result<Vec<PastKek>> {
        let _lock = self.locks.lock(name.as_str()).await;
        history(&self.api, &self.soft_delete, name, mode).await
    }

    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
        let _lock = self.locks.lock(name.as_str()).await;
        retire(&self.api, name, current).await
    }

    /// `Unknown` for every key: Key Vault offers no way to ask.
    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        Ok(vec![UpdateRight::Unknown; names.len()])
    }

    async fn probe(&self, report: &mut Probe) {
        probe(&self.api, self.soft_delete.policy, report).await;
    }
}
