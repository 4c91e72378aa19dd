//! Commands that work on the LUKS devices of a host.

pub(crate) mod close;
mod device_list;
pub(crate) mod format;
pub(crate) mod open;
pub(crate) mod recover;
pub(crate) mod resize;
pub(crate) mod rotate;
pub(crate) mod slots;
pub(crate) mod status;
pub(crate) mod verify;

use clap::Subcommand;
use kms_core::Result;
use kms_luks::Identity;
use tracing::warn;

pub(crate) use self::device_list::compared;
use crate::{args::Files, exit::Exit, invocation::Invocation, lazy::Lazy, output::Output};

/// The folder where Rook keeps the data of OSDs on a host, unless `dataDirHostPath` of the CephCluster is another one.
pub(crate) const DATA_DIR: &str = "/var/lib/rook";

/// The commands, in the order of the help text.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the key slots of a LUKS device, and what each one costs to open
    ///
    /// The KEK and its rotation use slots 0 and 1. kms changes no other slot, but for the recovery keys of kms escrow slot.
    Slots(Lazy<slots::Args>),
    /// Make an empty device a LUKS device that the KEK opens; create the KEK if it is absent
    ///
    /// A device that the KEK opens already stays as it is, so a run that was stopped can be repeated.
    Format(Lazy<format::Args>),
    /// Give a new KEK to one OSD, or to all OSDs of this host
    ///
    /// The KEK that the KMS returns opens every device at every moment. The next run completes an interrupted rotation.
    #[command(
        override_usage = "kms rotate [OPTIONS] <NAME> <DEVICE> [METADATA] [WAL]\n       kms rotate [OPTIONS] --all"
    )]
    Rotate(Lazy<rotate::Args>),
    /// Check that the KEK in the KMS opens the devices; change nothing
    Verify(Lazy<verify::Args>),
    /// Find the KEK that opens the devices, among all that the KMS still has
    ///
    /// Changes nothing without --write.
    Recover(Lazy<recover::Args>),
    /// Open the devices of an OSD with its KEK
    ///
    /// Devices that are already open stay as they are. If all are open, kms does not contact the KMS.
    Open(Lazy<open::Args>),
    /// Close an open device
    Close(Lazy<close::Args>),
    /// Show the state of an open device; fail if the disk below it is gone
    Status(Lazy<status::Args>),
    /// Grow an open device to the size of the disk below it
    Resize(Lazy<resize::Args>),
}

impl Command {
    /// The files given after the command. `None` for commands that need no KMS.
    pub(crate) fn files(&mut self) -> Option<&mut Files> {
        match self {
            Self::Format(args) => Some(&mut args.key.files),
            Self::Rotate(args) => Some(&mut args.files),
            Self::Verify(args) => Some(&mut args.key.files),
            Self::Recover(args) => Some(&mut args.key.files),
            Self::Open(args) => Some(&mut args.key.files),
            Self::Slots(_) | Self::Close(_) | Self::Status(_) | Self::Resize(_) => None,
        }
    }
}

/// Runs a command.
pub(crate) async fn run(
    command: Command,
    invocation: &Invocation<'_>,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let cryptsetup = invocation.cryptsetup();
    // Only a command that needs the KMS looks for its settings.
    let mut found = None;
    let connect = async || found.insert(invocation.target().await?).connect().await;
    match command {
        Command::Slots(Lazy(args)) => slots::run(args, cryptsetup, output).await,
        Command::Format(Lazy(args)) => {
            format::run(args, cryptsetup, async || invocation.connect_to_write().await, output).await
        }
        Command::Rotate(Lazy(args)) => {
            let target = invocation.target().await?;
            let host = rotate::Host {
                cryptsetup,
                kube_namespace: target.kube_namespace(),
                rook: target.rook(&invocation.global),
                options: invocation.rotation.clone(),
                sinks: rotate::at_deployments(invocation),
            };
            let rotated = rotate::run(args, host, async || target.connect().await, output).await;
            rotated.map_err(|error| target.locate(error))
        }
        Command::Recover(Lazy(args)) => {
            let target = invocation.target().await?;
            let writes = args.write;
            let connect =
                async || if writes { target.connect_to_write().await } else { target.connect().await };
            let rook = target.rook(&invocation.global);
            let recovered = recover::run(args, cryptsetup, &rook, connect, output).await;
            recovered.map_err(|error| target.locate(error))
        }
        Command::Verify(Lazy(args)) => {
            let verified = verify::run(args, cryptsetup, connect, output).await;
            verified.map_err(|error| found.iter().fold(error, |error, target| target.locate(error)))
        }
        Command::Open(Lazy(args)) => {
            let opened = open::run(args, cryptsetup, connect, output).await;
            opened.map_err(|error| found.iter().fold(error, |error, target| target.locate(error)))
        }
        Command::Close(Lazy(args)) => close::run(args, cryptsetup, output).await,
        Command::Status(Lazy(args)) => status::run(args, cryptsetup, output),
        Command::Resize(Lazy(args)) => resize::run(args, cryptsetup, output).await,
    }
}

/// Warns if a LUKS header cannot hold the whole label.
fn warn_if_shortened(identity: &Identity) {
    if identity.is_shortened() {
        warn!("a LUKS header holds 47 bytes, so the label is cut to {}", identity.label());
    }
}
