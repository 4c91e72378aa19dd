//! Requests to the vault through the SDK's client, and what we read of its answers.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use azure_core::Bytes;
use azure_security_keyvault_secrets::{
    SecretClient, SecretClientOptions,
    models::{
        SecretClientGetSecretOptions, SecretClientListSecretPropertiesOptions,
        SecretClientUpdateSecretPropertiesOptions,
    },
};
use futures_util::TryStreamExt;
use kms_core::{Error, ErrorKind, Kek, KeyVersion, Result};
use kms_http::{HttpClient, json::unreadable};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::timeout,
};

use crate::{
    auth::{Auth, Credential},
    error::from_sdk,
    name::Names,
    transport::{ToVault, options},
    value::{STATE_TAG, Secret, State, body, kek, tags},
};

/// How long those who come second wait for the first one to get the vault's challenge.
const FIRST: Duration = Duration::from_secs(2);

/// A secret as the vault answers it.
#[derive(Debug, Deserialize)]
pub(crate) struct Bundle {
    #[serde(default)]
    value: Option<Secret>,
    #[serde(default)]
    pub(crate) id: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) attributes: Attributes,
    #[serde(default, deserialize_with = "or_default")]
    tags: BTreeMap<String, Option<String>>,
    /// Only of a deleted one: where it can be had again.
    #[serde(default, rename = "recoveryId")]
    recovery_id: Option<String>,
    /// Only of a deleted one: when that was, and when it is gone for good.
    #[serde(default, rename = "deletedDate", deserialize_with = "seconds")]
    deleted: Option<u64>,
    #[serde(default, rename = "scheduledPurgeDate", deserialize_with = "seconds")]
    purged: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Attributes {
    #[serde(default)]
    pub(crate) enabled: Option<bool>,
    #[serde(default, deserialize_with = "seconds")]
    pub(crate) created: Option<u64>,
    #[serde(default, deserialize_with = "seconds")]
    pub(crate) updated: Option<u64>,
    #[serde(default, rename = "recoveryLevel")]
    recovery_level: Option<String>,
}

/// A part that may be `null`.
fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(part: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(part).map(Option::unwrap_or_default)
}

/// A time in seconds since 1970. One that is none is as good as missing: a key is not unreadable for it.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the part of a second does not count"
)]
fn seconds<'de, D: Deserializer<'de>>(part: D) -> Result<Option<u64>, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(part)?.unwrap_or_default();
    Ok(value.as_u64().or_else(|| value.as_f64().filter(|time| *time >= 0.0).map(|time| time as u64)))
}

impl Attributes {
    pub(crate) fn times(&self) -> (Option<SystemTime>, Option<SystemTime>) {
        let time = |seconds: Option<u64>| UNIX_EPOCH.checked_add(Duration::from_secs(seconds?));
        (time(self.created), time(self.updated))
    }
}

impl Bundle {
    /// The parts of the id behind the host: `secrets`, the name, the version.
    fn part(&self, at: usize) -> Option<&str> {
        let path = self.id.split_once("://")?.1;
        path.split('/').filter(|part| !part.is_empty()).nth(at + 1)
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.part(1)
    }

    /// The version, if the id has one.
    pub(crate) fn version_part(&self) -> Option<&str> {
        self.part(2)
    }

    pub(crate) fn version(&self) -> Result<KeyVersion> {
        self.version_part()
            .map(KeyVersion::new)
            .ok_or_else(|| Error::new(ErrorKind::Protocol, "the vault does not say which version it means"))
    }

    pub(crate) fn tag(&self, name: &str) -> Option<&str> {
        self.tags.get(name)?.as_deref()
    }

    pub(crate) fn state(&self) -> State {
        State::of(self.tag(STATE_TAG))
    }

    /// Whether there is a value at all: Rook overwrites one that is empty.
    pub(crate) fn is_empty(&self) -> bool {
        use kms_core::ExposeSecret;
        self.value.as_ref().is_none_or(|Secret(value)| value.expose_secret().is_empty())
    }

