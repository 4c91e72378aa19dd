//! How those who create one key at the same time agree on one KEK.
//!
//! Key Vault has no conditional write: every PUT makes a new version, and the last one is current.
//! So a version is created with the tag `new`, and its creator looks at all versions afterwards:
//!
//! - Alone, it was the first: whoever writes later sees it. It is marked `kept`, and counts from then on.
//! - Otherwise everybody waits until the second of their own version has passed, since the vault's times are whole
//!   seconds, and looks again. Then the newest version without a tag counts (somebody knew what they replaced), else
//!   the oldest `kept` one, else the oldest `new` one, ties decided by the id. All see the same list, so all decide
//!   alike, and whoever finds that another version is current writes the decided KEK once more.
//!
//! A reader who meets a `new` version decides in the same way, so that a creator who died leaves nothing undecided.

use std::time::{Duration, SystemTime};

use kms_core::{Error, ErrorKind, Existing, Kek, KeyName, KeyVersion, Result, Retry};
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use crate::{api::Bundle, name::Names, provider::AzureKeyVault, value::State};

/// For how long a version may have competitors of the same second, and how long whoever has met some waits. The wait
/// is longer, so that a version that is marked within the first is seen as marked after the second.
const ALONE: Duration = Duration::from_millis(900);
const WAIT: Duration = Duration::from_millis(1_300);
/// A version that is so old has no competitors any more, even if clocks differ a little.
const OLD: Duration = Duration::from_secs(30);

/// What all have agreed on.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) kek: Kek,
    pub(crate) current: Bundle,
}

impl AzureKeyVault {
    /// Finds out whether the version that we have just created is the one that counts.
    pub(crate) async fn settle(
        &self,
        name: &KeyName,
        names: &Names,
        kek: &Kek,
        mine: &KeyVersion,
    ) -> Result<KeyVersion> {
        let start = Instant::now();
        match self.api.versions(names).await {
            Ok(versions) => {
                let others =
                    versions.iter().filter(|one| one.version().is_ok_and(|version| version != *mine)).count();
                if others == 0 && !versions.is_empty() {
                    let marked = self.keep(names, mine).await?;
                    if marked && start.elapsed() < ALONE {
                        return Ok(mine.clone());
                    }
                }
            }
            Err(error) if is_final(&error) => {
                warn!(
                    %error,
                    "whether others create the same key at this moment cannot be seen, since its versions may not be \
                     listed; whoever writes last is taken to have created it"
                );
                return self.last(name, names, kek, mine).await;
            }
            Err(error) => return Err(error),
        }
        sleep(WAIT).await;
        let Some(Decided { kek: decided, current }) = self.decide(names).await? else {
            return Err(Error::new(ErrorKind::Conflict, "the key was deleted while it was created"));
        };
        if decided.ct_eq(kek) {
            return current.version();
        }
        debug!("another one has created the key first");
        Err(Error::already_exists(name, Existing::Different))
    }

    /// Decides without a list: after a wait for those who have found the name free as well, the current version counts.
    async fn last(&self, name: &KeyName, names: &Names, kek: &Kek, mine: &KeyVersion) -> Result<KeyVersion> {
        sleep(WAIT).await;
        match self.api.get(names, None).await? {
            Some(current) if current.version()? == *mine => {
                self.keep(names, mine).await?;
                Ok(mine.clone())
            }
            Some(current) if current.kek(names)?.ct_eq(kek) => current.version(),
            Some(_) => Err(Error::already_exists(name, Existing::Different)),
            None => Err(Error::new(ErrorKind::Conflict, "the key was deleted while it was created")),
        }
    }

    /// Marks a version as the one that counts, and says whether that was possible. Without the mark all still decide
    /// alike, only not as quickly.
    async fn keep(&self, names: &Names, version: &KeyVersion) -> Result<bool> {
        match self.api.mark(names, version, State::Kept).await {
            Ok(()) => Ok(true),
            Err(error) if error.retryable() == Retry::Never => {
                debug!(%error, "the version could not be marked as the one that counts");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The KEK that counts, where the current version is marked `new`. `heal`: whether to write what was decided.
    pub(crate) async fn undecided(&self, names: &Names, current: Bundle, heal: bool) -> Result<Decided> {
        let age =
            current.attributes.times().0.and_then(|created| SystemTime::now().duration_since(created).ok());
        let is_old = age.is_some_and(|age| age >= OLD);
        if !is_old {
            sleep(WAIT).await;
        }
        let result = if heal { self.decide(names).await } else { self.counting(names).await };
        match result {
            Ok(Some(decided)) => Ok(decided),
            Ok(None) => Err(Error::new(ErrorKind::NotFound, "the key was deleted while it was read")),
            // Without the right to list or to write the current version is all there is to go by. And a device is not to
            // stay closed because a list is not to be had: its creators have long agreed on what is current, unless
            // one of them has died over it.
            Err(error) if is_final(&error) || (is_old && !heal) => {
                debug!(%error, "the current version is taken for the one that counts");
                Ok(Decided { kek: current.kek(names)?, current })
            }
            Err(error) => Err(error),
        }
    }

    /// Decides which version counts, and makes its KEK the current one.
    async fn decide(&self, names: &Names) -> Result<Option<Decided>> {
        let Some(Decided { kek, current }) = self.counting(names).await? else { return Ok(None) };
        if current.kek(names).is_ok_and(|found| found.ct_eq(&kek)) {
            if current.state() == State::New {
                self.keep(names, &current.version()?).await?;
            }
            return Ok(Some(Decided { kek, current }));
        }
        let current = self.api.put(names, &kek, State::Kept).await?;
        Ok(Some(Decided { kek, current }))
    }

    /// The KEK of the version that counts, and the version that is current.
    async fn counting(&self, names: &Names) -> Result<Option<Decided>> {
        let versions = self.api.versions(names).await?;
        let Some(current) = self.api.get(names, None).await? else { return Ok(None) };
        let (ours, mut empty) = (current.version()?, Vec::new());
        loop {
            let winner = counting(&versions, &empty).map(Bundle::version).transpose()?;
            let Some(winner) = winner.filter(|winner| *winner != ours) else {
                return Ok(Some(Decided { kek: current.kek(names)?, current }));
            };
            match self.api.get(names, Some(&winner)).await? {
                // Whoever has written over it has taken it for nothing.
                Some(found) if found.is_empty() => empty.push(found),
                Some(found) => return Ok(Some(Decided { kek: found.kek(names)?, current })),
                None => return Ok(None),
            }
        }
    }
}

/// Whether another try would end likewise: a right is missing, or the server cannot do it.
fn is_final(error: &Error) -> bool {
    error.retryable() == Retry::Never && error.kind() != ErrorKind::Unauthenticated
}

/// Which of these versions counts. None does that is as old as an `empty` one.
fn counting<'a>(versions: &'a [Bundle], empty: &[Bundle]) -> Option<&'a Bundle> {
    let place = |one: &&Bundle| (one.attributes.created, one.id.clone());
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

    fn version(id: &str, created: u64, state: &str) -> Bundle {
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
            let found = counting(&versions, &empty).map(|one| one.version().unwrap().to_string());
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
                let found = counting(&versions, &[]).map(|one| one.version().unwrap().to_string());
                assert_eq!(found.as_deref(), expected);
            }
        }
    }
}
