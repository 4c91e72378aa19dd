//! Keys in a KV mount of Vault or OpenBao.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use kms_core::{
    Capability, DeleteMode, Error, ErrorKind, Freshness, Guarantee, Kek, KeyInfo, KeyName, KeyStream,
    KeyVersion, KmsProvider, KmsProviderExt, Probe, PutMode, Result, Stored, UpdateRight,
    layer::LayerOptions, provider::Deleted,
};
use kms_http::{Answer, Call, http::StatusCode, json::unreadable};
use tokio::sync::OnceCell;
use vaultrs::api::{kv1::requests as kv1, kv2::requests as kv2};

use crate::{
    PROVIDER,
    api::{Api, Scope},
    auth::{Auth, Verdict},
    error::{Refusal, from_answer, with_words},
    name::{key_name, secret_id},
    put::{changed, fingerprint, unsupported},
    stored::{self, KvVersion, Mount, Read, SecretMetadata},
};

/// How many keys of a list are looked at at once.
const LIST_PARALLEL: usize = 8;
/// How many names are remembered as present.
const KNOWN_NAMES: usize = 10_000;

/// A KV mount of HashiCorp Vault or OpenBao that keeps KEKs as Rook does.
pub struct Vault {
    pub(crate) api: Api,
    pub(crate) auth: Auth,
    pub(crate) mount_path: String,
    /// Set when the server has been asked, or from the beginning if the version is given.
    mount: OnceCell<Mount>,
    timeout: Option<Duration>,
    retries: Option<u32>,
    /// KV v1 has no conditional write. Within one process these locks make up for it.
    pub(crate) v1_locks: [tokio::sync::Mutex<()>; 16],
    /// Names that this client has read or written, so that a delete need not look whether they exist.
    known: Mutex<BTreeSet<KeyName>>,
    /// Whether the server has shown that the mount is of the version that the settings say.
    proven: AtomicBool,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { api, auth, mount_path, mount, timeout, retries, v1_locks: _, known: _, proven: _ } = self;
        f.debug_struct("Vault")
            .field("address", &api.base.as_str())
            .field("auth", &auth.method)
            .field("mount_path", mount_path)
            .field("mount", &mount.get())
            .field("timeout", timeout)
            .field("retries", retries)
            .finish_non_exhaustive()
    }
}

impl Vault {
    pub(crate) fn new(
        api: Api,
        auth: Auth,
        mount_path: String,
        version: Option<KvVersion>,
        timeout: Option<Duration>,
        retries: Option<u32>,
    ) -> Self {
        let mount = OnceCell::new_with(version.map(|version| Mount { path: mount_path.clone(), version }));
        Self {
            api,
            auth,
            mount_path,
            mount,
            timeout,
            retries,
            v1_locks: Default::default(),
            known: Mutex::default(),
            proven: AtomicBool::new(false),
        }
    }

    /// Puts `VAULT_CLIENT_TIMEOUT` and `VAULT_MAX_RETRIES` into the options of the layers.
    #[must_use]
    pub fn layer_options(&self, mut options: LayerOptions) -> LayerOptions {
        if let Some(timeout) = self.timeout {
            options.attempt_timeout = timeout;
        }
        if let Some(retries) = self.retries {
            options.retry.attempts = retries.saturating_add(1);
        }
        options
    }

    /// Sends a request with a token. A 403 that a fresh token may cure is followed by one, and by one repeat.
    pub(crate) async fn send(&self, call: Call) -> Result<Answer> {
        let token = self.auth.token(&self.api).await?;
        let answer = self.api.send(call.clone(), token.as_ref().map(|token| &token.value)).await?;
        let (StatusCode::FORBIDDEN, Some(token)) = (answer.status, token) else { return Ok(answer) };
        let path = call.url.path().to_owned();
        let verdict = self
            .auth
            .examine(&self.api, &token)
            .await
            .map_err(|error| error.context("path", path.clone()))?;
        let denied = |error: Error| with_words(error, &answer).context("path", path);
        match verdict {
            Verdict::Denied(error) => Err(denied(error)),
            Verdict::Renewed(token) => {
                let again = self.api.send(call, Some(&token.value)).await?;
                if again.status == StatusCode::FORBIDDEN {
                    let error =
                        Error::new(ErrorKind::PermissionDenied, "a new token has no right to do this either");
                    return Err(denied(error));
                }
                Ok(again)
            }
        }
    }

    /// The KV mount; the server is asked about it once, unless its version is given.
    pub(crate) async fn mount(&self) -> Result<&Mount> {
        let find = async || {
            let found = self.find_mount().await?;
            self.set_proven();
            Ok(found)
        };
        self.mount.get_or_try_init(find).await
    }

