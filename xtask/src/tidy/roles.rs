//! Checks the role map: one role, one file, the same in every provider (`docs/style.md`).

use std::collections::BTreeSet;

use super::{size, workspace::Workspace};

/// The provider crates.
pub(super) const PROVIDERS: [&str; 5] = ["kms-azure", "kms-ibmkp", "kms-k8s-secret", "kms-kmip", "kms-vault"];

/// Every role that a provider may have, and the content of its file. If a service lacks a role, the file is absent.
const ROLES: [(&str, &str); 15] = [
    ("lib.rs", "the crate's documentation and public names"),
    ("config.rs", "the settings"),
    ("builder.rs", "from settings to a provider"),
    ("auth.rs", "credentials and login"),
    ("api.rs", "requests and responses on the wire"),
    ("stored.rs", "what the KMS keeps, encoded and decoded"),
    ("name.rs", "key names and the service's own names"),
    ("provider.rs", "the trait's implementation: orchestration only"),
    ("get.rs", "reads a KEK"),
    ("put.rs", "stores a KEK"),
    ("delete.rs", "deletes a KEK"),
    ("history.rs", "every KEK that the KMS still has, and deleted keys brought back"),
    ("list.rs", "lists key names"),
    ("probe.rs", "logs in and checks the rights"),
    ("error.rs", "from the service's codes to `ErrorKind` and `Retry`"),
];

/// The files that every provider must have.
const REQUIRED: [&str; 6] =
    ["README.md", "src/builder.rs", "src/error.rs", "src/lib.rs", "src/name.rs", "src/provider.rs"];

/// Files and folders that only one service has, and why.
const OWN: [(&str, &str, &str); 27] = [
    ("kms-azure", "address.rs", "clouds, and which tokens may be sent to which vault"),
    ("kms-azure", "assertion.rs", "a certificate authenticates by a signed assertion"),
    ("kms-azure", "certificate.rs", "PEM and PKCS#12 in all their forms"),
    ("kms-azure", "certificate/", "PEM and PKCS#12 in all their forms"),
    ("kms-azure", "challenge.rs", "the vault's challenge names tenant and scope"),
    ("kms-azure", "grant.rs", "Entra ID's token response"),
    ("kms-azure", "pages.rs", "only links say whether a list is whole"),
    ("kms-azure", "soft_delete.rs", "recovery and purge, which the vault completes later"),
    ("kms-azure", "transport.rs", "the SDK sends through kms-http"),
    ("kms-ibmkp", "address.rs", "which addresses, instance ids and key rings are valid"),
    ("kms-ibmkp", "pages.rs", "only offsets say whether a list is whole"),
    ("kms-k8s-secret", "index.rs", "identifiers for kms-kmip, kept in Secrets (rook-behaviour §6.6)"),
    ("kms-kmip", "answers.rs", "the responses to the operations of one request"),
    ("kms-kmip", "classify.rs", "which of several objects is the KEK"),
    ("kms-kmip", "client.rs", "the protocol version, and several operations in one request"),
    ("kms-kmip", "connection.rs", "KMIP is TLS over TCP, not HTTP"),
    ("kms-kmip", "find.rs", "when it is certain which of several objects is the KEK (decision 0013)"),
    ("kms-kmip", "habits.rs", "what was seen of a server, for `kms check -v`"),
    ("kms-kmip", "index.rs", "identifiers of objects, kept outside of the server"),
    ("kms-kmip", "label.rs", "how an object says which key, cluster and generation it holds"),
    ("kms-kmip", "locate.rs", "servers cut the response to Locate short"),
    ("kms-kmip", "message.rs", "the frame of requests and responses"),
    ("kms-kmip", "named.rs", "objects are found by a name that need not be unique"),
    ("kms-kmip", "pool.rs", "which connection a request may use, and when it may be sent again"),
    ("kms-kmip", "superseded.rs", "which objects never count as the KEK again"),
    ("kms-kmip", "ttlv/", "the encoding of messages (decision 0005)"),
    ("kms-vault", "mount.rs", "the KV mount: its version, and freshness behind standbys"),
];

/// `provider.rs` orchestrates. If it has more code lines than this, it does work that belongs elsewhere.
const PROVIDER_LINES: usize = 200;

