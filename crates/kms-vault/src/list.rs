//! Lists keys.
//!
//! OpenBao cuts a list short where a policy sets `pagination_limit`, and its response does not show that. So the list
//! goes on with the parameter `after` until a page brings no new name. Vault does not know the parameter, and sends the
//! whole list again.

use std::collections::HashSet;

use futures_util::{StreamExt, stream};
use kms_core::{Error, ErrorKind, Freshness, KeyInfo, KeyName, KeyStream, KeyVersion, Result, Retry};
use kms_http::{HttpResponse, http::StatusCode};
use serde::Deserialize;
use vaultrs::api::{kv1::requests as kv1, kv2::requests as kv2};

use crate::{
    api::{Scope, data},
    error::{from_answer, is_foreign},
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

/// The names in a list.
struct Names {
    version: KvVersion,
    names: Vec<KeyName>,
    /// Why names may be missing. `None` if all are there.
    incomplete: Option<Error>,
}

/// Lists the keys of the mount; on KV v2 with the metadata of each.
pub(crate) fn list(mount: &Mount) -> KeyStream<'_> {
    let keys = stream::once(mount.as_it_is(move || names(mount))).flat_map(move |listed| {
        let Names { version, names, incomplete } = match listed {
            Err(error) => return stream::iter([Err(error)]).boxed(),
            Ok(names) => names,
        };
        let keys = stream::iter(names);
        let keys = match version {
            KvVersion::V1 => keys.map(|name| Ok(KeyInfo::new(name))).boxed(),
            KvVersion::V2 => keys
                .map(move |name| info(mount, name))
                .buffered(METADATA_PARALLEL)
                .filter_map(|info| std::future::ready(info.transpose()))
                .boxed(),
        };
        keys.chain(stream::iter(incomplete.map(Err))).boxed()
    });
    Box::pin(keys)
}

/// Reads one page of the list: what comes after the name `after`, or the beginning.
async fn page(mount: &Mount, version: KvVersion, after: Option<&str>) -> Result<HttpResponse> {
    let root = String::new();
    let mut call = match version {
        KvVersion::V1 => mount
            .api
            .request(&kv1::ListSecretRequest { mount: mount.v1_folder(), path: root }, Scope::Data)?,
        KvVersion::V2 => mount
            .api
            .request(&kv2::ListSecretsRequest { mount: mount.path.clone(), path: root }, Scope::Data)?,
    };
    if let Some(after) = after {
        call.url.query_pairs_mut().append_pair("after", after);
    }
    mount.send_read(call, Freshness::Any).await
}

async fn names(mount: &Mount) -> Result<Names> {
    let version = mount.version().await?;
    let answer = page(mount, version, None).await?;
    match answer.status {
        StatusCode::OK => {
            let Listed { mut keys } = data(&answer.body)?;
            let incomplete = complete(mount, version, &mut keys).await?;
            Ok(Names { version, names: keys.iter().filter_map(|id| key_name(id)).collect(), incomplete })
        }
        StatusCode::NOT_FOUND => {
            // Fails if the mount is absent or of another version. The name is unused.
            mount.not_found(&KeyName::new("none")?, version, &answer)?;
            if mount.confirm_version().await? != version {
                return Err(mount.settle(version));
            }
            Ok(Names { version, names: Vec::new(), incomplete: None })
        }
        _ => Err(from_answer(&answer).context("mount", &mount.path)),
    }
}

/// Reads the pages after the first one. The result says why names may be missing; `None` if all are there.
async fn complete(mount: &Mount, version: KvVersion, keys: &mut Vec<String>) -> Result<Option<Error>> {
    let mut known: HashSet<String> = keys.iter().cloned().collect();
    while let Some(last) = keys.last() {
        let failed = match page(mount, version, Some(last)).await {
            Ok(answer) if answer.status == StatusCode::NOT_FOUND && !is_foreign(&answer) => return Ok(None),
            Ok(answer) if answer.status == StatusCode::OK => match data::<Listed>(&answer.body) {
                Ok(Listed { keys: found }) => {
                    let count = found.len();
                    let new: Vec<_> = found.into_iter().filter(|id| known.insert(id.clone())).collect();
                    // A page that repeats a name is the whole list again: the server does not know `after`.
                    let is_last = new.is_empty() || new.len() < count;
                    keys.extend(new);
                    if is_last {
                        return Ok(None);
                    }
                    continue;
                }
                Err(error) => error,
            },
            Ok(answer) => from_answer(&answer),
            Err(error) => error,
        };
        // An error that passes is the error of the list, which is then worth a retry.
        return match failed.retryable() {
            Retry::Never => Ok(Some(cut(failed).context("mount", &mount.path))),
            _ => Err(failed),
        };
    }
    Ok(None)
}

fn cut(cause: Error) -> Error {
    Error::new(
        ErrorKind::Incomplete,
        "keys may be missing, since the server does not send what comes after the first page of the list; let the policy \
         allow the parameter `after` in lists",
    )
    .source(cause)
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
