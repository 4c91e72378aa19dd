//! Commands about the program itself.

pub(crate) mod completions;
pub(crate) mod man;
pub(crate) mod providers;

use clap::Subcommand;
use kms_core::Result;

use crate::{exit::Exit, output::Output};

/// The commands, in the order of the help text.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the providers, and which of them this build has
    Providers(providers::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Print the manual page
    Man(man::Args),
}

/// Runs a command. `program` describes the whole command line.
pub(crate) fn run(command: Command, program: clap::Command, output: &mut Output<'_>) -> Result<Exit> {
    match command {
        Command::Providers(args) => providers::run(args, output),
        Command::Completions(args) => completions::run(args, program, output),
        Command::Man(args) => man::run(args, program, output),
    }
}