pub(super) fn check(workspace: &Workspace) -> Vec<String> {
    PROVIDERS.iter().flat_map(|name| provider(workspace, name, &OWN)).collect()
}

fn provider(workspace: &Workspace, name: &str, own: &[(&str, &str, &str)]) -> Vec<String> {
    let prefix = format!("crates/{name}/");
    let mut found = Vec::new();
    for file in REQUIRED {
        if workspace.get(&format!("{prefix}{file}")).is_none() {
            found.push(format!("crates/{name}: {file} is missing"));
        }
    }
    let mut used = BTreeSet::new();
    for file in &workspace.files {
        let Some(inside) = file.path.strip_prefix(&prefix).and_then(|path| path.strip_prefix("src/")) else {
            continue;
        };
        // A file in a folder has the role of the top folder: `certificate/file.rs` has `certificate/`.
        let role =
            inside.split_once('/').map_or_else(|| inside.to_owned(), |(folder, _)| format!("{folder}/"));
        // A role with more than one file is a folder of that name.
        let known = |(role_file, _): &(&str, &str)| {
            role == **role_file || role.strip_suffix('/') == role_file.strip_suffix(".rs")
        };
        if ROLES.iter().any(known) {
            continue;
        }
        let own = own.iter().find(|(package, path, _)| *package == name && *path == role);
        match own {
            Some((_, path, _)) => _ = used.insert(*path),
            None => found.push(format!("{}: no role of a provider has this file", file.path)),
        }
    }
    for (_, path, _) in own.iter().filter(|(package, path, _)| *package == name && !used.contains(path)) {
        found.push(format!("crates/{name}: {path} is in the list of own files and does not exist"));
    }
    if let Some(file) = workspace.get(&format!("{prefix}src/provider.rs")) {
        let lines = size::of_file(file);
        if lines >= PROVIDER_LINES {
            found.push(format!("{}: {lines} code lines; {PROVIDER_LINES} is the limit", file.path));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{super::workspace::File, *};

    fn workspace(more: &[(&str, &str)]) -> Workspace {
        let files = REQUIRED.map(|file| (format!("crates/kms-vault/{file}"), ""));
        let more = more.iter().map(|(path, text)| (format!("crates/kms-vault/{path}"), *text));
        let files: Vec<(String, &str)> = files.into_iter().chain(more).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        Workspace::of(&files)
    }

    #[test]
    fn roles_may_be_files_or_folders_and_may_be_missing() {
        let workspace = workspace(&[("src/put.rs", ""), ("src/api/mod.rs", ""), ("tests/any.rs", "")]);
        assert_eq!(provider(&workspace, "kms-vault", &[]), Vec::<String>::new());
    }

    #[test]
    fn a_missing_file_that_every_provider_has_is_found() {
        let mut workspace = workspace(&[]);
        workspace.files.retain(|file| !file.path.ends_with("name.rs"));
        assert_eq!(provider(&workspace, "kms-vault", &[]), ["crates/kms-vault: src/name.rs is missing"]);
    }

    #[test]
    fn a_file_without_a_role_needs_an_entry_and_an_entry_needs_its_file() {
        let workspace = workspace(&[("src/mount.rs", ""), ("src/store/x.rs", "")]);
        let own = [("kms-vault", "mount.rs", "mounts"), ("kms-vault", "store/", "x")];
        assert_eq!(provider(&workspace, "kms-vault", &[]).len(), 2);
        assert!(provider(&workspace, "kms-vault", &own).is_empty());
        let gone = [own[0], own[1], ("kms-vault", "gone.rs", "nothing")];
        assert_eq!(provider(&workspace, "kms-vault", &gone).len(), 1);
    }

    #[test]
    fn a_provider_that_does_the_work_itself_is_found() {
        let long = "fn f() {}\n".repeat(PROVIDER_LINES);
        let mut workspace = workspace(&[]);
        workspace.files.retain(|file| !file.path.ends_with("provider.rs"));
        workspace.files.push(File::new("crates/kms-vault/src/provider.rs", &long));
        assert_eq!(provider(&workspace, "kms-vault", &[]).len(), 1);
    }
}
