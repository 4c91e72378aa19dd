//! `kms migrate`: moves the keys of a cluster from one KMS to another.

mod change;
mod cluster;
pub(crate) mod document;
mod ends;
pub(crate) mod progress;
mod proof;
mod sides;

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::{Subcommand, ValueEnum};
use kms_core::{KeyName, Result};
use kms_migrate::{Bytes, Journal, OnConflict, Options};

use self::{document::Document, proof::OnDevices, sides::Sides};
use crate::{
    args::{duration, key_name},
    cmd::{
        clusters::accounts::{Account, account_of_operator},
        devices::DATA_DIR,
        escrow::IdentityArgs,
    },
    exit::Exit,
    invocation::Invocation,
    output::Output,
    progress::Progress,
};

/// What a migration leaves as it is.
const OTHERS: &str =
    "CephObjectStores and ceph-csi have KMS settings of their own, which this migration does not change";

/// The arguments.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_required = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    step: Step,
}

/// The steps, in the order of a migration.
#[derive(Debug, Subcommand)]
enum Step {
    /// Look at both sides, and say what stands in the way; write nothing
    ///
    /// Reads every KEK of the source once. Shows the change of the CephCluster that switches it to the target. With --cluster, kms
    /// checks what the accounts of the operator and of the OSDs may do on both sides, by access reviews; if they log in to Vault by
    /// themselves, kms asks the API server for a token of each account, valid for ten minutes, and logs in with it.
    Plan(PlanArgs),
    /// Create every key of the source at the target
    ///
    /// An equal KEK at the target counts as done; another one stays, and fails the run. A run that was killed is resumed by
    /// the same command. The source is not changed.
    Copy(CopyArgs),
    /// Read both sides fresh, and compare every KEK; change nothing
    Verify(VerifyArgs),
    /// Switch the CephCluster to the target, after one more look at both sides
    ///
    /// With --cluster, kms holds all OSDs but the first back by Rook's label ceph.rook.io/do-not-reconcile, changes the
    /// CephCluster unless it has changed meanwhile, waits until the first OSD has restarted from the target, and then releases
    /// the others in batches. Rook reads the labels when it begins to look after the OSDs: if it does not begin by itself,
    /// restart its operator. The same command resumes. Without --cluster, kms prints the change, for you to apply.
    Cutover(CutoverArgs),
    /// Delete the keys of the source, after every OSD has restarted from the target
    ///
    /// A key stays if it has changed since kms migrate verify, if the target does not have it, or if no OSD of the cluster uses
    /// it. kms migrate abort is not possible afterwards.
    Finish(FinishArgs),
    /// Take the migration back: delete from the target what it has created there; leave the source unchanged
    ///
    /// If the CephCluster has been switched, kms switches it back first (with --cluster) and waits until every OSD has restarted
    /// from the source. A copy stays if it is not what the migration has written, or if the source no longer has the key.
    Abort(AbortArgs),
}

/// The arguments of every step.
#[derive(clap::Args, Debug)]
struct Both {
    /// The CephCluster as it is now, and the Secrets that it names: YAML or JSON; may be repeated
    #[arg(long, value_name = "FILE", required = true)]
    from: Vec<PathBuf>,

    /// The CephCluster as it will be, and the Secrets that it names; may be repeated
    #[arg(long, value_name = "FILE", required = true)]
    to: Vec<PathBuf>,

    /// How many keys to work on at a time [default: 8]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
}

/// The keys to work on.
#[derive(clap::Args, Debug, Default)]
struct Names {
    /// The keys to work on; without a name, all keys of the source
    #[arg(value_name = "NAME", value_parser = key_name)]
    names: Vec<KeyName>,
}

/// What to do about other KEKs at the target.
#[derive(clap::Args, Debug)]
struct Conflicts {
    /// What to do about a key that the target has with another KEK: leave it and fail, or replace it unless it changes meanwhile
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    on_conflict: Conflict,
}

/// The values of `--on-conflict`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Conflict {
    /// Replace the KEK of the target
    Replace,
    /// Leave the KEK of the target, and fail
    #[default]
    Stop,
}

/// The file that makes a migration resumable.
#[derive(clap::Args, Debug)]
struct JournalArg {
    /// The journal: names, states and versions of keys, and no KEK; kms migrate copy creates it
    #[arg(long, value_name = "FILE")]
    journal: PathBuf,
}

#[derive(clap::Args, Debug)]
struct PlanArgs {
    #[command(flatten)]
    both: Both,
    /// The journal of a migration that has begun, to show how far it is
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    conflicts: Conflicts,

    /// With --cluster: the service account of the Rook operator [default: rook-ceph-system in the namespace of the cluster]
    #[arg(long, value_name = "NAMESPACE[/ACCOUNT]", value_parser = account_of_operator)]
    operator: Option<Account>,
}

#[derive(clap::Args, Debug)]
struct CopyArgs {
    #[command(flatten)]
    both: Both,
    #[command(flatten)]
    journal: JournalArg,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    conflicts: Conflicts,
}

#[derive(clap::Args, Debug)]
struct VerifyArgs {
    #[command(flatten)]
    both: Both,
    #[command(flatten)]
    journal: JournalArg,
    #[command(flatten)]
    names: Names,
    /// How to prove that a key has arrived
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    proof: ProofArg,

    /// With --proof device: the folder where Rook keeps the data of OSDs on this host; may be repeated
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: Vec<PathBuf>,
}

/// The values of `--proof`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ProofArg {
    /// Compare the KEKs of both sides
    #[default]
    Bytes,
    /// Also open every device of the OSDs of this host with the KEK of the target, for a test that changes nothing
    Device,
}

