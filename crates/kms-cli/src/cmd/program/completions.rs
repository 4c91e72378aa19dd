//! `kms completions`: prints a completion script for a shell.

use clap::ValueEnum;
use clap_complete::env::{Bash, Elvish, EnvCompleter, Fish, Powershell, Zsh};
use kms_core::Result;

use crate::{
    completion::VARIABLE,
    exit::Exit,
    output::{Output, not_written},
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// The shells that have a script.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

/// Prints the script, which asks the program at each press of the tab key.
pub(crate) fn run(args: Args, output: &mut Output<'_>) -> Result<Exit> {
    let shell: &dyn EnvCompleter = match args.shell {
        Shell::Bash => &Bash,
        Shell::Elvish => &Elvish,
        Shell::Fish => &Fish,
        Shell::Powershell => &Powershell,
        Shell::Zsh => &Zsh,
    };
    let mut script = Vec::new();
    shell
        .write_registration(VARIABLE, "kms", "kms", "kms", &mut script)
        .map_err(|cause| not_written("the script", cause))?;
    output.bytes(&script)?;
    Ok(Exit::Done)
}
