//! Identifiers of keys that are kept elsewhere, in the Secrets that Rook writes for KMIP (spec 6.6).
//!
//! Rook keeps them in Secrets of the same name and shape as KEKs, so those that are written here say by
//! [`KMIP_ANNOTATION`] what they are. Those that Rook wrote say nothing: whoever reads one has to look whether it is an
//! identifier at all.

use std::{collections::BTreeMap, fmt};

use kms_core::{Error, ErrorKind, Existing, KeyName, Result};
use zeroize::Zeroizing;

use crate::{
    KMIP_ANNOTATION, PROVIDER,
    api::{Base64, Object, Secret, Secrets},
    builder::Owner,
    connect::Connection,
    error::{Cause, Failure},
    name::{Names, check_object},
    provider::{
        self, DATA_KEY, LIST_ROUNDS, TYPE, changed, check_gone, check_mutable, check_name, check_type,
        new_secret, read_value, version,
    },
};

/// The annotation that is another one after each write.
///
/// The API server gives no new resource version to an object that is written as it was, and a new version is how
/// others who have read it are turned away.
const WRITE_ANNOTATION: &str = "kms.ceph.rook.io/kmip-write";

/// What stands in the Secret of a key.
#[non_exhaustive]
pub struct Identifier {
    /// The text. Wiped on drop: in a Secret that was not written here it may be a KEK.
    pub text: Zeroizing<String>,
    /// The resource version of the Secret.
    pub version: String,
}

impl fmt::Debug for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text: _, version } = self;
        f.debug_struct("Identifier").field("version", version).finish_non_exhaustive()
    }
}

/// Secrets of one namespace that hold identifiers of keys.
#[derive(Clone, Debug)]
pub struct IdentifierStore {
    secrets: Secrets,
    owner: Option<Owner>,
}

impl IdentifierStore {
    /// The Secrets of this namespace: that of the CephCluster.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the namespace cannot be one.
    pub fn new(client: impl Into<Connection>, kube_namespace: impl Into<String>) -> Result<Self> {
        let secrets = Secrets { connection: client.into(), kube_namespace: kube_namespace.into() };
        check_object("namespace", &secrets.kube_namespace)?;
        Ok(Self { secrets, owner: None })
    }

