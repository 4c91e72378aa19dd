//! Reads keys, and decides which of several concurrently created versions is the key.
//!
//! Key Vault has no conditional write: every PUT makes a new version, and the last one is current. So a create writes
//! its version with the tag `new`, and then looks at all versions:
//!
//! - If there is no other version, this version was the first, and later creators see it. Its creator marks it `kept`.
//! - Otherwise each creator waits until the second of its own version has passed, since the vault's times are whole
//!   seconds, and looks again. Then the newest version without a tag counts (its writer knew what it replaced), else
//!   the oldest `kept` version, else the oldest `new` one; the id breaks ties. All creators see the same list and
//!   decide alike. A creator that finds another version current writes the decided KEK once more.
//!
//! A reader that meets a `new` version decides in the same way, so that a creator that crashed leaves no key undecided.

use std::time::{Duration, SystemTime};

use kms_core::{Error, ErrorKind, Freshness, Kek, KeyName, KeyVersion, Result, Retry, Stored};
use tokio::time::sleep;
use tracing::debug;

use crate::{
    api::{Api, SecretBundle},
    name::Names,
    stored::{Labels, State},
};

/// How long a creator that has met competitors waits before it decides. This is longer than the 900 ms within which a
/// creator may mark its version `kept`, so that the mark is visible after the wait.
pub(crate) const SETTLE: Duration = Duration::from_millis(1_300);
/// The age at which a version has no competitors any more, even if clocks differ by some seconds.
const OLD: Duration = Duration::from_secs(30);

/// The KEK that counts, and the version that is current.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) kek: Kek,
    pub(crate) current: SecretBundle,
}

/// Reads a key.
pub(crate) async fn get(api: &Api, name: &KeyName, freshness: Freshness) -> Result<Stored> {
    match current(api, &Names::of(name), freshness == Freshness::Fresh).await? {
        Some(Decided { kek, current }) => {
            let (created, updated) = current.attributes.times();
            Ok(Stored::new(kek, current.version()?).with_times(created, updated))
        }
        None => Err(Error::key_not_found(name)),
    }
}

/// Reads the key and decides which version counts. `None` if the key is absent. `heal`: whether to write the decision
/// back.
pub(crate) async fn current(api: &Api, names: &Names, heal: bool) -> Result<Option<Decided>> {
    let Some(current) = api.get(names, None).await? else { return Ok(None) };
    decided(api, names, current, heal).await.map(Some)
}

/// Decides which KEK counts, given the current version. `heal`: whether to write the decision back.
pub(crate) async fn decided(api: &Api, names: &Names, current: SecretBundle, heal: bool) -> Result<Decided> {
    if current.state() != State::New {
        return Ok(Decided { kek: current.kek(names)?, current });
    }
    let age = current.attributes.times().0.and_then(|created| SystemTime::now().duration_since(created).ok());
    let is_old = age.is_some_and(|age| age >= OLD);
    if !is_old {
        sleep(SETTLE).await;
    }
    let result = if heal { decide(api, names).await } else { counting(api, names).await };
    match result {
        Ok(Some(decided)) => Ok(decided),
        Ok(None) => Err(Error::new(ErrorKind::NotFound, "the key was deleted while it was read")),
        // Without the right to list or to write, use the current version: nothing else is available. An old version is
        // also used if the list fails, since a device must open: its creators have long agreed on the current version,
        // unless a creator crashed meanwhile.
        Err(error) if is_final(&error) || (is_old && !heal) => {
            debug!(%error, "the current version is taken as the key");
            Ok(Decided { kek: current.kek(names)?, current })
        }
        Err(error) => Err(error),
    }
}

/// Decides which version counts, and makes its KEK the current one.
pub(crate) async fn decide(api: &Api, names: &Names) -> Result<Option<Decided>> {
    let Some(Decided { kek, current }) = counting(api, names).await? else { return Ok(None) };
    if current.kek(names).is_ok_and(|found| found.ct_eq(&kek)) {
        if current.state() == State::New {
            keep(api, names, &current.version()?, &current.labels()).await?;
        }
        return Ok(Some(Decided { kek, current }));
    }
    let current = api.put(names, &kek, State::Kept, &current.labels()).await?;
    Ok(Some(Decided { kek, current }))
}

