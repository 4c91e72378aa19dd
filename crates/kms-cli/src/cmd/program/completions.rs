//! `kms completions`: prints a completion script for a shell.

use clap::Command;
use kms_core::Result;

use crate::{exit::Exit, output::Output};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// Prints the script.
pub(crate) fn run(args: Args, program: Command, output: &mut Output<'_>) -> Result<Exit> {
    // Generates into memory first: the generator panics if the stream fails.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut visible(program), "kms", &mut script);
    output.bytes(&script)?;
    Ok(Exit::Done)
}

/// The program without its hidden commands, which the generator would offer otherwise.
fn visible(program: Command) -> Command {
    let commands: Vec<_> =
        program.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    let mut shown = Command::new("kms")
        .args(program.get_arguments().cloned())
        .subcommands(commands)
        .arg_required_else_help(program.is_arg_required_else_help_set());
    shown = match program.get_about() {
        Some(about) => shown.about(about.clone()),
        None => shown,
    };
    shown.version(env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::output::Format;

    #[test]
    fn every_shell_has_a_script() {
        for shell in clap_complete::Shell::value_variants() {
            let mut bytes = Vec::new();
            run(Args { shell: *shell }, crate::command(), &mut Output::to(Format::Text, &mut bytes)).unwrap();
            let script = String::from_utf8(bytes).unwrap();
            for offered in ["kubeconfig", "version", "check", "read-only", "completions"] {
                assert!(script.contains(offered), "{shell} does not offer {offered}");
            }
            for hidden in ["codegen", "key-management", "key__management"] {
                assert!(!script.contains(hidden), "{shell} offers {hidden}");
            }
        }
    }
}
