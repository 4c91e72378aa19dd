//! Commands that work on a CephCluster and its objects in Kubernetes.

mod accounts;
#[cfg(feature = "k8s-secret")]
mod commands;
#[cfg(feature = "k8s-secret")]
pub(crate) mod cronjobs;
#[cfg(feature = "k8s-secret")]
pub(crate) mod doctor;
#[cfg(feature = "k8s-secret")]
pub(crate) mod inventory;
pub(crate) mod key_management;
pub(crate) mod migrate;
#[cfg(feature = "operator")]
pub(crate) mod operator;
#[cfg(feature = "k8s-secret")]
pub(crate) mod render;
#[cfg(feature = "k8s-secret")]
pub(crate) mod source;

use clap::Subcommand;
use kms_core::Result;

use crate::{args::Files, exit::Exit, invocation::Invocation, lazy::Lazy, output::Output};

/// The commands, in the order of the help text.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Rotate keys by CronJobs, one for each encrypted OSD of a CephCluster
    ///
    /// security.keyRotation of the CephCluster says whether and when. The CronJobs have the names that Rook uses, and
    /// run kms instead of rook.
    #[cfg(feature = "k8s-secret")]
    Cronjobs(Lazy<cronjobs::Args>),
    /// Make every check of the KMS, the cluster and this host, and say what to do
    ///
    /// Each finding has a code with a page in docs/doctor/, a state, the object, and the next command. No finding ends the
    /// run; what could not be checked names the finding that is the reason. If all is well, kms prints one line; -v shows
    /// every check. kms stores nothing. kms check is the short form for one connection, and tries a test key too.
    #[cfg(feature = "k8s-secret")]
    Doctor(Lazy<doctor::Args>),
    /// Show every OSD beside its key, and what is wrong with them
    ///
    /// The OSDs come from Kubernetes with --cluster, else from Deployments in the files, else from Rook's folders on this
    /// host. The states: missing (an OSD without its key), mixed (a device that the current KEK does not open), orphan (a
    /// key without an OSD and without a PVC), stale, unknown (a source does not tell enough), ok. Where clusters share one
    /// place in the KMS, the keys of the other clusters appear as orphans too.
    #[cfg(feature = "k8s-secret")]
    Inventory(Lazy<inventory::Args>),
    /// Move the keys of a cluster from one KMS to another
    ///
    /// The steps are plan, copy, verify, cutover and finish; abort takes a migration back at any point before finish. Both
    /// sides are files with a CephCluster, or its security block, and Secrets. The journal makes every step resumable.
    Migrate(Lazy<migrate::Args>),
    /// Keep the keys of encrypted OSDs rotated, and show their state in Kubernetes
    ///
    /// kms runs until it gets SIGTERM or SIGINT. It acts on CephClusters with the annotation kms.ceph.rook.io/operator=true and
    /// on no others. Several replicas may run; one of them acts. deploy/README.md says how to install, watch, pause and remove it.
    #[cfg(feature = "operator")]
    Operator(Lazy<operator::Args>),
    /// Print what a pod needs for a security block
    #[cfg(feature = "k8s-secret")]
    Render(Lazy<render::Args>),
    /// Replace `rook key-management`
    #[command(hide = true)]
    KeyManagement(Lazy<key_management::Args>),
}

impl Command {
    /// Whether the command finds the name of the CephCluster itself: what keeps the doctor from it is a finding.
    pub(crate) fn finds_cluster(&self) -> bool {
        match self {
            #[cfg(feature = "k8s-secret")]
            Self::Doctor(_) => true,
            _ => false,
        }
    }

    /// The files given after the command. `None` for a command that takes two KMS.
    pub(crate) fn files(&mut self) -> Option<&mut Files> {
        match self {
            #[cfg(feature = "k8s-secret")]
            Self::Cronjobs(args) => Some(args.files()),
            #[cfg(feature = "k8s-secret")]
            Self::Doctor(args) => Some(&mut args.files),
            #[cfg(feature = "k8s-secret")]
            Self::Inventory(args) => Some(args.files()),
            Self::Migrate(_) => None,
            #[cfg(feature = "operator")]
            Self::Operator(_) => None,
            #[cfg(feature = "k8s-secret")]
            Self::Render(args) => Some(args.files()),
            Self::KeyManagement(args) => Some(&mut args.files),
        }
    }
}

/// Runs a command.
pub(crate) async fn run(
    command: Command,
    invocation: &Invocation<'_>,
    output: &mut Output<'_>,
) -> Result<Exit> {
    match command {
        #[cfg(feature = "k8s-secret")]
        Command::Cronjobs(Lazy(args)) => cronjobs::run(args, &invocation.global, output).await,
        #[cfg(feature = "k8s-secret")]
        Command::Doctor(Lazy(args)) => doctor::run(args, invocation, output).await,
        #[cfg(feature = "k8s-secret")]
        Command::Inventory(Lazy(args)) => inventory::run(args, invocation, output).await,
        Command::Migrate(Lazy(args)) => migrate::run(args, invocation, output).await,
        #[cfg(feature = "operator")]
        Command::Operator(Lazy(args)) => operator::run(args, invocation).await,
        #[cfg(feature = "k8s-secret")]
        Command::Render(Lazy(args)) => render::run(args, &invocation.global, output).await,
        Command::KeyManagement(Lazy(args)) => key_management::run(args, invocation, output).await,
    }
}

#[cfg(all(test, feature = "k8s-secret"))]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Global;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        _global: Global,
        #[command(subcommand)]
        command: Command,
    }

    /// Parses a command line with a command of this group.
    pub(super) fn parsed(line: &[String]) -> Result<Command, clap::Error> {
        Ok(Line::try_parse_from(line)?.command)
    }
}
