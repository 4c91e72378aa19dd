//! Lists the keys of a vault.

use futures_util::{TryStreamExt, stream};
use kms_core::{KeyInfo, KeyStream, Result};

use crate::{
    api::{Api, SecretBundle},
    name::{NAME_TAG, key_name},
};

/// Lists the keys of the vault, page by page.
pub(crate) fn list(api: &Api, page_size: Option<i32>) -> KeyStream<'_> {
    let keys = api
        .pages(page_size)
        .map_ok(|page| stream::iter(page.into_iter().filter_map(|one| info(&one)).map(Result::Ok)));
    Box::pin(keys.try_flatten())
}

/// Converts a list entry. `None` if the secret is not a key of ours. The times are those of the current version.
fn info(found: &SecretBundle) -> Option<KeyInfo> {
    let name = key_name(&found.name()?.to_ascii_lowercase(), found.tag(NAME_TAG))?;
    let (created, updated) = found.attributes.times();
    Some(KeyInfo::new(name).with_times(created, updated))
}