    /// Whether the vault says that this secret cannot be purged.
    pub(crate) fn is_protected(&self) -> bool {
        self.attributes.recovery_level.as_deref().is_some_and(|level| !level.contains("Purgeable"))
    }

    /// Whether what a delete has answered speaks of a way back. `None`: it says neither.
    pub(crate) fn is_recoverable(&self) -> Option<bool> {
        if self.recovery_id.is_some() || self.deleted.is_some() || self.purged.is_some() {
            return Some(true);
        }
        // `Purgeable` alone is the level of a vault without soft delete.
        self.attributes.recovery_level.as_deref().map(|level| level.contains("Recoverable"))
    }

    pub(crate) fn kek(&self, names: &Names) -> Result<Kek> {
        match &self.value {
            Some(Secret(value)) => kek(names, value),
            None => Err(Error::new(ErrorKind::Protocol, "the vault's answer holds no value")),
        }
    }
}

/// A page of a list.
#[derive(Debug, Deserialize)]
struct Page {
    #[serde(default)]
    value: Option<Vec<Bundle>>,
}

#[derive(Serialize)]
struct Change<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<Enabled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<BTreeMap<&'static str, &'a str>>,
}

#[derive(Serialize)]
struct Enabled {
    enabled: bool,
}

/// One vault.
pub(crate) struct Api {
    client: SecretClient,
    pub(crate) auth: Arc<Auth>,
    first: Mutex<()>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("vault", &self.auth.vault.as_str())
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}

impl Api {
    pub(crate) fn new(auth: Auth, http: HttpClient) -> Result<Self> {
        let auth = Arc::new(auth);
        let transport = ToVault { http, vault: auth.vault.clone(), auth: Arc::clone(&auth) };
        let sdk = SecretClientOptions {
            client_options: options(transport),
            // `Auth` looks at the resource of a challenge itself, so that vaults behind other names work too.
            verify_challenge_resource: Some(false),
            ..SecretClientOptions::default()
        };
        let credential = Arc::new(Credential(Arc::clone(&auth)));
        let client = SecretClient::new(auth.vault.as_str(), credential, Some(sdk))
            .map_err(|error| from_sdk(&error))?;
        Ok(Self { client, auth, first: Mutex::new(()) })
    }

