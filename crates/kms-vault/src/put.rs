//! Reading and writing one secret: what each version of KV makes of a create, an update, an overwrite.

use std::hash::{DefaultHasher, Hash, Hasher};

use kms_core::{Error, ErrorKind, Existing, Freshness, Kek, KeyName, KeyVersion, PutMode, Result, Retry};
use kms_http::{Answer, http::StatusCode, json::unreadable};
use serde::Deserialize;
use vaultrs::api::kv1::requests as kv1;

use crate::{
    api::Scope,
    error::{Refusal, from_answer},
    name::secret_id,
    provider::Vault,
    stored::{self, KvVersion, Mount, Read},
};

/// How often a write without expectation is tried on a mount that demands one.
const OVERWRITE_ROUNDS: usize = 3;
/// What marks the version of a key on KV v1, which has none: the fingerprint of the KEK.
const FINGERPRINT: &str = "fingerprint-";

/// What a write has come to.
enum Written {
    Version(KeyVersion),
    /// The server answered 400: most often because another version is there.
    Refused(Error),
}

impl Written {
    fn done(self) -> Result<KeyVersion> {
        match self {
            Self::Version(version) => Ok(version),
            Self::Refused(error) => Err(error),
        }
    }
}

pub(crate) fn fingerprint(kek: &Kek) -> KeyVersion {
    KeyVersion::new(format!("{FINGERPRINT}{}", kek.fingerprint()))
}

pub(crate) fn changed(name: &KeyName) -> Error {
    Error::new(ErrorKind::Conflict, "the key has changed since it was read").context("key", name.as_str())
}

pub(crate) fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{what} is not possible with this KV mount"))
}

fn said_v2(mount: &Mount) -> Error {
    Error::config("the mount is KV v1, and VAULT_BACKEND says v2: set it to v1, or leave it out")
        .context("mount", &mount.path)
}

impl Vault {
    /// Reads a secret.
    pub(crate) async fn read(&self, mount: &Mount, name: &KeyName, freshness: Freshness) -> Result<Read> {
        if freshness == Freshness::Fresh && !self.api.knows_freshness() {
            self.learn_freshness().await?;
        }
        let mut call = self.api.read(&mount.data(name), Scope::Data)?;
        self.api.freshen(&mut call, freshness);
        let answer = self.send(call).await?;
        let read = match (answer.status, mount.version) {
            (StatusCode::OK, KvVersion::V1) => stored::parse_v1(name, &answer.body)?,
            (StatusCode::OK, KvVersion::V2) => {
                self.saw_v2(mount, &answer.body)?;
                stored::parse_v2(name, &answer.body)?
            }
            (StatusCode::NOT_FOUND, version) => self.absent(mount, name, version, &answer)?,
            _ => return Err(from_answer(&answer)),
        };
        match read {
            // A standby may not have heard of a key yet; that there is none is for the active node to say.
            Read::Absent | Read::Deleted { .. } if freshness == Freshness::Any && !self.api.is_alone() => {
                Box::pin(self.read(mount, name, Freshness::Fresh)).await
            }
            Read::Absent => {
                self.prove(mount).await?;
                Ok(Read::Absent)
            }
            read => Ok(read),
        }
    }

    /// Notes that an answer has shown the mount to be v2, or says that it is not what `VAULT_BACKEND` says.
    fn saw_v2(&self, mount: &Mount, body: &[u8]) -> Result<()> {
        if self.is_proven() {
            return Ok(());
        }
        match stored::shows_v2(body) {
            Some(true) => self.set_proven(),
            Some(false) => return Err(said_v2(mount)),
            None => {}
        }
        Ok(())
    }

    /// Makes sure, before it is said that there is nothing, that the mount is of the version that `VAULT_BACKEND` says:
    /// in a v1 mount every v2 path is empty. The server is asked about the mount only here.
    pub(crate) async fn prove(&self, mount: &Mount) -> Result<()> {
        if mount.version == KvVersion::V1 || self.is_proven() {
            return Ok(());
        }
        match self.find_mount().await {
            Ok(found) if found.version == KvVersion::V1 => Err(said_v2(mount)),
            // Whoever may not ask has to be believed.
            Err(error) if error.kind() != ErrorKind::PermissionDenied => Err(error),
            _ => {
                self.set_proven();
                Ok(())
            }
        }
    }

    /// Makes sure that a v2 write destroys nothing: to a v1 mount it is a plain write, which would overwrite what is
    /// there, and `cas` means nothing. Nothing is sent once the mount is known to be v2.
    async fn guard_write(&self, mount: &Mount, name: &KeyName) -> Result<()> {
        if self.is_proven() {
            return Ok(());
        }
        let mut call = self.api.read(&mount.data(name), Scope::Data)?;
        self.api.freshen(&mut call, Freshness::Any);
        match self.send(call).await {
            Ok(answer) if answer.status == StatusCode::OK => self.saw_v2(mount, &answer.body),
            Ok(answer) if answer.status == StatusCode::NOT_FOUND => {
                if let Read::Deleted { .. } = self.absent(mount, name, KvVersion::V2, &answer)? {
                    self.set_proven();
                }
                Ok(())
            }
            Ok(answer) => Err(from_answer(&answer)),
            // Whoever may write need not be allowed to read.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => self.prove(mount).await,
            Err(error) => Err(error),
        }
    }

