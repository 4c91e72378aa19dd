//! The KV mount: sends requests, finds out the version, and records present keys (rook-behaviour §4.4).

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, PoisonError},
};

use kms_core::{Error, ErrorKind, Freshness, KeyLocks, KeyName, Result};
use kms_http::{Call, HttpResponse, http::StatusCode};
use serde::Deserialize;
use tokio::sync::OnceCell;
use tracing::warn;
use vaultrs::api::sys::requests as sys;

use crate::{
    api::{Api, Scope, data, data_of},
    auth::{Auth, Forbidden},
    error::{Refusal, from_answer, is_foreign, with_words},
    stored::{KvVersion, Secret, decode_v2, has_v2_form, secret_path},
};

/// The maximum number of recorded names of present keys.
const MAX_SEEN: usize = 10_000;

/// The KV mount of one server, and the credentials for it.
pub(crate) struct Mount {
    pub(crate) api: Api,
    pub(crate) auth: Auth,
    /// The path without slashes at the ends.
    pub(crate) path: String,
    declared: Declared,
    /// The version that a response has shown.
    found: OnceCell<KvVersion>,
    /// Names of keys that this client has read or written. A delete need not check that these exist.
    seen: Mutex<HashSet<KeyName>>,
    /// Serialises the writers of one process on KV v1, which has no conditional write.
    pub(crate) v1_locks: KeyLocks,
}

/// What `VAULT_BACKEND` says about the version of the mount.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Declared {
    /// Nothing: the server is asked before the first request.
    Nothing,
    /// `kv` or `v1`.
    V1,
    /// `v2`. Rook asks the server, and follows its answer.
    V2,
    /// `kv-v2`. Rook asks no server: on a v1 mount it sends the requests of v2 (rook-behaviour §4.4), so its secrets are
    /// in the folder `data` there, each in a field `data`.
    KvV2,
}

impl Declared {
    fn version(self) -> Option<KvVersion> {
        match self {
            Self::Nothing => None,
            Self::V1 => Some(KvVersion::V1),
            Self::V2 | Self::KvV2 => Some(KvVersion::V2),
        }
    }
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

/// The capability of a policy that a request needs, as Vault names it.
fn capability_for(call: &Call) -> &'static str {
    match call.method.as_str() {
        "GET" => "read",
        "LIST" => "list",
        "DELETE" => "delete",
        // These paths of KV v2 act on versions that exist.
        _ if ["/destroy/", "/undelete/", "/delete/"].iter().any(|part| call.url.path().contains(part)) => {
            "update"
        }
        "PATCH" => "patch",
        _ => "create (of a new key) or update (of a present one)",
    }
}

impl Mount {
    pub(crate) fn new(api: Api, auth: Auth, path: String, declared: Declared) -> Self {
        Self {
            api,
            auth,
            path,
            declared,
            found: OnceCell::new(),
            seen: Mutex::default(),
            v1_locks: KeyLocks::new(),
        }
    }

