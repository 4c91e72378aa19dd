//! `kms cronjobs rights`: prints a service account for the CronJobs, and what it may do.

use clap::builder::NonEmptyStringValueParser;
use kms_core::{Error, Result};
use kms_rook::{Discovery, rbac};
use tracing::warn;

use super::{List, options::recorded, report_faults, value};
use crate::{
    args::Files,
    cmd::clusters::source::Source,
    exit::Exit,
    output::{Format, Output},
};

/// The name of the service account, unless another one is recorded or given.
const ACCOUNT: &str = "rook-kms-rotation";

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) files: Files,

    /// The name of the service account [default: the annotation kms.ceph.rook.io/rotation-service-account of the CephCluster, otherwise rook-kms-rotation]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    service_account: Option<String>,
}

/// Prints the account and its rights.
pub(super) async fn run(args: Args, mut source: Source, output: &mut Output<'_>) -> Result<Exit> {
    let account = args.service_account.or(recorded(&source)?.service_account);
    let Discovery { osds, faults, .. } = source.osds().await?;
    let named = source.name.as_ref().ok_or_else(|| {
        Error::config(
            "the rights name the CephCluster, so kms needs its name and namespace: give the whole CephCluster with -f, not \
             only its security block",
        )
    })?;
    if osds.is_empty() && faults.is_empty() {
        warn!("the rights name no Secret of an OSD: {} no encrypted OSDs on PVCs", source.place_has());
    }
    let rights = rbac(
        &source.cluster.security,
        &named.kube_namespace,
        &named.name,
        account.as_deref().unwrap_or(ACCOUNT),
        &osds,
        kms_k8s_secret::secret_name,
    )?;
    let items = vec![value(&rights.account)?, value(&rights.role)?, value(&rights.binding)?];
    match output.format() {
        Format::Json => output.json(&List::of(items))?,
        Format::Text => output.yaml(&items)?,
    }
    report_faults(&faults, osds.len() + faults.len())?;
    Ok(Exit::Done)
}
