//! Compares both sides, key by key, by fresh reads.

use std::collections::BTreeMap;

use futures_util::future;
use kms_core::{Error, ErrorKind, Freshness, KeyName, Result, Stored};

use crate::{
    journal::{Entry, Journal, Mark, Phase, Versions, recorded},
    pair::{Pair, list, only_at_target},
    run::{Failed, Observer, Options, each},
};

/// What a comparison has found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Verified {
    /// The number of keys.
    pub keys: usize,
    /// The number of keys with the same KEK on both sides.
    pub equal: usize,
    /// The number of keys that only the target has, which are not part of the migration.
    pub only_at_target: usize,
    /// The keys that differ, or could not be compared.
    pub failed: Vec<Failed>,
}

impl Verified {
    /// Whether every key of the source has the same KEK at the target.
    pub fn is_proven(&self) -> bool {
        self.failed.is_empty()
    }
}

/// Tries the KEK of the target on what it has to open. It gets the key's name and what the target has returned.
pub trait Proof: Send + Sync {
    /// Fails if the KEK does not open it.
    fn try_kek(&self, name: &KeyName, target: &Stored) -> impl Future<Output = Result<()>> + Send;
}

/// A proof that compares both sides alone.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "it has nothing to choose")]
pub struct Bytes;

impl Proof for Bytes {
    async fn try_kek(&self, _: &KeyName, _: &Stored) -> Result<()> {
        Ok(())
    }
}

/// Reads every key on both sides, fresh and at the same time, and compares the KEKs. Changes neither side.
///
/// With success for all keys of the source the migration is verified, and the journal has the versions that were
/// compared. A failure takes an earlier verification back.
///
/// # Errors
///
/// `Conflict` if the switch of the CephCluster has begun; `Incomplete` if a list leaves keys out; those of the providers
/// that concern more than one key. Errors about one key are in the result.
pub async fn verify(
    pair: Pair<'_>,
    journal: &mut Journal,
    options: &Options,
    proof: &impl Proof,
    observer: &dyn Observer,
) -> Result<Verified> {
    let phases = [Phase::Copying, Phase::Verified];
    journal.require(&phases, "both sides are compared after copy and before the CephCluster is switched")?;
    // A run that is killed must not leave an earlier verification in force.
    journal.enter(Phase::Copying)?;
    let verified = compare(pair, journal, options, proof, observer, None).await?;
    if verified.is_proven() {
        journal.enter(Phase::Verified)?;
    }
    Ok(verified)
}

/// Compares again, and fails every key whose version at the source is not the verified one. Changes neither side.
///
/// # Errors
///
/// `Conflict` unless the migration is verified; otherwise those of [`verify`].
pub async fn verify_unchanged(
    pair: Pair<'_>,
    journal: &mut Journal,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Verified> {
    let phases = [Phase::Verified, Phase::Switching];
    journal.require(&phases, "run kms migrate verify first")?;
    let before = |journal: &Journal, name: &KeyName, now: &Versions| {
        let verified = journal.entry(name).and_then(|entry| entry.verified.as_ref());
        let Some(verified) = verified else {
            return Err(changed(name, "the key is new at the source since kms migrate verify"));
        };
        // The KEKs are equal on both sides. A version that a journal may not keep says no more than that.
        if verified.source != now.source {
            return Err(changed(name, "the key has changed at the source since kms migrate verify"));
        }
        Ok(())
    };
    compare(pair, journal, options, &Bytes, observer, Some(&before)).await
}

/// Looks whether the target still has, for every verified key, what was verified or what the source has now. Changes
/// neither side, nor the journal.
pub(crate) async fn target_unchanged(
    pair: Pair<'_>,
    journal: &Journal,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Verified> {
    let verified = |(name, entry): (&KeyName, &Entry)| Some((name.clone(), entry.verified.clone()?));
    let entries: BTreeMap<KeyName, Versions> = journal.entries().filter_map(verified).collect();
    let names: Vec<KeyName> = entries.keys().cloned().collect();
    let mut found = Verified { keys: names.len(), ..Verified::default() };
    let work = |name: KeyName| {
        let verified = entries.get(&name).and_then(|versions| versions.target.clone());
        async move {
            let looked = target_one_unchanged(pair, &name, verified).await;
            (name, looked)
        }
    };
    found.failed = each(names, options.jobs, observer, work, |_, ()| {
        found.equal += 1;
        Ok("unchanged")
    })
    .await?;
    Ok(found)
}

async fn target_one_unchanged(pair: Pair<'_>, name: &KeyName, verified: Option<String>) -> Result<()> {
    let target = pair.to.get(name, Freshness::Fresh).await.map_err(|error| error.context("side", "to"))?;
    if verified.is_some() && recorded(&target) == verified {
        return Ok(());
    }
    let source =
        pair.from.get(name, Freshness::Fresh).await.map_err(|error| error.context("side", "from"))?;
    if source.kek.ct_eq(&target.kek) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Conflict,
        "the key has changed at the target since kms migrate verify, so the source may not open its device: migrate \
         back with --from and --to exchanged, and a new journal",
    )
    .context("key", name.as_str()))
}

type Check<'a> = &'a dyn Fn(&Journal, &KeyName, &Versions) -> Result<()>;

async fn compare(
    pair: Pair<'_>,
    journal: &mut Journal,
    options: &Options,
    proof: &impl Proof,
    observer: &dyn Observer,
    check: Option<Check<'_>>,
) -> Result<Verified> {
    let listed = list(pair.from, "from").await?;
    let only_at_target = only_at_target(&listed, &list(pair.to, "to").await?);
    let names = options.select(listed)?;
    let mut verified = Verified { keys: names.len(), only_at_target, ..Verified::default() };
    let work = |name: KeyName| async move {
        let compared = compare_one(pair, &name, proof).await;
        (name, compared)
    };
    verified.failed = each(names, options.jobs, observer, work, |name, versions: Versions| {
        match check {
            Some(check) => check(journal, name, &versions)?,
            None => journal.note(name, Mark::Verified, versions)?,
        }
        verified.equal += 1;
        Ok("equal")
    })
    .await?;
    Ok(verified)
}

async fn compare_one(pair: Pair<'_>, name: &KeyName, proof: &impl Proof) -> Result<Versions> {
    let read = future::join(pair.from.get(name, Freshness::Fresh), pair.to.get(name, Freshness::Fresh));
    let (source, target) = match read.await {
        (Ok(source), Ok(target)) => (source, target),
        (Ok(_), Err(error)) if error.kind() == ErrorKind::NotFound => {
            return Err(changed(name, "the target does not have the key"));
        }
        (Err(error), _) => return Err(error.context("side", "from")),
        (_, Err(error)) => return Err(error.context("side", "to")),
    };
    if !source.kek.ct_eq(&target.kek) {
        return Err(changed(name, "the target has another KEK than the source"));
    }
    proof.try_kek(name, &target).await?;
    Ok(Versions::new(recorded(&source), recorded(&target)))
}

fn changed(name: &KeyName, why: &'static str) -> Error {
    Error::new(ErrorKind::Conflict, format!("{why}: run kms migrate copy, and then verify"))
        .context("key", name.as_str())
}
