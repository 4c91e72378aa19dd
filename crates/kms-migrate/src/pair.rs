//! The two sides of a migration, and what must hold before keys move from one to the other.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::TryStreamExt as _;
use kms_core::{
    Capability, DeleteMode, Error, ErrorKind, Freshness, Kek, KeyInfo, KeyName, KmsProvider, PutMode, Result,
};
use zeroize::Zeroizing;

use crate::journal::{CANARY, Journal};

/// The source and the target of a migration.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a migration has two sides")]
pub struct Pair<'a> {
    /// The KMS that has the keys.
    pub from: &'a dyn KmsProvider,
    /// The KMS that gets them.
    pub to: &'a dyn KmsProvider,
}

/// Which KEKs the target keeps unchanged.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Fit {
    capability: Capability,
    base64_only: bool,
    bytes: bool,
}

impl Fit {
    /// The fit of a target. `decodes_base64` says that Rook decodes KEKs before it stores them there, so that a KEK which
    /// is not canonical base64 does not come back as it was.
    pub fn new(pair: Pair<'_>, decodes_base64: bool) -> Self {
        let capability = pair.to.capability();
        Self {
            capability,
            base64_only: decodes_base64 || capability.base64_only,
            // A store holds what a store of its own kind holds.
            bytes: pair.from.provider() == pair.to.provider(),
        }
    }

    /// Says why the target cannot keep a KEK. `None` if it can.
    pub fn refusal(&self, kek: &Kek) -> Option<String> {
        let Self { capability, base64_only, bytes } = self;
        let size = kek.expose_secret_bytes().len();
        if size > capability.max_kek_bytes {
            return Some(format!(
                "the KEK has {size} bytes, and the target takes {}",
                capability.max_kek_bytes
            ));
        }
        if *base64_only && !is_canonical_base64(kek.expose_secret_bytes()) {
            return Some(
                "the KEK is not canonical base64, and the target keeps only the bytes that it encodes: rotate the key, \
                 or move to a KMS that keeps text"
                    .to_owned(),
            );
        }
        if !bytes && !kek.is_text() {
            return Some("the KEK is not UTF-8 text, and the target keeps text: rotate the key".to_owned());
        }
        None
    }

    /// Fails if the target cannot keep a KEK.
    pub(crate) fn check(&self, name: &KeyName, kek: &Kek) -> Result<()> {
        self.refusal(kek).map_or(Ok(()), |why| Err(Error::config(why).context("key", name.as_str())))
    }
}

/// Whether decoding and encoding again returns the same text.
fn is_canonical_base64(text: &[u8]) -> bool {
    let mut buffer = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    // The engine accepts only canonical padding without leftover bits.
    STANDARD.decode_slice(text, &mut buffer).is_ok_and(|length| length > 0)
}

/// Lists all keys of a side, ordered by name, without canaries.
///
/// # Errors
///
/// `Unsupported` if the provider cannot list keys, `Incomplete` if the list leaves keys out; those of the list.
pub(crate) async fn list(kms: &dyn KmsProvider, side: &'static str) -> Result<Vec<KeyInfo>> {
    if !kms.capability().list {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "this KMS cannot list keys, so no migration can show that every key is copied",
        )
        .context("side", side));
    }
    let listed: Result<Vec<_>> = kms.list().try_collect().await;
    let mut keys = listed.map_err(|error| error.context("side", side))?;
    keys.retain(|key| !key.name.as_str().starts_with(CANARY));
    keys.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(keys)
}

/// How many keys of the target the source does not have. Both lists are sorted by [`list`].
pub(crate) fn only_at_target(source: &[KeyInfo], target: &[KeyInfo]) -> usize {
    let absent = |key: &&KeyInfo| source.binary_search_by(|known| known.name.cmp(&key.name)).is_err();
    target.iter().filter(absent).count()
}

/// Proves that both sides are different places: a key that is created at the target does not appear at the source.
///
/// Two names of one server, or one Secret that both sides use, would make every copy "equal", and the deletion at the
/// source would delete the only KEK.
///
/// # Errors
///
/// `ConfigInvalid` if the source shows the key; those of storing, reading and deleting it.
pub(crate) async fn prove_distinct(pair: Pair<'_>, journal: &Journal) -> Result<()> {
    let canary = journal.canary();
    let annotate = |error: Error| error.context("canary", canary.as_str());
    // A killed run may have left the canary. Its KEK is of no interest.
    match pair.to.put(canary, &Kek::generate()?, PutMode::Create).await {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(annotate(error)),
    }
    let seen = pair.from.get(canary, Freshness::Fresh).await;
    // The canary goes whatever was seen.
    let deleted = pair.to.delete(canary, DeleteMode::Destroy).await;
    let same = || {
        Error::config(
            "--from and --to keep keys in the same place: a key that is created at the target appears at the source. \
             Name two different places",
        )
    };
    match seen {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Ok(_) => return Err(same()),
        // The source reads the same object, and cannot understand it.
        Err(error) if matches!(error.kind(), ErrorKind::Protocol | ErrorKind::ConfigInvalid) => {
            return Err(same().source(error));
        }
        Err(error) => return Err(annotate(error)),
    }
    deleted.map(drop).map_err(annotate)
}

#[cfg(test)]
mod tests {
    use kms_core::memory::Memory;

    use super::*;

    #[test]
    fn base64_that_another_text_encodes_too_is_not_canonical() {
        for (text, canonical) in [
            ("QUJD", true),
            ("QUI=", true),
            ("QUI", false),
            ("QUJ=", false),
            ("QUJD\n", false),
            ("a b", false),
            ("", false),
        ] {
            assert_eq!(is_canonical_base64(text.as_bytes()), canonical, "{text:?}");
        }
    }

    #[test]
    fn a_kek_that_the_target_would_change_does_not_fit() {
        let memory = Memory::new();
        let pair = Pair { from: &memory, to: &memory };
        let text = Kek::parse("not base64").unwrap();
        let kek = Kek::generate().unwrap();
        let bytes = Kek::from_stored_bytes(vec![0xff; 8]).unwrap();
        let fit = Fit::new(pair, false);
        assert!([&text, &kek, &bytes].iter().all(|kek| fit.refusal(kek).is_none()));
        let fit = Fit::new(pair, true);
        assert!(fit.refusal(&kek).is_none());
        assert!(fit.refusal(&text).unwrap().contains("canonical base64"));
        let fit = Fit { bytes: false, ..Fit::new(pair, false) };
        assert!(fit.refusal(&bytes).unwrap().contains("UTF-8") && fit.refusal(&text).is_none());
        let small = Fit { capability: Capability::full().with_max_kek_bytes(9), ..fit };
        let why = small.refusal(&text).unwrap();
        assert!(why.contains("10 bytes") && !why.contains("not base64"), "{why}");
    }
}
