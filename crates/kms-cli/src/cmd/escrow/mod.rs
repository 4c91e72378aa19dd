//! `kms escrow`: encrypted copies of KEKs and LUKS headers.

pub(crate) mod create;
mod document;
pub(crate) mod drill;
mod files;
mod headers;
pub(crate) mod list;
pub(crate) mod restore;
pub(crate) mod slot;

use clap::Subcommand;
use kms_core::Result;
use tokio::sync::OnceCell;

pub(crate) use self::files::IdentityArgs;
#[cfg(feature = "k8s-secret")]
pub(crate) use self::files::recipients;
use crate::{args::Files, exit::Exit, invocation::Invocation, kubernetes::Record, output::Output};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Escrow,
}

/// What can be done with an escrow.
#[derive(Debug, Subcommand)]
pub(crate) enum Escrow {
    /// Save the KEKs of the KMS, and with --devices the LUKS headers of this host
    ///
    /// kms reads the archives back before the escrow exists. It writes no escrow if a KEK cannot be read, or if the server
    /// does not list every key.
    ///
    /// A saved header opens its disk for ever with the KEK of the same time, also after rotations that were meant to lock
    /// out the holder of an old KEK. So the headers have recipients of their own, unless --together accepts the risk.
    Create(create::Args),
    /// Prove what an escrow would bring back; change nothing but the date of the drill in its folder
    ///
    /// kms decrypts the archives, restores each header to memory and tries its KEK on it, and compares every KEK with the
    /// KMS. The exit code is 1 if something would not come back. With --cluster, a drill that succeeds is recorded at the
    /// CephCluster.
    Drill(drill::Args),
    /// Show the dates and recipients of escrows; needs no identity
    List(list::Args),
    /// Bring KEKs back to the KMS, and with --header a LUKS header to its device
    ///
    /// A key that the KMS has with another KEK stays as it is, unless --replace is given. That KEK may be the one that
    /// opens the device: kms recover --escrow finds it out.
    Restore(restore::Args),
    /// Recovery keys for devices, on paper
    #[command(subcommand)]
    Slot(slot::SlotCommand),
}

impl Args {
    /// The files given after the command. `None` for commands that need no KMS.
    pub(crate) fn files(&mut self) -> Option<&mut Files> {
        match &mut self.command {
            Escrow::Create(args) => Some(&mut args.files),
            Escrow::Drill(args) => Some(&mut args.files),
            Escrow::Restore(args) => Some(&mut args.files),
            Escrow::Slot(slot::SlotCommand::Add(args)) => Some(&mut args.key.files),
            Escrow::Slot(slot::SlotCommand::Remove(args)) => Some(&mut args.key.files),
            Escrow::List(_) | Escrow::Slot(slot::SlotCommand::Check(_)) => None,
        }
    }
}

/// Runs the subcommand.
pub(crate) async fn run(args: Args, invocation: &Invocation<'_>, output: &mut Output<'_>) -> Result<Exit> {
    match args.command {
        Escrow::Create(args) => {
            let target = invocation.target().await?;
            let cluster = (target.about()?, target.kube_namespace());
            let connect = async || target.connect().await;
            let record = async |made: String| target.record(Record::Escrow, &made).await;
            create::run(args, cluster, invocation.cryptsetup(), (connect, record), output).await
        }
        Escrow::Drill(args) => {
            // A drill that is offline has none.
            let found = OnceCell::new();
            let connect = async || {
                let target = found.get_or_try_init(|| invocation.target()).await?;
                Ok((target.connect().await?, target.kube_namespace().map(ToOwned::to_owned)))
            };
            let record = async |at: String| {
                if let Some(target) = found.get() {
                    target.record(Record::Drill, &at).await;
                }
            };
            drill::run(args, invocation.cryptsetup(), (connect, record), output).await
        }
        Escrow::List(args) => list::run(args, std::time::SystemTime::now(), output),
        Escrow::Slot(command) => {
            let (cryptsetup, connect) = (invocation.cryptsetup(), async || invocation.connect().await);
            match command {
                slot::SlotCommand::Add(args) => slot::add::run(args, cryptsetup, connect, output).await,
                slot::SlotCommand::Check(args) => slot::check::run(args, cryptsetup, output).await,
                slot::SlotCommand::Remove(args) => slot::remove::run(args, cryptsetup, connect, output).await,
            }
        }
        Escrow::Restore(args) => {
            let connect = async || invocation.connect_to_write().await;
            restore::run(args, invocation.cryptsetup(), connect, output).await
        }
    }
}
