//! The KV mount: sends requests, finds out the version, and records present keys (rook-behaviour §4.4).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use kms_core::{Error, ErrorKind, Freshness, KeyLocks, KeyName, Result};
use kms_http::{Call, HttpResponse, http::StatusCode};
use serde::Deserialize;
use tokio::sync::OnceCell;
use vaultrs::api::sys::requests as sys;

use crate::{
    api::{Api, Scope, data, data_of},
    auth::{Auth, Forbidden},
    error::{Refusal, from_answer, with_words},
    stored::{KvVersion, Secret, decode_v2, has_v2_form},
};

/// The maximum number of recorded names of present keys.
const MAX_SEEN: usize = 10_000;

/// The KV mount of one server, and the credentials for it.
pub(crate) struct Mount {
    pub(crate) api: Api,
    pub(crate) auth: Auth,
    /// The path without slashes at the ends.
    pub(crate) path: String,
    /// The version from the settings, or else from the server's response.
    version: OnceCell<KvVersion>,
    /// Whether a response has confirmed the version.
    version_confirmed: AtomicBool,
    /// Names of keys that this client has read or written. A delete need not check that these exist.
    seen: Mutex<BTreeSet<KeyName>>,
    /// Serialises the writers of one process on KV v1, which has no conditional write.
    pub(crate) v1_locks: KeyLocks,
}

/// A mount as `sys/internal/ui/mounts` and `sys/mounts` describe it.
#[derive(Deserialize)]
struct MountInfo {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    options: Option<MountOptions>,
}

#[derive(Deserialize)]
struct MountOptions {
    #[serde(default)]
    version: Option<String>,
}

impl Mount {
    pub(crate) fn new(api: Api, auth: Auth, path: String, version: Option<KvVersion>) -> Self {
        Self {
            api,
            auth,
            path,
            version: OnceCell::new_with(version),
            version_confirmed: AtomicBool::new(false),
            seen: Mutex::default(),
            v1_locks: KeyLocks::new(),
        }
    }

    /// Sends a request with a token. If the server refuses a stale token, sends the request once more with a new one.
    pub(crate) async fn send(&self, call: Call) -> Result<HttpResponse> {
        let token = self.auth.token(&self.api).await?;
        let answer = self.api.send(call.clone(), token.as_ref().map(|token| &token.value)).await?;
        let (StatusCode::FORBIDDEN, Some(token)) = (answer.status, token) else { return Ok(answer) };
        let path = call.url.path().to_owned();
        let forbidden = self
            .auth
            .examine_forbidden(&self.api, &token)
            .await
            .map_err(|error| error.context("path", path.clone()))?;
        let denied = |error: Error| Err(with_words(error, &answer).context("path", path));
        let token = match forbidden {
            Forbidden::MissingRight(error) => return denied(error),
            Forbidden::StaleToken(token) => token,
        };
        let second = self.api.send(call, Some(&token.value)).await?;
        if second.status == StatusCode::FORBIDDEN {
            return denied(Error::new(
                ErrorKind::PermissionDenied,
                "a new token has no right to do this either",
            ));
        }
        Ok(second)
    }

    /// Sends a read. If `freshness` is `Fresh`, the read sees every write.
    pub(crate) async fn send_read(&self, mut call: Call, freshness: Freshness) -> Result<HttpResponse> {
        if freshness == Freshness::Fresh && !self.api.knows_freshness() {
            self.learn_freshness().await?;
        }
        self.api.freshen(&mut call, freshness);
        self.send(call).await
    }

    /// Sends a write, which the active node has to execute.
    pub(crate) async fn send_write(&self, mut call: Call) -> Result<HttpResponse> {
        self.api.freshen(&mut call, Freshness::Fresh);
        self.send(call).await
    }

    /// Finds out whether the server has standbys. If so, learns the id of its cluster, which fresh reads need: every
    /// successful response of such a server carries the id.
    async fn learn_freshness(&self) -> Result<()> {
        #[derive(Deserialize)]
        struct Leader {
            ha_enabled: bool,
        }

        let answer = self.api.send(self.api.read_state("sys/leader")?, None).await?;
        let alone = serde_json::from_slice::<Leader>(&answer.body).is_ok_and(|leader| !leader.ha_enabled);
        if !(answer.status == StatusCode::OK && alone)
            && let Some(token) = self.auth.token(&self.api).await?
        {
            // The headers tell the id. A proxy may block this path.
            let answer = self.auth.ask_about(&self.api, &token.value).await?;
            if !matches!(answer.status, StatusCode::OK | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND) {
                return Err(from_answer(&answer));
            }
        }
        self.api.stop_learning();
        Ok(())
    }

    /// The version of the mount. Asks the server once, unless `VAULT_BACKEND` is set.
    pub(crate) async fn version(&self) -> Result<KvVersion> {
        let find = async || {
            let version = self.find_version().await?;
            self.set_version_confirmed();
            Ok(version)
        };
        self.version.get_or_try_init(find).await.copied()
    }

    /// The version of the mount, without I/O. `None` if the client does not know it yet.
    pub(crate) fn known_version(&self) -> Option<KvVersion> {
        self.version.get().copied()
    }

