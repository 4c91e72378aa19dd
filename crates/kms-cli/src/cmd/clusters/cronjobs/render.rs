//! `kms cronjobs render`: prints the CronJobs.

use kms_core::{Error, Result};
use kms_rook::{Discovery, JobMaker};
use tracing::warn;

use super::{List, is_wanted, options::Job, report_faults, value, warn_of_withheld, why_unwanted};
use crate::{
    args::Files,
    cmd::clusters::source::Source,
    exit::Exit,
    output::{Format, Output},
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) files: Files,

    #[command(flatten)]
    job: Job,
}

/// Prints the CronJobs.
pub(super) async fn run(args: Args, mut source: Source, output: &mut Output<'_>) -> Result<Exit> {
    let options = args.job.options(&source).await?;
    if !is_wanted(&source, options.naming) {
        return Err(Error::config(why_unwanted(options.naming)));
    }
    let Discovery { osds, faults, plain, .. } = source.osds().await?;
    let maker = JobMaker::new(&source.cluster, &options)?;
    warn_of_withheld(maker.withheld());
    if osds.is_empty() && faults.is_empty() {
        let plain =
            if plain == 0 { String::new() } else { format!(", and {plain} on PVCs that are not encrypted") };
        warn!("there are no CronJobs to print: {} no encrypted OSDs on PVCs{plain}", source.place_has());
    }
    let jobs: Vec<_> = osds.iter().map(|osd| maker.cron_job(osd)).collect();
    match output.format() {
        Format::Json => output.json(&List::of(jobs.iter().map(value).collect::<Result<_>>()?))?,
        // Serializes the objects themselves, which keeps the order of their fields; a `Value` would not.
        Format::Text => output.yaml(&jobs)?,
    }
    report_faults(&faults, osds.len() + faults.len())?;
    Ok(Exit::Done)
}
