//! Lists keys.

use futures_util::{StreamExt, stream};
use kms_core::{ErrorKind, Freshness, KeyInfo, KeyName, KeyStream, KeyVersion, Result};
use kms_http::http::StatusCode;
use serde::Deserialize;
use vaultrs::api::{kv1::requests as kv1, kv2::requests as kv2};

use crate::{
    api::{Scope, data},
    error::from_answer,
    get::metadata,
    mount::Mount,
    name::key_name,
    stored::KvVersion,
};

/// The number of concurrent requests for metadata.
const METADATA_PARALLEL: usize = 8;

/// The `data` of a list.
#[derive(Deserialize)]
struct Listed {
    keys: Vec<String>,
}

/// Lists the keys of the mount; on KV v2 with the metadata of each.
pub(crate) fn list(mount: &Mount) -> KeyStream<'_> {
    let keys = stream::once(mount.as_it_is(move || names(mount))).flat_map(move |listed| match listed {
        Err(error) => stream::iter([Err(error)]).boxed(),
        Ok((KvVersion::V1, names)) => {
            stream::iter(names.into_iter().map(|name| Ok(KeyInfo::new(name)))).boxed()
        }
        Ok((KvVersion::V2, names)) => stream::iter(names)
            .map(move |name| info(mount, name))
            .buffered(METADATA_PARALLEL)
            .filter_map(|info| std::future::ready(info.transpose()))
            .boxed(),
    });
    Box::pin(keys)
}

async fn names(mount: &Mount) -> Result<(KvVersion, Vec<KeyName>)> {
    let version = mount.version().await?;
    let root = String::new();
    let call = match version {
        KvVersion::V1 => mount
            .api
            .request(&kv1::ListSecretRequest { mount: mount.v1_folder(), path: root }, Scope::Data)?,
        KvVersion::V2 => mount
            .api
            .request(&kv2::ListSecretsRequest { mount: mount.path.clone(), path: root }, Scope::Data)?,
    };
    let answer = mount.send_read(call, Freshness::Any).await?;
    match answer.status {
        StatusCode::OK => {
            let Listed { keys } = data(&answer.body)?;
            Ok((version, keys.iter().filter_map(|id| key_name(id)).collect()))
        }
        StatusCode::NOT_FOUND => {
            // Fails if the mount is absent or of another version. The name is unused.
            mount.not_found(&KeyName::new("none")?, version, &answer)?;
            if mount.confirm_version().await? != version {
                return Err(mount.settle(version));
            }
            Ok((version, Vec::new()))
        }
        _ => Err(from_answer(&answer).context("mount", &mount.path)),
    }
}

async fn info(mount: &Mount, name: KeyName) -> Result<Option<KeyInfo>> {
    match metadata(mount, &name, Freshness::Any).await {
        Ok(Some(found)) if found.is_live() => Ok(Some(
            KeyInfo::new(name)
                .with_version(KeyVersion::new(found.current_version.to_string()))
                .with_times(found.created(), found.updated()),
        )),
        Ok(_) => Ok(None),
        // The policy may allow listing without reading metadata.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(Some(KeyInfo::new(name))),
        Err(error) => Err(error),
    }
}
