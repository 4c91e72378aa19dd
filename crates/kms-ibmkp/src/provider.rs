//! Keys in an instance of Key Protect.

use std::fmt;

use async_trait::async_trait;
use kms_core::{
    Capability, DeleteMode, Error, ErrorKind, Freshness, Guarantee, Kek, KeyName, KeyStream, KeyVersion,
    KmsProvider, KmsProviderExt, Probe, PutMode, Result, Stored, UpdateRight, layer::LayerOptions,
    provider::Deleted,
};
use kms_http::http::{Method, StatusCode};
use tokio::sync::Mutex;
use tracing::debug;

use crate::{
    PROVIDER,
    api::{Api, CORRELATION_ID, Request},
    get::{Located, States, Want, newest},
    name::Names,
    stored::Cluster,
};

/// The largest KEK, in bytes. IBM names no limit for standard keys; 7,500 bytes of base64 are known to be taken, and
/// a KEK that is no base64 grows by a third.
const MAX_KEK_BYTES: usize = 5_625;

/// An instance of IBM Key Protect that keeps KEKs as Rook does.
pub struct IbmKeyProtect {
    pub(crate) api: Api,
    pub(crate) cluster: Option<Cluster>,
    /// How many keys are asked for at once.
    pub(crate) page_size: usize,
    /// Within one process updates wait for each other here instead of meeting at the service.
    pub(crate) turns: [Mutex<()>; 16],
}

impl fmt::Debug for IbmKeyProtect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { api, cluster, page_size, turns: _ } = self;
        f.debug_struct("IbmKeyProtect")
            .field("address", &api.base.as_str())
            .field("instance", &api.instance)
            .field("key_ring", &api.key_ring)
            .field("auth", &api.auth)
            .field("cluster", &cluster.as_ref().map(Cluster::name))
            .field("page_size", page_size)
            .finish_non_exhaustive()
    }
}

impl IbmKeyProtect {
    /// What the settings say of retries and time limits. Key Protect has no setting of either, so the options stay
    /// as they are.
    #[must_use]
    pub fn layer_options(&self, options: LayerOptions) -> LayerOptions {
        options
    }

    /// Brings a deleted key back, and gives it its alias again: possible for 30 days after its deletion.
    ///
    /// # Errors
    ///
    /// `NotFound` if no deleted key of that name is there; `AlreadyExists` if the name is in use again.
    pub async fn restore(&self, name: &KeyName) -> Result<KeyVersion> {
        let result = async {
            let names = Names::of(name);
            if let Some(key) = self.locate(&names, Want::Metadata).await?.key() {
                return Err(Error::already_exists(name, kms_core::Existing::Unknown).context("id", &key.id));
            }
            let mut gone = self.search(&names, States::Gone).await?;
            gone.retain(|key| self.check_owner(key).is_ok());
            let Some(key) = newest(gone, &names) else {
                return Err(Error::new(ErrorKind::NotFound, "there is no deleted key of that name"));
            };
            let request = Request::new(Method::POST, ["keys", &key.id, "restore"]);
            let reply = self.api.send(request).await?;
            if !reply.status().is_success() {
                return Err(reply.refused().context("id", &key.id));
            }
            if !key.has_alias(&names.alias) || !self.alias_leads_to(&names, &key.id).await? {
                self.add_alias(&key.id, &names.alias).await?;
            }
            debug!(id = key.id, "restored");
            Ok(key.version())
        };
        result.await.map_err(|error| told(error, "restore", name))
    }

    async fn alias_leads_to(&self, names: &Names, id: &str) -> Result<bool> {
        Ok(self
            .locate(names, Want::Metadata)
            .await?
            .key()
            .is_some_and(|key| key.id == id && key.has_alias(&names.alias)))
    }

