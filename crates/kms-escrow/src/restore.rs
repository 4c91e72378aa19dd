//! Brings KEKs of an escrow back to the KMS.

use kms_core::{Error, ErrorKind, Freshness, KeyVersion, KmsProvider, PutMode, Result};

use crate::SavedKey;

/// What [`restore`] did.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Restored {
    /// The key was absent, and is stored in this version.
    Created(KeyVersion),
    /// Another KEK was stored, and this version has taken its place.
    Replaced(KeyVersion),
    /// The KMS has this KEK already, in this version.
    Unchanged(KeyVersion),
}

impl Restored {
    /// The outcome as one word.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Created(_) => "created",
            Self::Replaced(_) => "replaced",
            Self::Unchanged(_) => "unchanged",
        }
    }

    /// The version that the KMS has now.
    pub const fn version(&self) -> &KeyVersion {
        match self {
            Self::Created(version) | Self::Replaced(version) | Self::Unchanged(version) => version,
        }
    }
}

/// Stores a KEK if the key is absent; with `replace` also in place of the KEK that the KMS has, unless that changes
/// meanwhile. Reads the KEK back.
///
/// # Errors
///
/// `AlreadyExists` if the KMS has another KEK and `replace` is not set; `Conflict` if the key has changed meanwhile; errors
/// of the KMS.
pub async fn restore(kms: &dyn KmsProvider, key: &SavedKey, replace: bool) -> Result<Restored> {
    let name = &key.entry.name;
    let restored = match kms.put(name, &key.kek, PutMode::Create).await {
        Ok(version) => Restored::Created(version),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let stored = kms.get(name, Freshness::Fresh).await?;
            if stored.kek.ct_eq(&key.kek) {
                return Ok(Restored::Unchanged(stored.version));
            }
            if !replace {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    "the KMS has another KEK: it was not touched (kms recover --escrow finds the one that opens the \
                     device; --replace stores this one in its place)",
                )
                .context("key", name.as_str()));
            }
            Restored::Replaced(kms.put(name, &key.kek, PutMode::Update(stored.version)).await?)
        }
        Err(error) => return Err(error),
    };
    // Without compare-and-set another write may have come in between.
    let stored = kms.get(name, Freshness::Fresh).await?;
    if stored.kek.ct_eq(&key.kek) { Ok(restored) } else { Err(Error::key_changed(name)) }
}
