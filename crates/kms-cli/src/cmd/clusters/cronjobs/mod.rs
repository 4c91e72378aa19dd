//! `kms cronjobs`: one CronJob for each encrypted OSD.

pub(crate) mod apply;
mod render;

use std::time::Duration;

use clap::{Subcommand, builder::NonEmptyStringValueParser};
use kms_core::{Error, Result};
use kms_rook::{InvalidDeployment, JobOptions, Naming};
use tracing::{error, warn};

use crate::{
    args::{Files, Global, duration},
    cmd::clusters::source::Source,
    exit::Exit,
    output::{Output, chain},
};

/// The default image of the CronJobs.
const IMAGE: &str = concat!("rook-kms/kms:v", env!("CARGO_PKG_VERSION"));

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Cronjobs,
}

/// What can be done with CronJobs.
#[derive(Debug, Subcommand)]
enum Cronjobs {
    /// Print the CronJobs for the OSDs in files or in Kubernetes; change nothing
    Render(render::Args),
    /// Create, update and delete CronJobs in Kubernetes so that they match the OSDs
    ///
    /// kms also deletes each CronJob whose OSD is gone, and all CronJobs if keyRotation is not enabled.
    Apply(apply::ApplyArgs),
    /// Delete each CronJob whose OSD is gone, and all CronJobs if keyRotation is not enabled
    Prune(apply::PruneArgs),
}

impl Args {
    pub(crate) fn files(&mut self) -> &mut Files {
        match &mut self.command {
            Cronjobs::Render(args) => &mut args.files,
            Cronjobs::Apply(args) => &mut args.files,
            Cronjobs::Prune(args) => &mut args.files,
        }
    }
}

/// How a CronJob is made.
#[derive(clap::Args, Debug)]
struct Job {
    /// The image that the CronJobs run; it must contain kms and cryptsetup, as the image of deploy/Containerfile does
    #[arg(long, value_name = "IMAGE", default_value = IMAGE, value_parser = NonEmptyStringValueParser::new())]
    image: String,

    /// The service account of the CronJobs [default: the service account of the OSD]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    service_account: Option<String>,

    /// How long the old KEK still opens the devices after a rotation: 5m, 90s [default: as in kms rotate]
    #[arg(long, value_name = "D", value_parser = duration)]
    grace: Option<Duration>,

    /// Keep superseded KEKs in Key Protect or on a KMIP server; by default the CronJobs destroy them after the grace period
    #[arg(long)]
    keep_superseded: bool,

    #[command(flatten)]
    names: Names,
}

/// Whose names the CronJobs have.
#[derive(clap::Args, Debug)]
struct Names {
    /// Give the CronJobs other names and labels than Rook's, for a cluster where keyRotation is not enabled
    ///
    /// While keyRotation is not enabled, Rook deletes every CronJob that has its label. With --beside-rook the CronJobs
    /// lack that label, so Rook leaves them alone.
    #[arg(long)]
    beside_rook: bool,
}

impl Names {
    fn naming(&self) -> Naming {
        if self.beside_rook { Naming::BesideRook } else { Naming::Rook }
    }
}

impl Job {
    fn options(&self) -> JobOptions {
        let options = JobOptions::new(&self.image).with_naming(self.names.naming());
        let options = match &self.service_account {
            Some(name) => options.with_service_account(name),
            None => options,
        };
        let options = if self.keep_superseded { options.with_destroy_superseded(false) } else { options };
        match self.grace {
            Some(grace) => options.with_grace(grace),
            None => options,
        }
    }
}

/// Runs the subcommand.
pub(crate) async fn run(args: Args, global: &Global, output: &mut Output<'_>) -> Result<Exit> {
    let source = Source::read(global).await?;
    match args.command {
        Cronjobs::Render(args) => render::run(args, source, output).await,
        Cronjobs::Apply(args) => apply::apply(args, source, output).await,
        Cronjobs::Prune(args) => apply::prune(args, source, output).await,
    }
}

/// The names that the CronJobs of the cluster should have.
fn wanted(source: &Source) -> Naming {
    Naming::wanted(source.cluster.security.key_rotation.enabled)
}

/// Whether the cluster should have CronJobs of these names.
fn is_wanted(source: &Source, naming: Naming) -> bool {
    naming == wanted(source)
}

fn warn_of_withheld(settings: &[String]) {
    if !settings.is_empty() {
        warn!(
            "connectionDetails has credentials in clear, which are put into no pod, since every account that may read pods \
             could read them; kms takes them from the CephCluster; move them into a Secret: {}",
            settings.join(", ")
        );
    }
}

/// Logs the faults of single OSDs. The error has their number and the kind of the first one.
///
/// # Errors
///
/// One error for all faults, if there are any.
fn report_faults(faults: &[InvalidDeployment], of: usize) -> Result<()> {
    for fault in faults {
        error!("{}: {}", fault.deployment, chain(&fault.error));
    }
    match faults.first() {
        None => Ok(()),
        Some(first) => Err(Error::new(
            first.error.kind(),
            format!("{} of {of} Deployments of OSDs could not be parsed", faults.len()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kms_core::{Capability, SecuritySpec};
    use kms_kube::CephClusterSpec;
    use kms_rook::{JobMaker, Osd};

    use super::*;
    use crate::cmd::clusters::{Command, tests::parsed};

    fn fixture<T: serde::de::DeserializeOwned>(case: &str, file: &str) -> T {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kms-rook/tests/fixtures/rook");
        serde_json::from_str(&std::fs::read_to_string(folder.join(case).join(file)).unwrap()).unwrap()
    }

    #[test]
    fn what_a_cron_job_runs_is_what_the_program_takes() {
        for case in ["default", "vault-token", "vault-kubernetes", "vault-tls", "ibm", "kmip", "azure"] {
            let cluster = CephClusterSpec::new(fixture::<SecuritySpec>(case, "security.json"));
            let osd = Osd::of(&fixture(case, "osd-deployment.json")).unwrap().unwrap();
            let usual = JobOptions::new(IMAGE);
            for options in [usual.clone(), usual.with_grace(Duration::ZERO)] {
                let maker = JobMaker::with_capability(&cluster, &options, Capability::full()).unwrap();
                let job = maker.cron_job(&osd).spec.job_template.spec.unwrap();
                let [container] = job.template.spec.unwrap().containers.try_into().unwrap();
                let line = [container.command.unwrap(), container.args.unwrap()].concat();
                let command = parsed(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
                assert!(matches!(command, Command::KeyManagement(_)), "{line:?}");
            }
        }
    }

    /// The manifests of `deploy/` pass arguments that the program accepts.
    #[test]
    fn what_is_deployed_is_what_the_program_takes() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/cronjob-manager.yaml");
        let text = std::fs::read_to_string(file).unwrap();
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text).unwrap();
        let job = documents.iter().find(|document| document["kind"] == "CronJob").unwrap();
        let container = &job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0];
        let args = container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
        let line: Vec<_> = std::iter::once("kms").chain(args).map(str::to_owned).collect();
        let command = parsed(&line).unwrap();
        assert!(matches!(command, Command::Cronjobs(Args { command: Cronjobs::Apply(_) })), "{command:?}");
        // The manifest names the image of this version.
        assert_eq!(container["image"], IMAGE);
    }
}