    /// Destroys what can still be restored of a deleted key, for good, and says how many keys that were. Key Protect
    /// allows it 4 hours after the deletion, to whoever has the service role KeyPurge, which nobody has by default.
    ///
    /// # Errors
    ///
    /// `NotFound` if no deleted key of that name is there; `Conflict` if it is too early.
    pub async fn purge(&self, name: &KeyName) -> Result<usize> {
        let result = async {
            let names = Names::of(name);
            let mut gone = self.search(&names, States::Gone).await?;
            gone.retain(|key| self.check_owner(key).is_ok());
            if gone.is_empty() {
                return Err(Error::new(ErrorKind::NotFound, "there is no deleted key of that name"));
            }
            let mut purged = 0;
            for key in gone {
                let reply = self.api.send(Request::new(Method::DELETE, ["keys", &key.id, "purge"])).await?;
                match reply.status() {
                    StatusCode::OK | StatusCode::NO_CONTENT => purged += 1,
                    StatusCode::NOT_FOUND if reply.refused().kind() == ErrorKind::NotFound => {}
                    _ => {
                        return Err(reply
                            .refused()
                            .context("id", &key.id)
                            .context("purged before", purged.to_string()));
                    }
                }
            }
            Ok(purged)
        };
        result.await.map_err(|error| told(error, "purge", name))
    }
}

fn told(error: Error, operation: &'static str, name: &KeyName) -> Error {
    error.operation(operation).provider(PROVIDER).context("key", name.as_str())
}

#[async_trait]
impl KmsProvider for IbmKeyProtect {
    fn provider(&self) -> &'static str {
        PROVIDER
    }

    fn capability(&self) -> Capability {
        // The service gives an alias to one key only, so of two who create one fails. It has no conditional update:
        // ours rests on the order of several requests, and on everybody keeping to it.
        Capability::full().with_update(Guarantee::CheckThenAct).with_max_kek_bytes(MAX_KEK_BYTES)
    }

    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        self.check_put(kek, &mode)?;
        let names = Names::of(name);
        let result = match &mode {
            PutMode::Create => self.create(name, &names, kek).await,
            PutMode::Update(version) => self.replace(&names, kek, version).await,
            PutMode::Overwrite => self.overwrite(name, &names, kek).await,
        };
        result.map_err(|error| told(error, "put", name))
    }

    async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
        let names = Names::of(name);
        let result = async {
            let located = self.locate(&names, Want::Material).await?;
            let interrupted = matches!(located, Located::Successor(_));
            if let Located::Nowhere { deleted, correlation_id } = located {
                let error = if deleted {
                    Error::new(
                        ErrorKind::NotFound,
                        "the key has been deleted; it can be restored for 30 days",
                    )
                } else {
                    Error::key_not_found(name)
                };
                return Err(match correlation_id {
                    Some(id) => error.context(CORRELATION_ID, id),
                    None => error,
                });
            }
            let Some(key) = located.key() else { return Err(Error::key_not_found(name)) };
            self.check_reader(&key)?;
            let stored = key.stored()?;
            // A read that decides something finishes an update that was interrupted, if it may: Rook knows the alias
            // only.
            if interrupted
                && freshness == Freshness::Fresh
                && self.check_owner(&key).is_ok()
                && let Err(error) = self.finish(&names, &key).await
            {
                debug!(%error, "the interrupted update could not be finished");
            }
            Ok(stored)
        };
        result.await.map_err(|error| told(error, "get", name))
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        let names = Names::of(name);
        match self.delete_all(&names, mode).await {
            // Key Protect keeps what is deleted for 30 days, whoever asks; see `purge`.
            Ok(true) => Ok(Deleted::Recoverable),
            Ok(false) => Err(told(Error::key_not_found(name), "delete", name)),
            Err(error) => Err(told(error, "delete", name)),
        }
    }

    fn list(&self) -> KeyStream<'_> {
        self.list_all()
    }

    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
        self.retire(&Names::of(name), current).await.map_err(|error| told(error, "retire", name))
    }

    /// Nothing that the server offers shows it: only an update does.
    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        Ok(vec![UpdateRight::Unknown; names.len()])
    }

    async fn probe(&self) -> Probe {
        self.run_probe().await
    }
}
