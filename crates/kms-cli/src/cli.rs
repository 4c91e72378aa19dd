//! The command line: the groups of commands, and the dispatch to the command.

use std::ffi::OsString;

use clap::{Args as _, FromArgMatches as _, Parser, Subcommand};
use kms_core::Result;

use crate::{
    args::{Files, Global},
    cmd::{clusters, devices, escrow, keys, program},
    exit::Exit,
    invocation::Invocation,
    lazy::Lazy,
    output::Output,
};

/// Manage the encryption keys of Ceph OSDs, in the KMS that a Rook CephCluster names
///
/// kms finds the KMS in this order: in the YAML documents given with -f; in the CephCluster given with --cluster; in the
/// environment variables that Rook sets in its pods.
#[derive(Debug, Parser)]
#[command(name = "kms", version, arg_required_else_help = true, after_long_help = exit_codes())]
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
    /// Save the KEKs of the cluster to encrypted files, and bring them back
    ///
    /// A drill proves that they would come back. An escrow is a folder. Its archives are in the age format over tar, so that `age -d | tar x` reads them without kms;
    /// escrow.json in it has dates and recipients, and no secret.
    Escrow(Lazy<escrow::Args>),
    #[command(flatten)]
    Program(program::Command),
}

impl Command {
    /// Whether the command finds the name of the CephCluster itself, if the command line has its namespace only.
    pub(crate) fn finds_cluster(&self) -> bool {
        matches!(self, Self::Clusters(command) if command.finds_cluster())
    }
}

impl Cli {
    /// Parses a command line.
    ///
    /// clap gives a copy of every global option to every command before it parses, which takes longer than all else up
    /// to the first request. So the first try knows one command. What it does not accept, as a request for help, has its
    /// answer from the whole definition.
    pub(crate) fn parse_line(line: &[OsString]) -> Result<Self, clap::Error> {
        Self::parse_with_one_command(line).map_or_else(|| Self::try_parse_from(line), Ok)
    }

    /// Parses a valid command line with the definition of its command alone.
    ///
    /// Beside the options, the command is all that may stand before its own arguments. So what is valid here means the
    /// same in the whole definition.
    fn parse_with_one_command(line: &[OsString]) -> Option<Self> {
        let mut commands = Command::augment_subcommands(clap::Command::default());
        let command =
            line.iter().skip(1).find_map(|word| commands.find_subcommand_mut(word).map(std::mem::take))?;
        let options = Global::augment_args(Files::augment_args(clap::Command::new("kms")));
        let mut matches = options.subcommand(command).try_get_matches_from(line).ok()?;
        Self::from_arg_matches_mut(&mut matches).ok()
    }

