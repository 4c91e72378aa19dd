//! Takes a migration back: deletes the copies at the target.

use std::collections::BTreeMap;

use kms_core::{DeleteMode, Error, ErrorKind, Freshness, KeyName, Result};

use crate::{
    journal::{Entry, Journal, Mark, Phase, Versions, recorded},
    pair::{Pair, prove_distinct},
    run::{Failed, Observer, Options, each},
};

/// What was taken back.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Undone {
    /// The number of keys that the journal names.
    pub keys: usize,
    /// The number of keys by what was done: `removed`, `absent`, or `left` for a key that the target had before.
    pub outcomes: BTreeMap<&'static str, usize>,
    /// The copies that stay, since it is not certain that the source has what they hold.
    pub failed: Vec<Failed>,
}

/// Deletes from the target the keys that this migration has created there, and that are still what it has written. The
/// source is not changed.
///
/// The caller makes the CephCluster use the source first: `source_is_in_use` confirms it once the switch has begun.
///
/// # Errors
///
/// `Conflict` if keys of the source are already being deleted, or if the CephCluster may use the target;
/// `ConfigInvalid` if both sides are one place; those of the providers that concern more than one key. Errors about one
/// key are in the result.
pub async fn undo(
    pair: Pair<'_>,
    journal: &mut Journal,
    options: &Options,
    source_is_in_use: bool,
    observer: &dyn Observer,
) -> Result<Undone> {
    let mut phases = vec![Phase::Copying, Phase::Verified, Phase::Aborting, Phase::Aborted];
    if source_is_in_use {
        phases.extend([Phase::Switching, Phase::Switched]);
    }
    journal.require(
        &phases,
        "a copy at the target is deleted only while the CephCluster uses the source and its keys are all there",
    )?;
    prove_distinct(pair, journal).await?;
    journal.enter(Phase::Aborting)?;
    let entries: Vec<(KeyName, Entry)> = journal
        .entries()
        .filter(|(_, entry)| entry.copy.is_some_and(|copy| copy != Mark::Removed))
        .map(|(name, entry)| (name.clone(), entry.clone()))
        .collect();
    let mut undone = Undone { keys: entries.len(), ..Undone::default() };
    let (own, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(_, entry)| entry.is_own_copy());
    if !others.is_empty() {
        undone.outcomes.insert("left", others.len());
    }
    drop(others);
    let names: Vec<KeyName> = own.iter().map(|(name, _)| name.clone()).collect();
    let entries: BTreeMap<KeyName, Entry> = own.into_iter().collect();
    let work = |name: KeyName| {
        let entry = entries.get(&name).cloned().unwrap_or_default();
        async move {
            let removed = remove(pair, &name, &entry).await;
            (name, removed)
        }
    };
    undone.failed = each(names, options.jobs, observer, work, |name, what| {
        journal.note(name, Mark::Removed, Versions::default())?;
        *undone.outcomes.entry(what).or_default() += 1;
        Ok(what)
    })
    .await?;
    if undone.failed.is_empty() {
        journal.enter(Phase::Aborted)?;
    } else {
        journal.sync()?;
    }
    Ok(undone)
}

/// Deletes a copy if the source has the key, and if the copy is what was written: in the version that the journal has,
/// or with the KEK of the source.
async fn remove(pair: Pair<'_>, name: &KeyName, entry: &Entry) -> Result<&'static str> {
    let stays = |why: &'static str| {
        Error::new(
            ErrorKind::Conflict,
            format!("{why}, so it stays: look at both sides, then delete it yourself"),
        )
        .context("key", name.as_str())
    };
    let target = match pair.to.get(name, Freshness::Fresh).await {
        Ok(target) => target,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok("absent"),
        Err(error) => return Err(error),
    };
    let source = match pair.from.get(name, Freshness::Fresh).await {
        Ok(source) => source,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(stays("the source no longer has the key, and the copy may be its only KEK"));
        }
        Err(error) => return Err(error),
    };
    let version = recorded(&target);
    let is_unchanged = version.is_some() && version == entry.versions.target;
    if !is_unchanged && !target.kek.ct_eq(&source.kek) {
        return Err(stays("the copy is not what this migration has written"));
    }
    match pair.to.delete(name, DeleteMode::Destroy).await {
        Ok(_) => Ok("removed"),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok("absent"),
        Err(error) => Err(error),
    }
}
