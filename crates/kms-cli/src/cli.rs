//! The command line: the groups of commands, and the dispatch to the command.

use clap::{Parser, Subcommand};
use kms_core::Result;

use crate::{
    args::{Files, Global},
    cmd::{clusters, devices, keys, program},
    exit::Exit,
    invocation::Invocation,
    output::Output,
};

/// Manage the encryption keys of Ceph OSDs, in the KMS that a Rook CephCluster names
///
/// kms finds the KMS in this order: in the YAML documents given with -f; in the CephCluster given with --cluster; in the
/// environment variables that Rook sets in its pods.
#[derive(Debug, Parser)]
#[command(name = "kms", version, arg_required_else_help = true, after_help = exit_codes())]
pub(crate) struct Cli {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    command: Command,
}

/// The groups of commands, in the order of the help text.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Keys(keys::Command),
    #[command(flatten)]
    Devices(devices::Command),
    #[command(flatten)]
    Clusters(clusters::Command),
    #[command(flatten)]
    Program(program::Command),
}

impl Cli {
    /// Splits the command line into options and command. The options receive the files given before and after the
    /// command.
    pub(crate) fn into_parts(self) -> (Global, Command) {
        let Self { files, mut global, mut command } = self;
        global.files = files.files;
        let after = match &mut command {
            Command::Keys(command) => Some(command.files()),
            Command::Devices(command) => command.files(),
            Command::Clusters(command) => Some(command.files()),
            Command::Program(_) => None,
        };
        global.files.extend(after.map(|files| std::mem::take(&mut files.files)).unwrap_or_default());
        (global, command)
    }
}

/// Runs a command.
pub(crate) async fn run(
    command: Command,
    invocation: &Invocation<'_>,
    output: &mut Output<'_>,
) -> Result<Exit> {
    match command {
        Command::Keys(command) => keys::run(command, invocation, output).await,
        Command::Devices(command) => devices::run(command, invocation, output).await,
        Command::Clusters(command) => clusters::run(command, invocation, output).await,
        Command::Program(command) => {
            program::run(command, <Cli as clap::CommandFactory>::command(), invocation, output).await
        }
    }
}

fn exit_codes() -> String {
    let line = |exit: Exit| format!("  {}  {}", exit.code(), exit.meaning());
    format!("Exit codes:\n{}", Exit::ALL.map(line).join("\n"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn files_may_be_given_before_and_after_the_command() {
        let cli = Cli::try_parse_from(["kms", "-f", "a", "get", "-fb", "x", "--file=c"]).unwrap();
        assert_eq!(cli.into_parts().0.files, ["a", "b", "c"].map(PathBuf::from));
    }
}
