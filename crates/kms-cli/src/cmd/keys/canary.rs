//! A round trip with a canary key, which opens no device.

use kms_core::{
    DeleteMode, Error, ErrorKind, Freshness, Kek, KeyName, KeyVersion, KmsProvider, PutMode, Result, Stored,
    provider::Deleted,
};

use crate::{output::chain, time::rfc3339};

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
    /// What is left of the canary, and what to do. `None` if nothing is left.
    pub(crate) left_behind: Option<String>,
}

/// A name that no key has.
pub(crate) fn unused_name() -> Result<KeyName> {
    KeyName::new(format!("{PREFIX}{}", Kek::generate()?.fingerprint()))
}

/// Fails with `PermissionDenied` if the account may not destroy keys, so that a canary would stay: if a probe has found that,
/// or if the server refuses to destroy a key of this unused name. Some services look for the key first, and do not tell.
pub(crate) async fn check_removable(
    kms: &dyn KmsProvider,
    name: &KeyName,
    cannot_destroy: bool,
) -> Result<()> {
    const MESSAGE: &str = "no test key was stored, since the account may not delete it again; grant the right to delete, or \
                           check without a test key (--read-only)";
    let error = || Error::new(ErrorKind::PermissionDenied, MESSAGE).provider(kms.provider());
    if cannot_destroy {
        return Err(error());
    }
    match kms.delete(name, DeleteMode::Destroy).await {
        // The probe has logged in. So `Unauthenticated` says that the server does not tell which right the account lacks.
        Err(refused)
            if matches!(refused.kind(), ErrorKind::PermissionDenied | ErrorKind::Unauthenticated) =>
        {
            Err(error().source(refused))
        }
        // Other trouble shows when the canary is stored.
        _ => Ok(()),
    }
}

/// Stores a new key under this unused name, reads it back, compares it, updates it as a rotation does, and deletes it even
/// if a step failed.
pub(crate) async fn round_trip(kms: &dyn KmsProvider, name: KeyName) -> Result<RoundTrip> {
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
        (failed, Ok(deleted)) => (failed, kept(&name, deleted)),
        (None, Err(error)) => {
            let left = may_be_there(&name, &error);
            (Some(("delete", error)), Some(left))
        }
        (Some(failed), Err(error)) if error.kind() == ErrorKind::NotFound => (Some(failed), None),
        // A store that was refused for lack of permission has stored nothing.
        (Some((step @ "store", error)), Err(_))
            if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unauthenticated) =>
        {
            (Some((step, error)), None)
        }
        (Some(failed), Err(error)) => (Some(failed), Some(may_be_there(&name, &error))),
    };
    Ok(RoundTrip { name, failed, no_update, left_behind })
}

fn may_be_there(name: &KeyName, error: &Error) -> String {
    format!("the canary key {name} may still be there, delete it: {}", chain(error))
}

/// What the KMS keeps of a canary that was deleted. `None` if it keeps nothing.
fn kept(name: &KeyName, deleted: Deleted) -> Option<String> {
    match deleted {
        Deleted::Recoverable { until } => {
            let until = until.and_then(rfc3339).map_or_else(
                || "; the KMS does not say until when, purge it there".to_owned(),
                |until| format!(" until {until}, unless it is purged there before"),
            );
            Some(format!(
                "the canary key {name} is deleted, and could not be purged: the KMS keeps it{until}; --read-only stores none"
            ))
        }
        _ => None,
    }
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
    use std::time::{Duration, SystemTime};

    use futures_util::TryStreamExt;
    use kms_core::memory::Memory;

    use super::*;

    #[test]
    fn a_canary_that_cannot_be_purged_is_named_with_the_time_until_which_it_is_kept() {
        let name: KeyName = "kms-check-1".parse().unwrap();
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(90 * 86_400);
        let text = kept(&name, Deleted::Recoverable { until: Some(until) }).unwrap();
        for part in ["kms-check-1", "until 1970-04-01T00:00:00Z", "--read-only"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(kept(&name, Deleted::Recoverable { until: None }).unwrap().contains("kms-check-1"));
        assert_eq!(kept(&name, Deleted::Destroyed), None);
    }

    #[tokio::test]
    async fn nothing_is_left_behind() {
        let kms = Memory::new();
        let trip = round_trip(&kms, unused_name().unwrap()).await.unwrap();
        assert!(trip.failed.is_none() && trip.left_behind.is_none());
        assert!(trip.name.as_str().starts_with(PREFIX));
        assert_eq!(kms.list().try_collect::<Vec<_>>().await.unwrap().len(), 0);
    }
}
