//! `cargo xtask tidy`: what the house style asks for and no lint looks at. Its checks of files are tests as well.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Result, bail};
use clap::Args;
use xshell::{Shell, cmd};

use crate::run::crates;

/// Files that every provider crate has, so that they can be compared side by side.
const PROVIDER_FILES: [&str; 9] = [
    "README.md",
    "src/api.rs",
    "src/auth.rs",
    "src/builder.rs",
    "src/config.rs",
    "src/error.rs",
    "src/lib.rs",
    "src/name.rs",
    "src/provider.rs",
];

/// Files that a provider crate does without, and why.
const ABSENT: [(&str, &str, &str); 2] = [
    (
        "kms-k8s-secret",
        "src/config.rs",
        "Rook has no settings for it: a cluster without connectionDetails uses it",
    ),
    ("kms-kmip", "src/auth.rs", "the client certificate is all; there is no login"),
];

/// Crates that are no providers though they have a file of that name.
const NOT_PROVIDERS: [&str; 2] = ["kms-core", "kms-dispatch"];

/// More code lines than this in one file, not counting tests, are worth a split.
const LONG: usize = 500;

/// Crates that must not be below others: `cargo tree` arguments, and the names that may not turn up.
const ISOLATION: [(&str, &[&str]); 10] = [
    (
        "--package kms-core --all-features",
        &["http", "http-body", "hyper", "kube", "reqwest", "rustls", "serde_json", "ureq"],
    ),
    (
        "--package kms-luks --all-features",
        &["http", "hyper", "kms-dispatch", "kms-http", "kube", "reqwest", "rustls"],
    ),
    (
        "--package kms-rotation --all-features",
        &["http", "hyper", "kms-dispatch", "kms-http", "kms-vault", "kube", "reqwest", "rustls"],
    ),
    (
        "--package kms-dispatch --no-default-features --features azure",
        &[
            "kms-ibmkp",
            "kms-k8s-secret",
            "kms-kmip",
            "kms-vault",
            "kube",
            "native-tls",
            "openssl",
            "openssl-sys",
        ],
    ),
    (
        "--package kms-dispatch --no-default-features --features vault",
        &["azure_core", "k8s-openapi", "kms-azure", "kms-k8s-secret", "kube", "kube-client"],
    ),
    (
        "--package kms-dispatch --no-default-features --features kmip",
        &["azure_core", "k8s-openapi", "kms-azure", "kms-k8s-secret", "kms-vault", "kube", "kube-client"],
    ),
    (
        "--package kms-dispatch --no-default-features --features k8s-secret",
        &["azure_core", "kms-azure", "kms-kmip", "kms-vault", "reqwest", "vaultrs"],
    ),
    (
        "--package kms-dispatch --no-default-features",
        &["azure_core", "hyper", "kms-k8s-secret", "kms-vault", "rustls"],
    ),
    // The model of a CephCluster needs no client.
    (
        "--package kms-kube --no-default-features",
        &["http", "hyper", "k8s-openapi", "kube", "rustls", "serde_json"],
    ),
    // What Rook's objects are made of is for others too, without a client of Kubernetes.
    (
        "--package kms-rook --no-default-features",
        &["hyper", "kms-k8s-secret", "kms-vault", "kube", "kube-client", "reqwest", "rustls"],
    ),
];

/// Check module documentation, file sets, to-do notes, paths, file lengths and which crate knows which
#[derive(Args, Debug, Default)]
pub(crate) struct Tidy {}

impl Tidy {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        let mut found = files(sh)?;
        for (args, banned) in ISOLATION {
            let tree = args.split(' ');
            // The name and version alone, each on a line of its own.
            let package = "{p}";
            let tree = cmd!(sh, "cargo tree {tree...} --edges normal --prefix none --format {package}")
                .quiet()
                .read()?;
            for line in tree.lines() {
                let name = line.split(' ').next().unwrap_or_default();
                if banned.contains(&name) {
                    found.push(format!("cargo tree {args}: {name} must not be in it"));
                }
            }
        }
        found.extend(counts(sh)?);
        found.dedup();
        if !found.is_empty() {
            bail!("{} things are not tidy:\n{}", found.len(), found.join("\n"));
        }
        eprintln!("tidy");
        Ok(())
    }
}

