//! A round trip with a canary key, which opens no device.

use kms_core::{
    DeleteMode, Error, ErrorKind, Freshness, Kek, KeyName, KeyVersion, KmsProvider, PutMode, Result, Stored,
};

/// The prefix of canary key names.
const PREFIX: &str = "kms-check-";

/// The steps, in order.
pub(crate) const STEPS: [&str; 5] = ["store", "read back", "compare", UPDATE, "delete"];
/// The step that rotations need, and nothing else.
pub(crate) const UPDATE: &str = "update";

/// The result of a round trip.
pub(crate) struct RoundTrip {
    /// The name of the canary key.
    pub(crate) name: KeyName,
    /// The step that failed, with its error; the steps before it passed.
    pub(crate) failed: Option<(&'static str, Error)>,
    /// The error of an update that the KMS or the account does not allow: only rotations need it.
    pub(crate) no_update: Option<Error>,
    /// The error because of which the canary may still be stored. `None` if it is not stored.
    pub(crate) left_behind: Option<Error>,
}

/// Stores a new key under an unused name, reads it back, compares it, updates it as a rotation does, and deletes it even
/// if a step failed.
pub(crate) async fn round_trip(kms: &dyn KmsProvider) -> Result<RoundTrip> {
    let name = KeyName::new(format!("{PREFIX}{}", Kek::generate()?.fingerprint()))?;
    let kek = Kek::generate()?;
    let mut failed = None;
    let mut no_update = None;
    match store_and_read(kms, &name, &kek).await {
        Ok(version) => match update_and_read(kms, &name, version).await {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) => {
                no_update = Some(error);
            }
            Err(error) => failed = Some((UPDATE, error)),
        },
        Err(at) => failed = Some(at),
    }
    // Deletes after a failure too, since a failed store may have taken effect.
    let deleted = kms.delete(&name, DeleteMode::Destroy).await;
    let (failed, left_behind) = match (failed, deleted) {
        (None, Ok(_)) => (None, None),
        (None, Err(error)) => (Some(("delete", error)), Some(may_be_there(&name))),
        (Some(failed), Ok(_)) => (Some(failed), None),
        (Some(failed), Err(error)) if error.kind() == ErrorKind::NotFound => (Some(failed), None),
        // A store that was refused for lack of permission has stored nothing.
        (Some((step @ "store", error)), Err(_))
            if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unauthenticated) =>
        {
            (Some((step, error)), None)
        }
        (Some(failed), Err(error)) => (Some(failed), Some(error.context("key", name.as_str()))),
    };
    Ok(RoundTrip { name, failed, no_update, left_behind })
}

fn may_be_there(name: &KeyName) -> Error {
    Error::new(ErrorKind::Unexpected, "the canary key was not deleted").context("key", name.as_str())
}

async fn store_and_read(
    kms: &dyn KmsProvider,
    name: &KeyName,
    kek: &Kek,
) -> Result<KeyVersion, (&'static str, Error)> {
    kms.put(name, kek, PutMode::Create).await.map_err(|error| ("store", error))?;
    let stored = kms.get(name, Freshness::Fresh).await.map_err(|error| ("read back", error))?;
    same(kms, name, kek, &stored).map_err(|error| ("compare", error))?;
    Ok(stored.version)
}

async fn update_and_read(kms: &dyn KmsProvider, name: &KeyName, version: KeyVersion) -> Result<()> {
    let kek = Kek::generate()?;
    kms.put(name, &kek, PutMode::Update(version)).await?;
    same(kms, name, &kek, &kms.get(name, Freshness::Fresh).await?)
}

fn same(kms: &dyn KmsProvider, name: &KeyName, kek: &Kek, stored: &Stored) -> Result<()> {
    if stored.kek.ct_eq(kek) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Protocol, "the KMS gave back another KEK than the one stored")
        .provider(kms.provider())
        .context("key", name.as_str()))
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;
    use kms_core::memory::Memory;

    use super::*;

    #[tokio::test]
    async fn nothing_is_left_behind() {
        let kms = Memory::new();
        let trip = round_trip(&kms).await.unwrap();
        assert!(trip.failed.is_none() && trip.left_behind.is_none());
        assert!(trip.name.as_str().starts_with(PREFIX));
        assert_eq!(kms.list().try_collect::<Vec<_>>().await.unwrap().len(), 0);
    }
}
