//! The steps after the comparison: the switch of the CephCluster, and the two ends of a migration.

use std::{collections::BTreeSet, time::Duration};

use kms_core::{DeleteMode, Error, Kek, KeyName, KmsProvider, Result};
use kms_escrow::{Escrow, SavedKey};
use kms_migrate::{Cluster as _, Journal, Phase, Plan};

use super::cluster::Live;
use super::{AbortArgs, CutoverArgs, FinishArgs, Names, document::Document, sides::Sides};
use crate::{
    cmd::clusters::accounts::Account, exit::Exit, invocation::Invocation, output::Output, progress::Progress,
};

/// Switches the CephCluster with `--cluster`; otherwise compares once more, and prints the change.
pub(super) async fn cutover(
    args: CutoverArgs,
    invocation: &Invocation<'_>,
    progress: &Progress,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let CutoverArgs { both, journal, names, restarts } = args;
    let (sides, options, mut journal) = both.begin_with_journal(invocation, names, &journal)?;
    let connected = sides.connect().await?;
    let (pair, change) = (connected.pair(), sides.change()?);
    if let Some(cluster) = Live::find(&sides, &invocation.global, restarts.wait).await? {
        let stops = cluster.stops().await?;
        if !stops.is_empty() {
            return Err(Error::config(stops.join("; ")));
        }
        sides.check_rotation(&journal).await?;
        let run = kms_migrate::cutover(pair, &mut journal, &cluster, &options, restarts.batch, progress);
        let switched = run.await?;
        return Document::of_switch("cutover", switched, journal.phase(), change).show(output);
    }
    sides.check_rotation(&journal).await?;
    let verified = kms_migrate::verify_unchanged(pair, &mut journal, &options, progress).await?;
    if verified.is_proven() {
        journal.enter(Phase::Switching)?;
    }
    Document::of_advice(verified, journal.phase(), change).show(output)
}

/// Adds what the cluster given with `--cluster` shows: OSDs without a key, keys without an OSD, settings that let Rook
/// restart OSDs unasked or rotate keys, and rights that its accounts lack.
pub(super) async fn add_cluster(
    sides: &Sides,
    operator: Option<&Account>,
    invocation: &Invocation<'_>,
    plan: &mut Plan,
) -> Result<()> {
    let Some(cluster) = Live::find(sides, &invocation.global, Duration::ZERO).await? else {
        plan.notes.push(
            "not checked: the rights of the operator's and the OSDs' accounts, and the Secrets of the cluster: run this plan \
             with --cluster NAMESPACE/NAME"
                .to_owned(),
        );
        return Ok(());
    };
    plan.stops.extend(cluster.stops().await?);
    let osds: BTreeSet<KeyName> = cluster.osds().await?.into_iter().map(|osd| osd.key).collect();
    let keys: BTreeSet<KeyName> = plan.names.iter().cloned().collect();
    let absent = osds.difference(&keys).count();
    if absent > 0 {
        plan.stops.push(format!(
            "{absent} OSDs of the cluster have a key that is not among these keys: kms inventory shows them"
        ));
    }
    let others = keys.difference(&osds).count();
    if others > 0 {
        plan.notes.push(format!(
            "{others} keys belong to no OSD of the cluster, and may be those of another one: to copy fewer, name the keys"
        ));
    }
    cluster.check_accounts(sides, operator, &invocation.global, plan).await
}

