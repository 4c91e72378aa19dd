//! Reads one key.

use kms_core::{Error, ErrorKind, Freshness, KeyName, KeyVersion, Result, Stored};
use kms_http::http::StatusCode;
use vaultrs::api::kv2::requests as kv2;

use crate::{
    api::{Scope, data},
    error::{Refusal, from_answer},
    mount::Mount,
    name::secret_id,
    stored::{KvVersion, Secret, SecretMetadata, decode_v1, decode_v2, fingerprint},
};

/// Reads the KEK of a key.
pub(crate) async fn get(mount: &Mount, name: &KeyName, freshness: Freshness) -> Result<Stored> {
    match read(mount, name, freshness).await? {
        Secret::Stored { kek, metadata: None } => {
            mount.note_present(name);
            let version = fingerprint(&kek);
            Ok(Stored::new(kek, version))
        }
        Secret::Stored { kek, metadata: Some(metadata) } => {
            mount.note_present(name);
            let updated = metadata.created();
            // The first version was stored when the key was created.
            let created = if metadata.version == 1 { updated } else { None };
            Ok(Stored::new(kek, KeyVersion::new(metadata.version.to_string())).with_times(created, updated))
        }
        Secret::Deleted { version, destroyed } => Err(Error::new(
            ErrorKind::NotFound,
            if destroyed {
                "the current version of the key is destroyed and cannot be brought back; kms recover tries the versions \
                 before it"
            } else {
                "the key is deleted; bring it back with kms undelete"
            },
        )
        .context("version", version.to_string())),
        Secret::Empty { .. } => Err(Error::new(
            ErrorKind::Protocol,
            "the stored KEK is the empty string; create the key to store one",
        )),
        Secret::Absent => Err(Error::key_not_found(name)),
    }
}

/// Reads the secret of a key.
///
/// A standby may not have replicated the key yet, so only the active node can report a key as absent or deleted.
pub(crate) async fn read(mount: &Mount, name: &KeyName, freshness: Freshness) -> Result<Secret> {
    let secret = mount.as_it_is(move || read_as_it_seems(mount, name, freshness)).await?;
    match secret {
        Secret::Absent | Secret::Deleted { .. }
            if freshness == Freshness::Any && !mount.api.has_no_standbys() =>
        {
            read_once(mount, name, Freshness::Fresh).await
        }
        secret => Ok(secret),
    }
}

/// Reads the secret where a mount of the assumed version has it. An absent one confirms the version.
async fn read_as_it_seems(mount: &Mount, name: &KeyName, freshness: Freshness) -> Result<Secret> {
    let assumed = mount.version().await?;
    match read_once(mount, name, freshness).await? {
        Secret::Absent if mount.confirm_version().await? != assumed => {
            read_once(mount, name, freshness).await
        }
        secret => Ok(secret),
    }
}

async fn read_once(mount: &Mount, name: &KeyName, freshness: Freshness) -> Result<Secret> {
    let version = mount.version().await?;
    let call = mount.api.read(&mount.data_path(version, name), Scope::Data)?;
    let answer = mount.send_read(call, freshness).await?;
    match (answer.status, version) {
        (StatusCode::OK, KvVersion::V1) => decode_v1(name, &answer.body, mount.is_nested()),
        (StatusCode::OK, KvVersion::V2) => {
            mount.check_v2_form(&answer.body).await?;
            decode_v2(name, &answer.body)
        }
        (StatusCode::NOT_FOUND, version) => mount.not_found(name, version, &answer),
        _ => Err(from_answer(&answer)),
    }
}

/// Reads the metadata of a secret on KV v2. `None` if the secret is absent.
pub(crate) async fn metadata(
    mount: &Mount,
    name: &KeyName,
    freshness: Freshness,
) -> Result<Option<SecretMetadata>> {
    let endpoint = kv2::ReadSecretMetadataRequest { mount: mount.path.clone(), path: secret_id(name) };
    let answer = mount.send_read(mount.api.request(&endpoint, Scope::Data)?, freshness).await?;
    match answer.status {
        StatusCode::OK => data::<SecretMetadata>(&answer.body)?.complete().map(Some),
        StatusCode::NOT_FOUND if Refusal::of_not_found(&answer)?.says_absent() => Ok(None),
        _ => Err(from_answer(&answer)),
    }
}
