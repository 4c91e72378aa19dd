//! The provider: each operation, delegated to the file of its role.

use std::fmt;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use kms_core::{
    Capability, DeleteMode, Error, ErrorKind, Freshness, HistoryMode, Kek, KeyName, KeyStream, KeyVersion,
    KmsProvider, PastKek, Probe, PutMode, Result, Stored, UpdateRight, provider::Deleted,
};
use kms_kube::{Owner, Secrets};

use crate::{PROVIDER, delete, get, list, name::Names, probe, put, stored};

/// Keeps each KEK in a Kubernetes Secret, as Rook does without a configured KMS.
pub struct KubernetesSecret {
    secrets: Secrets,
    owner: Option<Owner>,
}

impl KubernetesSecret {
    pub(crate) fn new(secrets: Secrets, owner: Option<Owner>) -> Self {
        Self { secrets, owner }
    }

    /// The namespace of the Secrets.
    pub fn kube_namespace(&self) -> &str {
        self.secrets.kube_namespace()
    }

    /// Adds the Secret of a key to an error.
    fn annotate_error(&self, error: Error, name: &KeyName) -> Error {
        error.context("namespace", self.kube_namespace()).context("secret", Names::of(name).secret)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl KmsProvider for KubernetesSecret {
    fn provider(&self) -> &'static str {
        PROVIDER
    }

    fn capability(&self) -> Capability {
        Capability::full().with_soft_delete(false).with_versions(false)
    }

    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        let target = put::Target { secrets: &self.secrets, owner: self.owner.as_ref() };
        match mode {
            PutMode::Create => target.create(name, kek).await,
            PutMode::Overwrite => target.overwrite(name, kek).await,
            PutMode::Update(expected) => target.update(name, kek, &expected).await,
        }
        .map_err(|error| self.annotate_error(error, name))
    }

    /// Reads a KEK. Every read is [`Freshness::Fresh`].
    async fn get(&self, name: &KeyName, _: Freshness) -> Result<Stored> {
        get::get(&self.secrets, name).await.map_err(|error| self.annotate_error(error, name))
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        match mode {
            DeleteMode::Destroy => {
                delete::destroy(&self.secrets, name).await.map_err(|error| self.annotate_error(error, name))
            }
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                "a Secret cannot be deleted softly: a deleted Secret is gone for good",
            )),
        }
    }

    fn list(&self) -> KeyStream<'_> {
        let read = |metadata: &_| stored::key_info(metadata).map(|info| (info.name.clone(), info));
        list::list(&self.secrets, read).boxed()
    }

    async fn undelete(&self, _: &KeyName) -> Result<KeyVersion> {
        Err(Error::new(
            ErrorKind::Unsupported,
            "a deleted Secret is gone for good; it cannot be brought back",
        ))
    }

    async fn history(&self, name: &KeyName, _: HistoryMode) -> Result<Vec<PastKek>> {
        Ok(vec![self.get(name, Freshness::Fresh).await?.into()])
    }

    async fn retire_superseded(&self, _: &KeyName, _: &KeyVersion) -> Result<usize> {
        Err(Error::new(ErrorKind::Unsupported, "a Secret keeps no superseded versions"))
    }

    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        probe::may_update(&self.secrets, names).await
    }

    async fn probe(&self, report: &mut Probe) {
        probe::probe(&self.secrets, report).await;
    }
}

impl fmt::Debug for KubernetesSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secrets, owner } = self;
        f.debug_struct("KubernetesSecret").field("secrets", secrets).field("owner", owner).finish()
    }
}