    /// Lets the first request go ahead, so that the vault's challenge is met once and not by all who start together.
    async fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        if self.auth.is_known() {
            return None;
        }
        let guard = timeout(FIRST, self.first.lock()).await.ok()?;
        (!self.auth.is_known()).then_some(guard)
    }

    fn failed(&self, error: &azure_core::Error) -> Error {
        let error = from_sdk(error);
        match (error.kind(), self.auth.claims()) {
            // Whoever grants rights has to know to whom (UP-85).
            (ErrorKind::PermissionDenied | ErrorKind::Unauthenticated, Some(claims)) => {
                error.context("identity", claims)
            }
            _ => error,
        }
    }

    /// The current version of a secret, or that one.
    pub(crate) async fn get(&self, names: &Names, version: Option<&KeyVersion>) -> Result<Option<Bundle>> {
        let _turn = self.turn().await;
        let options = SecretClientGetSecretOptions {
            secret_version: version.map(|version| version.as_str().to_owned()),
            ..SecretClientGetSecretOptions::default()
        };
        match self.client.get_secret(&names.secret, Some(options)).await {
            Ok(response) => parsed(&response.into_body()).map(Some),
            Err(error) => absent(self.failed(&error)),
        }
    }

    /// Stores a KEK as the next version.
    pub(crate) async fn put(&self, names: &Names, kek: &Kek, state: State) -> Result<Bundle> {
        let body = body(names, kek, state)?;
        let _turn = self.turn().await;
        let content = azure_core::http::Body::Bytes(Bytes::from_owner(body)).into();
        match self.client.set_secret(&names.secret, content, None).await {
            Ok(response) => parsed(&response.into_body()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Changes what a version says of the state of its creation.
    pub(crate) async fn mark(&self, names: &Names, version: &KeyVersion, state: State) -> Result<()> {
        self.change(names, version, &Change { attributes: None, tags: Some(tags(names, state)) }).await
    }

    /// Disables a version: nobody can read it any more.
    pub(crate) async fn disable(&self, names: &Names, version: &KeyVersion) -> Result<()> {
        self.change(names, version, &Change { attributes: Some(Enabled { enabled: false }), tags: None })
            .await
    }

    async fn change(&self, names: &Names, version: &KeyVersion, change: &Change<'_>) -> Result<()> {
        let body = serde_json::to_vec(change)
            .map_err(|_cause| Error::new(ErrorKind::Unexpected, "the change cannot be written as JSON"))?;
        let _turn = self.turn().await;
        let options = SecretClientUpdateSecretPropertiesOptions {
            secret_version: Some(version.as_str().to_owned()),
            ..SecretClientUpdateSecretPropertiesOptions::default()
        };
        let content = azure_core::http::Body::from(body).into();
        match self.client.update_secret_properties(&names.secret, content, Some(options)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Every version of a secret, without values.
    pub(crate) async fn versions(&self, names: &Names) -> Result<Vec<Bundle>> {
        let _turn = self.turn().await;
        let pager = self.client.list_secret_properties_versions(&names.secret, None);
        let mut pages = pager.map_err(|error| self.failed(&error))?.into_pages();
        let mut found = Vec::new();
        while let Some(page) = pages.try_next().await.map_err(|error| self.failed(&error))? {
            found.extend(parsed::<Page>(&page.into_body())?.value.unwrap_or_default());
        }
        Ok(found)
    }

    /// The secrets of the vault, page by page, without values.
    pub(crate) fn pages(
        &self,
        size: Option<i32>,
    ) -> impl futures_util::Stream<Item = Result<Vec<Bundle>>> + '_ {
        let options = SecretClientListSecretPropertiesOptions {
            maxresults: size,
            ..SecretClientListSecretPropertiesOptions::default()
        };
        let first = async move {
            let turn = self.turn().await;
            match self.client.list_secret_properties(Some(options)) {
                Ok(pager) => Ok((pager.into_pages(), turn)),
                Err(error) => Err(self.failed(&error)),
            }
        };
        futures_util::stream::once(first)
            .map_ok(move |(pages, turn)| {
                futures_util::stream::try_unfold((pages, turn), move |(mut pages, turn)| async move {
                    let page = pages.try_next().await.map_err(|error| self.failed(&error))?;
                    drop(turn);
                    match page {
                        None => Ok(None),
                        Some(page) => {
                            let found = parsed::<Page>(&page.into_body())?.value.unwrap_or_default();
                            Ok(Some((found, (pages, None))))
                        }
                    }
                })
            })
            .try_flatten()
    }

    /// Deletes a secret with all its versions: softly, where the vault keeps deleted secrets.
    pub(crate) async fn delete(&self, names: &Names) -> Result<Option<Bundle>> {
        let _turn = self.turn().await;
        match self.client.delete_secret(&names.secret, None).await {
            Ok(response) => parsed(&response.into_body()).map(Some),
            Err(error) => absent(self.failed(&error)),
        }
    }

    /// The soft-deleted secret of that name, once its deletion is complete.
    pub(crate) async fn deleted(&self, names: &Names) -> Result<Option<Bundle>> {
        let _turn = self.turn().await;
        match self.client.get_deleted_secret(&names.secret, None).await {
            Ok(response) => parsed(&response.into_body()).map(Some),
            Err(error) => absent(self.failed(&error)),
        }
    }

    /// Brings a soft-deleted secret back.
    pub(crate) async fn recover(&self, names: &Names) -> Result<()> {
        let _turn = self.turn().await;
        match self.client.recover_deleted_secret(&names.secret, None).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Destroys a soft-deleted secret for good.
    pub(crate) async fn purge(&self, names: &Names) -> Result<()> {
        let _turn = self.turn().await;
        match self.client.purge_deleted_secret(&names.secret, None).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }
}

fn absent<T>(error: Error) -> Result<Option<T>> {
    if error.kind() == ErrorKind::NotFound { Ok(None) } else { Err(error) }
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|cause| unreadable(&cause))
}