/// Compares the numbers of crates in the README's table of providers with what `cargo tree` says.
fn counts(sh: &Shell) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let said = said_counts(&sh.read_file("README.md")?);
    if said.is_empty() {
        found.push("README.md: has no table of providers".to_owned());
    }
    for (feature, said) in said {
        let package = "{p}";
        let tree = cmd!(sh, "cargo tree --package kms-dispatch --no-default-features --features {feature} --edges normal --target x86_64-unknown-linux-gnu --prefix none --format {package}")
            .quiet()
            .read()?;
        // Our own have a path behind them.
        let others = tree.lines().filter(|line| !line.contains("(/")).map(|line| line.split(" (").next());
        let count = others.collect::<BTreeSet<_>>().len();
        if said != Some(count) {
            found.push(format!("README.md: {feature} comes with {count} crates of others"));
        }
    }
    Ok(found)
}

/// The features in the README's table of providers, and how many crates it says each comes with.
fn said_counts(readme: &str) -> Vec<(String, Option<usize>)> {
    let rows = readme.lines().skip_while(|line| !line.starts_with("| `KMS_PROVIDER` |")).skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .map(|line| {
            let mut cells = line.split('|').map(str::trim).skip(3);
            let feature = cells.next().unwrap_or_default().trim_matches('`').to_owned();
            (feature, cells.next().and_then(|cell| cell.parse().ok()))
        })
        .collect()
}

/// The checks that only read files; returns what is wrong.
fn files(sh: &Shell) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let list = cmd!(sh, "git ls-files --cached --others --exclude-standard").quiet().read()?;
    for path in list.lines().filter(|path| sh.path_exists(path)) {
        // Hashes of Go modules can spell anything, and so can what is not text.
        let Ok(text) = sh.read_file(path) else { continue };
        if path.ends_with("go.sum") || path.ends_with("Cargo.lock") {
            continue;
        }
        found.extend(rust_file(path, &text));
        for (number, line) in text.lines().enumerate() {
            found.extend(line_faults(line).map(|fault| format!("{path}:{}: {fault}", number + 1)));
        }
    }
    for name in crates(sh)? {
        let folder = Path::new("crates").join(&name);
        if sh.path_exists(folder.join("src/provider.rs")) && !NOT_PROVIDERS.contains(&name.as_str()) {
            found.extend(provider(&name, &|file| sh.path_exists(folder.join(file))));
        }
    }
    let ledger = "crates/kms-testkit/src/ledger.rs";
    if sh.path_exists(ledger) {
        let text = sh.read_file(ledger)?;
        found.extend(
            empty_reasons(&text).map(|line| format!("{ledger}: an exception needs a reason: {line}")),
        );
    }
    Ok(found)
}

/// What is wrong with a Rust file; its length is only mentioned.
fn rust_file(path: &str, text: &str) -> Option<String> {
    if !path.ends_with(".rs") {
        return None;
    }
    let code = code_lines(text);
    if code > LONG && !path.contains("/tests/") {
        eprintln!("{path}: {code} code lines, more than {LONG}: consider a split");
    }
    // A crate's documentation may be its README.
    let documented = ["//!", "#![doc = include_str!("].iter().any(|start| text.starts_with(start));
    (!documented).then(|| format!("{path}: does not begin with its documentation (//!)"))
}

/// Lines of code before the tests of a file, without comments and blank lines.
fn code_lines(text: &str) -> usize {
    text.lines()
        .map(str::trim)
        .take_while(|line| *line != "#[cfg(test)]")
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .count()
}