    /// What KV v2 says of a secret besides its value. `None` if there is none, or if the policy lacks the right.
    async fn metadata(
        &self,
        mount: &Mount,
        name: &KeyName,
        freshness: Freshness,
    ) -> Result<Option<SecretMetadata>> {
        if freshness == Freshness::Fresh && !self.api.knows_freshness() {
            self.learn_freshness().await?;
        }
        let mut call = self.api.request(
            &kv2::ReadSecretMetadataRequest { mount: mount.path.clone(), path: secret_id(name) },
            Scope::Data,
        )?;
        self.api.freshen(&mut call, freshness);
        let answer = self.send(call).await?;
        match answer.status {
            StatusCode::OK => {
                let envelope: stored::Envelope<SecretMetadata> =
                    serde_json::from_slice(&answer.body).map_err(|cause| unreadable(&cause))?;
                Ok(envelope.data)
            }
            StatusCode::NOT_FOUND if !Refusal::of_missing(&answer)?.has_words() => Ok(None),
            _ => Err(from_answer(&answer)),
        }
    }

    /// Whether there is a key to delete. Vault answers the delete of a missing one like that of any other.
    async fn check_present(&self, mount: &Mount, name: &KeyName, mode: DeleteMode) -> Result<()> {
        let present = match (mount.version, mode) {
            (KvVersion::V1, _) => match self.read(mount, name, Freshness::Fresh).await {
                Ok(read) => matches!(read, Read::Found { .. } | Read::Empty { .. }),
                // Whatever it is, it lies under our name and can be deleted.
                Err(error) if stored::is_malformed(&error) => true,
                Err(error) => return Err(error),
            },
            (KvVersion::V2, mode) => match self.metadata(mount, name, Freshness::Fresh).await {
                // What is left of a deleted key can still be destroyed.
                Ok(found) => found.is_some_and(|found| mode == DeleteMode::Destroy || found.is_live()),
                // Whoever may delete need not be allowed to look.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => true,
                Err(error) => return Err(error),
            },
        };
        if !present {
            self.prove(mount).await?;
            return Err(Error::key_not_found(name));
        }
        // A repeat of the delete need not look again.
        self.remember(name);
        Ok(())
    }

    async fn list_names(&self) -> Result<(Mount, Vec<KeyName>)> {
        let mount = self.mount().await?.clone();
        let path = mount.path.clone();
        let mut call = match mount.version {
            KvVersion::V1 => {
                self.api.request(&kv1::ListSecretRequest { mount: path, path: String::new() }, Scope::Data)?
            }
            KvVersion::V2 => self
                .api
                .request(&kv2::ListSecretsRequest { mount: path, path: String::new() }, Scope::Data)?,
        };
        self.api.freshen(&mut call, Freshness::Any);
        let answer = self.send(call).await?;
        match answer.status {
            StatusCode::OK => {
                let envelope: stored::Envelope<stored::Listed> =
                    serde_json::from_slice(&answer.body).map_err(|cause| unreadable(&cause))?;
                let keys = envelope.data.map(|data| data.keys).unwrap_or_default();
                Ok((mount, keys.iter().filter_map(|id| key_name(id)).collect()))
            }
            StatusCode::NOT_FOUND => {
                let placeholder = KeyName::new("none")?;
                self.absent(&mount, &placeholder, mount.version, &answer)?;
                self.prove(&mount).await?;
                Ok((mount, Vec::new()))
            }
            _ => Err(from_answer(&answer).context("mount", &mount.path)),
        }
    }

    async fn info(&self, mount: &Mount, name: KeyName) -> Result<Option<KeyInfo>> {
        match self.metadata(mount, &name, Freshness::Any).await {
            Ok(Some(found)) if found.is_live() => Ok(Some(
                KeyInfo::new(name)
                    .with_version(KeyVersion::new(found.current_version.to_string()))
                    .with_times(found.created(), found.updated()),
            )),
            Ok(_) => Ok(None),
            // A policy may allow to list and not to look.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(Some(KeyInfo::new(name))),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn remember(&self, name: &KeyName) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < KNOWN_NAMES {
            known.insert(name.clone());
        }
    }

    fn knows(&self, name: &KeyName) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    fn forget(&self, name: &KeyName) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Whether the mount is known to be of the version that we take it for.
    pub(crate) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    pub(crate) fn set_proven(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl KmsProvider for Vault {
    fn provider(&self) -> &'static str {
        PROVIDER
    }

    fn capability(&self) -> Capability {
        let capability = Capability::full();
        match self.mount.get().map(|mount| mount.version) {
            Some(KvVersion::V2) => capability,
            Some(KvVersion::V1) | None => capability
                .with_create(Guarantee::CheckThenAct)
                .with_update(Guarantee::CheckThenAct)
                .with_soft_delete(false)
                .with_versions(false),
        }
    }

    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        self.check_put(kek, &mode)?;
        let result = async { self.put_in(self.mount().await?, name, kek, &mode).await };
        result.await.map_err(|error| error.operation("put").provider(PROVIDER).context("key", name.as_str()))
    }

