//! Lists the keys of a vault.

use std::time::SystemTime;

use futures_util::{StreamExt, stream};
use kms_core::{KeyInfo, KeyStream, Result, Retry};

use crate::{
    api::{Api, SecretBundle},
    name::{NAME_TAG, Names, key_name},
    stored::State,
};

/// The number of concurrent requests for versions.
const VERSIONS_PARALLEL: usize = 8;

/// Lists the keys of the vault, page by page, with the version of each: the vault's list does not show versions.
pub(crate) fn list(api: &Api, page_size: Option<i32>) -> KeyStream<'_> {
    let keys = api.pages(page_size).flat_map(move |page| {
        let found: Vec<Result<Listed>> = match page {
            Ok(page) => page.into_iter().filter_map(Listed::of).map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        stream::iter(found)
    });
    // Keeps the order, so that the error of an incomplete list comes last.
    Box::pin(keys.map(move |listed| async move { listed?.info(api).await }).buffered(VERSIONS_PARALLEL))
}

/// A secret in a list that is a key of ours. Times and state are those of the current version.
struct Listed {
    info: KeyInfo,
    secret: SecretBundle,
}

impl Listed {
    fn of(secret: SecretBundle) -> Option<Self> {
        let name = key_name(&secret.name()?.to_ascii_lowercase(), secret.tag(NAME_TAG))?;
        let (created, updated) = secret.attributes.times();
        let state = secret.attributes.mark(SystemTime::now());
        Some(Self { info: KeyInfo::new(name).with_times(created, updated).with_state(state), secret })
    }

    async fn info(self, api: &Api) -> Result<KeyInfo> {
        let Self { info, secret } = self;
        // Creators have not yet decided which version counts.
        if secret.state() == State::New {
            return Ok(info);
        }
        let versions = match api.versions(&Names::of(&info.name)).await {
            Ok(versions) => versions,
            // The key was deleted meanwhile, or its versions may not be listed.
            Err(error) if error.retryable() == Retry::Never => return Ok(info),
            Err(error) => return Err(error),
        };
        // Times are whole seconds, so two versions can be as new as each other.
        let created = secret.attributes.created;
        let mut newest = versions.iter().filter(|one| one.attributes.created >= created);
        Ok(match (newest.next(), newest.next()) {
            (Some(one), None) => match one.version() {
                Ok(version) => info.with_version(version),
                Err(_) => info,
            },
            _ => info,
        })
    }
}
