//! Switches a cluster from the source to the target, OSD by OSD, or back.

use std::{collections::BTreeSet, num::NonZeroUsize};

use async_trait::async_trait;
use kms_core::{Error, ErrorKind, KeyName, Result};

use crate::{
    journal::{Journal, Phase},
    pair::Pair,
    run::{Failed, Observer, Options},
    verify::{Verified, target_unchanged, verify_unchanged},
};

/// How many OSDs restart at a time after the first one, unless the caller says otherwise.
const BATCH: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);

/// A side of a migration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a migration has two sides")]
pub enum Side {
    /// The KMS that has the keys.
    Source,
    /// The KMS that gets them.
    Target,
}

/// What keeps an OSD from being changed by the cluster's operator.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "these are the cases")]
pub enum Hold {
    /// Nothing.
    No,
    /// A migration.
    Ours,
    /// A person or another program.
    Others,
}

/// An OSD of the cluster, as a look at the cluster shows it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OsdView {
    /// Its number.
    pub id: u32,
    /// The name of its key.
    pub key: KeyName,
    /// The name of the object that runs it.
    pub object: String,
    /// What keeps the operator from changing it.
    pub hold: Hold,
    /// The side from which it gets its KEK when it starts. `None` for neither side.
    pub reads: Option<Side>,
    /// Whether it runs with its present settings.
    pub is_running: bool,
}

impl OsdView {
    /// An OSD that nothing holds and that reads from neither side.
    pub fn new(id: u32, key: KeyName, object: impl Into<String>) -> Self {
        Self { id, key, object: object.into(), hold: Hold::No, reads: None, is_running: false }
    }

    /// Whether the OSD has restarted from a side.
    pub fn runs_from(&self, side: Side) -> bool {
        self.reads == Some(side) && self.is_running
    }
}

/// The cluster whose KMS is switched.
///
/// Every method may be repeated after a kill.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// Looks at all encrypted OSDs.
    ///
    /// # Errors
    ///
    /// Those of the cluster; an OSD that cannot be understood is one.
    async fn osds(&self) -> Result<Vec<OsdView>>;

    /// The side whose settings the cluster has. `None` for neither side.
    async fn side(&self) -> Result<Option<Side>>;

    /// Gives the cluster the settings of a side.
    ///
    /// # Errors
    ///
    /// `Conflict` if the cluster has changed since it was read.
    async fn switch(&self, to: Side) -> Result<()>;

    /// Keeps the operator from changing an OSD.
    async fn hold(&self, osd: &OsdView) -> Result<()>;

    /// Lets the operator change an OSD again.
    async fn release(&self, osd: &OsdView) -> Result<()>;

    /// Waits until another look is worthwhile. `waiting` has the OSDs that are awaited.
    ///
    /// # Errors
    ///
    /// `Timeout` if the caller does not want to wait longer.
    async fn pause(&self, waiting: &[&OsdView]) -> Result<()>;
}

/// What a switch has done.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Switched {
    /// The last comparison of both sides. `None` if an earlier run has switched the cluster.
    pub verified: Option<Verified>,
    /// The number of encrypted OSDs.
    pub osds: usize,
    /// The number of OSDs that have restarted from the wanted side.
    pub restarted: usize,
    /// The OSDs that have not, by their keys.
    pub failed: Vec<Failed>,
}

/// Switches the cluster to the target:
///
/// 1. Both sides are compared once more, and the versions of the source with those of the verification.
/// 2. All OSDs but the first are held back, so that the operator changes one OSD alone.
/// 3. The cluster gets the settings of the target.
/// 4. The versions of the source are compared again: a rotation that ended in between has changed one.
/// 5. Once the first OSD has restarted from the target, the others are released, some at a time. Each batch has to restart
///    before the next one is released.
///
/// A run that was killed or has waited too long is resumed by the same call.
///
/// # Errors
///
/// `Conflict` unless the migration is verified, if an OSD has a key that was not verified, or if the cluster has other
/// settings than both sides; `Timeout` of [`Cluster::pause`]; those of the cluster and of the providers.
pub async fn cutover(
    pair: Pair<'_>,
    journal: &mut Journal,
    cluster: &dyn Cluster,
    options: &Options,
    batch: Option<NonZeroUsize>,
    observer: &dyn Observer,
) -> Result<Switched> {
    let phases = [Phase::Verified, Phase::Switching, Phase::Switched];
    journal.require(&phases, "run kms migrate verify first")?;
    let mut switched = Switched::default();
    match cluster.side().await? {
        Some(Side::Target) if journal.phase() != Phase::Verified => {}
        Some(Side::Source) => {
            let osds = cluster.osds().await?;
            check_keys(journal, &osds)?;
            let verified = verify_unchanged(pair, journal, options, observer).await?;
            let is_proven = verified.is_proven();
            switched.verified = Some(verified);
            if !is_proven {
                return Ok(switched);
            }
            journal.enter(Phase::Switching)?;
            hold_others(cluster, &osds).await?;
            cluster.switch(Side::Target).await?;
            let after = verify_unchanged(pair, journal, options, observer).await?;
            if !after.is_proven() {
                // The OSDs that are held back still read the source; the first one may not start.
                switched.failed = after.failed.into_iter().map(changed_meanwhile).collect();
                return Ok(switched);
            }
        }
        Some(Side::Target) => {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the CephCluster uses the target already, and this migration has not switched it: use the journal of the \
                 migration that has",
            ));
        }
        None => return Err(neither()),
    }
    restart(cluster, Side::Target, batch.unwrap_or(BATCH), &mut switched).await?;
    if switched.failed.is_empty() {
        journal.enter(Phase::Switched)?;
    }
    Ok(switched)
}