/// What is wrong with one line of any file.
fn line_faults(line: &str) -> impl Iterator<Item = &'static str> {
    // Written so that this file does not find itself.
    let (todo, places) =
        (concat!("TO", "DO"), [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/")]);
    let unnamed = line.match_indices(todo).any(|(at, _)| {
        let rest = line.get(at + todo.len()..).unwrap_or_default();
        let number = rest.strip_prefix("(#").and_then(|rest| rest.split_once(')')).map(|(number, _)| number);
        !number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    });
    let absolute = places.iter().any(|place| {
        line.match_indices(place).any(|(at, _)| {
            // In the middle of a URL or of a longer path it is something else.
            let before = line.get(..at).and_then(|before| before.chars().next_back());
            !before.is_some_and(|before| before.is_alphanumeric() || "._-*}".contains(before))
        })
    });
    let unnamed = unnamed.then_some("a note of what is to be done names its issue: (#n)");
    let absolute = absolute.then_some("a path of somebody's machine");
    unnamed.into_iter().chain(absolute)
}

/// What is wrong with the files of a provider crate.
fn provider(name: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let excused = |file: &str| ABSENT.iter().any(|(package, absent, _)| *package == name && *absent == file);
    PROVIDER_FILES
        .into_iter()
        .filter_map(|file| match (exists(file), excused(file)) {
            (false, false) => Some(format!("crates/{name}: has no {file}")),
            (true, true) => {
                Some(format!("crates/{name}: has {file}, which the list of absences says it does without"))
            }
            _ => None,
        })
        .collect()
}

/// The lines of the ledger's table that have an empty text.
fn empty_reasons(text: &str) -> impl Iterator<Item = &str> {
    let table = text.split_once("LEDGER:").map_or("", |(_, table)| table);
    let table = table.split_once("];").map_or("", |(table, _)| table);
    table
        .lines()
        .map(str::trim)
        .filter(|line| line.split('"').skip(1).step_by(2).any(|string| string.trim().is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_this_workspace_are_tidy() {
        let sh = Shell::new().unwrap();
        sh.change_dir(crate::run::root());
        assert_eq!(files(&sh).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn numbers_of_crates_are_found_in_the_table() {
        let text = "x\n| `KMS_PROVIDER` | keys | feature | crates | state |\n| --- | --- | --- | --- | --- |\n\
                    | none | there | `a` | 7 | done |\n| `b` | here | `b` | many | done |\n\n| `c` | | `c` | 1 | |\n";
        assert_eq!(said_counts(text), [("a".to_owned(), Some(7)), ("b".to_owned(), None)]);
    }

    #[test]
    fn notes_of_what_is_to_be_done_name_an_issue() {
        let note = |rest: &str| line_faults(&format!("// {}{rest}", concat!("TO", "DO"))).count();
        assert_eq!((note("(#12): x"), note(": x"), note("(me): x"), note("(#)")), (0, 1, 1, 1));
    }

    #[test]
    fn paths_of_machines_are_found_and_urls_are_not() {
        let home = concat!("/ho", "me/me/file");
        assert_eq!(line_faults(&format!("see {home}")).count(), 1);
        assert_eq!(line_faults(&format!("\"{home}\"")).count(), 1);
        assert_eq!(line_faults(&format!("https://example.org{home}")).count(), 0);
    }

    #[test]
    fn a_provider_has_all_its_files_but_the_excused_ones() {
        let all = |_: &str| true;
        assert!(provider("kms-vault", &all).is_empty());
        assert_eq!(provider("kms-vault", &|file| file != "src/name.rs").len(), 1);
        assert!(provider("kms-k8s-secret", &|file| file != "src/config.rs").is_empty());
        // An excuse that is not needed any more has to go.
        assert_eq!(provider("kms-k8s-secret", &all).len(), 1);
    }

    #[test]
    fn exceptions_without_a_reason_are_found() {
        let table = |reason: &str| {
            format!(
                "pub const LEDGER: &[E] = &[\n    E::new(\"vault\", \"case\", \"{reason}\"),\n];\nlet x = \"\";\n"
            )
        };
        assert_eq!(empty_reasons(&table("because")).count(), 0);
        assert_eq!(empty_reasons(&table(" ")).count(), 1);
    }

    #[test]
    fn code_lines_are_neither_comments_nor_tests() {
        assert_eq!(code_lines("//! doc\n\nfn a() {\n    // why\n}\n\n#[cfg(test)]\nmod tests {}\n"), 2);
    }
}
