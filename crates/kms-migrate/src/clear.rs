//! Ends a migration: deletes the keys of the source.

use std::collections::{BTreeMap, BTreeSet};

use kms_core::{DeleteMode, Error, ErrorKind, Freshness, Kek, KeyName, PutMode, Result};

use crate::{
    journal::{Entry, Journal, Mark, Phase, Versions, recorded},
    pair::{Pair, prove_distinct},
    run::{Failed, Observer, Options, each},
};

/// Whether an escrow has this KEK of a key.
pub type IsSaved<'a> = dyn Fn(&KeyName, &Kek) -> bool + Sync + 'a;

/// What was deleted.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Cleared {
    /// The number of verified keys.
    pub keys: usize,
    /// The number of keys by what was done: `deleted`, `absent`, `done-before`, or `left` for a key that is not in
    /// `used`.
    pub outcomes: BTreeMap<&'static str, usize>,
    /// The keys of the source that stay.
    pub failed: Vec<Failed>,
}

/// Deletes those keys of the source that were verified, are unchanged since, and whose KEK the target has.
///
/// The caller has seen that every OSD has restarted from the target. `used` has the keys of these OSDs; other keys of the
/// source stay, since they may belong to another cluster. So does a key unless `is_saved` says that an escrow has the KEK
/// of the target. [`DeleteMode::Soft`] destroys where the source has no soft delete.
///
/// # Errors
///
/// `Conflict` if the CephCluster has not been switched; `ConfigInvalid` if both sides are one place; `Unexpected` if a
/// deletion at the source took the key at the target along, which ends the run; those of the providers that concern
/// more than one key. Errors about one key are in the result.
pub async fn clear(
    pair: Pair<'_>,
    journal: &mut Journal,
    used: &BTreeSet<KeyName>,
    is_saved: &IsSaved<'_>,
    mode: DeleteMode,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Cleared> {
    let phases = [Phase::Switched, Phase::Clearing];
    journal.require(&phases, "keys of the source are deleted only after kms migrate cutover")?;
    prove_distinct(pair, journal).await?;
    // A provider knows what its server can do after its first call, which was the proof.
    let mode = match mode {
        DeleteMode::Soft if !pair.from.capability().soft_delete => DeleteMode::Destroy,
        mode => mode,
    };
    journal.enter(Phase::Clearing)?;
    let mut cleared = Cleared::default();
    let mut entries: BTreeMap<KeyName, Entry> = BTreeMap::new();
    for (name, entry) in journal.entries().filter(|(_, entry)| entry.verified.is_some()) {
        cleared.keys += 1;
        if !used.contains(name) {
            *cleared.outcomes.entry("left").or_default() += 1;
        } else if entry.cleared == Some(Mark::Cleared) {
            *cleared.outcomes.entry("done-before").or_default() += 1;
        } else {
            entries.insert(name.clone(), entry.clone());
        }
    }
    let names: Vec<KeyName> = entries.keys().cloned().collect();
    journal.announce(names.iter().map(|name| (name, Versions::default())), Mark::Clearing)?;
    let work = |name: KeyName| {
        let entry = entries.get(&name).cloned().unwrap_or_default();
        async move {
            let deleted = delete(pair, &name, &entry, is_saved, mode).await;
            (name, deleted)
        }
    };
    cleared.failed = each(names, options.jobs, observer, work, |name, what| {
        journal.note(name, Mark::Cleared, Versions::default())?;
        *cleared.outcomes.entry(what).or_default() += 1;
        Ok(what)
    })
    .await?;
    if cleared.failed.is_empty() {
        journal.enter(Phase::Finished)?;
    } else {
        journal.sync()?;
    }
    Ok(cleared)
}

/// Deletes a key of the source, and looks afterwards whether the target still has it.
async fn delete(
    pair: Pair<'_>,
    name: &KeyName,
    entry: &Entry,
    is_saved: &IsSaved<'_>,
    mode: DeleteMode,
) -> Result<&'static str> {
    let stays = |why: &'static str| {
        Error::new(ErrorKind::Conflict, format!("{why}, so the key of the source stays"))
            .context("key", name.as_str())
    };
    let target = match pair.to.get(name, Freshness::Fresh).await {
        Ok(target) => target,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(stays("the target does not have the key"));
        }
        Err(error) => return Err(error),
    };
    if !is_saved(name, &target.kek) {
        return Err(stays("the escrow does not have the KEK of the target"));
    }
    let source = match pair.from.get(name, Freshness::Fresh).await {
        Ok(source) => source,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok("absent"),
        Err(error) => return Err(error),
    };
    let verified = entry.verified.as_ref().and_then(|verified| verified.source.as_ref());
    let is_unchanged = match (recorded(&source), verified) {
        // The target may have been rotated since.
        (Some(now), Some(verified)) => now == *verified,
        // A version that the journal may not keep proves nothing: only an equal KEK does.
        _ => source.kek.ct_eq(&target.kek),
    };
    if !is_unchanged {
        return Err(stays("the source has changed since kms migrate verify"));
    }
    pair.from.delete(name, mode).await?;
    match pair.to.get(name, Freshness::Fresh).await {
        Ok(_) => Ok("deleted"),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // The only copy of the KEK is in this process.
            let put_back = pair.from.put(name, &target.kek, PutMode::Create).await;
            Err(Error::new(
                ErrorKind::Unexpected,
                match put_back {
                    Ok(_) => "deleting the key at the source deleted it at the target too; it was put back at the source",
                    Err(_) => {
                        "deleting the key at the source deleted it at the target too, and it could not be put back: bring it \
                         back with kms undelete, or from an escrow, before its OSD restarts"
                    }
                },
            )
            .context("key", name.as_str()))
        }
        Err(error) => Err(error),
    }
}