    async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
        let result = async {
            let mount = self.mount().await?;
            match self.read(mount, name, freshness).await? {
                Read::Found { kek, version: None } => {
                    self.remember(name);
                    let version = fingerprint(&kek);
                    Ok(Stored::new(kek, version))
                }
                Read::Found { kek, version: Some(found) } => {
                    self.remember(name);
                    let stored = found.created();
                    // The first version is as old as the key.
                    let created = if found.version == 1 { stored } else { None };
                    Ok(Stored::new(kek, KeyVersion::new(found.version.to_string()))
                        .with_times(created, stored))
                }
                Read::Deleted { version } => Err(Error::new(
                    ErrorKind::NotFound,
                    "the key is deleted; its versions may be brought back with vault kv undelete",
                )
                .context("version", version.to_string())),
                Read::Empty { .. } => Err(Error::new(
                    ErrorKind::Protocol,
                    "the stored KEK is the empty text; to create the key stores one",
                )),
                Read::Absent => Err(Error::key_not_found(name)),
            }
        };
        result
            .await
            .map_err(|error: Error| error.operation("get").provider(PROVIDER).context("key", name.as_str()))
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        let result = async {
            let mount = self.mount().await?;
            if mount.version == KvVersion::V1 && mode == DeleteMode::Soft {
                return Err(unsupported("deleting a key so that it can be brought back"));
            }
            if !self.knows(name) {
                self.check_present(mount, name, mode).await?;
            }
            let (path, id) = (mount.path.clone(), secret_id(name));
            let mut call = match (mount.version, mode) {
                (KvVersion::V1, _) => {
                    self.api.request(&kv1::DeleteSecretRequest { mount: path, path: id }, Scope::Data)?
                }
                (KvVersion::V2, DeleteMode::Soft) => self
                    .api
                    .request(&kv2::DeleteLatestSecretVersionRequest { mount: path, path: id }, Scope::Data)?,
                (KvVersion::V2, _) => self
                    .api
                    .request(&kv2::DeleteSecretMetadataRequest { mount: path, path: id }, Scope::Data)?,
            };
            self.api.freshen(&mut call, Freshness::Fresh);
            let answer = self.send(call).await?;
            if answer.status.is_success() {
                self.forget(name);
            }
            match answer.status {
                StatusCode::NO_CONTENT | StatusCode::OK if mode == DeleteMode::Soft => {
                    Ok(Deleted::Recoverable)
                }
                StatusCode::NO_CONTENT | StatusCode::OK => Ok(Deleted::Destroyed),
                StatusCode::NOT_FOUND => {
                    self.absent(mount, name, mount.version, &answer)?;
                    Err(Error::key_not_found(name))
                }
                _ => Err(from_answer(&answer)),
            }
        };
        result
            .await
            .map_err(|error| error.operation("delete").provider(PROVIDER).context("key", name.as_str()))
    }

    fn list(&self) -> KeyStream<'_> {
        let keys = stream::once(self.list_names()).flat_map(move |listed| match listed {
            Err(error) => stream::iter([Err(error)]).boxed(),
            Ok((mount, names)) if mount.version == KvVersion::V1 => {
                stream::iter(names.into_iter().map(|name| Ok(KeyInfo::new(name)))).boxed()
            }
            Ok((mount, names)) => stream::iter(names)
                .map(move |name| {
                    let mount = mount.clone();
                    async move { self.info(&mount, name).await }
                })
                .buffered(LIST_PARALLEL)
                .filter_map(|info| std::future::ready(info.transpose()))
                .boxed(),
        });
        Box::pin(keys.map(|info| info.map_err(|error| error.operation("list").provider(PROVIDER))))
    }

    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
        let result = async {
            let mount = self.mount().await?;
            if mount.version == KvVersion::V1 {
                return Err(unsupported("destroying superseded versions"));
            }
            let metadata =
                self.metadata(mount, name, Freshness::Fresh).await?.filter(SecretMetadata::is_live);
            let metadata = metadata.ok_or_else(|| Error::key_not_found(name))?;
            if metadata.current_version.to_string() != current.as_str() {
                return Err(changed(name));
            }
            let versions = metadata.superseded(metadata.current_version);
            let count = versions.len();
            if count > 0 {
                let destroy = kv2::DestroySecretVersionsRequest {
                    mount: mount.path.clone(),
                    path: secret_id(name),
                    versions,
                };
                let mut call = self.api.request(&destroy, Scope::Data)?;
                self.api.freshen(&mut call, Freshness::Fresh);
                let answer = self.send(call).await?;
                if !answer.status.is_success() {
                    return Err(from_answer(&answer));
                }
            }
            Ok(count)
        };
        result
            .await
            .map_err(|error| error.operation("retire").provider(PROVIDER).context("key", name.as_str()))
    }

    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        self.ask_update(names).await.map_err(|error| error.operation("rights").provider(PROVIDER))
    }

    async fn probe(&self) -> Probe {
        self.run_probe().await
    }
}
