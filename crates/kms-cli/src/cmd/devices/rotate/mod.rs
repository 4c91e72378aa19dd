//! `kms rotate`: a new KEK for one OSD, or for all that this host has.

pub(crate) mod all;
pub(crate) mod document;
mod find;
mod journal;
#[cfg(feature = "k8s-secret")]
mod kubernetes;
mod metrics;
mod one;
mod progress;
mod sink;

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use kms_core::{KeyName, KmsProvider, Result};
use kms_luks::{Cryptsetup, OsdFolder};
use kms_rotation::{Options, Osd, SightFolder};
use tracing::warn;

#[cfg(feature = "k8s-secret")]
pub(crate) use self::kubernetes::at_deployments;
#[cfg(test)]
pub(crate) use self::progress::OsdEnded;
#[cfg(not(feature = "k8s-secret"))]
pub(crate) use self::sink::at_deployments;
pub(crate) use self::{
    document::headline,
    one::{refused, rotate_one},
    progress::Rotation,
    sink::ResultSink,
};
use crate::{
    args::{Files, duration, key_name},
    cmd::devices::{DATA_DIR, compared},
    exit::Exit,
    input,
    output::Output,
    rook::Rook,
};

/// Where this host keeps from run to run what was seen of key slots. It is empty after a restart of the host.
const SIGHTS: &str = "/run/kms";
/// What to do where the OSDs of the host cannot be found.
const NAME_OSDS: &str = "name the folder of Rook's data with --data-dir, or the OSDs with --list";
/// The default number of OSDs that are rotated at a time, unless there are fewer processors.
const MOST_JOBS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) files: Files,

    /// The name of the key, which is the name of the OSD's data PVC
    #[arg(value_name = "NAME", value_parser = key_name, required_unless_present = "all", requires = "device")]
    name: Option<KeyName>,

    /// The device of the data
    #[arg(value_name = "DEVICE")]
    device: Option<PathBuf>,

    /// The device of the metadata, if the OSD has one
    #[arg(value_name = "METADATA")]
    metadata: Option<PathBuf>,

    /// The device of the write-ahead log, if the OSD has one
    #[arg(value_name = "WAL")]
    wal: Option<PathBuf>,

    /// Show what kms would do, after every check that writes nothing
    #[arg(long)]
    dry_run: bool,

    /// For how long the old KEK stays valid: 600, 10m, 0 [default: 10m]
    ///
    /// An OSD that has already fetched the old KEK can still start meanwhile. 0 ends it at once. With Key Vault, Key Protect and KV version 1 it is at least two minutes, since a late write may bring the old KEK back. Key slots that another run left must have stayed unchanged for this long, and at least two minutes, since Rook may be at work on them. Without --grace the slots of an earlier rotation stay as long as the --grace of that rotation says, if this host remembers it.
    #[arg(long, value_name = "D", value_parser = duration)]
    grace: Option<Duration>,

    /// End before the old key slots are removed; a later run removes them
    ///
    /// kms does not wait for the end of the grace period. The host keeps in /run/kms since when the key slots are unchanged. A later run with --no-wait removes the old ones only if that is long enough; where /run does not last from run to run, only a run that waits removes them.
    #[arg(long)]
    no_wait: bool,

    /// Only remove the leftover slots of an earlier run; make no new KEK
    ///
    /// kms removes them after they have stayed unchanged for the grace period.
    #[arg(long)]
    finish: bool,

    /// Destroy or disable the superseded versions that the KMS keeps
    #[arg(long)]
    destroy_superseded: bool,

    /// Rotate although Rook may rotate too, which can lose a device
    ///
    /// Two rotations of the same key at the same time can leave a device that no stored KEK opens.
    #[arg(long)]
    even_if_rook_rotates: bool,

    /// Write results and times into this file, for Prometheus
    ///
    /// The file never holds a KEK. kms replaces the whole file, and keeps its lines about other keys.
    #[arg(long, value_name = "FILE")]
    metrics_file: Option<PathBuf>,

    #[command(flatten)]
    all: All,
}

/// The arguments about many OSDs.
#[derive(clap::Args, Debug)]
struct All {
    /// Rotate every encrypted OSD on a PVC of this host
    #[arg(long, conflicts_with = "name")]
    all: bool,

    /// A folder of Rook's data; may be repeated
    #[arg(long, value_name = "DIR", default_value = DATA_DIR, conflicts_with = "name")]
    data_dir: Vec<PathBuf>,

    /// Take the OSDs from lines of NAME DEVICE [METADATA] [WAL] in this file
    ///
    /// `-` reads standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "data_dir"])]
    list: Option<PathBuf>,

    /// How many OSDs to rotate at a time
    #[arg(long, value_name = "N", conflicts_with = "name")]
    jobs: Option<NonZeroUsize>,

