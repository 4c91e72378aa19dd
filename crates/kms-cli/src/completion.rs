//! Answers the shell when a user presses the tab key: names of keys and settings, beside commands and options.
//!
//! The script of `kms completions` calls the program with the words of the command line and [`VARIABLE`] set.

use std::{
    ffi::{OsStr, OsString},
    process::ExitCode,
    time::Duration,
};

use clap::{Command, CommandFactory as _, Parser as _};
use clap_complete::{ArgValueCandidates, ArgValueCompleter, CompleteEnv, CompletionCandidate};
use futures_util::TryStreamExt as _;
use kms_dispatch::{Provider, Registry};

use crate::{block_on, cli::Cli, environment::Environment, exit::Exit, invocation::Invocation};

/// The variable that has the name of the shell. Not `COMPLETE`, which a pod may have for another program.
pub(crate) const VARIABLE: &str = "KMS_COMPLETE";
/// How long the KMS may take to list its keys: a user waits for the shell.
const LIMIT: Duration = Duration::from_secs(1);

/// Answers the shell on standard output.
pub(crate) fn answer() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let folder = std::env::current_dir().ok();
    match CompleteEnv::with_factory(program).var(VARIABLE).try_complete(words, folder.as_deref()) {
        Ok(_) => Exit::Done.into(),
        Err(error) => {
            let _ignored = error.print();
            Exit::Usage.into()
        }
    }
}

/// The command line, with what fills in names.
fn program() -> Command {
    fn fill_in(command: Command) -> Command {
        command
            .mut_args(|arg| match arg.get_id().as_str() {
                "name" => arg.add(ArgValueCompleter::new(|current: &OsStr| candidates(current, keys()))),
                "setting" => arg.add(ArgValueCandidates::new(|| {
                    settings().into_iter().map(CompletionCandidate::new).collect()
                })),
                _ => arg,
            })
            .mut_subcommands(fill_in)
    }
    let mut program = Cli::command();
    // Commands describe their arguments only now.
    program.build();
    fill_in(program)
}

fn candidates(current: &OsStr, names: Vec<String>) -> Vec<CompletionCandidate> {
    let begins = |name: &String| current.to_str().is_some_and(|current| name.starts_with(current));
    names.into_iter().filter(begins).map(CompletionCandidate::new).collect()
}

/// The names of the settings of this build.
fn settings() -> Vec<&'static str> {
    let of = |provider: Provider| provider.settings().unwrap_or_default();
    Provider::ALL.into_iter().flat_map(of).map(|setting| setting.name).collect()
}

/// The names of the keys in the KMS that the words of the command line name. None if the KMS does not list them in
/// time: the shell has no place for an error.
fn keys() -> Vec<String> {
    let words = std::env::args_os().skip_while(|word| word != "--").skip(2);
    let options = options_of_the_kms(words.filter_map(|word| word.into_string().ok()));
    let line = ["kms".to_owned()].into_iter().chain(options).chain(["list".to_owned()]);
    let Ok(cli) = Cli::try_parse_from(line) else { return Vec::new() };
    let environment = Environment::read();
    let (mut global, _) = cli.into_parts();
    global.set_environment(&environment);
    global.timeout = Some(LIMIT);
    let invocation = Invocation {
        global,
        environment: &environment,
        registry: Registry::new(),
        rotation: kms_rotation::Options::default(),
    };
    let listed = async {
        let kms = invocation.connect().await.ok()?;
        kms.list().try_collect::<Vec<_>>().await.ok()
    };
    let listed = block_on(async { tokio::time::timeout(LIMIT, listed).await });
    let listed = listed.ok().and_then(Result::ok).flatten().unwrap_or_default();
    listed.into_iter().map(|key| key.name.to_string()).collect()
}

/// The options among `words` that every command has, with their values: the others mean nothing to `kms list`.
fn options_of_the_kms(words: impl Iterator<Item = String>) -> Vec<String> {
    let program = Cli::command();
    let mut kept = Vec::new();
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        let (name, value) =
            word.split_once('=').map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
        let found = program.get_arguments().find(|arg| {
            let short = arg.get_short().is_some_and(|short| name == format!("-{short}"));
            short || arg.get_long().is_some_and(|long| name.strip_prefix("--") == Some(long))
        });
        let Some(arg) = found else { continue };
        let takes_next = arg.get_action().takes_values() && value.is_none();
        kept.push(word);
        if takes_next {
            kept.extend(words.next());
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_options_that_name_the_kms_are_kept() {
        let words = ["get", "-f", "a.yaml", "--force", "--secrets-dir=s", "set", "--cluster", "a/b"];
        let kept = options_of_the_kms(words.into_iter().map(str::to_owned));
        assert_eq!(kept, ["-f", "a.yaml", "--secrets-dir=s", "--cluster", "a/b"]);
    }

    #[test]
    fn settings_and_matching_names_are_offered() {
        assert!(settings().contains(&"VAULT_ADDR"));
        let names = || vec!["set1-data-0".to_owned(), "other".to_owned()];
        let offered = |current| candidates(OsStr::new(current), names()).len();
        assert_eq!([offered("se"), offered(""), offered("x")], [1, 2, 0]);
    }
}
