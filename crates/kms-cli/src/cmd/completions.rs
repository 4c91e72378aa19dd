//! `kms completions`: for shells.

use clap::CommandFactory;
use kms_core::Result;

use crate::{cli::Cli, exit::Exit, output::Output};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// Prints the script.
pub(crate) fn run(args: Args, output: &mut Output<'_>) -> Result<Exit> {
    // Into memory first: the generator panics on a stream that fails.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kms", &mut script);
    output.bytes(&script)?;
    Ok(Exit::Done)
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
            run(Args { shell: *shell }, &mut Output::to(Format::Text, &mut bytes)).unwrap();
            assert!(String::from_utf8(bytes).unwrap().contains("kubeconfig"), "{shell}");
        }
    }
}