    /// What a 404 means: nothing there, a deleted version, a wrong version of KV, or no such mount.
    pub(crate) fn absent(
        &self,
        mount: &Mount,
        name: &KeyName,
        version: KvVersion,
        answer: &Answer,
    ) -> Result<Read> {
        let refusal = Refusal::of_missing(answer)?;
        if refusal.has_words() {
            return Err(from_answer(answer).context("mount", &mount.path));
        }
        if refusal.has_warnings() {
            return Err(Error::config(
                "the mount is KV v2, and VAULT_BACKEND says v1: set it to v2, or leave it out",
            )
            .context("mount", &mount.path));
        }
        match version {
            KvVersion::V1 => Ok(Read::Absent),
            // Without a body that says so, nothing has ever been written there.
            KvVersion::V2 => Ok(stored::parse_v2(name, &answer.body).unwrap_or(Read::Absent)),
        }
    }

    /// Finds out whether this server has standbys, and if so the id of its cluster: with that, a read can be sent on
    /// to the active node. Every successful answer of such a server shows the id.
    pub(crate) async fn learn_freshness(&self) -> Result<()> {
        #[derive(Deserialize)]
        struct Leader {
            ha_enabled: bool,
        }

        let answer = self.api.send(self.api.read_state("sys/leader")?, None).await?;
        let alone = serde_json::from_slice::<Leader>(&answer.body).is_ok_and(|leader| !leader.ha_enabled);
        if !(answer.status == StatusCode::OK && alone)
            && let Some(token) = self.auth.token(&self.api).await?
        {
            match self.auth.lookup(&self.api, &token.value).await {
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {}
                Err(error) => return Err(error),
            }
        }
        self.api.stop_learning();
        Ok(())
    }

    /// Writes a secret. `cas` is the version that has to be there, on KV v2.
    async fn write(&self, mount: &Mount, name: &KeyName, kek: &Kek, cas: Option<u64>) -> Result<Written> {
        let body = match mount.version {
            KvVersion::V1 => stored::body_v1(name, kek)?,
            KvVersion::V2 => {
                self.guard_write(mount, name).await?;
                stored::body_v2(name, kek, cas)?
            }
        };
        let mut call = self.api.write(&mount.data(name), body, Scope::Data)?;
        self.api.freshen(&mut call, Freshness::Fresh);
        let answer = self.send(call).await?;
        match (answer.status, mount.version) {
            (StatusCode::NO_CONTENT, KvVersion::V1) => {
                self.remember(name);
                Ok(Written::Version(fingerprint(kek)))
            }
            (StatusCode::OK, KvVersion::V2) => {
                let envelope: stored::Envelope<stored::VersionMetadata> =
                    serde_json::from_slice(&answer.body).map_err(|cause| unreadable(&cause))?;
                let metadata = envelope.data.ok_or_else(|| {
                    Error::new(ErrorKind::Protocol, "the server does not say what it has stored")
                })?;
                self.set_proven();
                self.remember(name);
                Ok(Written::Version(KeyVersion::new(metadata.version.to_string())))
            }
            // A v1 mount takes the v2 path for a name like any other and says 204: the KEK lies where nobody will
            // look for it. The guard has seen that nothing was there before, so what is there now is ours.
            (StatusCode::NO_CONTENT, KvVersion::V2) => {
                let stray = self.api.request(
                    &kv1::DeleteSecretRequest {
                        mount: mount.path.clone(),
                        path: format!("data/{}", secret_id(name)),
                    },
                    Scope::Data,
                )?;
                let removed = self.send(stray).await.is_ok_and(|answer| answer.status.is_success());
                let left = if removed { "nothing" } else { "the new KEK, which may not be deleted" };
                Err(said_v2(mount).context("left behind", left))
            }
            (StatusCode::BAD_REQUEST, KvVersion::V2) => Ok(Written::Refused(from_answer(&answer))),
            (StatusCode::NOT_FOUND, version) => {
                self.absent(mount, name, version, &answer)?;
                Err(from_answer(&answer))
            }
            _ => Err(from_answer(&answer)),
        }
    }

    /// Creates on KV v2: the server refuses if there is a version.
    async fn create_v2(&self, mount: &Mount, name: &KeyName, kek: &Kek) -> Result<KeyVersion> {
        let refused = match self.write(mount, name, kek, Some(0)).await? {
            Written::Version(version) => return Ok(version),
            Written::Refused(error) => error,
        };
        match self.existing(mount, name, kek).await? {
            // A deleted name still has its versions, and the next one has to follow them.
            Read::Deleted { version } | Read::Empty { version: Some(version) } => {
                match self.write(mount, name, kek, Some(version)).await? {
                    Written::Version(version) => Ok(version),
                    Written::Refused(refused) => {
                        self.existing(mount, name, kek).await?;
                        Err(refused)
                    }
                }
            }
            // A standby with an old copy has refused what the active node takes: by now we know how to reach that one.
            Read::Absent => match self.write(mount, name, kek, Some(0)).await? {
                Written::Version(version) => Ok(version),
                Written::Refused(_) => Err(refused),
            },
            _ => Err(refused),
        }
    }

