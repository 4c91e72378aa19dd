//! Keys in a vault.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use async_trait::async_trait;
use kms_core::{
    Capability, DeleteMode, Error, Freshness, Guarantee, Kek, KeyName, KeyStream, KeyVersion, KmsProvider,
    KmsProviderExt, Probe, PutMode, Result, Stored, UpdateRight, layer::LayerOptions, provider::Deleted,
};
use tokio::sync::Mutex;

use crate::{PROVIDER, api::Api, name::Names};

/// What a create does with a soft-deleted secret of the same name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SoftDeleted {
    /// Recovers it, and succeeds if it holds the same KEK.
    Recover,
    /// Purges it.
    Purge,
}

impl SoftDeleted {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Recover => "recover",
            Self::Purge => "purge",
        }
    }
}

/// An Azure Key Vault that keeps KEKs as Rook does.
pub struct AzureKeyVault {
    pub(crate) api: Api,
    pub(crate) soft_deleted: SoftDeleted,
    /// How long to wait for what the vault completes later.
    pub(crate) wait: Duration,
    pub(crate) page_size: Option<i32>,
    /// Within one process writers of a name wait for each other here instead of meeting at the vault.
    pub(crate) turns: [Mutex<()>; 16],
}

impl fmt::Debug for AzureKeyVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { api, soft_deleted, wait, page_size, turns: _ } = self;
        f.debug_struct("AzureKeyVault")
            .field("api", api)
            .field("soft_deleted", soft_deleted)
            .field("wait", wait)
            .field("page_size", page_size)
            .finish_non_exhaustive()
    }
}

impl AzureKeyVault {
    /// What the settings say of retries and time limits: one try may wait for the vault to complete a deletion.
    #[must_use]
    pub fn layer_options(&self, mut options: LayerOptions) -> LayerOptions {
        let whole = self.wait + Duration::from_secs(15);
        options.attempt_timeout = options.attempt_timeout.max(whole);
        options.retry.deadline = options.retry.deadline.max(whole);
        options
    }

    pub(crate) fn turn(&self, names: &Names) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        names.secret.hash(&mut hasher);
        let [first, ..] = &self.turns;
        let at = usize::try_from(hasher.finish() % 16).unwrap_or(0);
        self.turns.get(at).unwrap_or(first)
    }

    pub(crate) fn told(&self, error: Error, operation: &'static str, name: &KeyName) -> Error {
        error.operation(operation).provider(PROVIDER).context("key", name.as_str())
    }
}

#[async_trait]
impl KmsProvider for AzureKeyVault {
    fn provider(&self) -> &'static str {
        PROVIDER
    }

    fn capability(&self) -> Capability {
        // Key Vault has no conditional write. Creators agree on one KEK by looking at all versions, which rests on
        // everybody keeping to it; two updates at the same moment may both have been stored.
        Capability::full().with_create(Guarantee::CheckThenAct).with_update(Guarantee::CheckThenAct)
    }

    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        self.check_put(kek, &mode)?;
        let names = Names::of(name);
        let result = match &mode {
            PutMode::Create => self.create(name, &names, kek).await,
            PutMode::Update(version) => self.update(&names, kek, version).await,
            PutMode::Overwrite => self.overwrite(&names, kek).await,
        };
        result.map_err(|error| self.told(error, "put", name))
    }

    async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
        let names = Names::of(name);
        let result = async {
            match self.current(&names, freshness == Freshness::Fresh).await? {
                Some(decided) => {
                    let (created, updated) = decided.current.attributes.times();
                    Ok(Stored::new(decided.kek, decided.current.version()?).with_times(created, updated))
                }
                None => Err(Error::key_not_found(name)),
            }
        };
        result.await.map_err(|error| self.told(error, "get", name))
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        let names = Names::of(name);
        self.remove(name, &names, mode).await.map_err(|error| self.told(error, "delete", name))
    }

    fn list(&self) -> KeyStream<'_> {
        self.list_all()
    }

    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
        self.retire(&Names::of(name), current).await.map_err(|error| self.told(error, "retire", name))
    }

    /// Nothing that the vault offers shows it: only an update does.
    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        Ok(vec![UpdateRight::Unknown; names.len()])
    }

    async fn probe(&self) -> Probe {
        self.run_probe().await
    }
}
