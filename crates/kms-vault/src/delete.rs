//! Deletes keys and their superseded versions.

use kms_core::{DeleteMode, Error, ErrorKind, Freshness, KeyName, KeyVersion, Result, provider::Deleted};
use kms_http::http::StatusCode;
use vaultrs::api::{kv1::requests as kv1, kv2::requests as kv2};

use crate::{
    api::{Scope, confirmed},
    error::unsupported,
    get::{metadata, read},
    mount::Mount,
    name::secret_id,
    stored::{KvVersion, Secret, SecretMetadata, is_malformed},
};

/// Deletes a key.
pub(crate) async fn delete(mount: &Mount, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
    let version = mount.version().await?;
    if version == KvVersion::V1 && mode == DeleteMode::Soft {
        return Err(unsupported("deleting a key so that it can be restored"));
    }
    if !mount.has_seen(name) {
        check_present(mount, version, name, mode).await?;
    }
    let (api, path, id) = (&mount.api, mount.path.clone(), secret_id(name));
    let call = match (version, mode) {
        (KvVersion::V1, _) => {
            let folder = mount.v1_folder();
            api.request(&kv1::DeleteSecretRequest { mount: folder, path: id }, Scope::Data)?
        }
        (KvVersion::V2, DeleteMode::Soft) => {
            api.request(&kv2::DeleteLatestSecretVersionRequest { mount: path, path: id }, Scope::Data)?
        }
        (KvVersion::V2, _) => {
            api.request(&kv2::DeleteSecretMetadataRequest { mount: path, path: id }, Scope::Data)?
        }
    };
    let answer = mount.send_write(call).await?;
    if answer.status == StatusCode::NOT_FOUND {
        mount.not_found(name, version, &answer)?;
        return Err(Error::key_not_found(name));
    }
    confirmed(&answer)?;
    mount.note_absent(name);
    Ok(if mode == DeleteMode::Soft { Deleted::Recoverable { until: None } } else { Deleted::Destroyed })
}

/// Fails with `NotFound` if the key is absent: Vault answers the delete of an absent key with success.
async fn check_present(mount: &Mount, version: KvVersion, name: &KeyName, mode: DeleteMode) -> Result<()> {
    let present = match is_present(mount, version, name, mode).await {
        // The policy may allow deleting without reading. A token that is not valid fails at the delete.
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unauthenticated) => {
            true
        }
        present => present?,
    };
    if !present {
        mount.confirm_version().await?;
        return Err(Error::key_not_found(name));
    }
    // A retry of the delete need not look again.
    mount.note_present(name);
    Ok(())
}

/// Whether there is something to delete. A stale copy that still has the key does no harm, so the question whether the
/// copy is stale is asked only where it lacks the key.
async fn is_present(mount: &Mount, version: KvVersion, name: &KeyName, mode: DeleteMode) -> Result<bool> {
    if version == KvVersion::V1 {
        return match read(mount, name, Freshness::Any).await {
            Ok(secret) => Ok(matches!(secret, Secret::Stored { .. } | Secret::Empty { .. })),
            // A malformed value under the key's name may be deleted too.
            Err(error) if is_malformed(&error) => Ok(true),
            Err(error) => Err(error),
        };
    }
    // The versions of a soft-deleted key can still be destroyed.
    let counts = |found: SecretMetadata| mode == DeleteMode::Destroy || found.is_live();
    let present = metadata(mount, name, Freshness::Any).await?.is_some_and(counts);
    if present || mount.api.has_no_standbys() {
        return Ok(present);
    }
    Ok(metadata(mount, name, Freshness::Fresh).await?.is_some_and(counts))
}

/// Destroys the versions before `current`, and returns their number.
pub(crate) async fn retire_superseded(mount: &Mount, name: &KeyName, current: &KeyVersion) -> Result<usize> {
    if mount.version().await? == KvVersion::V1 {
        return Err(unsupported("destroying superseded versions"));
    }
    let metadata = metadata(mount, name, Freshness::Fresh).await?.filter(SecretMetadata::is_live);
    let metadata = metadata.ok_or_else(|| Error::key_not_found(name))?;
    if metadata.current_version.to_string() != current.as_str() {
        return Err(Error::key_changed(name));
    }
    let versions = metadata.superseded(metadata.current_version);
    let count = versions.len();
    if count > 0 {
        let path = secret_id(name);
        let endpoint = kv2::DestroySecretVersionsRequest { mount: mount.path.clone(), path, versions };
        confirmed(&mount.send_write(mount.api.request(&endpoint, Scope::Data)?).await?)?;
    }
    Ok(count)
}