/// Deletes the keys of the source.
pub(super) async fn finish(
    args: FinishArgs,
    invocation: &Invocation<'_>,
    progress: &Progress,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let FinishArgs { both, journal, escrow, identities, osds_have_restarted, destroy } = args;
    // Before the connections: a wrong folder or identity needs no login.
    let escrow = Escrow::open(escrow)
        .map_err(|error| error.context("to do", "save the keys of the target with kms escrow create"))?;
    escrow.check_files()?;
    let identities = identities.read()?;
    let saved = if identities.is_empty() { None } else { Some(escrow.keks(&identities)?) };
    let (sides, options, mut journal) = both.begin_with_journal(invocation, Names::default(), &journal)?;
    let connected = sides.connect_to_write().await?;
    let used = used_keys(&sides, invocation, osds_have_restarted, &mut journal).await?;
    check_escrow(&escrow, &used, [connected.pair().from, connected.pair().to])?;
    let is_saved = |name: &KeyName, kek: &Kek| {
        let is_it = |key: &SavedKey| key.entry().name == *name && key.kek().ct_eq(kek);
        saved.as_ref().is_none_or(|saved| saved.iter().any(is_it))
    };
    let mode = if destroy { DeleteMode::Destroy } else { DeleteMode::Soft };
    let (pair, journal_of) = (connected.pair(), &mut journal);
    let run = kms_migrate::clear(pair, journal_of, &used, &is_saved, mode, &options, progress);
    let cleared = run.await?;
    Document::of_finish(cleared, journal.phase()).show(output)
}

/// The keys of the OSDs that have restarted from the target: all verified keys if the user says so.
async fn used_keys(
    sides: &Sides,
    invocation: &Invocation<'_>,
    osds_have_restarted: bool,
    journal: &mut Journal,
) -> Result<BTreeSet<KeyName>> {
    if let Some(cluster) = Live::find(sides, &invocation.global, Duration::ZERO).await? {
        return kms_migrate::restarted_keys(&cluster).await;
    }
    if !osds_have_restarted {
        return Err(Error::config(
            "kms does not see whether every OSD has restarted from the target: name the cluster with --cluster, or look \
             yourself and give --osds-have-restarted",
        ));
    }
    if journal.phase() == Phase::Switching {
        journal.enter(Phase::Switched)?;
    }
    let verified = journal.entries().filter(|(_, entry)| entry.verified.is_some());
    Ok(verified.map(|(name, _)| name.clone()).collect())
}

/// Fails if the escrow cannot have all these keys, by what can be seen without an identity.
fn check_escrow(escrow: &Escrow, used: &BTreeSet<KeyName>, sides: [&dyn KmsProvider; 2]) -> Result<()> {
    let (about, count) = (&escrow.sidecar().about, escrow.sidecar().keks.entries);
    let refused = |why: String| {
        Err(Error::config(format!("{why}: make an escrow of the target first"))
            .context("escrow", escrow.folder().display().to_string()))
    };
    if !sides.iter().any(|side| side.provider() == about.provider) {
        return refused(format!("the escrow has keys of another provider, {}", about.provider));
    }
    if count < used.len() {
        return refused(format!("the escrow has {count} KEKs, and the OSDs use {}", used.len()));
    }
    Ok(())
}

/// What to do where nothing says which side the CephCluster uses.
const SAY_THE_SIDE: &str = "name the CephCluster with --cluster, or say --source-is-in-use once it names the source and no OSD \
                            uses the target";

/// Takes the migration back.
pub(super) async fn abort(
    args: AbortArgs,
    invocation: &Invocation<'_>,
    progress: &Progress,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let AbortArgs { both, journal, restarts, source_is_in_use } = args;
    let (sides, options, mut journal) = both.begin_with_journal(invocation, Names::default(), &journal)?;
    let connected = sides.connect_to_write().await?;
    let pair = connected.pair();
    let mut is_back = source_is_in_use;
    if matches!(journal.phase(), Phase::Switching | Phase::Switched)
        && let Some(cluster) = Live::find(&sides, &invocation.global, restarts.wait).await?
    {
        let run = kms_migrate::put_back(pair, &mut journal, &cluster, &options, restarts.batch, progress);
        let back = run.await?;
        let is_proven = back.verified.as_ref().is_none_or(kms_migrate::Verified::is_proven);
        if !is_proven || !back.failed.is_empty() {
            return Document::of_switch("abort", back, journal.phase(), Vec::new()).show(output);
        }
        is_back = true;
    }
    let is_unknown = !is_back && matches!(journal.phase(), Phase::Switching | Phase::Switched);
    let undone = kms_migrate::undo(pair, &mut journal, &options, is_back, progress).await;
    let undone =
        undone.map_err(|error| if is_unknown { error.context("to do", SAY_THE_SIDE) } else { error })?;
    Document::of_abort(undone, journal.phase()).show(output)
}
