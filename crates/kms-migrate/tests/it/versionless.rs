//! A store whose versions are fingerprints of the KEKs, as those of KV version 1.

use std::sync::Arc;

use async_trait::async_trait;
use kms_core::{
    Capability, DeleteMode, Error, ErrorKind, Freshness, HistoryMode, Kek, KeyName, KeyStream, KeyVersion,
    KmsProvider, PastKek, Probe, PutMode, Result, Stored, UpdateRight, provider::Deleted,
};

/// The store, around another one.
#[derive(Debug)]
pub(crate) struct Versionless(pub(crate) Arc<dyn KmsProvider>);

fn version(kek: &Kek) -> KeyVersion {
    KeyVersion::new(format!("fingerprint-{}", kek.fingerprint()))
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl KmsProvider for Versionless {
    fn provider(&self) -> &'static str {
        "versionless"
    }

    fn capability(&self) -> Capability {
        self.0.capability().with_soft_delete(false).with_versions(false)
    }

    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        let mode = match mode {
            PutMode::Update(expected) => {
                let stored = self.0.get(name, Freshness::Fresh).await?;
                if version(&stored.kek) != expected {
                    return Err(Error::key_changed(name));
                }
                PutMode::Update(stored.version)
            }
            other => other,
        };
        self.0.put(name, kek, mode).await.map(|_| version(kek))
    }

    async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
        let stored = self.0.get(name, freshness).await?;
        let version = version(&stored.kek);
        Ok(Stored::new(stored.kek, version))
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        match mode {
            DeleteMode::Destroy => self.0.delete(name, mode).await,
            _ => Err(Error::new(ErrorKind::Unsupported, "there is no soft delete")),
        }
    }

    fn list(&self) -> KeyStream<'_> {
        self.0.list()
    }

    async fn undelete(&self, name: &KeyName) -> Result<KeyVersion> {
        self.0.undelete(name).await
    }

    async fn history(&self, name: &KeyName, mode: HistoryMode) -> Result<Vec<PastKek>> {
        self.0.history(name, mode).await
    }

    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
        self.0.retire_superseded(name, current).await
    }

    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        self.0.may_update(names).await
    }

    async fn probe(&self, probe: &mut Probe) {
        self.0.probe(probe).await;
    }
}
