//! Commands about the program itself.

pub(crate) mod completions;
pub(crate) mod explain;
pub(crate) mod man;
pub(crate) mod providers;
pub(crate) mod version;

use clap::Subcommand;
use kms_core::Result;

use crate::{exit::Exit, invocation::Invocation, output::Output};

/// The commands, in the order of the help text.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the providers, and which of them this build has
    Providers(providers::Args),
    /// Tell what a setting means
    Explain(explain::Args),
    /// Print the version; with -v what it was built with and what it finds on this host
    Version(version::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Print the manual page
    Man(man::Args),
}

/// Runs a command. `program` describes the whole command line.
pub(crate) async fn run(
    command: Command,
    program: clap::Command,
    invocation: &Invocation<'_>,
    output: &mut Output<'_>,
) -> Result<Exit> {
    match command {
        Command::Providers(args) => providers::run(args, output),
        Command::Explain(args) => explain::run(args, output),
        Command::Version(args) => {
            version::run(args, invocation.global.verbose > 0, &invocation.cryptsetup(), output).await
        }
        Command::Completions(args) => completions::run(args, output),
        Command::Man(args) => man::run(args, program, output),
    }
}
