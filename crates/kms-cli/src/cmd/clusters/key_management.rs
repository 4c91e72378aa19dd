//! `kms key-management`: replaces `rook key-management` (rook-behaviour §11).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Subcommand;
use kms_core::{Error, ErrorKind, Freshness, KmsProvider, Result};
use kms_kube::ClusterRef;
use kms_rotation::{Osd, Outcome};
use tracing::warn;

use crate::{
    args::{Files, Global, NameArg, duration},
    cmd::devices::{compared, rotate, verify},
    exit::Exit,
    invocation::Invocation,
    job_report::append,
    kubernetes::Kubernetes,
    output::{Output, chain},
    output_file,
    rook::Rook,
    settings::{ClusterSettings, PodSettings, pod_environment},
    target::Target,
};

/// The kubelet reads from this file why a container ended.
const TERMINATION_LOG: &str = "/dev/termination-log";
/// The time limit for Kubernetes if the pod's environment has settings too, unless `--timeout` is shorter.
const API_DEADLINE: Duration = Duration::from_secs(10);

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) files: Files,
    #[command(subcommand)]
    command: KeyManagement,
}

/// The subcommands of Rook's command that kms replaces.
#[derive(Debug, Subcommand)]
enum KeyManagement {
    /// Write the KEK of an OSD to a file
    Get {
        #[command(flatten)]
        name: NameArg,
        /// The file
        #[arg(value_name = "OUTPUT")]
        file: PathBuf,
    },
    /// Give an OSD a new KEK
    ///
    /// Unlike with Rook, the old KEK stays valid for ten minutes, and the command waits that long.
    RotateKey(RotateKey),
    /// Check that the KEK of an OSD opens its devices; change nothing
    ///
    /// Rook has no such command. It takes the KEK from where an OSD takes it, and reports to the kubelet.
    VerifyKey(OsdArgs),
}

/// A key and the devices of its OSD.
#[derive(clap::Args, Debug)]
struct OsdArgs {
    #[command(flatten)]
    name: NameArg,

    /// The device of the data
    #[arg(value_name = "DEVICE")]
    device: PathBuf,

    /// The device of the metadata
    #[arg(value_name = "METADATA")]
    metadata: Option<PathBuf>,

    /// The device of the write-ahead log
    #[arg(value_name = "WAL")]
    wal: Option<PathBuf>,
}

impl OsdArgs {
    fn osd(self, invocation: &Invocation<'_>) -> Result<Osd> {
        let Self { name: NameArg { name }, device, metadata, wal } = self;
        let paths = [Some(device), metadata, wal].into_iter().flatten();
        Osd::new(name, invocation.cryptsetup().devices(paths))
    }
}

/// The arguments of `rotate-key`.
#[derive(clap::Args, Debug)]
struct RotateKey {
    #[command(flatten)]
    osd: OsdArgs,

    /// How long the old KEK stays valid; Rook has no such option
    #[arg(long, value_name = "D", value_parser = duration)]
    grace: Option<Duration>,

    /// Destroy or disable superseded versions of the KEK in the KMS, if it keeps any
    #[arg(long)]
    destroy_superseded: bool,

    /// The CronJob of this pod has no name of Rook's, so it does not stand in place of Rook's own CronJob
    #[arg(long)]
    beside_rook: bool,

    /// Rotate although Rook may rotate the same key at the same time, which can lose a device
    #[arg(long)]
    even_if_rook_rotates: bool,
}

/// Runs the command. If it fails, reports the error to the kubelet.
pub(crate) async fn run(args: Args, invocation: &Invocation<'_>, output: &mut Output<'_>) -> Result<Exit> {
    let result = match args.command {
        KeyManagement::Get { name, file } => get(&name, &file, invocation).await,
        KeyManagement::RotateKey(args) => rotate_key(args, invocation, output).await,
        KeyManagement::VerifyKey(args) => verify_key(args, invocation, output).await,
    };
    if let Err(error) = &result {
        // As Rook does.
        append(Path::new(TERMINATION_LOG), &chain(error));
    }
    result.map(|()| Exit::Done)
}

async fn get(name: &NameArg, file: &Path, invocation: &Invocation<'_>) -> Result<()> {
    let Connected { kms, target, .. } = connect(invocation).await?;
    let stored = kms.get(&name.name, Freshness::Any).await.map_err(|error| target.locate(error))?;
    output_file::write_kek(file, &stored.kek)
}

