//! `kms man`: prints a manual page, or writes all of them.

use std::path::PathBuf;

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

    /// Write the pages of the program and of every command into this folder, as kms.1, kms-get.1 and so on
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    pub(crate) all: Option<PathBuf>,
}

/// Prints the page in roff.
pub(crate) fn run(args: Args, mut program: clap::Command, output: &mut Output<'_>) -> Result<Exit> {
    if let Some(folder) = &args.all {
        std::fs::create_dir_all(folder).map_err(|cause| not_written(folder.display().to_string(), cause))?;
        clap_mangen::generate_to(program, folder)
            .map_err(|cause| not_written(folder.display().to_string(), cause))?;
        return Ok(Exit::Done);
    }
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
        let args = Args { command: command.map(str::to_owned), all: None };
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

    #[test]
    fn all_pages_are_written_into_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("man1");
        let args = Args { command: None, all: Some(place.clone()) };
        run(args, crate::command(), &mut Output::to(Format::Text, std::io::sink())).unwrap();
        let files =
            std::fs::read_dir(&place).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let files: std::collections::BTreeSet<String> = files.collect();
        fn add(command: &clap::Command, name: &str, found: &mut std::collections::BTreeSet<String>) {
            found.insert(format!("{name}.1"));
            for command in command.get_subcommands() {
                if command.is_hide_set() || command.get_name() == "help" {
                    continue;
                }
                add(command, &format!("{name}-{}", command.get_name()), found);
            }
        }
        let mut expected = std::collections::BTreeSet::new();
        let mut program = crate::command();
        program.build();
        add(&program, "kms", &mut expected);
        assert_eq!(files, expected);
        assert!(
            files.contains("kms-cronjobs-apply.1") && !files.contains("kms-key-management.1"),
            "{files:?}"
        );
        let get = std::fs::read_to_string(place.join("kms-get.1")).unwrap();
        assert!(get.contains("kms\\-get") && get.contains("kubeconfig"), "{get}");
    }
}
