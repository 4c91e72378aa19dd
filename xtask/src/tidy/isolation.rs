//! Checks with `cargo tree` which crates must not depend on which, and how many crates each provider adds.

use std::collections::BTreeSet;

use anyhow::Result;
use xshell::{Shell, cmd};

/// Arguments of `cargo tree`, and the crates that must not appear in its output.
const ABSENT: [(&str, &[&str]); 18] = [
    (
        "--package kms-core --all-features",
        &["http", "http-body", "hyper", "kube", "reqwest", "rustls", "serde_json", "ureq"],
    ),
    // An escrow is readable without the providers, and headers are bytes to it.
    (
        "--package kms-escrow --all-features",
        &[
            "http",
            "hyper",
            "kms-dispatch",
            "kms-http",
            "kms-luks",
            "kms-rotation",
            "kube",
            "reqwest",
            "rustls",
        ],
    ),
    (
        "--package kms-luks --all-features",
        &["http", "hyper", "kms-dispatch", "kms-http", "kube", "reqwest", "rustls"],
    ),
    (
        "--package kms-rotation --all-features",
        &[
            "command-fds",
            "http",
            "hyper",
            "kms-dispatch",
            "kms-http",
            "kms-luks",
            "kms-vault",
            "kube",
            "reqwest",
            "rustls",
        ],
    ),
    (
        "--package kms-migrate --all-features",
        &["http", "hyper", "kms-dispatch", "kms-http", "kms-luks", "kms-vault", "kube", "reqwest", "rustls"],
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
    // A KMIP server is reached without HTTP.
    ("--package kms-kmip --all-features", &["http", "hyper", "kms-http", "reqwest"]),
    // The sources of blocks and Secrets are useful without any provider.
    (
        "--package kms-source --all-features",
        &["hyper", "k8s-openapi", "kms-dispatch", "kms-http", "kms-vault", "kube", "reqwest", "rustls"],
    ),
    // Implementers build the suite without the test harness.
    (
        "--package kms-conformance --all-features",
        &["hyper", "kms-dispatch", "kms-http", "kms-testkit", "kube", "reqwest", "rustls"],
    ),
    (
        "--package kms-kube --all-features",
        &["kms-dispatch", "kms-http", "kms-k8s-secret", "kms-vault", "reqwest"],
    ),
    // It looks at headers and bytes, whichever client has received them.
    (
        "--package kms-response --all-features",
        &["hyper", "kms-http", "kms-tls", "kube", "reqwest", "rustls", "serde_json"],
    ),
    // A page gets labels and numbers.
    (
        "--package kms-page --all-features",
        &["http", "hyper", "k8s-openapi", "kms-core", "kube", "rustls", "serde_json"],
    ),
    // The model of a CephCluster needs no client.
    (
        "--package kms-kube --no-default-features",
        &["http", "hyper", "k8s-openapi", "kube", "rustls", "serde_json"],
    ),
    // Programs may build Rook's objects without a Kubernetes client.
    (
        "--package kms-rook --no-default-features",
        &["hyper", "kms-k8s-secret", "kms-vault", "kube", "kube-client", "reqwest", "rustls"],
    ),
];

pub(super) fn check(sh: &Shell) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (args, absent) in ABSENT {
        let arguments = args.split(' ');
        // Prints name and version alone, one package on each line.
        let package = "{p}";
        let tree = cmd!(sh, "cargo tree {arguments...} --edges normal --prefix none --format {package}")
            .quiet()
            .read()?;
        found.extend(
            present(&tree, absent).map(|name| format!("cargo tree {args}: {name} must not be in it")),
        );
    }
    found.extend(counts(sh)?);
    found.dedup();
    Ok(found)
}

/// The names of `absent` that are in a tree.
fn present<'a>(tree: &'a str, absent: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    tree.lines().filter_map(|line| line.split(' ').next()).filter(|name| absent.contains(name))
}

/// Compares the numbers of crates in the README's table of providers with the output of `cargo tree`.
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
        // Our own crates have a path after their name.
        let others = tree.lines().filter(|line| !line.contains("(/")).map(|line| line.split(" (").next());
        let count = others.collect::<BTreeSet<_>>().len();
        if said != Some(count) {
            found.push(format!("README.md: {feature} comes with {count} crates of others"));
        }
    }
    Ok(found)
}

/// The features in the README's table of providers, each with the number of crates that the table states.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_that_must_be_absent_is_found_by_its_whole_name() {
        let tree = "kms-core v0.1.0\nhttp v1.5.0\nhttpdate v1.0.3\n";
        assert_eq!(present(tree, &["http", "date"]).collect::<Vec<_>>(), ["http"]);
    }

    #[test]
    fn numbers_of_crates_are_found_in_the_table() {
        let text = "x\n| `KMS_PROVIDER` | keys | feature | crates | state |\n| --- | --- | --- | --- | --- |\n\
                    | none | there | `a` | 7 | done |\n| `b` | here | `b` | many | done |\n\n| `c` | | `c` | 1 | |\n";
        assert_eq!(said_counts(text), [("a".to_owned(), Some(7)), ("b".to_owned(), None)]);
    }
}
