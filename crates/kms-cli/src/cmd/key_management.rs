//! `kms key-management`: stands in for `rook key-management` (spec 11).

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Subcommand;
use kms_core::{Error, ErrorKind, Freshness, KmsProvider, Result};
use kms_rotation::{Options, Osd, Outcome};
use tracing::warn;

use super::rotate;
use crate::{
    cli::{ClusterName, Files, Global, NameArg},
    context::{Context, has_kms, pod},
    environment::Environment,
    exit::Exit,
    luks,
    output::chain,
    secret_file,
};

/// Where the kubelet takes the reason from why a container has ended.
const TERMINATION_LOG: &str = "/dev/termination-log";
/// How long to wait for Kubernetes when there is another way, unless `--timeout` says otherwise.
const API_PATIENCE: Duration = Duration::from_secs(10);

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) files: Files,
    #[command(subcommand)]
    command: KeyManagement,
}

/// What Rook's command can do, as far as we stand in for it.
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
    /// Unlike Rook, the old one stays valid for ten minutes, which the command waits.
    RotateKey {
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
        /// How long the old KEK stays valid; Rook has no such option
        #[arg(long, value_name = "D", value_parser = rotate::grace())]
        grace: Option<Duration>,
    },
}

/// Does it, and tells the kubelet if it fails.
pub(crate) async fn run(args: Args, global: &Global, environment: &Environment) -> Result<Exit> {
    let result = match args.command {
        KeyManagement::Get { name, file } => get(&name, &file, global, environment).await,
        KeyManagement::RotateKey { name, device, metadata, wal, grace } => {
            let paths = [Some(device), metadata, wal].into_iter().flatten();
            let mut options = Options::default();
            options.grace = grace.unwrap_or(options.grace);
            rotate_key(name, paths, &options, global, environment).await
        }
    };
    if let Err(error) = &result {
        // As Rook does. The file is there already in a pod; elsewhere none is to be made.
        let _ignored = OpenOptions::new()
            .append(true)
            .open(TERMINATION_LOG)
            .and_then(|mut log| log.write_all(chain(error).as_bytes()));
    }
    result.map(|()| Exit::Done)
}

async fn get(name: &NameArg, file: &Path, global: &Global, environment: &Environment) -> Result<()> {
    let kms = connect(global, environment).await?;
    let stored = kms.get(&name.name, Freshness::Any).await?;
    secret_file::write(file, &stored.kek)
}

async fn rotate_key(
    name: NameArg,
    paths: impl Iterator<Item = PathBuf>,
    options: &Options,
    global: &Global,
    environment: &Environment,
) -> Result<()> {
    let osd = Osd::new(name.name, luks::cryptsetup(environment).devices(paths))?;
    let kms = connect(global, environment).await?;
    let progress = rotate::Progress::new(global.quiet, global.output);
    let report =
        rotate::rotate_one(&*kms, &osd, options, &progress, &mut witnesses(global, environment)).await?;
    for warning in &report.warnings {
        warn!("{warning}");
    }
    progress.line(rotate::headline(&report));
    match report.outcome {
        Outcome::Superseded => Err(Error::new(
            ErrorKind::Conflict,
            "somebody else stored another KEK while the end of the grace was waited for",
        )
        .context("key", report.name.as_str())),
        _ => Ok(()),
    }
}

/// Who is told of the result: the Deployment of the OSD, where there is one.
#[cfg(feature = "k8s-secret")]
fn witnesses(global: &Global, environment: &Environment) -> Vec<Box<dyn rotate::Witness>> {
    let named = global.cluster.as_ref().map(|cluster| cluster.kube_namespace.as_str());
    let found = named.or_else(|| environment.get("POD_NAMESPACE").filter(|_| global.files.is_empty()));
    found.map(|namespace| Box::new(rotate::AtDeployment::new(global, namespace)) as _).into_iter().collect()
}

/// Who is told of the result: nobody, without Kubernetes.
#[cfg(not(feature = "k8s-secret"))]
fn witnesses(_global: &Global, _environment: &Environment) -> Vec<Box<dyn rotate::Witness>> {
    Vec::new()
}

/// Connects with the settings of the CephCluster, as Rook reads them.
///
/// The environment of the pod has the same settings, as they were when the pod was made. It is used when the
/// CephCluster cannot be read: an OSD is to start also while the API server is away, or where the service account of
/// the pod has lost a permission. The same holds for the Secrets that the CephCluster names.
async fn connect(global: &Global, environment: &Environment) -> Result<Arc<dyn KmsProvider>> {
    if !global.files.is_empty() || global.cluster.is_some() {
        return Context::new(global, environment).await?.connect().await;
    }
    let required = |name: &'static str| {
        environment
            .get(name)
            .ok_or_else(|| Error::config(format!("{name} is not set, as it is in the pods of Rook")))
    };
    let named = ClusterName {
        kube_namespace: required("POD_NAMESPACE")?.to_owned(),
        name: required("ROOK_CLUSTER_NAME")?.to_owned(),
    };
    let other_way = has_kms(&pod(environment));
    let patience = if other_way {
        Some(global.timeout.map_or(API_PATIENCE, |timeout| timeout.min(API_PATIENCE)))
    } else {
        global.timeout
    };
    let (unreadable, error) = match Context::from_cluster(global, environment, &named, patience).await {
        Ok(context) => match context.connect().await {
            Err(error) if other_way && is_about_reading(&error) => {
                ("a Secret that the CephCluster names", error)
            }
            other => return other,
        },
        Err(error) if other_way => ("the CephCluster", error),
        Err(error) => return Err(error),
    };
    warn!(
        "{unreadable} cannot be read, so the settings are those of the pod's environment: {}",
        chain(&error)
    );
    Context::from_pod(global, environment)?.connect().await
}

/// Whether something could not be read, rather than being wrong. To connect reads Secrets and nothing else.
fn is_about_reading(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::ConfigInvalid | ErrorKind::Disabled | ErrorKind::Unsupported)
}
