//! `kms cronjobs`: one CronJob for each encrypted OSD.

pub(crate) mod apply;
mod options;
mod render;
mod rights;

use clap::Subcommand;
use kms_core::{Error, ErrorKind, Result};
use kms_rook::{InvalidDeployment, Naming};
use serde::Serialize;
use serde_json::Value;
use tracing::{error, warn};

use crate::{
    args::{Files, Global},
    cmd::clusters::source::Source,
    exit::Exit,
    output::{Output, chain},
};

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
    /// Print a service account for the CronJobs, with a Role that names every Secret that they read
    ///
    /// The Role names the Secrets of the keys, so print it again when OSDs are added.
    Rights(rights::Args),
}

impl Args {
    pub(crate) fn files(&mut self) -> &mut Files {
        match &mut self.command {
            Cronjobs::Render(args) => &mut args.files,
            Cronjobs::Apply(args) => &mut args.files,
            Cronjobs::Prune(args) => &mut args.files,
            Cronjobs::Rights(args) => &mut args.files,
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
        Cronjobs::Rights(args) => rights::run(args, source, output).await,
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

/// Why CronJobs of these names are not wanted, and what to do.
const fn why_unwanted(naming: Naming) -> &'static str {
    match naming {
        Naming::BesideRook => {
            "keyRotation.enabled is true, so Rook rotates these keys too: set it to false, or leave out --beside-rook"
        }
        _ => {
            "keyRotation.enabled is not true, so there are no CronJobs: set it to true, or give --beside-rook for CronJobs \
             that Rook does not delete"
        }
    }
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

fn value(object: &impl Serialize) -> Result<Value> {
    serde_json::to_value(object)
        .map_err(|cause| Error::new(ErrorKind::Unexpected, "an object cannot be written").source(cause))
}

/// A list of Kubernetes objects.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct List {
    api_version: &'static str,
    kind: &'static str,
    #[cfg_attr(test, schemars(with = "Vec<serde_json::Map<String, Value>>"))]
    items: Vec<Value>,
}

impl List {
    fn of(items: Vec<Value>) -> Self {
        Self { api_version: "v1", kind: "List", items }
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
    use std::{path::Path, time::Duration};

    use kms_core::{Capability, SecuritySpec};
    use kms_kube::CephClusterSpec;
    use kms_rook::{JobMaker, JobOptions, Osd};

    use super::*;
    use crate::{
        cmd::clusters::{Command, tests::parsed},
        lazy::Lazy,
    };

    fn fixture<T: serde::de::DeserializeOwned>(case: &str, file: &str) -> T {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kms-rook/tests/fixtures/rook");
        serde_json::from_str(&std::fs::read_to_string(folder.join(case).join(file)).unwrap()).unwrap()
    }

    #[test]
    fn what_a_cron_job_runs_is_what_the_program_takes() {
        for case in ["default", "vault-token", "vault-kubernetes", "vault-tls", "ibm", "kmip", "azure"] {
            let cluster = CephClusterSpec::new(fixture::<SecuritySpec>(case, "security.json"));
            let osd = Osd::of(&fixture(case, "osd-deployment.json")).unwrap().unwrap();
            let usual = JobOptions::new("registry.example.com/kms:v1");
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
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let job = documents.iter().find(|document| document["kind"] == "CronJob").unwrap();
        let container = &job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0];
        let args = container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
        let line: Vec<_> = std::iter::once("kms").chain(args).map(str::to_owned).collect();
        let command = parsed(&line).unwrap();
        assert!(
            matches!(command, Command::Cronjobs(Lazy(Args { command: Cronjobs::Apply(_) }))),
            "{command:?}"
        );
        // The one source of options is the CephCluster, and the registry is one that can belong to no attacker.
        let text = format!("{command:?}");
        assert!(text.contains("image: None") && text.contains("service_account: None"), "{text}");
        assert!(container["image"].as_str().unwrap().starts_with("registry.example.com/"));
    }
}
