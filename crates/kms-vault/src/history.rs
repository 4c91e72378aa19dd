//! Reads every KEK that the server still has for a key, and brings deleted keys back.

use kms_core::{
    Error, ErrorKind, Freshness, HistoryMode, Kek, KekState, KeyName, KeyVersion, PastKek, Result,
};
use kms_http::http::StatusCode;
use tracing::{debug, warn};
use vaultrs::api::kv2::requests as kv2;

use crate::{
    api::{Scope, confirmed},
    error::{from_answer, unsupported},
    get::{get, metadata},
    mount::Mount,
    name::secret_id,
    stored::{KvVersion, Secret, SecretMetadata, decode_v2, is_malformed},
};

/// Brings back the last version of a key, if it is soft-deleted.
pub(crate) async fn undelete(mount: &Mount, name: &KeyName) -> Result<KeyVersion> {
    if mount.version().await? == KvVersion::V1 {
        return Err(unsupported("bringing a deleted key back"));
    }
    let metadata = existing(mount, name).await?;
    if metadata.is_live() {
        return Err(Error::not_deleted(name));
    }
    let current = metadata.current_version;
    if !metadata.past().iter().any(|version| version.number == current) {
        return Err(Error::new(ErrorKind::NotFound, "the last version of the key is destroyed")
            .context("version", current.to_string()));
    }
    undelete_versions(mount, name, vec![current]).await?;
    mount.note_present(name);
    Ok(KeyVersion::new(current.to_string()))
}

/// Reads every version that is not destroyed, the newest first. KV v1 has the current version alone.
pub(crate) async fn history(mount: &Mount, name: &KeyName, mode: HistoryMode) -> Result<Vec<PastKek>> {
    if mount.version().await? == KvVersion::V1 {
        return Ok(vec![get(mount, name, Freshness::Fresh).await?.into()]);
    }
    let metadata = existing(mount, name).await?;
    let past = metadata.past();
    if past.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "every version of the key is destroyed"));
    }
    let deleted: Vec<u64> =
        past.iter().filter(|version| version.is_deleted).map(|version| version.number).collect();
    let restore = mode == HistoryMode::Restore && !deleted.is_empty();
    let read = async {
        if restore {
            undelete_versions(mount, name, deleted.clone()).await?;
        }
        let mut keks = Vec::with_capacity(past.len());
        for version in &past {
            let state = match version.is_deleted {
                true => KekState::Deleted,
                false if version.number == metadata.current_version => KekState::Current,
                false => KekState::Superseded,
            };
            let kek = match version.is_deleted && !restore {
                true => None,
                false => read_version(mount, name, version.number).await?,
            };
            let version = PastKek::new(KeyVersion::new(version.number.to_string()), state)
                .with_kek(kek)
                .with_stored(version.stored);
            keks.push(version);
        }
        Ok(keks)
    };
    let result = read.await;
    // Also after a failure: the server may have brought some versions back.
    if restore && let Err(error) = delete_versions(mount, name, deleted).await {
        warn!(%error, "deleted versions of the key were brought back to read them, and could not be deleted again");
    }
    result
}

/// Reads the metadata of a key.
///
/// # Errors
///
/// `NotFound` if the key is absent.
async fn existing(mount: &Mount, name: &KeyName) -> Result<SecretMetadata> {
    match metadata(mount, name, Freshness::Fresh).await? {
        Some(metadata) => Ok(metadata),
        None => {
            mount.confirm_version().await?;
            Err(Error::key_not_found(name))
        }
    }
}

/// Reads one version. `None` if its value is not a KEK, or if it has gone meanwhile.
async fn read_version(mount: &Mount, name: &KeyName, number: u64) -> Result<Option<Kek>> {
    let mut call = mount.api.read(&mount.data_path(KvVersion::V2, name), Scope::Data)?;
    call.url.query_pairs_mut().append_pair("version", &number.to_string());
    let answer = mount.send_read(call, Freshness::Fresh).await?;
    let secret = match answer.status {
        StatusCode::OK => decode_v2(name, &answer.body),
        StatusCode::NOT_FOUND => mount.not_found(name, KvVersion::V2, &answer),
        _ => return Err(from_answer(&answer)),
    };
    match secret {
        Ok(Secret::Stored { kek, .. }) => Ok(Some(kek)),
        Ok(Secret::Empty { .. } | Secret::Deleted { .. } | Secret::Absent) => Ok(None),
        Err(error) if is_malformed(&error) => {
            debug!(%error, number, "a version of the key is not a KEK");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn undelete_versions(mount: &Mount, name: &KeyName, versions: Vec<u64>) -> Result<()> {
    let (mount_path, path) = (mount.path.clone(), secret_id(name));
    let endpoint = kv2::UndeleteSecretVersionsRequest { mount: mount_path, path, versions };
    confirmed(&mount.send_write(mount.api.request(&endpoint, Scope::Data)?).await?)
}

async fn delete_versions(mount: &Mount, name: &KeyName, versions: Vec<u64>) -> Result<()> {
    let (mount_path, path) = (mount.path.clone(), secret_id(name));
    let endpoint = kv2::DeleteSecretVersionsRequest { mount: mount_path, path, versions };
    confirmed(&mount.send_write(mount.api.request(&endpoint, Scope::Data)?).await?)
}