    /// Fails with `AlreadyExists` if the key is there, and says whether it has the same KEK.
    async fn existing(&self, mount: &Mount, name: &KeyName, kek: &Kek) -> Result<Read> {
        match self.read(mount, name, Freshness::Fresh).await {
            Ok(Read::Found { kek: stored, .. }) => {
                let same = if stored.ct_eq(kek) { Existing::Same } else { Existing::Different };
                Err(Error::already_exists(name, same))
            }
            Ok(other) => Ok(other),
            // What is there is no KEK, but it is there.
            Err(error) if stored::is_malformed(&error) => {
                Err(Error::already_exists(name, Existing::Unknown).source(error))
            }
            Err(error) => Err(error),
        }
    }

    async fn update_v2(
        &self,
        mount: &Mount,
        name: &KeyName,
        kek: &Kek,
        expected: &KeyVersion,
    ) -> Result<KeyVersion> {
        let cas = expected
            .as_str()
            .parse::<u64>()
            .ok()
            .filter(|number| *number > 0)
            .ok_or_else(|| changed(name))?;
        let refused = match self.write(mount, name, kek, Some(cas)).await? {
            Written::Version(version) => return Ok(version),
            Written::Refused(error) => error,
        };
        match self.read(mount, name, Freshness::Fresh).await? {
            Read::Found { version: Some(found), .. } if found.version != cas => Err(changed(name)),
            // As for a create: refused by a standby with an old copy.
            Read::Found { .. } => match self.write(mount, name, kek, Some(cas)).await? {
                Written::Version(version) => Ok(version),
                Written::Refused(_) => Err(refused),
            },
            Read::Deleted { .. } | Read::Empty { .. } | Read::Absent => Err(Error::key_not_found(name)),
        }
    }

    async fn overwrite_v2(&self, mount: &Mount, name: &KeyName, kek: &Kek) -> Result<KeyVersion> {
        let mut cas = None;
        for _ in 0..OVERWRITE_ROUNDS {
            let refused = match self.write(mount, name, kek, cas).await? {
                Written::Version(version) => return Ok(version),
                Written::Refused(error) => error,
            };
            // The mount may demand that every write names the version before.
            let found = match self.read(mount, name, Freshness::Fresh).await {
                Ok(Read::Found { version, .. }) => version.map_or(0, |version| version.version),
                Ok(Read::Deleted { version }) => version,
                Ok(Read::Empty { version }) => version.unwrap_or(0),
                Ok(Read::Absent) => 0,
                Err(error) => return Err(error),
            };
            if cas == Some(found) {
                return Err(refused);
            }
            cas = Some(found);
        }
        Err(changed(name).retry(Retry::Always))
    }

    async fn update_v1(
        &self,
        mount: &Mount,
        name: &KeyName,
        kek: &Kek,
        expected: &KeyVersion,
    ) -> Result<KeyVersion> {
        match self.read(mount, name, Freshness::Fresh).await? {
            Read::Found { kek: stored, .. } if fingerprint(&stored) == *expected => {}
            Read::Found { .. } => return Err(changed(name)),
            Read::Deleted { .. } | Read::Empty { .. } | Read::Absent => {
                return Err(Error::key_not_found(name));
            }
        }
        self.write(mount, name, kek, None).await?.done()
    }

    pub(crate) async fn put_in(
        &self,
        mount: &Mount,
        name: &KeyName,
        kek: &Kek,
        mode: &PutMode,
    ) -> Result<KeyVersion> {
        match (mount.version, mode) {
            (KvVersion::V2, PutMode::Create) => self.create_v2(mount, name, kek).await,
            (KvVersion::V2, PutMode::Update(expected)) => self.update_v2(mount, name, kek, expected).await,
            (KvVersion::V2, PutMode::Overwrite) => self.overwrite_v2(mount, name, kek).await,
            (KvVersion::V1, mode) => {
                let mut hasher = DefaultHasher::new();
                name.hash(&mut hasher);
                let at = usize::try_from(hasher.finish() % 16).unwrap_or_default();
                let lock = self.v1_locks.get(at);
                let _guard = match lock {
                    Some(lock) => Some(lock.lock().await),
                    None => None,
                };
                match mode {
                    PutMode::Create => {
                        self.existing(mount, name, kek).await?;
                        self.write(mount, name, kek, None).await?.done()
                    }
                    PutMode::Update(expected) => self.update_v1(mount, name, kek, expected).await,
                    PutMode::Overwrite => self.write(mount, name, kek, None).await?.done(),
                }
            }
        }
    }
}
