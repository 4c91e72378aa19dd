//! The keys of a vault.

use futures_util::{TryStreamExt, stream};
use kms_core::{KeyInfo, KeyStream, Result};

use crate::{
    PROVIDER,
    api::Bundle,
    name::{NAME_TAG, key_name},
    provider::AzureKeyVault,
};

impl AzureKeyVault {
    pub(crate) fn list_all(&self) -> KeyStream<'_> {
        let pages = self.api.pages(self.page_size);
        let keys =
            pages.map_ok(|page| stream::iter(page.into_iter().filter_map(|one| info(&one)).map(Result::Ok)));
        Box::pin(
            keys.try_flatten().map_err(|error: kms_core::Error| error.operation("list").provider(PROVIDER)),
        )
    }
}

/// What a list says of one of our keys. Its times are those of the current version.
fn info(found: &Bundle) -> Option<KeyInfo> {
    let name = key_name(&found.name()?.to_ascii_lowercase(), found.tag(NAME_TAG))?;
    let (created, updated) = found.attributes.times();
    Some(KeyInfo::new(name).with_times(created, updated))
}
