//! The provider: the operations of `KmsProvider` on one KV mount.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use kms_core::{
    Capability, DeleteMode, Freshness, Guarantee, HistoryMode, Kek, KeyName, KeyStream, KeyVersion,
    KmsProvider, PastKek, Probe, PutMode, Result, Stored, UpdateRight, provider::Deleted,
};

use crate::{PROVIDER, delete, get, history, list, mount::Mount, probe, put, stored::KvVersion};

/// A KV mount of HashiCorp Vault or OpenBao that stores KEKs as Rook does.
pub struct Vault {
    pub(crate) mount: Mount,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retries: Option<u32>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mount, timeout, retries } = self;
        f.debug_struct("Vault")
            .field("address", &mount.api.base.as_str())
            .field("auth", &mount.auth.method)
            .field("mount", &mount.path)
            .field("version", &mount.confirmed_version())
            .field("timeout", timeout)
            .field("retries", retries)
            .finish_non_exhaustive()
    }
}

impl Vault {
    pub(crate) fn new(mount: Mount, timeout: Option<Duration>, retries: Option<u32>) -> Self {
        Self { mount, timeout, retries }
    }
}

#[async_trait]
impl KmsProvider for Vault {
    fn provider(&self) -> &'static str {
        PROVIDER
    }

    fn capability(&self) -> Capability {
        let capability = Capability::full();
        match self.mount.confirmed_version() {
            Some(KvVersion::V2) => capability,
            Some(KvVersion::V1) | None => capability
                .with_create(Guarantee::CheckThenAct)
                .with_update(Guarantee::CheckThenAct)
                .with_soft_delete(false)
                .with_versions(false),
        }
    }

    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        put::put(&self.mount, name, kek, &mode).await
    }

    async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
        get::get(&self.mount, name, freshness).await
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        self.mount.as_it_is(|| delete::delete(&self.mount, name, mode)).await
    }

    fn list(&self) -> KeyStream<'_> {
        list::list(&self.mount)
    }

    async fn undelete(&self, name: &KeyName) -> Result<KeyVersion> {
        self.mount.as_it_is(|| history::undelete(&self.mount, name)).await
    }

    async fn history(&self, name: &KeyName, mode: HistoryMode) -> Result<Vec<PastKek>> {
        self.mount.as_it_is(|| history::history(&self.mount, name, mode)).await
    }

    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
        self.mount.as_it_is(|| delete::retire_superseded(&self.mount, name, current)).await
    }

    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        probe::may_update(&self.mount, names).await
    }

    async fn probe(&self, report: &mut Probe) {
        probe::probe(&self.mount, report).await;
    }
}
