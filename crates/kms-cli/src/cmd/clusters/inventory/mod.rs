//! `kms inventory`: shows every OSD beside its key, and what is wrong with them.

pub(crate) mod document;
mod html;
pub(crate) mod prune;
mod sources;

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{Subcommand, ValueEnum};
use kms_core::{Error, Result};
use kms_rook::inventory::{Facts, Inventory, State};

pub(crate) use self::sources::CLAIM;
use self::{
    document::Document,
    sources::{Devices, Found},
};
use crate::{
    args::{Files, duration},
    cmd::devices::DATA_DIR,
    exit::Exit,
    invocation::Invocation,
    output::Output,
};

/// The arguments.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    files: Files,

    /// Try the KEK of each OSD of this host on all devices of the OSD
    #[arg(long)]
    devices: bool,

    /// A key whose current version is older than this is stale: 90d, 2160h
    #[arg(long, value_name = "AGE", value_parser = duration)]
    older_than: Option<Duration>,

    /// Fail with exit code 1 if an OSD or a key is in one of these states, or if a source does not tell enough to exclude it
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_enum)]
    fail_on: Vec<FailOn>,

    /// The folder where Rook keeps the data of OSDs on this host; may be repeated
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: Vec<PathBuf>,
}

/// What can be done with an inventory.
#[derive(Debug, Subcommand)]
enum Command {
    /// Delete keys that no OSD and no PVC uses, once an escrow of them was read back
    ///
    /// Without --yes nothing is deleted. No key is deleted unless all OSDs, all PVCs and all keys are known, with --cluster
    /// or from files with all objects. A key that is used or has changed since is kept. Only keys are deleted, never
    /// other objects of Rook.
    Prune(prune::Args),
}

impl Args {
    pub(crate) fn files(&mut self) -> &mut Files {
        match &mut self.command {
            Some(Command::Prune(args)) => &mut args.files,
            None => &mut self.files,
        }
    }
}

/// The states that `--fail-on` accepts.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum FailOn {
    /// An OSD whose key the KMS does not have
    Missing,
    /// A device that the current KEK does not open (with --devices)
    Mixed,
    /// A key without an OSD and without a PVC
    Orphan,
    /// A key that is older than --older-than
    Stale,
}

impl From<FailOn> for State {
    fn from(state: FailOn) -> Self {
        match state {
            FailOn::Missing => Self::Missing,
            FailOn::Mixed => Self::Mixed,
            FailOn::Orphan => Self::Orphan,
            FailOn::Stale => Self::Stale,
        }
    }
}

/// Shows the inventory. A source that fails is a gap: the rest is shown, and then the command fails as that source did.
pub(crate) async fn run(args: Args, invocation: &Invocation<'_>, output: &mut Output<'_>) -> Result<Exit> {
    // The files have been taken out already.
    let Args { command, files: _, devices, older_than, fail_on, data_dir } = args;
    if let Some(Command::Prune(args)) = command {
        return prune::run(args, invocation, output).await;
    }
    let wanted: Vec<State> = fail_on.into_iter().map(State::from).collect();
    for (state, is_given, option) in
        [(State::Mixed, devices, "--devices"), (State::Stale, older_than.is_some(), "--older-than")]
    {
        if wanted.contains(&state) && !is_given {
            return Err(Error::config(format!(
                "--fail-on {state} finds nothing without {option}: give it too"
            )));
        }
    }
    let Found { target, provider, facts, devices, .. } =
        Found::read(invocation, &data_dir, devices.then_some(&output.progress())).await?;
    let seen = Seen { cluster: target.cluster_name(), provider, facts, devices };
    show(seen, SystemTime::now(), older_than, &wanted, output)
}

/// What is shown.
struct Seen {
    cluster: Option<String>,
    provider: &'static str,
    facts: Facts,
    devices: Devices,
}

fn show(
    seen: Seen,
    now: SystemTime,
    older_than: Option<Duration>,
    fail_on: &[State],
    output: &mut Output<'_>,
) -> Result<Exit> {
    let Seen { cluster, provider, facts, devices } = seen;
    let inventory = Inventory::new(facts, now, older_than);
    let document = Document::new(cluster.as_deref(), provider, &inventory, &devices);
    if output.is_html() {
        output.line(html::page(&document, &inventory.rows, now))?;
    } else {
        document.show(&inventory, now, output)?;
    }
    let failed = inventory.gaps.iter().find_map(|gap| gap.error.as_ref()).map(Exit::of);
    let excluded = inventory.cannot_exclude(fail_on).is_empty();
    Ok(failed.unwrap_or(if excluded { Exit::Done } else { Exit::Failed }))
}

