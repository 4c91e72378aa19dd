//! `kms migrate`: moves the keys of a cluster from one KMS to another.

mod change;
pub(crate) mod document;
pub(crate) mod progress;
mod sides;

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{Subcommand, ValueEnum};
use kms_core::{KeyName, Result};
use kms_migrate::{Bytes, Journal, OnConflict, Options};

use self::{document::Document, progress::Lines, sides::Sides};
use crate::{args::key_name, exit::Exit, invocation::Invocation, output::Output};

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
    /// Reads every KEK of the source once. Shows the change of the CephCluster that switches it to the target.
    Plan(PlanArgs),
    /// Create every key of the source at the target
    ///
    /// An equal KEK at the target counts as done; another one stays, and fails the run. A run that was killed is resumed by
    /// the same command. The source is not changed.
    Copy(CopyArgs),
    /// Read both sides fresh, and compare every KEK; change nothing
    Verify(VerifyArgs),
    /// Delete from the target what the migration has created there; leave the source unchanged
    ///
    /// A copy stays if it is not what the migration has written, or if the source no longer has the key.
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
#[derive(clap::Args, Debug)]
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
}

/// The values of `--proof`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ProofArg {
    /// Compare the KEKs of both sides
    #[default]
    Bytes,
}

#[derive(clap::Args, Debug)]
struct AbortArgs {
    #[command(flatten)]
    both: Both,
    #[command(flatten)]
    journal: JournalArg,
}

impl Both {
    fn options(&self, names: Names, conflict: Conflict) -> Options {
        let mut options = Options::default();
        options.jobs = self.jobs.unwrap_or(options.jobs);
        options.only = names.names.into_iter().collect();
        options.on_conflict = match conflict {
            Conflict::Replace => OnConflict::Replace,
            Conflict::Stop => OnConflict::Stop,
        };
        options
    }
}

/// Runs a step.
pub(crate) async fn run(args: Args, invocation: &Invocation<'_>, output: &mut Output<'_>) -> Result<Exit> {
    let progress = Lines::new(invocation.global.quiet, output.format());
    match args.step {
        Step::Plan(args) => plan(args, invocation, &progress, output).await,
        Step::Copy(args) => copy(args, invocation, &progress, output).await,
        Step::Verify(args) => verify(args, invocation, &progress, output).await,
        Step::Abort(args) => abort(args, invocation, &progress, output).await,
    }
}

async fn plan(
    args: PlanArgs,
    invocation: &Invocation<'_>,
    progress: &Lines,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let sides = Sides::read(invocation, &args.both.from, &args.both.to)?;
    let options = sides.options(args.both.options(args.names, args.conflicts.on_conflict))?;
    let journal = args.journal.filter(|path| path.exists()).map(|path| sides.journal(&path)).transpose()?;
    let both = sides.connect().await?;
    let mut found = kms_migrate::plan(both.pair(), &options, progress).await?;
    sides.add_rotation(&found.names, &mut found.stops).await?;
    found.notes.extend(sides.notes()?);
    Document::of_plan(found, journal.map(|journal| journal.phase()), sides.change()?).show(output)
}

async fn copy(
    args: CopyArgs,
    invocation: &Invocation<'_>,
    progress: &Lines,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let sides = Sides::read(invocation, &args.both.from, &args.both.to)?;
    let options = sides.options(args.both.options(args.names, args.conflicts.on_conflict))?;
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
    progress: &Lines,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let VerifyArgs { both, journal, names, proof: ProofArg::Bytes } = args;
    let sides = Sides::read(invocation, &both.from, &both.to)?;
    let options = sides.options(both.options(names, Conflict::Stop))?;
    let mut journal = sides.journal(&journal.journal)?;
    let both = sides.connect().await?;
    let verified = kms_migrate::verify(both.pair(), &mut journal, &options, &Bytes, progress).await?;
    Document::of_verify(verified, journal.phase()).show(output)
}

async fn abort(
    args: AbortArgs,
    invocation: &Invocation<'_>,
    progress: &Lines,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let sides = Sides::read(invocation, &args.both.from, &args.both.to)?;
    let options = sides.options(args.both.options(Names { names: Vec::new() }, Conflict::Stop))?;
    let mut journal = sides.journal(&args.journal.journal)?;
    let both = sides.connect_to_write().await?;
    let undone = kms_migrate::undo(both.pair(), &mut journal, &options, false, progress).await?;
    Document::of_abort(undone, journal.phase()).show(output)
}
