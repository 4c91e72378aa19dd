//! The volumes with Secrets for pods (rook-behaviour §13.3).

use k8s_openapi::api::core::v1::{
    KeyToPath, ProjectedVolumeSource, SecretProjection, Volume, VolumeMount, VolumeProjection,
};
use kms_core::{KmsSpec, Result, SecuritySpec};
use kms_dispatch::Provider;

/// The folder with the files of Vault.
pub(crate) const VAULT_MOUNT: &str = "/etc/vault";

/// The folder with the files of KMIP.
const KMIP_MOUNT: &str = "/etc/kmip";

/// Readable for every user: Rook's containers do not run as root.
const MODE: i32 = 0o444;

/// A file that Vault's client needs, and its source.
#[derive(Debug)]
pub(crate) struct VaultFile {
    /// The setting that names the Secret.
    pub(crate) setting: &'static str,
    /// The key in the Secret.
    key: &'static str,
    /// The name of the file.
    pub(crate) path: &'static str,
}

/// The files of Vault, in Rook's order.
pub(crate) const VAULT_FILES: [VaultFile; 3] = [
    VaultFile { setting: "VAULT_CACERT", key: "cert", path: "vault.ca" },
    VaultFile { setting: "VAULT_CLIENT_CERT", key: "cert", path: "vault.crt" },
    VaultFile { setting: "VAULT_CLIENT_KEY", key: "key", path: "vault.key" },
];

/// The files of KMIP: the keys of the token Secret and the names of the files.
const KMIP_FILES: [(&str, &str); 3] =
    [("CA_CERT", "ca.crt"), ("CLIENT_CERT", "client.crt"), ("CLIENT_KEY", "client.key")];

/// A volume and how a container mounts it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Mounted {
    /// The volume, for the pod.
    pub volume: Volume,
    /// The mount, for its containers.
    pub mount: VolumeMount,
}

/// The encryption of an object store that a `security` block is for (rook-behaviour §15).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RgwPurpose {
    /// SSE-KMS, with `spec.security.kms` of a CephObjectStore.
    SseKms,
    /// SSE-S3, with `spec.security.s3` of a CephObjectStore.
    SseS3,
}

impl RgwPurpose {
    /// The name of the folder, which also ends the name of the volume.
    const fn folder(self) -> &'static str {
        match self {
            Self::SseKms => "ssekms",
            Self::SseS3 => "sses3",
        }
    }
}

/// The volume that a pod of an OSD needs for a `security` block; `None` if it needs no volume (rook-behaviour §13.3).
///
/// Vault without TLS settings needs no volume; Rook gives its Jobs a volume without sources then (rook-behaviour W37).
/// As with [`env`](crate::env()), the block is not changed.
///
/// # Errors
///
/// `ConfigInvalid` if the block does not name a known provider.
pub fn volumes(security: &SecuritySpec) -> Result<Option<Mounted>> {
    let kms = &security.kms;
    Ok(match Provider::of(security)? {
        Provider::Vault => mounted("vault", VAULT_MOUNT, vault_sources(kms, "")),
        Provider::Kmip if !kms.token_secret_name.is_empty() => {
            let items = KMIP_FILES.map(|(key, path)| item(key, path)).to_vec();
            mounted("kmip", KMIP_MOUNT, vec![source(&kms.token_secret_name, items)])
        }
        _ => None,
    })
}

/// The volume from which the init container of an object store copies the token and the TLS files of Vault; `None` if the
/// block names neither (rook-behaviour §13.3 and §15).
pub fn rgw_volume(kms: &KmsSpec, purpose: RgwPurpose) -> Option<Mounted> {
    let folder = purpose.folder();
    let sources = vault_sources(kms, &kms.token_secret_name);
    mounted(&format!("vault{folder}"), &format!("{VAULT_MOUNT}/{folder}"), sources)
}

/// The sources of Vault's files. An empty `token_secret` leaves the token out.
fn vault_sources(kms: &KmsSpec, token_secret: &str) -> Vec<VolumeProjection> {
    let named = |file: &VaultFile| kms.connection_details.get(file.setting).map_or("", str::trim).to_owned();
    let files = VAULT_FILES.iter().map(|file| (named(file), file.key, file.path));
    let token = (token_secret.to_owned(), "token", "vault.token");
    files
        .chain([token])
        .filter(|(secret, ..)| !secret.is_empty())
        .map(|(secret, key, path)| source(&secret, vec![item(key, path)]))
        .collect()
}

fn mounted(name: &str, path: &str, sources: Vec<VolumeProjection>) -> Option<Mounted> {
    if sources.is_empty() {
        return None;
    }
    let projected = ProjectedVolumeSource { sources: Some(sources), default_mode: None };
    Some(Mounted {
        volume: Volume { name: name.to_owned(), projected: Some(projected), ..Volume::default() },
        mount: VolumeMount {
            name: name.to_owned(),
            mount_path: path.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        },
    })
}

fn source(secret: &str, items: Vec<KeyToPath>) -> VolumeProjection {
    let secret = SecretProjection { name: secret.to_owned(), items: Some(items), optional: None };
    VolumeProjection { secret: Some(secret), ..VolumeProjection::default() }
}

fn item(key: &str, path: &str) -> KeyToPath {
    KeyToPath { key: key.to_owned(), path: path.to_owned(), mode: Some(MODE) }
}
