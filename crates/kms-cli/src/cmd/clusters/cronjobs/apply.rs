//! `kms cronjobs apply` and `prune`: changes the CronJobs in Kubernetes.

use kms_core::{Error, ErrorKind, Result};
use kms_rook::{
    JobMaker, Naming,
    client::{self, ApplyOptions, Change, LastRotation, Reason, Report},
};
use serde::Serialize;
use tracing::{error, warn};

use super::{
    is_wanted,
    options::{Job, Names},
    wanted, warn_of_withheld, why_unwanted,
};
use crate::{
    args::Files,
    cmd::clusters::source::Source,
    exit::Exit,
    output::{ErrorDocument, Format, Output, Tone, chain},
};

/// The arguments of `apply`.
#[derive(clap::Args, Debug)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    pub(super) files: Files,

    #[command(flatten)]
    job: Job,

    /// Take over fields that another program has set, such as those of CronJobs that Rook created
    #[arg(long)]
    force_conflicts: bool,

    /// Let the API server check every change, but change nothing
    #[arg(long)]
    dry_run: bool,
}

/// The arguments of `prune`.
#[derive(clap::Args, Debug)]
pub(crate) struct PruneArgs {
    #[command(flatten)]
    pub(super) files: Files,

    #[command(flatten)]
    names: Names,

    /// Delete the CronJobs of all OSDs
    #[arg(long)]
    all: bool,

    /// Let the API server check every deletion, but delete nothing
    #[arg(long)]
    dry_run: bool,
}

/// The changes that were made.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    dry_run: bool,
    cron_jobs: Vec<Entry>,
    faults: Vec<FaultEntry>,
    prune_held_back: bool,
}

/// One CronJob.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Entry {
    name: String,
    osd: u32,
    key: Option<String>,
    result: &'static str,
    reason: Option<&'static str>,
    error: Option<ErrorDocument>,
    rotated_at: Option<String>,
    generation: Option<u64>,
    outcome: Option<String>,
}

/// A Deployment that kms could not parse.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct FaultEntry {
    deployment: String,
    osd: Option<u32>,
    error: ErrorDocument,
}

/// Creates, updates and deletes CronJobs so that they match the OSDs.
pub(super) async fn apply(args: ApplyArgs, source: Source, output: &mut Output<'_>) -> Result<Exit> {
    let ApplyArgs { files: _, job, force_conflicts, dry_run } = args;
    let place = source.place()?;
    let options = job.options(&source).await?;
    let write = ApplyOptions::new().with_dry_run(dry_run).with_force_conflicts(force_conflicts);
    let mut report = prune_unwanted(&source, write).await?;
    if is_wanted(&source, options.naming) {
        let maker = JobMaker::new(&source.cluster, &options)?;
        warn_of_withheld(maker.withheld());
        let progress = output.progress();
        let seen = |done, all| progress.reached("CronJobs", done, all);
        report = client::apply(place, &maker, options.naming, write, &seen).await?.and(report);
    }
    let also = if is_wanted(&source, options.naming) {
        " and no encrypted OSDs on PVCs".to_owned()
    } else {
        format!("; {}", why_unwanted(options.naming))
    };
    warn_if_idle(&report, &source, &also);
    finish(report, dry_run, output)
}

/// Deletes the CronJobs that are no longer wanted.
pub(super) async fn prune(args: PruneArgs, source: Source, output: &mut Output<'_>) -> Result<Exit> {
    let PruneArgs { files: _, names, all, dry_run } = args;
    let write = ApplyOptions::new().with_dry_run(dry_run);
    let mut report = prune_unwanted(&source, write).await?;
    let naming = names.naming(&source)?;
    if is_wanted(&source, naming) {
        let reason = if all { Reason::Requested } else { Reason::OsdGone };
        report = client::prune(source.place()?, naming, reason, write).await?.and(report);
    }
    warn_if_idle(&report, &source, "");
    finish(report, dry_run, output)
}

