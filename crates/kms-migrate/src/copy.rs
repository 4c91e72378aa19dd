//! Copies keys: creates each at the target, and never replaces another KEK unasked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use kms_core::{Error, ErrorKind, Freshness, Guarantee, KeyName, PutMode, Result, Stored};

use crate::{
    journal::{Entry, Journal, Mark, Phase, Versions, recorded},
    pair::{Fit, Pair, list, prove_distinct},
    run::{Failed, Observer, OnConflict, Options, each},
};

/// What a copy has done.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Copied {
    /// The number of keys.
    pub keys: usize,
    /// The number of keys by what was done: `created`, `done-before`, `equal`, `renewed`, `replaced`.
    pub outcomes: BTreeMap<&'static str, usize>,
    /// The keys that failed.
    pub failed: Vec<Failed>,
}

/// What was done with one key. `None` for a key that an earlier run has copied, and that has not changed since.
type Done = Option<(Mark, Versions, &'static str)>;

/// Copies the keys of the source to the target, and notes each in the journal.
///
/// A run may be killed at any moment. The next run finishes its work:
///
/// 1. The journal announces, on the disk, every key that the target lacks.
/// 2. Each KEK is read fresh from the source and created at the target. The target refuses to create a key that exists.
/// 3. A key that exists with the same KEK is done. It is a copy of this migration if the journal announces it.
/// 4. A copy of this migration that is unchanged, and whose source has a new KEK, is renewed by compare-and-set.
///
/// # Errors
///
/// `Conflict` if the switch of the CephCluster has begun; `ConfigInvalid` if both sides are one place; `Incomplete` if a
/// list leaves keys out; those of the providers that concern more than one key. Errors about one key are in the result.
pub async fn copy(
    pair: Pair<'_>,
    journal: &mut Journal,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Copied> {
    let phases = [Phase::Copying, Phase::Verified, Phase::Aborted];
    journal.require(&phases, "keys are copied only before the CephCluster is switched")?;
    let names = options.select(list(pair.from, "from").await?)?;
    let there: BTreeSet<KeyName> = list(pair.to, "to").await?.into_iter().map(|key| key.name).collect();
    prove_distinct(pair, journal).await?;
    journal.enter(Phase::Copying)?;
    let is_new = |name: &&KeyName| {
        let copy = journal.entry(name).and_then(|entry| entry.copy);
        !there.contains(*name) && !matches!(copy, Some(Mark::Creating))
    };
    let new: Vec<KeyName> = names.iter().filter(is_new).cloned().collect();
    journal.announce(new.iter().map(|name| (name, Versions::default())), Mark::Creating)?;
    drop(new);

    let mut copied = Copied { keys: names.len(), ..Copied::default() };
    let run =
        Run { pair, fit: Fit::new(pair, options.decodes_base64), options, journal: Mutex::new(journal) };
    let work = |name: KeyName| {
        let (run, create_first) = (&run, !there.contains(&name));
        async move {
            let done = run.copy_one(&name, create_first).await;
            (name, done)
        }
    };
    copied.failed = each(names, options.jobs, observer, work, |name, done: Done| {
        let what = match done {
            Some((mark, versions, what)) => {
                run.journal().note(name, mark, versions)?;
                what
            }
            None => "done-before",
        };
        *copied.outcomes.entry(what).or_default() += 1;
        Ok(what)
    })
    .await?;
    run.journal().sync()?;
    Ok(copied)
}

/// One run.
struct Run<'a> {
    pair: Pair<'a>,
    fit: Fit,
    options: &'a Options,
    journal: Mutex<&'a mut Journal>,
}

impl<'a> Run<'a> {
    /// The journal. No caller keeps it over a request.
    fn journal(&self) -> MutexGuard<'_, &'a mut Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn copy_one(&self, name: &KeyName, create_first: bool) -> Result<Done> {
        let Pair { from, to } = self.pair;
        let source = from.get(name, Freshness::Fresh).await?;
        let entry = self.journal().entry(name).cloned().unwrap_or_default();
        let from_version = recorded(&source);
        let is_done = matches!(entry.copy, Some(Mark::Created | Mark::Found | Mark::Replaced));
        if is_done && from_version.is_some() && entry.versions.source == from_version && !create_first {
            return Ok(None);
        }
        self.fit.check(name, &source.kek)?;
        if create_first || entry.copy == Some(Mark::Creating) {
            match to.put(name, &source.kek, PutMode::Create).await {
                Ok(version) => {
                    let target = recorded(&Stored::new(source.kek, version));
                    return Ok(Some((Mark::Created, Versions::new(from_version, target), "created")));
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        self.meet(name, &source, &entry).await.map(Some)
    }

    /// Deals with a key that the target has.
    async fn meet(
        &self,
        name: &KeyName,
        source: &Stored,
        entry: &Entry,
    ) -> Result<(Mark, Versions, &'static str)> {
        let to = self.pair.to;
        let there = to.get(name, Freshness::Fresh).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::new(
                ErrorKind::Conflict,
                "another writer has deleted the key at the target meanwhile: run kms migrate copy again",
            )
            .context("key", name.as_str()),
            _ => error,
        })?;
        let versions = Versions::new(recorded(source), recorded(&there));
        if there.kek.ct_eq(&source.kek) {
            let mark = match entry.copy {
                _ if entry.is_own_copy() => Mark::Created,
                Some(Mark::Replacing | Mark::Replaced) => Mark::Replaced,
                _ => Mark::Found,
            };
            return Ok((mark, versions, "equal"));
        }
        // The target still has what this migration has written, so the source has changed.
        let is_stale_copy = versions.target.is_some() && versions.target == entry.versions.target;
        let (announced, mark, what) = match entry.copy {
            Some(Mark::Created | Mark::Renewing) if is_stale_copy => {
                (Mark::Renewing, Mark::Created, "renewed")
            }
            Some(Mark::Replaced | Mark::Replacing) if is_stale_copy => {
                (Mark::Replacing, Mark::Replaced, "renewed")
            }
            _ if self.options.on_conflict == OnConflict::Replace => {
                (Mark::Replacing, Mark::Replaced, "replaced")
            }
            _ => {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    "the target has this key with another KEK, which may be the only one that opens a device: find out \
                     which device, then delete it or give --on-conflict replace",
                )
                .context("key", name.as_str()));
            }
        };
        if to.capability().update == Guarantee::Unsupported {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the target cannot replace a KEK only if it has not changed",
            ));
        }
        // The line keeps the version that is about to go: after a kill, a target in this version has not been written.
        let before = Versions::new(None, versions.target.clone());
        self.journal().announce([(name, before)], announced)?;
        let version = to.put(name, &source.kek, PutMode::Update(there.version)).await?;
        let target = recorded(&Stored::new(source.kek.duplicate(), version));
        Ok((mark, Versions::new(versions.source, target), what))
    }
}