    /// Record finished OSDs in this file, and skip those that it names
    ///
    /// kms removes the file when all OSDs are done. It also removes it when a run that resumes finishes no further OSD: the next run then rotates all of them again.
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    resume: Option<PathBuf>,
}

impl Args {
    fn options(&self, options: Options) -> Options {
        let mut options = options.with_sights(Arc::new(SightFolder::new(SIGHTS)));
        options.grace = self.grace.unwrap_or(options.grace);
        options.inherit_grace = self.grace.is_none();
        options.wait = !self.no_wait;
        options.finish_only = self.finish;
        options.destroy_superseded = self.destroy_superseded;
        options.dry_run = self.dry_run;
        options
    }

    /// Returns the sinks for results: those of the host, and the file of metrics. Opens the file before a rotation begins,
    /// so that a wrong path fails early. A dry run has no results.
    fn sinks(&self, mut sinks: Vec<Box<dyn ResultSink>>) -> Result<Vec<Box<dyn ResultSink>>> {
        if self.dry_run {
            return Ok(Vec::new());
        }
        if let Some(path) = &self.metrics_file {
            sinks.push(Box::new(metrics::Metrics::open(path)?));
        }
        Ok(sinks)
    }
}

/// The host whose OSDs are rotated, and how progress is shown.
pub(crate) struct Host<'a> {
    pub(crate) cryptsetup: Cryptsetup,
    /// The namespace of the cluster, if it is known. kms ignores OSDs in other namespaces.
    pub(crate) kube_namespace: Option<&'a str>,
    /// The Rook cluster of its OSDs.
    pub(crate) rook: Rook,
    /// The options of a rotation, before those of the command line.
    pub(crate) options: Options,
    /// The places for results outside of the host.
    pub(crate) sinks: Vec<Box<dyn ResultSink>>,
}

/// Rotates one OSD or all OSDs.
pub(crate) async fn run(
    args: Args,
    host: Host<'_>,
    connect: impl AsyncFnOnce() -> Result<Arc<dyn KmsProvider>>,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let (options, mut sinks) = (args.options(host.options), args.sinks(host.sinks)?);
    let progress = Rotation::new(output.progress());
    match (args.name, args.device) {
        (Some(name), Some(device)) => {
            let paths = [Some(device), args.metadata, args.wal].into_iter().flatten();
            let osd = Osd::new(name, host.cryptsetup.devices(paths))?;
            let name = osd.name().clone();
            let checked = async {
                if !args.even_if_rook_rotates {
                    host.rook.check_rotation(&[&name]).await?;
                }
                compared(osd, &host.rook.deployments(Some(&name)).await, &args.all.data_dir)
            };
            let osd = match checked.await {
                Ok(osd) => osd,
                Err(error) => return Err(refused(&[&name], error, &mut sinks).await),
            };
            let kms = connect().await?;
            let report = rotate_one(&*kms, &osd, &options, &progress, &mut sinks).await?;
            document::show(&report, output)?;
            Ok(document::exit(&report, &options))
        }
        _ => {
            let All { data_dir, list, .. } = &args.all;
            let found = match list {
                Some(list) => {
                    let listed = find::listed(list, &host.cryptsetup)?;
                    let deployments = host.rook.deployments(None).await;
                    let compare = |osd: Osd| (osd.name().clone(), compared(osd, &deployments, data_dir));
                    listed.into_iter().map(compare).collect()
                }
                None => {
                    let folders = OsdFolder::find(data_dir, host.kube_namespace)
                        .map_err(|error| error.context("to do", NAME_OSDS))?;
                    find::in_folders(folders, &host.rook.deployments(None).await, &host.cryptsetup)
                }
            };
            if found.is_empty() {
                let looked_at = match list {
                    Some(list) => format!("the list {}", input::name(list)),
                    None => {
                        let folders: Vec<_> = data_dir.iter().map(|dir| dir.display().to_string()).collect();
                        format!("the folder {}", folders.join(", "))
                    }
                };
                warn!("there is nothing to rotate: {looked_at} has no encrypted OSDs on PVCs");
            }
            if !args.even_if_rook_rotates {
                let names: Vec<&KeyName> = found.iter().map(|(name, _)| name).collect();
                if let Err(error) = host.rook.check_rotation(&names).await {
                    return Err(refused(&names, error, &mut sinks).await);
                }
            }
            let jobs = args.all.jobs.unwrap_or_else(|| {
                std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN).min(MOST_JOBS)
            });
            let journal = args.all.resume.filter(|_| !options.dry_run);
            let journal = journal.as_deref().map(journal::Journal::open).transpose()?;
            let kms = connect().await?;
            let run = all::All { options: &options, jobs, sinks, journal };
            run.run(&*kms, found, &progress, output).await
        }
    }
}
