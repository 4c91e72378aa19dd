//! `kms cronjobs render`: prints the CronJobs.

use kms_core::{Error, ErrorKind, Result};
use kms_rook::{Discovery, JobMaker, Naming, rbac};
use serde::Serialize;
use serde_json::Value;

use super::{Job, is_wanted, report_faults, warn_of_withheld};
use crate::{
    args::Files,
    cmd::clusters::source::Source,
    exit::Exit,
    output::{Format, Output},
};

/// The default service account whose rights are printed.
const ACCOUNT: &str = "rook-kms-rotation";

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) files: Files,

    #[command(flatten)]
    job: Job,

    /// Also print a service account for the CronJobs, with a Role that names every Secret that they read
    ///
    /// The service account is rook-kms-rotation, or the one given with --service-account.
    #[arg(long)]
    rbac: bool,
}

/// A list of Kubernetes objects.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct List {
    api_version: &'static str,
    kind: &'static str,
    items: Vec<Value>,
}

/// Prints the CronJobs.
pub(super) async fn run(mut args: Args, mut source: Source, output: &mut Output<'_>) -> Result<Exit> {
    if args.rbac {
        args.job.service_account.get_or_insert_with(|| ACCOUNT.to_owned());
    }
    let options = args.job.options();
    if !is_wanted(&source, options.naming) {
        return Err(Error::config(match options.naming {
            Naming::BesideRook => {
                "keyRotation.enabled is true, so Rook rotates these keys too: set it to false, or leave out --beside-rook"
            }
            _ => {
                "keyRotation.enabled is not true, so there are no CronJobs: set it to true, or give --beside-rook for CronJobs \
                 that Rook does not delete"
            }
        }));
    }
    let Discovery { osds, faults, .. } = source.osds().await?;
    let mut items = Vec::new();
    if args.rbac
        && let Some(account) = &options.service_account
    {
        let named = source.name.as_ref().ok_or_else(|| {
            Error::config(
                "the rights name the CephCluster, so kms needs its name and namespace: give the whole CephCluster with -f, not \
                 only its security block",
            )
        })?;
        let security = &source.cluster.security;
        let (namespace, name) = (&named.kube_namespace, &named.name);
        let rights = rbac(security, namespace, name, account, &osds, kms_k8s_secret::secret_name)?;
        items.extend([value(&rights.account)?, value(&rights.role)?, value(&rights.binding)?]);
    }
    let maker = JobMaker::new(&source.cluster, &options)?;
    warn_of_withheld(maker.withheld());
    let jobs: Vec<_> = osds.iter().map(|osd| maker.cron_job(osd)).collect();
    match output.format() {
        Format::Json => {
            for job in &jobs {
                items.push(value(job)?);
            }
            output.json(&List { api_version: "v1", kind: "List", items })?;
        }
        // Serializes the objects themselves, which keeps the order of their fields; a `Value` would not.
        Format::Text => {
            let separate = !items.is_empty() && !jobs.is_empty();
            output.yaml(&items)?;
            if separate {
                output.line("---")?;
            }
            output.yaml(&jobs)?;
        }
    }
    report_faults(&faults, osds.len() + faults.len())?;
    Ok(Exit::Done)
}

fn value(object: &impl Serialize) -> Result<Value> {
    serde_json::to_value(object)
        .map_err(|cause| Error::new(ErrorKind::Unexpected, "an object cannot be written").source(cause))
}