/// Deletes the CronJobs whose names do not fit `keyRotation.enabled`. Otherwise each key would have two rotations.
async fn prune_unwanted(source: &Source, write: ApplyOptions) -> Result<Report> {
    let unwanted = wanted(source).other();
    let report = client::prune(source.place()?, unwanted, Reason::unwanted(unwanted), write).await?;
    if unwanted == Naming::BesideRook && !report.outcomes.is_empty() {
        warn!(
            "keyRotation.enabled is true, so Rook rotates these keys: {} CronJobs with names of our own have to go",
            report.outcomes.len()
        );
    }
    Ok(report)
}

/// Says what kms has looked at if it has found nothing to do.
fn warn_if_idle(report: &Report, source: &Source, also: &str) {
    if report.outcomes.is_empty() && report.faults.is_empty() {
        warn!("there is nothing to do: {} no CronJobs to delete{also}", source.place_has());
    }
}

/// Prints the changes. Fails if one of them has failed.
pub(super) fn finish(report: Report, dry_run: bool, output: &mut Output<'_>) -> Result<Exit> {
    let failed = report.first_error().map(|first| {
        let jobs =
            report.outcomes.iter().filter(|outcome| matches!(outcome.change, Change::Failed(_))).count();
        let hint = match first.kind() {
            ErrorKind::Conflict => {
                "; --force-conflicts takes over what others have set, and --beside-rook leaves it alone"
            }
            _ => "",
        };
        let counted = [
            (jobs, "CronJob", "failed"),
            (report.faults.len(), "OSD", "skipped; the CronJobs of skipped OSDs were not changed"),
        ];
        let counted = counted.into_iter().filter(|(count, ..)| *count > 0);
        let parts: Vec<_> = counted
            .map(|(count, what, done)| format!("{count} {what}{} {done}", if count == 1 { "" } else { "s" }))
            .collect();
        Error::new(first.kind(), format!("{}{hint}", parts.join(", ")))
    });
    if report.prune_held_back {
        warn!(
            "CronJobs whose OSD seems to be gone were left: one may belong to a Deployment that could not be parsed"
        );
    }
    match output.format() {
        Format::Json => output.json(&Document::of(report, dry_run))?,
        Format::Text => text(&report, dry_run, output)?,
    }
    failed.map_or(Ok(Exit::Done), Err)
}

/// The headings of the table, and the column of the results.
const HEAD: [&str; 5] = ["CRONJOB", "OSD", "KEY", "RESULT", "LAST ROTATION"];
const RESULT: usize = 3;

fn text(report: &Report, dry_run: bool, output: &mut Output<'_>) -> Result<()> {
    for outcome in &report.outcomes {
        if let Change::Failed(cause) = &outcome.change {
            error!("{}: {}", outcome.cron_job, chain(cause));
        }
    }
    for fault in &report.faults {
        error!("{}: {}", fault.deployment, chain(&fault.error));
    }
    let head = HEAD.map(str::to_owned);
    let row = |outcome: &client::Outcome| {
        let last = outcome.last_rotation.as_ref();
        let unknown = || "-".to_owned();
        let result = match (result(&outcome.change), dry_run) {
            (result, true) => format!("{result} (dry run)"),
            (result, false) => result.to_owned(),
        };
        [
            outcome.cron_job.clone(),
            outcome.osd_id.to_string(),
            outcome.key.clone().unwrap_or_else(unknown),
            result,
            last.and_then(|last| last.rotated_at.clone()).unwrap_or_else(unknown),
        ]
    };
    let rows: Vec<_> = std::iter::once(head).chain(report.outcomes.iter().map(row)).collect();
    output.states(&rows, RESULT, |result| match result {
        "RESULT" => None,
        failed if failed.starts_with("failed") => Some(Tone::Bad),
        _ => Some(Tone::Good),
    })
}