#[cfg(test)]
pub(crate) mod tests {
    use kms_core::{ErrorKind, KeyInfo, KeyName, KeyVersion};
    use kms_rook::inventory::{Gap, OsdFacts, Source};
    use kms_rotation::DeviceCheck;

    use super::*;
    use crate::{
        cmd::devices::verify::DeviceDocument,
        output::{Format, OutputFormat},
    };

    fn name(text: &str) -> KeyName {
        text.parse().unwrap()
    }

    /// Two OSDs, one without a key and one with a device that does not open; and a key whose OSD is not known.
    fn seen() -> Seen {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * 100);
        let key = |text| {
            KeyInfo::new(name(text)).with_version(KeyVersion::new("3")).with_times(Some(now), Some(now))
        };
        let osds = ["set1-data-0", "set1-data-1"].into_iter().zip(0..).map(|(key, id)| {
            let mut osd = OsdFacts::on_host(Some(id), name(key), Some("node-a".to_owned()));
            osd.deployment = Some(format!("rook-ceph-osd-{id}"));
            (osd.rotated, osd.outcome) = (Some(now), Some("rotated".to_owned()));
            osd
        });
        let denied = Error::new(ErrorKind::PermissionDenied, "no right to list PVCs");
        let facts = Facts {
            osds: osds.collect(),
            keys: vec![key("set1-data-0"), key("set9-data-0")],
            claims: ["set1-data-0".to_owned()].into(),
            devices: [(name("set1-data-0"), Some("no slot".to_owned()))].into(),
            gaps: vec![Gap::failed(Source::Claims, "no right", denied), Gap::new(Source::Nodes, "not given")],
        };
        let opens = |slot| DeviceCheck::new("/dev/a", slot);
        let devices = [
            opens(Ok(kms_rotation::Slot::PAIR[0])),
            opens(Err(Error::new(ErrorKind::Conflict, "no slot").context("device", "/dev/a"))),
        ];
        let devices = devices.iter().map(DeviceDocument::of).collect();
        let cluster = Some("rook-ceph/my-cluster".to_owned());
        Seen { cluster, provider: "vault", facts, devices: [(name("set1-data-0"), devices)].into() }
    }

    /// The output, and the exit code.
    pub(crate) fn printed(format: impl Into<OutputFormat>) -> (Exit, String) {
        let mut bytes = Vec::new();
        let mut output = Output::to(format, &mut bytes);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * 107);
        let exit = show(seen(), now, None, &[], &mut output).unwrap();
        drop(output);
        (exit, String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn the_table_has_a_row_for_each_and_says_why_and_what_is_not_known() {
        let (exit, text) = printed(Format::Text);
        let lines: Vec<_> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "OSD NAME NODE VERSION AGE ROTATED STATE",
                "0 set1-data-0 node-a 3 7d 7d mixed",
                "1 set1-data-1 node-a - - 7d missing",
                "- set9-data-0 - 3 7d - unknown",
                "mixed: set1-data-0: no slot",
                "missing: set1-data-1: the KMS has no key of this name",
                "unknown: set9-data-0: no OSD is known to use it, but not all pvcs are known",
                "3 rows: 1 missing, 1 mixed, 1 unknown",
                "INCOMPLETE: pvcs: no right",
                "INCOMPLETE: nodes: not given",
            ]
        );
        // The exit code is that of the source that failed.
        assert_eq!(exit, Exit::Denied);
    }

    #[test]
    fn the_page_runs_nothing_and_shows_names_as_text() {
        let (exit, text) = printed(OutputFormat::Html);
        assert_eq!(exit, Exit::Denied);
        for part in
            ["<title>Keys of rook-ceph/my-cluster</title>", "✗ mixed", "<strong>pvcs</strong>: no right"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        for part in ["<script", "src=", "href=", "url(", "@import"] {
            assert!(!text.contains(part), "{part}: {text}");
        }
        let mut seen = seen();
        seen.facts.osds[0].node = Some("<img src=x onerror=alert(1)>".to_owned());
        let mut bytes = Vec::new();
        show(seen, SystemTime::UNIX_EPOCH, None, &[], &mut Output::to(OutputFormat::Html, &mut bytes))
            .unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains("&lt;img src=x") && !text.contains("<img"), "{text}");
    }

    #[test]
    fn a_state_that_occurs_fails_if_it_is_named() {
        for (state, exit) in [(State::Missing, Exit::Failed), (State::Stale, Exit::Done)] {
            let mut seen = seen();
            seen.facts.gaps.clear();
            let mut output = Output::to(Format::Json, Vec::new());
            let now = SystemTime::UNIX_EPOCH;
            assert_eq!(show(seen, now, None, &[state], &mut output).unwrap(), exit, "{state}");
        }
    }
}