/// How the OSDs restart.
#[derive(clap::Args, Debug)]
struct Restarts {
    /// How many OSDs to release at a time after the first one [default: 4]
    #[arg(long, value_name = "N")]
    batch: Option<NonZeroUsize>,

    /// How long to wait for OSDs to restart, before the command ends with exit code 5; the same command resumes
    #[arg(long, value_name = "D", value_parser = duration, default_value = "30m")]
    wait: Duration,
}

#[derive(clap::Args, Debug)]
struct CutoverArgs {
    #[command(flatten)]
    both: Both,
    #[command(flatten)]
    journal: JournalArg,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    restarts: Restarts,
}

#[derive(clap::Args, Debug)]
struct FinishArgs {
    #[command(flatten)]
    both: Both,
    #[command(flatten)]
    journal: JournalArg,

    /// The folder of an escrow of the target's keys; with -i, a key stays unless the escrow has its KEK
    #[arg(long, value_name = "DIR")]
    escrow: PathBuf,

    #[command(flatten)]
    identities: IdentityArgs,

    /// Without --cluster: every OSD that uses one of the verified keys, in every cluster, has restarted from the target, as you have seen
    #[arg(long)]
    osds_have_restarted: bool,

    /// Delete for good where the source could bring a deleted key back
    #[arg(long)]
    destroy: bool,
}

#[derive(clap::Args, Debug)]
struct AbortArgs {
    #[command(flatten)]
    both: Both,
    #[command(flatten)]
    journal: JournalArg,
    #[command(flatten)]
    restarts: Restarts,

    /// Without --cluster, after a switch: the CephCluster uses the source and every OSD has restarted from it, as you have seen
    #[arg(long)]
    source_is_in_use: bool,
}

impl Both {
    /// Begins a step: reads both sides, and what to do with which keys.
    fn begin(
        &self,
        invocation: &Invocation<'_>,
        names: Names,
        conflict: Conflict,
    ) -> Result<(Sides, Options)> {
        let sides = Sides::read(invocation, &self.from, &self.to)?;
        let mut options = Options::default();
        options.jobs = self.jobs.unwrap_or(options.jobs);
        options.only = names.names.into_iter().collect();
        options.on_conflict = match conflict {
            Conflict::Replace => OnConflict::Replace,
            Conflict::Stop => OnConflict::Stop,
        };
        options.decodes_base64 = sides.target_decodes_base64()?;
        Ok((sides, options))
    }

    /// Begins a step after an earlier one, whose journal it opens.
    fn begin_with_journal(
        &self,
        invocation: &Invocation<'_>,
        names: Names,
        journal: &JournalArg,
    ) -> Result<(Sides, Options, Journal)> {
        let (sides, options) = self.begin(invocation, names, Conflict::Stop)?;
        let journal = sides.journal(&journal.journal)?;
        Ok((sides, options, journal))
    }
}

/// Runs a step.
pub(crate) async fn run(args: Args, invocation: &Invocation<'_>, output: &mut Output<'_>) -> Result<Exit> {
    let progress = output.progress();
    match args.step {
        Step::Plan(args) => plan(args, invocation, &progress, output).await,
        Step::Copy(args) => copy(args, invocation, &progress, output).await,
        Step::Verify(args) => verify(args, invocation, &progress, output).await,
        Step::Cutover(args) => ends::cutover(args, invocation, &progress, output).await,
        Step::Finish(args) => ends::finish(args, invocation, &progress, output).await,
        Step::Abort(args) => ends::abort(args, invocation, &progress, output).await,
    }
}

async fn plan(
    args: PlanArgs,
    invocation: &Invocation<'_>,
    progress: &Progress,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let (sides, options) = args.both.begin(invocation, args.names, args.conflicts.on_conflict)?;
    let journal = args.journal.filter(|path| path.exists()).map(|path| sides.journal(&path)).transpose()?;
    let both = sides.connect().await?;
    let mut found = kms_migrate::plan(both.pair(), &options, progress).await?;
    sides.add_rotation(&found.names, &mut found.stops).await?;
    ends::add_cluster(&sides, args.operator.as_ref(), invocation, &mut found).await?;
    found.notes.extend(sides.notes()?);
    found.notes.push(OTHERS.to_owned());
    Document::of_plan(found, journal.map(|journal| journal.phase()), sides.change()?).show(output)
}

async fn copy(
    args: CopyArgs,
    invocation: &Invocation<'_>,
    progress: &Progress,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let (sides, options) = args.both.begin(invocation, args.names, args.conflicts.on_conflict)?;
    let both = sides.connect_to_write().await?;
    let [from, to] = sides.places()?;
    let mut journal = Journal::open_or_create(&args.journal.journal, &from, &to)?;
    let copied = kms_migrate::copy(both.pair(), &mut journal, &options, progress).await?;
    let notes = sides.notes()?;
    Document::of_copy(copied, journal.phase(), notes).show(output)
}

async fn verify(
    args: VerifyArgs,
    invocation: &Invocation<'_>,
    progress: &Progress,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let VerifyArgs { both, journal, names, proof, data_dir } = args;
    let (sides, options, mut journal) = both.begin_with_journal(invocation, names, &journal)?;
    let (connected, jobs) = (sides.connect().await?, both.jobs);
    let pair = connected.pair();
    let (verified, devices) = match proof {
        ProofArg::Bytes => (kms_migrate::verify(pair, &mut journal, &options, &Bytes, progress).await?, None),
        ProofArg::Device => {
            let proof = OnDevices::find(
                connected.target(),
                &data_dir,
                sides.kube_namespace(),
                &invocation.cryptsetup(),
                jobs,
            )?;
            let verified = kms_migrate::verify(pair, &mut journal, &options, &proof, progress).await?;
            (verified, Some(proof.opened()))
        }
    };
    Document::of_verify(verified, journal.phase(), devices).show(output)
}
