//! Which KV mount there is, and of which version (spec 4.4).

use std::collections::BTreeMap;

use kms_core::{Error, ErrorKind, Result};
use kms_http::{http::StatusCode, json::unreadable};
use serde::Deserialize;
use vaultrs::api::sys::requests as sys;

use crate::{
    api::Scope,
    error::from_answer,
    provider::Vault,
    stored::{self, KvVersion, Mount},
};

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

impl Vault {
    /// Asks which version the mount has.
    ///
    /// `sys/internal/ui/mounts/<path>` needs no more rights than the keys themselves do, so it comes first;
    /// `sys/mounts` needs a right of its own, which the policy in Rook's documentation grants.
    pub(crate) async fn find_mount(&self) -> Result<Mount> {
        let path = &self.mount_path;
        let call = self.api.read(&format!("sys/internal/ui/mounts/{path}"), Scope::Data)?;
        let info = match self.send(call).await {
            Ok(answer) if answer.status == StatusCode::OK => {
                let envelope: stored::Envelope<MountInfo> =
                    serde_json::from_slice(&answer.body).map_err(|cause| unreadable(&cause))?;
                envelope.data
            }
            Ok(answer) if answer.status != StatusCode::NOT_FOUND => {
                return Err(from_answer(&answer).context("mount", path));
            }
            Ok(_) => self.find_in_list().await?,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                self.find_in_list().await.map_err(|second| match second.kind() {
                    ErrorKind::PermissionDenied => error.context(
                        "to do",
                        "set VAULT_BACKEND to v1 or v2, or let the policy read sys/mounts or anything below the mount",
                    ),
                    _ => second,
                })?
            }
            Err(error) => return Err(error),
        };
        let there = |info: &MountInfo| info.path.as_ref().is_none_or(|found| found.trim_matches('/') == path);
        let Some(info) = info.filter(there) else {
            return Err(Error::config(
                "there is no mount at VAULT_BACKEND_PATH; enable a KV secrets engine there",
            )
            .context("mount", path));
        };
        if !matches!(info.kind.as_str(), "kv" | "generic") {
            return Err(Error::config("the mount at VAULT_BACKEND_PATH is not a KV secrets engine")
                .context("mount", path)
                .context("type", info.kind));
        }
        let two = info.options.and_then(|options| options.version).as_deref() == Some("2");
        Ok(Mount { path: path.clone(), version: if two { KvVersion::V2 } else { KvVersion::V1 } })
    }

    async fn find_in_list(&self) -> Result<Option<MountInfo>> {
        let answer = self.send(self.api.request(&sys::ListMountsRequest {}, Scope::Data)?).await?;
        if answer.status != StatusCode::OK {
            return Err(from_answer(&answer).context("mount", &self.mount_path));
        }
        let envelope: stored::Envelope<BTreeMap<String, MountInfo>> =
            serde_json::from_slice(&answer.body).map_err(|cause| unreadable(&cause))?;
        let mounts = envelope.data.unwrap_or_default().into_iter();
        Ok(mounts.filter(|(path, _)| path.trim_matches('/') == self.mount_path).map(|(_, info)| info).next())
    }
}