    /// Sends a request with a token. If the server refuses a stale token, sends the request once more with a new one.
    pub(crate) async fn send(&self, mut call: Call) -> Result<HttpResponse> {
        let token = self.auth.token(&self.api).await?;
        let answer = self.api.send(&mut call, token.as_ref().map(|token| &token.value)).await?;
        let (StatusCode::FORBIDDEN, Some(token)) = (answer.status, token) else { return Ok(answer) };
        // Another server's refusal says nothing about the token.
        if is_foreign(&answer) {
            return Ok(answer);
        }
        let path = call.url.path().to_owned();
        let capability = capability_for(&call);
        let forbidden = self
            .auth
            .examine_forbidden(&self.api, &token)
            .await
            .map_err(|error| error.context("path", path.clone()))?;
        let denied = |error: Error| {
            Err(with_words(error, &answer).context("needed capability", capability).context("path", path))
        };
        let token = match forbidden {
            Forbidden::MissingRight(error) => return denied(error),
            Forbidden::StaleToken(token) => token,
        };
        let second = self.api.send(&mut call, Some(&token.value)).await?;
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

        let answer = self.api.send(&mut self.api.read_state("sys/leader")?, None).await?;
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

    /// The version of the mount: the one that a response has shown, or else that of `VAULT_BACKEND`, or else the server's
    /// answer.
    pub(crate) async fn version(&self) -> Result<KvVersion> {
        match self.confirmed_version().or_else(|| self.declared.version()) {
            Some(version) => Ok(version),
            None => self.confirm_version().await,
        }
    }

    /// The version that a response has shown, without I/O.
    pub(crate) fn confirmed_version(&self) -> Option<KvVersion> {
        self.found.get().copied()
    }

    /// Runs an operation, and runs it again if it has failed because the mount is of another version than
    /// `VAULT_BACKEND` says: a response has shown that, and nothing is written yet.
    pub(crate) async fn as_it_is<T, F: Future<Output = Result<T>>>(
        &self,
        operation: impl Fn() -> F,
    ) -> Result<T> {
        let assumed = self.version().await?;
        let result = operation().await;
        match (&result, self.confirmed_version()) {
            (Err(_), Some(found)) if found != assumed => operation().await,
            _ => result,
        }
    }

    /// The folder of the secrets on a v1 mount.
    pub(crate) fn v1_folder(&self) -> String {
        if self.is_nested() { format!("{}/data", self.path) } else { self.path.clone() }
    }

    /// Whether the secrets of a v1 mount have the form that Rook gives them with `VAULT_BACKEND: kv-v2`.
    pub(crate) fn is_nested(&self) -> bool {
        self.declared == Declared::KvV2
    }

    /// The path at which the secret of a key is read and written.
    pub(crate) fn data_path(&self, version: KvVersion, name: &KeyName) -> String {
        match version {
            KvVersion::V1 => secret_path(&self.v1_folder(), name),
            KvVersion::V2 => secret_path(&format!("{}/data", self.path), name),
        }
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
                        "check VAULT_BACKEND_PATH, since the server refuses a path without a mount in the same way; if it is \
                         right, let the policy read sys/mounts or any path below the mount, or set VAULT_BACKEND to v1 or v2",
                    ),
                    _ => second,
                })?
            }
            Err(error) => return Err(error),
        };
        let Some(info) = info else {
            return Err(Error::config(
                "there is no mount at VAULT_BACKEND_PATH; set it to the path of a KV mount, or enable a KV secrets engine at \
                 that path",
            )
            .context("mount", path));
        };
        let found = info.path.as_deref().map_or(path.as_str(), |found| found.trim_matches('/'));
        // Rook takes `kv-v2` at its word, with a folder of a mount too.
        if found != path && !self.is_nested() {
            return Err(Error::config(format!(
                "VAULT_BACKEND_PATH is a folder of the mount {found}, and has to be the path of the mount itself; set \
                 VAULT_BACKEND_PATH: {found}"
            ))
            .context("path", path));
        }
        if !matches!(info.kind.as_str(), "kv" | "generic") {
            return Err(Error::config(
                "the mount at VAULT_BACKEND_PATH is not a KV secrets engine; set it to the path of one",
            )
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

    /// The version of the mount, from the server unless a response has shown it or the next one will.
    ///
    /// Callers run this before they report a key as absent: with `VAULT_BACKEND: v2` every path of a v1 mount is empty.
    /// A v2 mount shows what it is by each response to a path of v1, so `VAULT_BACKEND: kv` needs no question.
    pub(crate) async fn confirm_version(&self) -> Result<KvVersion> {
        match self.declared {
            Declared::V1 => Ok(self.confirmed_version().unwrap_or(KvVersion::V1)),
            _ => self.ask_version().await,
        }
    }

    /// The version of the mount, from the server unless a response has shown it. Asks the server at most once, if the token
    /// has the right to ask. For requests that reach no path of the mount, whose responses thus show no version.
    pub(crate) async fn ask_version(&self) -> Result<KvVersion> {
        let find = async || {
            let found = self.find_version().await;
            if let Ok(found) = found {
                self.warn_unless(self.declared.version(), found);
            }
            match (found, self.declared) {
                // Without the right to ask, the setting counts.
                (Err(error), Declared::V2 | Declared::KvV2)
                    if error.kind() == ErrorKind::PermissionDenied =>
                {
                    Ok(KvVersion::V2)
                }
                (found, _) => found,
            }
        };
        match (self.found.get_or_try_init(find).await.copied(), self.declared) {
            // Not recorded: a v2 mount shows later what it is.
            (Err(error), Declared::V1) if error.kind() == ErrorKind::PermissionDenied => Ok(KvVersion::V1),
            (found, _) => found,
        }
    }

    /// Records the version that a response has shown, and returns the error of an operation that assumed another one.
    pub(crate) fn settle(&self, found: KvVersion) -> Error {
        if self.found.set(found).is_ok() {
            self.warn_unless(self.declared.version(), found);
        }
        Error::new(ErrorKind::Protocol, "the version of the KV mount has changed meanwhile")
            .context("mount", &self.path)
    }

    fn warn_unless(&self, declared: Option<KvVersion>, found: KvVersion) {
        let mount = self.path.as_str();
        match (found, self.declared) {
            _ if declared.is_none_or(|declared| declared == found) => {}
            (KvVersion::V1, Declared::KvV2) => warn!(
                mount,
                "VAULT_BACKEND is kv-v2, and the mount is KV v1: keys are in its folder data, where Rook keeps them with \
                 this setting; leave the setting as it is"
            ),
            (KvVersion::V1, _) => warn!(mount, "VAULT_BACKEND is v2, and the mount is KV v1, which counts"),
            (KvVersion::V2, _) => warn!(mount, "VAULT_BACKEND says v1, and the mount is KV v2, which counts"),
        }
    }

    /// Checks that the body of a v2 read has the form of v2, which confirms the version. A body of another form is that of
    /// a v1 mount only if the server says so: a proxy may have taken the metadata out.
    pub(crate) async fn check_v2_form(&self, body: &[u8]) -> Result<()> {
        if self.confirmed_version().is_some() {
            return Ok(());
        }
        if has_v2_form(body)? {
            drop(self.settle(KvVersion::V2));
            return Ok(());
        }
        match self.confirm_version().await? {
            KvVersion::V1 => Err(self.settle(KvVersion::V1)),
            KvVersion::V2 => Err(Error::new(
                ErrorKind::Protocol,
                "the server's response has no metadata, although the mount is KV v2; check the proxies in between",
            )
            .context("mount", &self.path)),
        }
    }

    /// Interprets a 404: an absent or deleted secret, or the error for another version of KV or a missing mount.
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
            return Err(self.settle(KvVersion::V2));
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
