//! Identifiers of keys on a KMIP server, in the Secrets that Rook writes for KMIP (rook-behaviour §6.6).
//!
//! Rook keeps identifiers in Secrets of the same name and shape as KEKs. This crate marks its own with
//! [`KMIP_ANNOTATION`]. A Secret of Rook has no mark, so the reader has to check that the value is an identifier.

use async_trait::async_trait;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kms_core::{Error, ErrorKind, Existing, IndexEntry, KeyIndex, KeyName, Result};
use kms_kube::{Base64, Cause, Connection, Object, Owner, Secret, Secrets};
use zeroize::Zeroizing;

use crate::{
    PROVIDER,
    error::key_error,
    list::collect,
    name::Names,
    stored::{
        self, DATA_KEY, KMIP_ANNOTATION, check_gone, check_mutable, check_name, check_type, new_secret,
        read_value, version,
    },
};

/// The annotation that changes with each write of an identifier.
const WRITE_ANNOTATION: &str = "kms.ceph.rook.io/kmip-write";

/// Secrets of one namespace that hold identifiers of keys.
#[derive(Clone, Debug)]
pub struct IdentifierStore {
    secrets: Secrets,
    owner: Option<Owner>,
}

impl IdentifierStore {
    /// The Secrets of this namespace, which is that of the CephCluster.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the text cannot be the name of a namespace.
    pub fn new(client: impl Into<Connection>, kube_namespace: impl Into<String>) -> Result<Self> {
        Ok(Self { secrets: Secrets::new(client, kube_namespace)?, owner: None })
    }

    /// Makes the CephCluster own new Secrets. Without an owner they remain when the cluster is deleted.
    #[must_use]
    pub fn with_owner(mut self, owner: Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Reads a Secret, and checks that it has the expected version, the right type and the right key.
    async fn in_version(&self, name: &KeyName, names: &Names, expected: &str) -> Result<Secret> {
        let secret = self.secrets.read(&names.secret).await.map_err(|failure| key_error(failure, name))?;
        if secret.metadata.resource_version.as_deref() != Some(expected) {
            return Err(Error::key_changed(name));
        }
        check_type(&secret)?;
        check_name(&secret, names)?;
        Ok(secret)
    }

    fn annotate_error(&self, error: Error, operation: &'static str, names: &Names) -> Error {
        error
            .operation(operation)
            .provider(PROVIDER)
            .context("namespace", self.secrets.kube_namespace())
            .context("secret", names.secret.as_str())
    }
}

#[async_trait]
impl KeyIndex for IdentifierStore {
    /// Reads the Secret of a key, marked or not. The entry may be a KEK in a Secret that this crate did not write.
    async fn get(&self, name: &KeyName) -> Result<Option<IndexEntry>> {
        let names = Names::of(name);
        let read = async {
            match self.secrets.read(&names.secret).await {
                Ok(secret) => identifier(&secret, &names).map(Some),
                Err(failure) if failure.cause == Cause::Absent => Ok(None),
                Err(failure) => Err(failure.error),
            }
        };
        read.await.map_err(|error| self.annotate_error(error, "get", &names))
    }

    async fn create(&self, name: &KeyName, identifier: &str) -> Result<String> {
        let names = Names::of(name);
        let write = async {
            let value = Base64::encode(identifier);
            let mut secret = new_secret(self.secrets.kube_namespace(), self.owner.as_ref(), &names, value);
            mark(&mut secret, identifier)?;
            match self.secrets.create(&names.secret, &secret).await {
                Ok(object) => resource_version(&object),
                Err(failure) if failure.cause == Cause::Exists => {
                    Err(Error::already_exists(name, Existing::Unknown))
                }
                Err(failure) => Err(failure.error),
            }
        };
        write.await.map_err(|error| self.annotate_error(error, "create", &names))
    }

    /// Replaces the identifier. Everything else in the Secret stays.
    async fn swap(&self, name: &KeyName, version: &str, identifier: &str) -> Result<String> {
        let names = Names::of(name);
        let write = async {
            let mut secret = self.in_version(name, &names, version).await?;
            check_mutable(&secret)?;
            mark(&mut secret, identifier)?;
            let before = secret.data.insert(DATA_KEY.to_owned(), Base64::encode(identifier));
            let written = self.secrets.replace(&names.secret, &secret, before.as_ref()).await;
            resource_version(&written.map_err(|failure| key_error(failure, name))?)
        };
        write.await.map_err(|error| self.annotate_error(error, "swap", &names))
    }

    async fn delete(&self, name: &KeyName, version: &str) -> Result<()> {
        let names = Names::of(name);
        let write = async {
            let secret = self.in_version(name, &names, version).await?;
            let deleted = self.secrets.delete_unchanged(&names.secret, &secret).await;
            check_gone(deleted.map_err(|failure| key_error(failure, name))?)
        };
        write.await.map_err(|error| self.annotate_error(error, "delete", &names))
    }

    /// Lists the marked Secrets. The identifier comes from the annotation; the data of the Secrets is not read.
    async fn list(&self) -> Result<Vec<(KeyName, IndexEntry)>> {
        let listed = collect(&self.secrets, listed).await;
        listed.map_err(|error| error.operation("list").provider(PROVIDER))
    }
}

fn identifier(secret: &Secret, names: &Names) -> Result<IndexEntry> {
    check_name(secret, names)?;
    let version = version(&secret.metadata)?;
    let text = String::from_utf8(read_value(secret)?).map_err(|error| {
        drop(Zeroizing::new(error.into_bytes()));
        Error::new(ErrorKind::Protocol, format!("the {DATA_KEY} of the Secret is not text"))
    })?;
    Ok(IndexEntry::new(text, version.as_str()))
}

/// The key and the identifier in a marked Secret; `None` for other Secrets.
fn listed(metadata: &ObjectMeta) -> Option<(KeyName, IndexEntry)> {
    let text = metadata.annotations.as_ref()?.get(KMIP_ANNOTATION)?;
    let version = metadata.resource_version.clone()?;
    Some((Names::key_of(metadata)?, IndexEntry::new(text, version)))
}

/// Marks in the annotations that the Secret holds this identifier, and makes the write differ from all earlier ones.
fn mark(secret: &mut Secret, identifier: &str) -> Result<()> {
    let annotations = secret.metadata.annotations.get_or_insert_default();
    annotations.insert(KMIP_ANNOTATION.to_owned(), identifier.to_owned());
    stored::mark(secret, WRITE_ANNOTATION)
}

fn resource_version(object: &Object) -> Result<String> {
    Ok(version(&object.metadata)?.as_str().to_owned())
}
