//! `kms man`: prints the manual page.

use kms_core::{Error, Result};

use crate::{
    exit::Exit,
    output::{Output, not_written},
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The subcommand whose page to print; without it, that of the program
    #[arg(value_name = "COMMAND")]
    pub(crate) command: Option<String>,
}

/// Prints the page in roff.
pub(crate) fn run(args: Args, mut program: clap::Command, output: &mut Output<'_>) -> Result<Exit> {
    // Adds the inherited options and the full names to the subcommands.
    program.build();
    let command = match &args.command {
        None => program,
        Some(name) => {
            let found = program.find_subcommand(name).filter(|found| !found.is_hide_set()).cloned();
            found.ok_or_else(|| Error::config("there is no such command; see kms --help"))?
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).map_err(|cause| not_written("the page", cause))?;
    output.bytes(&page)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    fn page(command: Option<&str>) -> Result<String> {
        let mut bytes = Vec::new();
        let args = Args { command: command.map(str::to_owned) };
        run(args, crate::command(), &mut Output::to(Format::Text, &mut bytes))?;
        Ok(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn the_program_and_each_command_have_a_page() {
        let program = page(None).unwrap();
        assert!(program.contains("Exit codes") && program.contains("completions"), "{program}");
        for hidden in ["codegen", "key-management", "key\\-management"] {
            assert!(!program.contains(hidden), "{program}");
        }
        let get = page(Some("get")).unwrap();
        assert!(get.contains("kms\\-get") && get.contains("kubeconfig"), "{get}");
        for hidden in ["key-management", "codegen", "nosuch"] {
            assert!(page(Some(hidden)).is_err());
        }
    }
}