/// Marks a version `kept`, and returns whether that was possible. Without the mark the decision is the same, but
/// slower.
pub(crate) async fn keep(api: &Api, names: &Names, version: &KeyVersion, labels: &Labels) -> Result<bool> {
    match api.mark(names, version, State::Kept, labels).await {
        Ok(()) => Ok(true),
        Err(error) if error.retryable() == Retry::Never => {
            debug!(%error, "the version could not be marked as the one that counts");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Finds the KEK of the version that counts, and the current version.
async fn counting(api: &Api, names: &Names) -> Result<Option<Decided>> {
    let versions = api.versions(names).await?;
    let Some(current) = api.get(names, None).await? else { return Ok(None) };
    let (present, mut empty) = (current.version()?, Vec::new());
    loop {
        let winner = winner(&versions, &empty).map(SecretBundle::version).transpose()?;
        let Some(winner) = winner.filter(|winner| *winner != present) else {
            return Ok(Some(Decided { kek: current.kek(names)?, current }));
        };
        match api.get(names, Some(&winner)).await? {
            // An empty value does not count: creators write over it, as Rook does.
            Some(found) if found.is_empty(names) => empty.push(found),
            Some(found) => return Ok(Some(Decided { kek: found.kek(names)?, current })),
            None => return Ok(None),
        }
    }
}

/// Whether a retry would fail the same way: a right is missing, or the server does not support the operation.
pub(crate) fn is_final(error: &Error) -> bool {
    error.retryable() == Retry::Never && error.kind() != ErrorKind::Unauthenticated
}

/// The version that counts. Versions in `empty`, and versions older than those, do not count.
fn winner<'a>(versions: &'a [SecretBundle], empty: &[SecretBundle]) -> Option<&'a SecretBundle> {
    let place = |one: &&SecretBundle| (one.attributes.created, one.id.clone());
    let after = empty.iter().map(|one| one.attributes.created).max();
    let of = |state: State| {
        versions.iter().filter(move |one| {
            one.state() == state
                && one.attributes.enabled != Some(false)
                && after.is_none_or(|after| one.attributes.created >= after)
                && !empty.iter().any(|empty| empty.version_part() == one.version_part())
        })
    };
    of(State::Plain)
        .max_by_key(place)
        .or_else(|| of(State::Kept).min_by_key(place))
        .or_else(|| of(State::New).min_by_key(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(id: &str, created: u64, state: &str) -> SecretBundle {
        serde_json::from_value(serde_json::json!({
            "id": format!("https://v/secrets/a/{id}"), "attributes": {"enabled": id != "off", "created": created},
            "tags": {"rook-kms-state": state},
        }))
        .unwrap()
    }

    #[test]
    fn what_was_empty_counts_for_nothing_and_neither_does_what_is_older() {
        let empty = [version("e", 5, "")];
        for (versions, expected) in [
            (
                vec![
                    version("o", 4, ""),
                    version("e", 5, ""),
                    version("b", 5, "new"),
                    version("a", 6, "new"),
                ],
                Some("b"),
            ),
            (vec![version("o", 4, "kept"), version("e", 5, ""), version("a", 6, "new")], Some("a")),
            (vec![version("e", 5, ""), version("p", 5, ""), version("a", 6, "new")], Some("p")),
            (vec![version("e", 5, "")], None),
        ] {
            let found = winner(&versions, &empty).map(|one| one.version().unwrap().to_string());
            assert_eq!(found.as_deref(), expected);
        }
    }

    #[test]
    fn everybody_decides_alike() {
        for (versions, expected) in [
            (vec![version("b", 1, "new"), version("a", 1, "new"), version("0", 2, "new")], Some("a")),
            (vec![version("b", 1, "kept"), version("a", 1, "new")], Some("b")),
            (vec![version("c", 2, "kept"), version("b", 1, "kept")], Some("b")),
            (
                vec![
                    version("a", 1, "kept"),
                    version("d", 5, ""),
                    version("c", 3, ""),
                    version("e", 9, "new"),
                ],
                Some("d"),
            ),
            (vec![version("off", 1, "new"), version("b", 2, "new")], Some("b")),
            (vec![], None),
        ] {
            for turned in [false, true] {
                let mut versions: Vec<_> = versions
                    .iter()
                    .map(|one| {
                        version(
                            one.version().unwrap().as_str(),
                            one.attributes.created.unwrap(),
                            one.tag("rook-kms-state").unwrap(),
                        )
                    })
                    .collect();
                if turned {
                    versions.reverse();
                }
                let found = winner(&versions, &[]).map(|one| one.version().unwrap().to_string());
                assert_eq!(found.as_deref(), expected);
            }
        }
    }
}
