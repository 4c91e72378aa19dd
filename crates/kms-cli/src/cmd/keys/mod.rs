//! Commands that work on the keys in the KMS.

mod canary;
pub(crate) mod check;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod get;
pub(crate) mod in_use;
pub(crate) mod list;
pub(crate) mod put;
pub(crate) mod undelete;

use std::time::SystemTime;

use clap::Subcommand;
use kms_core::Result;

use crate::{args::Files, exit::Exit, invocation::Invocation, lazy::Lazy, output::Output};

/// The commands, in the order of the help text.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Connect and log in to the KMS, and show each step
    ///
    /// Unless --read-only is given, kms also stores a test key, reads it back, compares it, updates it and
    /// deletes it.
    Check(Lazy<check::Args>),
    /// Generate a KEK and store it
    Create(Lazy<create::Args>),
    /// Store an existing KEK
    Put(Lazy<put::Args>),
    /// Write a KEK to standard output or to a file
    Get(Lazy<get::Args>),
    /// Delete a KEK so that it can be brought back, or destroy it
    ///
    /// kms refuses to delete a key that is in use: by a Deployment or a PVC of the cluster given with --cluster, by a
    /// device in Rook's folders on this host, or by an open device of this host. It cannot see other hosts.
    Delete(Lazy<delete::Args>),
    /// Bring back a deleted KEK
    Undelete(Lazy<undelete::Args>),
    /// List the names of the keys, never their KEKs
    List(Lazy<list::Args>),
}

impl Command {
    /// The files given after the command.
    pub(crate) fn files(&mut self) -> &mut Files {
        match self {
            Self::Check(args) => &mut args.files,
            Self::Create(args) => &mut args.key.files,
            Self::Put(args) => &mut args.key.files,
            Self::Get(args) => &mut args.key.files,
            Self::Delete(args) => &mut args.key.files,
            Self::Undelete(args) => &mut args.key.files,
            Self::List(args) => &mut args.files,
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
        Command::Check(Lazy(args)) => check::run(args, invocation, output).await,
        Command::Create(Lazy(args)) => {
            create::run(args, &*invocation.connect_to_write().await?, output).await
        }
        Command::Put(Lazy(args)) => {
            // Reads the KEK first: if it is invalid, no connection is needed.
            let kek = put::read(&args)?;
            put::run(args, &kek, &*invocation.connect_to_write().await?, output).await
        }
        Command::Get(Lazy(args)) => {
            get::check(&args)?;
            let target = invocation.target().await?;
            let read = get::run(args, &*target.connect().await?, output).await;
            read.map_err(|error| target.locate(error))
        }
        Command::Delete(Lazy(args)) => {
            let target = invocation.target().await?;
            if !args.in_use {
                in_use::refuse_if_in_use(&args.key.arg.name, &args.data_dir, &target, invocation).await?;
            }
            let deleted = delete::run(args, &*target.connect().await?, output).await;
            deleted.map_err(|error| target.locate(error))
        }
        Command::Undelete(Lazy(args)) => {
            let target = invocation.target().await?;
            let undeleted = undelete::run(args, &*target.connect().await?, output).await;
            undeleted.map_err(|error| target.locate(error))
        }
        Command::List(Lazy(args)) => {
            let target = invocation.target().await?;
            list::run(args, &*target.connect().await?, &target.place(), SystemTime::now(), output).await
        }
    }
}
