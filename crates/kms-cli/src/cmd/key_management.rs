//! `kms key-management`: stands in for `rook key-management` (spec 11).

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Subcommand;
use kms_core::{Error, Freshness, Result};
use tracing::warn;

use crate::{
    cli::{ClusterName, Files, Global, NameArg},
    context::{Context, has_kms, pod},
    environment::Environment,
    exit::Exit,
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
}

/// Does it, and tells the kubelet if it fails.
pub(crate) async fn run(args: Args, global: &Global, environment: &Environment) -> Result<Exit> {
    let KeyManagement::Get { name, file } = args.command;
    let result = get(&name, &file, global, environment).await;
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
    let kms = context(global, environment).await?.connect().await?;
    let stored = kms.get(&name.name, Freshness::Any).await?;
    secret_file::write(file, &stored.kek)
}

/// The settings of the CephCluster, as Rook reads them.
///
/// The environment of the pod has the same settings, as they were when the pod was made. It is used when the
/// CephCluster cannot be read: an OSD is to start also while the API server is away, or where the service account of
/// the pod has lost a permission.
async fn context(global: &Global, environment: &Environment) -> Result<Context> {
    if !global.files.is_empty() || global.cluster.is_some() {
        return Context::new(global, environment).await;
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
    let read = Context::from_cluster(global, environment, &named);
    let read = if other_way {
        let patience = global.timeout.map_or(API_PATIENCE, |timeout| timeout.min(API_PATIENCE));
        tokio::time::timeout(patience, read).await.unwrap_or_else(|_elapsed| {
            Err(Error::new(kms_core::ErrorKind::Timeout, format!("no answer within {patience:?}")))
        })
    } else {
        read.await
    };
    match read {
        Err(error) if other_way => {
            warn!(
                "the CephCluster cannot be read, so the settings are those of the pod's environment: {}",
                chain(&error)
            );
            Context::from_pod(global, environment)
        }
        other => other,
    }
}