async fn rotate_key(args: RotateKey, invocation: &Invocation<'_>, output: &Output<'_>) -> Result<()> {
    let RotateKey { osd, grace, destroy_superseded, beside_rook, even_if_rook_rotates } = args;
    let osd = osd.osd(invocation)?;
    let name = osd.name().clone();
    let mut options = invocation.rotation.clone();
    options.inherit_grace = grace.is_none();
    options.grace = grace.unwrap_or(options.grace);
    options.destroy_superseded = destroy_superseded;
    let Connected { kms, rook, target } = connect(invocation).await?;
    let Global { files, cluster, .. } = &invocation.global;
    let is_pod = files.is_empty() && cluster.is_none();
    let rook = if is_pod && !beside_rook { rook.with_own_cron_job() } else { rook };
    let mut sinks = rotate::at_deployments(invocation);
    let checked = async {
        if !even_if_rook_rotates {
            rook.check_rotation(&[&name]).await?;
        }
        compared(osd, &rook.deployments(Some(&name)).await, &[])
    };
    let osd = match checked.await {
        Ok(osd) => osd,
        Err(error) => return Err(rotate::refused(&[&name], error, &mut sinks).await),
    };
    let progress = rotate::Rotation::new(output.progress());
    let rotated = rotate::rotate_one(&*kms, &osd, &options, &progress, &mut sinks).await;
    let report = rotated.map_err(|error| target.locate(error))?;
    for warning in &report.warnings {
        warn!("{warning}");
    }
    progress.line(rotate::headline(&report));
    match report.outcome {
        Outcome::Superseded => Err(Error::new(
            ErrorKind::Conflict,
            "another writer stored another KEK during the grace period: run the command again",
        )
        .context("key", report.name.as_str())),
        _ => Ok(()),
    }
}

async fn verify_key(args: OsdArgs, invocation: &Invocation<'_>, output: &mut Output<'_>) -> Result<()> {
    let osd = args.osd(invocation)?;
    let Connected { kms, rook, target } = connect(invocation).await?;
    let deployments = rook.deployments(Some(osd.name())).await;
    let osd = compared(osd, &deployments, &[])?;
    let verified = verify::check(&*kms, &osd, output).await;
    verified.map_err(|error| target.locate(error))?.map_or(Ok(()), Err)
}

/// A KMS, and how kms has come to it.
struct Connected {
    kms: Arc<dyn KmsProvider>,
    /// The cluster, as far as it can be read.
    rook: Rook,
    target: Target,
}

/// Connects with the settings of the CephCluster, as Rook reads them.
///
/// The environment of the pod has the same settings, as of the pod's creation. kms uses them if it cannot read the
/// CephCluster or a Secret that the CephCluster names: an OSD has to start while the API server is away, or after the
/// service account of the pod has lost a permission.
async fn connect(invocation: &Invocation<'_>) -> Result<Connected> {
    let Invocation { global, environment, registry, .. } = invocation;
    if !global.files.is_empty() || global.cluster.is_some() {
        let target = invocation.target().await?;
        return Ok(Connected { kms: target.connect().await?, rook: target.rook(global), target });
    }
    let required = |name: &'static str| {
        environment
            .get(name)
            .ok_or_else(|| {
                Error::config(format!(
                    "{name} is not set, as it is in the pods of Rook: set it, or name the CephCluster with --cluster or -f"
                ))
            })
    };
    let named = ClusterRef::new(required("POD_NAMESPACE")?, required("ROOK_CLUSTER_NAME")?);
    let has_pod_settings =
        !pod_environment(environment, registry).security().kms.connection_details.is_empty();
    let deadline = if has_pod_settings {
        Some(global.timeout.map_or(API_DEADLINE, |timeout| timeout.min(API_DEADLINE)))
    } else {
        global.timeout
    };
    let kubernetes = Kubernetes::new(global, deadline);
    let (unreadable, error) = match ClusterSettings::read(&kubernetes, &named).await {
        Ok(settings) => {
            let target = Target::new(Box::new(settings), kubernetes, global, environment, registry);
            match target.connect().await {
                Err(error) if has_pod_settings && is_about_reading(&error) => {
                    ("a Secret that the CephCluster names", error)
                }
                connected => {
                    return Ok(Connected { kms: connected?, rook: target.rook(global), target });
                }
            }
        }
        Err(error) if has_pod_settings => ("the CephCluster", error),
        Err(error) => return Err(error),
    };
    warn!(
        "{unreadable} cannot be read, so the settings are those of the pod's environment: {}",
        chain(&error)
    );
    let settings = Box::new(PodSettings::read(environment, registry)?);
    let kubernetes = Kubernetes::new(global, global.timeout);
    let target = Target::new(settings, kubernetes, global, environment, registry);
    Ok(Connected { kms: target.connect().await?, rook: Rook::new(None), target })
}

/// Whether an error means that an object could not be read, not that it is wrong. Connecting reads nothing but Secrets.
fn is_about_reading(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::ConfigInvalid | ErrorKind::Disabled | ErrorKind::Unsupported)
}