    /// Makes new Secrets belong to this CephCluster. Without it they outlive it.
    #[must_use]
    pub fn with_owner(mut self, owner: Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// What stands in the Secret of a key, whoever wrote it; `None` if there is no Secret.
    ///
    /// # Errors
    ///
    /// `Protocol` if the Secret holds no text, or belongs to another key.
    pub async fn get(&self, name: &KeyName) -> Result<Option<Identifier>> {
        let names = Names::of(name);
        let read = async {
            match self.secrets.read(&names.secret).await {
                Ok(secret) => identifier(&secret, &names).map(Some),
                Err(failure) if failure.cause == Cause::Absent => Ok(None),
                Err(failure) => Err(failure.error),
            }
        };
        read.await.map_err(|error| self.failed(error, "get", &names))
    }

    /// Writes a new Secret, and gives its version.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if there is a Secret of that name, whatever it holds.
    pub async fn create(&self, name: &KeyName, identifier: &str) -> Result<String> {
        let names = Names::of(name);
        let write = async {
            let value = Base64::encode(identifier);
            let mut secret = new_secret(&self.secrets.kube_namespace, self.owner.as_ref(), &names, value);
            mark(&mut secret, identifier)?;
            match self.secrets.create(&names.secret, &secret).await {
                Ok(object) => resource_version(&object),
                Err(failure) if failure.cause == Cause::Exists => {
                    Err(Error::already_exists(name, Existing::Unknown))
                }
                Err(failure) => Err(failure.error),
            }
        };
        write.await.map_err(|error| self.failed(error, "create", &names))
    }

    /// Replaces the identifier in a Secret that is still in `version`, and gives its new version, which is always
    /// another one. Everything else in the Secret stays.
    ///
    /// # Errors
    ///
    /// `Conflict` if the Secret has changed, `NotFound` if it is gone, `Protocol` if it is none that may be changed.
    pub async fn swap(&self, name: &KeyName, version: &str, identifier: &str) -> Result<String> {
        let names = Names::of(name);
        let write = async {
            let mut secret = self.in_version(name, &names, version).await?;
            check_mutable(&secret)?;
            mark(&mut secret, identifier)?;
            let before = secret.data.insert(DATA_KEY.to_owned(), Base64::encode(identifier));
            let written = self.secrets.replace(&names.secret, &secret, before.as_ref()).await;
            resource_version(&written.map_err(|failure| refused(failure, name))?)
        };
        write.await.map_err(|error| self.failed(error, "swap", &names))
    }

    /// Deletes a Secret that is still in `version`.
    ///
    /// # Errors
    ///
    /// `Conflict` if the Secret has changed, `NotFound` if it is gone, `Protocol` if it is none that may be deleted.
    pub async fn delete(&self, name: &KeyName, version: &str) -> Result<()> {
        let names = Names::of(name);
        let write = async {
            let secret = self.in_version(name, &names, version).await?;
            let deleted = self.secrets.delete_unchanged(&names.secret, &secret).await;
            check_gone(deleted.map_err(|failure| refused(failure, name))?)
        };
        write.await.map_err(|error| self.failed(error, "delete", &names))
    }

    /// All keys whose Secrets say that they hold an identifier. What is in the Secrets is not read: the identifier is
    /// the one of the annotation.
    ///
    /// # Errors
    ///
    /// Those of the API server.
    pub async fn list(&self) -> Result<Vec<(KeyName, Identifier)>> {
        let mut round = 1;
        loop {
            match self.pages().await {
                Err(failure) if failure.cause == Cause::Expired && round < LIST_ROUNDS => round += 1,
                Err(failure) => return Err(failure.error.operation("list").provider(PROVIDER)),
                Ok(all) => return Ok(all.into_iter().collect()),
            }
        }
    }

    async fn pages(&self) -> Result<BTreeMap<KeyName, Identifier>, Failure> {
        let mut all = BTreeMap::new();
        let mut from: Option<String> = None;
        loop {
            let page = self.secrets.page(TYPE, crate::name::LABEL, from.as_deref()).await?;
            all.extend(page.items.iter().filter_map(listed));
            // The mark for the page after the last one may be an empty text.
            match page.metadata.continue_.filter(|mark| !mark.is_empty()) {
                Some(mark) => from = Some(mark),
                None => return Ok(all),
            }
        }
    }

    /// The Secret of a key that may be written, in the version that is expected.
    async fn in_version(&self, name: &KeyName, names: &Names, expected: &str) -> Result<Secret> {
        let secret = self.secrets.read(&names.secret).await.map_err(|failure| refused(failure, name))?;
        if secret.metadata.resource_version.as_deref() != Some(expected) {
            return Err(changed());
        }
        check_type(&secret)?;
        check_name(&secret, names)?;
        Ok(secret)
    }

    fn failed(&self, error: Error, operation: &'static str, names: &Names) -> Error {
        error
            .operation(operation)
            .provider(PROVIDER)
            .context("namespace", self.secrets.kube_namespace.as_str())
            .context("secret", names.secret.as_str())
    }
}

fn refused(failure: Failure, name: &KeyName) -> Error {
    match failure.cause {
        Cause::Absent => Error::key_not_found(name),
        Cause::Changed => changed(),
        _ => failure.error,
    }
}

fn identifier(secret: &Secret, names: &Names) -> Result<Identifier> {
    check_name(secret, names)?;
    let version = version(&secret.metadata)?;
    let text = String::from_utf8(read_value(secret)?).map_err(|error| {
        drop(Zeroizing::new(error.into_bytes()));
        Error::new(ErrorKind::Protocol, format!("the {DATA_KEY} of the Secret is no text"))
    })?;
    Ok(Identifier { text: Zeroizing::new(text), version: version.as_str().to_owned() })
}

fn listed(object: &Object) -> Option<(KeyName, Identifier)> {
    let text = object.metadata.annotations.as_ref()?.get(KMIP_ANNOTATION)?;
    let version = object.metadata.resource_version.clone()?;
    Some((Names::key_of(&object.metadata)?, Identifier { text: Zeroizing::new(text.clone()), version }))
}

/// Writes into the annotations that the Secret holds this identifier, and something that no write before had.
fn mark(secret: &mut Secret, identifier: &str) -> Result<()> {
    let annotations = secret.metadata.annotations.get_or_insert_default();
    annotations.insert(KMIP_ANNOTATION.to_owned(), identifier.to_owned());
    provider::mark(secret, WRITE_ANNOTATION)
}

fn resource_version(object: &Object) -> Result<String> {
    Ok(version(&object.metadata)?.as_str().to_owned())
}
