//! Commands about the program itself.

pub(crate) mod completions;
pub(crate) mod explain;
pub(crate) mod man;
pub(crate) mod providers;
pub(crate) mod version;

use clap::Subcommand;
use kms_core::Result;

use crate::{exit::Exit, invocation::Invocation, lazy::Lazy, output::Output};

/// The commands, in the order of the help text.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the providers, and which of them this build has
    Providers(Lazy<providers::Args>),
    /// Tell what a setting means
    Explain(Lazy<explain::Args>),
    /// Print the version; with -v what it was built with and what it finds on this host
    Version(Lazy<version::Args>),
    /// Print a completion script for a shell
    Completions(Lazy<completions::Args>),
    /// Print the manual page
    Man(Lazy<man::Args>),
}

/// Runs a command. `program` describes the whole command line.
pub(crate) async fn run(
    command: Command,
    program: clap::Command,
    invocation: &Invocation<'_>,
    output: &mut Output<'_>,
) -> Result<Exit> {
    match command {
        Command::Providers(Lazy(args)) => providers::run(args, output),
        Command::Explain(Lazy(args)) => explain::run(args, output),
        Command::Version(Lazy(args)) => {
            version::run(args, invocation.global.verbose > 0, &invocation.cryptsetup(), output).await
        }
        Command::Completions(Lazy(args)) => completions::run(args, output),
        Command::Man(Lazy(args)) => man::run(args, program, output),
    }
}