    /// Asks the server for the version of the mount.
    ///
    /// `sys/internal/ui/mounts/<path>` comes first, since it needs no more rights than the keys themselves.
    /// `sys/mounts` needs a right of its own, which the policy in Rook's documentation grants.
    async fn find_version(&self) -> Result<KvVersion> {
        let path = &self.path;
        let call = self.api.read(&format!("sys/internal/ui/mounts/{path}"), Scope::Data)?;
        let info = match self.send(call).await {
            Ok(answer) if answer.status == StatusCode::OK => Some(data::<MountInfo>(&answer.body)?),
            Ok(answer) if answer.status != StatusCode::NOT_FOUND => {
                return Err(from_answer(&answer).context("mount", path));
            }
            Ok(_) => self.find_in_list().await?,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                self.find_in_list().await.map_err(|second| match second.kind() {
                    ErrorKind::PermissionDenied => error.context(
                        "to do",
                        "set VAULT_BACKEND to v1 or v2, or let the policy read sys/mounts or any path below the mount",
                    ),
                    _ => second,
                })?
            }
            Err(error) => return Err(error),
        };
        let is_ours =
            |info: &MountInfo| info.path.as_ref().is_none_or(|found| found.trim_matches('/') == path);
        let Some(info) = info.filter(is_ours) else {
            return Err(Error::config(
                "there is no mount at VAULT_BACKEND_PATH; enable a KV secrets engine at that path",
            )
            .context("mount", path));
        };
        if !matches!(info.kind.as_str(), "kv" | "generic") {
            return Err(Error::config("the mount at VAULT_BACKEND_PATH is not a KV secrets engine")
                .context("mount", path)
                .context("type", info.kind));
        }
        let is_v2 = info.options.and_then(|options| options.version).as_deref() == Some("2");
        Ok(if is_v2 { KvVersion::V2 } else { KvVersion::V1 })
    }

    async fn find_in_list(&self) -> Result<Option<MountInfo>> {
        let answer = self.send(self.api.request(&sys::ListMountsRequest {}, Scope::Data)?).await?;
        let mounts: BTreeMap<String, MountInfo> =
            data_of(&answer).map_err(|error| error.context("mount", &self.path))?;
        let found = mounts.into_iter().find(|(path, _)| path.trim_matches('/') == self.path);
        Ok(found.map(|(_, info)| info))
    }

    /// Fails if `VAULT_BACKEND` says v2 but the mount is v1, where every v2 path is empty.
    ///
    /// Callers run this check before they report a key as absent. It asks the server at most once.
    pub(crate) async fn confirm_version(&self) -> Result<()> {
        if self.known_version() == Some(KvVersion::V1) || self.is_version_confirmed() {
            return Ok(());
        }
        match self.find_version().await {
            Ok(KvVersion::V1) => Err(self.is_v1_not_v2()),
            // Without the right to ask, trust the setting.
            Err(error) if error.kind() != ErrorKind::PermissionDenied => Err(error),
            _ => {
                self.set_version_confirmed();
                Ok(())
            }
        }
    }

    /// Confirms the version by the body of a v2 read. Fails if the body has the form of v1, or has no data.
    pub(crate) fn check_v2_form(&self, body: &[u8]) -> Result<()> {
        if self.is_version_confirmed() {
            return Ok(());
        }
        if !has_v2_form(body)? {
            return Err(self.is_v1_not_v2());
        }
        self.set_version_confirmed();
        Ok(())
    }

    /// The error for a v1 mount that `VAULT_BACKEND` declares as v2.
    pub(crate) fn is_v1_not_v2(&self) -> Error {
        Error::config("the mount is KV v1, and VAULT_BACKEND says v2; set it to v1, or remove it")
            .context("mount", &self.path)
    }

    pub(crate) fn is_version_confirmed(&self) -> bool {
        self.version_confirmed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_version_confirmed(&self) {
        self.version_confirmed.store(true, Ordering::Relaxed);
    }

    /// Interprets a 404: an absent or deleted secret, or the error for a wrong version of KV or a missing mount.
    pub(crate) fn not_found(
        &self,
        name: &KeyName,
        version: KvVersion,
        answer: &HttpResponse,
    ) -> Result<Secret> {
        let refusal = Refusal::of_not_found(answer)?;
        if refusal.has_words() {
            return Err(from_answer(answer).context("mount", &self.path));
        }
        if refusal.has_warnings() {
            return Err(Error::config(
                "the mount is KV v2, and VAULT_BACKEND says v1; set it to v2, or remove it",
            )
            .context("mount", &self.path));
        }
        if refusal.says_absent() {
            return Ok(Secret::Absent);
        }
        // A deleted secret has metadata in the body; a name that was never written has none.
        if version == KvVersion::V2
            && let deleted @ Secret::Deleted { .. } = decode_v2(name, &answer.body)?
        {
            return Ok(deleted);
        }
        Err(Error::new(ErrorKind::Protocol, "the server's 404 does not say that the secret is absent")
            .context("mount", &self.path))
    }

    /// Records that a key is present, so that a delete need not look for it.
    pub(crate) fn note_present(&self, name: &KeyName) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() < MAX_SEEN {
            seen.insert(name.clone());
        }
    }

    pub(crate) fn note_absent(&self, name: &KeyName) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    pub(crate) fn has_seen(&self, name: &KeyName) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }
}