/// Switches the cluster back to the source, and waits until every OSD has restarted from there.
///
/// # Errors
///
/// As [`cutover`]. A key that was rotated at the target since the switch is in the result, and nothing is switched: the
/// source may not open its device any more.
pub async fn put_back(
    pair: Pair<'_>,
    journal: &mut Journal,
    cluster: &dyn Cluster,
    options: &Options,
    batch: Option<NonZeroUsize>,
    observer: &dyn Observer,
) -> Result<Switched> {
    let mut switched = Switched::default();
    match cluster.side().await? {
        Some(Side::Source) => {}
        Some(Side::Target) => {
            let verified = target_unchanged(pair, journal, options, observer).await?;
            let is_proven = verified.is_proven();
            switched.verified = Some(verified);
            if !is_proven {
                return Ok(switched);
            }
            hold_others(cluster, &cluster.osds().await?).await?;
            cluster.switch(Side::Source).await?;
        }
        None => return Err(neither()),
    }
    restart(cluster, Side::Source, batch.unwrap_or(BATCH), &mut switched).await?;
    Ok(switched)
}

/// The keys of the OSDs, all of which have restarted from the target.
///
/// # Errors
///
/// `Conflict` with the first OSD that has not.
pub async fn restarted_keys(cluster: &dyn Cluster) -> Result<BTreeSet<KeyName>> {
    let osds = cluster.osds().await?;
    if cluster.side().await? != Some(Side::Target) {
        return Err(neither_yet("the CephCluster does not use the target"));
    }
    if let Some(osd) = osds.iter().find(|osd| !osd.runs_from(Side::Target)) {
        return Err(neither_yet("an OSD has not restarted from the target")
            .context("osd", osd.id.to_string())
            .context("key", osd.key.as_str()));
    }
    Ok(osds.into_iter().map(|osd| osd.key).collect())
}

/// The failure of a key that changed while the cluster was switched.
fn changed_meanwhile(failed: Failed) -> Failed {
    let error = Error::new(
        ErrorKind::Conflict,
        "the key has changed at the source while the CephCluster was switched: run kms migrate abort, which switches back",
    );
    Failed::new(failed.name.clone(), error.context("key", failed.name.as_str()).source(failed.error))
}

fn neither_yet(why: &'static str) -> Error {
    Error::new(ErrorKind::Conflict, format!("{why}: run kms migrate cutover until it succeeds"))
}

fn neither() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "the CephCluster has other KMS settings than --from and --to: use the files that fit it",
    )
}

/// Fails if an OSD has a key that was not verified.
fn check_keys(journal: &Journal, osds: &[OsdView]) -> Result<()> {
    let is_verified = |key| journal.entry(key).is_some_and(|entry| entry.verified.is_some());
    match osds.iter().find(|osd| !is_verified(&osd.key)) {
        Some(osd) => Err(Error::new(
            ErrorKind::Conflict,
            "the key of an OSD was not verified at the target: find out where it is, copy it, and verify again",
        )
        .context("osd", osd.id.to_string())
        .context("key", osd.key.as_str())),
        None => Ok(()),
    }
}

/// Holds all OSDs back but the first that nothing holds. A repeated call holds the same ones.
async fn hold_others(cluster: &dyn Cluster, osds: &[OsdView]) -> Result<()> {
    let mut own: Vec<&OsdView> = osds.iter().filter(|osd| osd.hold != Hold::Others).collect();
    own.sort_by_key(|osd| osd.id);
    for osd in own.iter().skip(1).filter(|osd| osd.hold == Hold::No) {
        cluster.hold(osd).await?;
    }
    match own.first() {
        Some(first) if first.hold == Hold::Ours => cluster.release(first).await,
        _ => Ok(()),
    }
}

/// Waits for the OSDs that are not held back, and then releases the others, some at a time.
async fn restart(
    cluster: &dyn Cluster,
    side: Side,
    batch: NonZeroUsize,
    switched: &mut Switched,
) -> Result<()> {
    loop {
        let mut osds = cluster.osds().await?;
        osds.sort_by_key(|osd| osd.id);
        let waiting: Vec<&OsdView> =
            osds.iter().filter(|osd| osd.hold == Hold::No && !osd.runs_from(side)).collect();
        if !waiting.is_empty() {
            cluster.pause(&waiting).await?;
            continue;
        }
        let held: Vec<&OsdView> = osds.iter().filter(|osd| osd.hold == Hold::Ours).collect();
        if held.is_empty() {
            switched.osds = osds.len();
            let (done, left): (Vec<_>, Vec<_>) = osds.into_iter().partition(|osd| osd.runs_from(side));
            switched.restarted = done.len();
            switched.failed.extend(left.into_iter().map(|osd| {
                let error = Error::new(
                    ErrorKind::Conflict,
                    "another program or a person keeps Rook from changing this OSD, so it has not restarted: remove its label \
                     ceph.rook.io/do-not-reconcile",
                );
                Failed::new(osd.key, error.context("osd", osd.id.to_string()))
            }));
            return Ok(());
        }
        for osd in held.into_iter().take(batch.get()) {
            cluster.release(osd).await?;
        }
    }
}