impl Document {
    fn of(report: Report, dry_run: bool) -> Self {
        let entry = |outcome: client::Outcome| {
            let last = outcome.last_rotation;
            let field = |get: fn(LastRotation) -> Option<String>| last.clone().and_then(get);
            Entry {
                osd: outcome.osd_id,
                key: outcome.key,
                result: result(&outcome.change),
                reason: outcome.reason.map(Reason::as_str),
                error: match &outcome.change {
                    Change::Failed(error) => Some(ErrorDocument::of(error)),
                    _ => None,
                },
                rotated_at: field(|last| last.rotated_at),
                outcome: field(|last| last.outcome),
                generation: last.and_then(|last| last.generation),
                name: outcome.cron_job,
            }
        };
        let fault = |fault: kms_rook::InvalidDeployment| FaultEntry {
            error: ErrorDocument::of(&fault.error),
            deployment: fault.deployment,
            osd: fault.osd_id,
        };
        Self {
            dry_run,
            cron_jobs: report.outcomes.into_iter().map(entry).collect(),
            faults: report.faults.into_iter().map(fault).collect(),
            prune_held_back: report.prune_held_back,
        }
    }
}

fn result(change: &Change) -> &'static str {
    match change {
        Change::Created => "created",
        Change::Changed => "changed",
        Change::Unchanged => "unchanged",
        Change::Deleted => "deleted",
        Change::Failed(_) => "failed",
        _ => "unknown",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use kms_rook::{InvalidDeployment, client::Outcome};

    use super::*;

    /// Prints a report that has every result once.
    pub(crate) fn printed(format: Format) -> (Result<Exit>, String) {
        let mut report = Report::default();
        let conflict = Error::new(ErrorKind::Conflict, "another program has set fields of it");
        for (id, change) in [
            (0, Change::Created),
            (1, Change::Changed),
            (2, Change::Unchanged),
            (3, Change::Deleted),
            (4, Change::Failed(conflict.context("object", "rook-ceph-osd-key-rotation-4"))),
        ] {
            let mut outcome = Outcome::new(format!("rook-ceph-osd-key-rotation-{id}"), id, change);
            if id < 2 {
                outcome.key = Some(format!("set1-data-{id}"));
            }
            outcome.reason = (id == 3).then_some(Reason::RookRotates);
            report.outcomes.push(outcome);
        }
        let noted = [
            ("key-rotated-at", "2026-01-31T12:00:00Z"),
            ("key-generation", "3"),
            ("key-rotation-outcome", "rotated"),
        ];
        let noted: BTreeMap<_, _> =
            noted.map(|(name, value)| (format!("kms.ceph.rook.io/{name}"), value.to_owned())).into();
        report.outcomes[1].last_rotation = LastRotation::of(&noted);
        for id in [Some(7), None] {
            report.faults.push(InvalidDeployment::new(
                "rook-ceph-osd-7",
                id,
                Error::config("it has no pod template").context("a", "b"),
            ));
        }
        report.prune_held_back = true;
        let mut bytes = Vec::new();
        let result = finish(report, true, &mut Output::to(format, &mut bytes));
        (result, String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn everything_is_reported_and_the_first_failure_gives_the_exit_code() {
        let (result, text) = printed(Format::Text);
        assert_eq!(
            text,
            "CRONJOB                       OSD  KEY          RESULT               LAST ROTATION\n\
             rook-ceph-osd-key-rotation-0  0    set1-data-0  created (dry run)    -\n\
             rook-ceph-osd-key-rotation-1  1    set1-data-1  changed (dry run)    2026-01-31T12:00:00Z\n\
             rook-ceph-osd-key-rotation-2  2    -            unchanged (dry run)  -\n\
             rook-ceph-osd-key-rotation-3  3    -            deleted (dry run)    -\n\
             rook-ceph-osd-key-rotation-4  4    -            failed (dry run)     -\n"
        );
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let message = "1 CronJob failed, 2 OSDs skipped; the CronJobs of skipped OSDs were not changed; \
                       --force-conflicts takes over";
        assert!(error.to_string().starts_with(message), "{error}");
        assert!(finish(Report::default(), false, &mut Output::to(Format::Json, std::io::sink())).is_ok());
    }
}