    /// Splits the command line into options and command. The options receive the files given before and after the
    /// command.
    pub(crate) fn into_parts(self) -> (Global, Command) {
        let Self { files, mut global, mut command } = self;
        global.files = files.files;
        let after = match &mut command {
            Command::Keys(command) => Some(command.files()),
            Command::Devices(command) => command.files(),
            Command::Clusters(command) => command.files(),
            Command::Escrow(args) => args.files(),
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
    #[cfg(feature = "k8s-secret")]
    if output.is_html() && !matches!(command, Command::Clusters(clusters::Command::Inventory(_))) {
        return Err(kms_core::Error::config(
            "only kms inventory writes HTML: leave out -o html, or use -o json",
        ));
    }
    match command {
        Command::Keys(command) => keys::run(command, invocation, output).await,
        Command::Devices(command) => devices::run(command, invocation, output).await,
        Command::Clusters(command) => clusters::run(command, invocation, output).await,
        Command::Escrow(Lazy(args)) => escrow::run(args, invocation, output).await,
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
pub(crate) mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    use clap::CommandFactory;

    use super::*;

    /// The options of a call with any command.
    #[cfg(feature = "k8s-secret")]
    pub(crate) fn global(options: &[&str]) -> Global {
        let line = ["kms"].iter().chain(options).chain(&["list"]);
        Cli::try_parse_from(line).unwrap().into_parts().0
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_line_means_the_same_with_the_definition_of_its_command_alone() {
        let line = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        for text in [
            "kms list",
            "kms -f a get b",
            "kms -f get get get -f list --timeout 5s -o json",
            "kms --cluster a/b -vv check --read-only --color never",
            "kms list -q --log-format json",
            "kms version -v",
        ] {
            let alone = Cli::parse_with_one_command(&line(text)).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(format!("{alone:?}"), format!("{:?}", Cli::try_parse_from(line(text)).unwrap()));
        }
        // The first word that is a command may be the value of an option; the whole definition finds the command.
        for text in ["kms -f get list", "kms --context list get a"] {
            assert!(Cli::parse_with_one_command(&line(text)).is_none(), "{text}");
            assert!(Cli::parse_line(&line(text)).is_ok(), "{text}");
        }
        for text in [
            "kms",
            "kms -h",
            "kms --version",
            "kms get -h",
            "kms get",
            "kms help get",
            "kms list x",
            "kms --nosuch list",
        ] {
            assert!(Cli::parse_with_one_command(&line(text)).is_none(), "{text}");
            let error = Cli::parse_line(&line(text)).unwrap_err().to_string();
            assert_eq!(error, Cli::try_parse_from(line(text)).unwrap_err().to_string());
        }
    }

    #[test]
    fn the_short_help_of_every_command_fits_on_a_screen() {
        fn check(command: &mut clap::Command, most: usize) {
            let lines = command.render_help().to_string().lines().count();
            assert!(lines <= most, "{} -h has {lines} lines", command.get_name());
            let of_ours = command.get_subcommands_mut().filter(|command| command.get_name() != "help");
            of_ours.for_each(|command| check(command, 32));
        }
        let mut program = Cli::command();
        program.build();
        // It names every command.
        check(&mut program, 44);
    }

    /// Words that follow the name of the program in a sentence about it. Verbs that end in "s" need no place here.
    const PROSE: [&str; 22] = [
        "also",
        "and",
        "as",
        "can",
        "cannot",
        "config",
        "configuration",
        "connection",
        "could",
        "help",
        "instead",
        "may",
        "must",
        "never",
        "of",
        "or",
        "provider",
        "secret",
        "since",
        "token",
        "type",
        "would",
    ];

    /// The files with messages, help and documentation below a folder.
    fn texts(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir()
                && !["target", "tests", "node_modules"].contains(&&*name)
                && !name.starts_with('.')
            {
                texts(&path, found);
            } else if path
                .extension()
                .is_some_and(|kind| ["rs", "md", "yaml", "1"].iter().any(|known| kind == *known))
            {
                found.push(path);
            }
        }
    }

    #[test]
    fn no_message_help_or_page_names_a_command_that_does_not_exist() {
        let mut program = Cli::command();
        program.build();
        let mut files = Vec::new();
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for folder in ["crates", "deploy", "docs"] {
            texts(&workspace.join(folder), &mut files);
        }
        files.extend(["README.md", "CHANGELOG.md"].map(|page| workspace.join(page)));
        assert!(files.len() > 300, "{} files", files.len());
        let (mut wrong, mut named) = (Vec::new(), 0);
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            for (at, _) in text.match_indices("kms ") {
                let before = text[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || "-_/.".contains(c)) {
                    continue;
                }
                let mut words = text[at + 4..].split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
                let word = words.next().unwrap_or_default();
                let quoted = before == Some('`');
                if !word.starts_with(|c: char| c.is_ascii_lowercase()) {
                    continue;
                }
                if program.find_subcommand(word).is_some() {
                    named += 1;
                } else if quoted || !(word.ends_with('s') || PROSE.contains(&word)) {
                    wrong.push(format!("{}: kms {word}", file.display()));
                }
            }
        }
        assert!(named > 100, "only {named} commands are named");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn files_may_be_given_before_and_after_the_command() {
        let cli = Cli::try_parse_from(["kms", "-f", "a", "get", "-fb", "x", "--file=c"]).unwrap();
        assert_eq!(cli.into_parts().0.files, ["a", "b", "c"].map(PathBuf::from));
    }
}
