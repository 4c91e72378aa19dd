//! Reads Secrets that are mounted as files.

use std::{
    io,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use kms_core::{Error, ErrorKind, Result, SecretData, SecretSource, SecuritySpec};

use crate::{Entries, is_object_name, read_entry};

/// Secrets in a directory: `DIR/<secret>/<key>`, as Kubernetes mounts them, or the files of Rook's own mounts.
///
/// It reads the files each time, and so sees a Secret that changes while the program runs.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    roles: Vec<Role>,
}

/// A Secret that Rook mounts under its own file names (rook-behaviour §13.3).
#[derive(Debug)]
struct Role {
    secret: String,
    key: &'static str,
    file: &'static str,
}

impl Directory {
    /// Makes a source of the Secrets in `root`. It reads the directory when a caller asks for a Secret.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), roles: Vec::new() }
    }

    /// Also reads the files that Rook mounts into `/etc/vault` and `/etc/kmip`, if they are in the directory itself
    /// (`vault.ca`, `ca.crt` …). The `security` block shows which Secret each file belongs to.
    #[must_use]
    pub fn with_rook_mounts_of(mut self, spec: &SecuritySpec) -> Self {
        let details = &spec.kms.connection_details;
        let token = spec.kms.token_secret_name.trim();
        let named = |setting: &str| details.get(setting).map(str::trim).unwrap_or_default();
        let roles = [
            (named("VAULT_CACERT"), "cert", "vault.ca"),
            (named("VAULT_CLIENT_CERT"), "cert", "vault.crt"),
            (named("VAULT_CLIENT_KEY"), "key", "vault.key"),
            (token, "token", "vault.token"),
            (token, "CA_CERT", "ca.crt"),
            (token, "CLIENT_CERT", "client.crt"),
            (token, "CLIENT_KEY", "client.key"),
        ];
        self.roles.extend(
            roles.into_iter().filter(|(secret, ..)| !secret.is_empty()).map(|(secret, key, file)| Role {
                secret: secret.to_owned(),
                key,
                file,
            }),
        );
        self
    }

    fn read(&self, name: &str) -> Result<SecretData> {
        if !is_object_name(name) {
            return Err(Error::config("a Secret that the settings name has a name that no Secret can have"));
        }
        let folder = self.root.join(name);
        let mut entries = Entries::default();
        match std::fs::read_dir(&folder) {
            Ok(files) => {
                for file in files {
                    let file = file.map_err(|cause| unreadable(&folder, cause))?;
                    self.read_into(&mut entries, &file.path())?;
                }
                return Ok(entries.to_secret(name));
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(unreadable(&folder, cause)),
        }
        for role in self.roles.iter().filter(|role| role.secret == name) {
            let path = self.root.join(role.file);
            match read_entry(&path) {
                Ok(mut bytes) => entries.insert(role.key, std::mem::take(&mut *bytes)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if entries.is_empty() {
            let root = self.root.display();
            return Err(Error::new(ErrorKind::NotFound, format!("Secret {name:?} was not found in {root}")));
        }
        Ok(entries.to_secret(name))
    }

    fn read_into(&self, entries: &mut Entries, path: &Path) -> Result<()> {
        // Kubernetes keeps the files in a hidden folder (`..data`), and links each key to its file there.
        let Some(key) = path.file_name().and_then(|name| name.to_str()).filter(|key| !key.starts_with('.'))
        else {
            return Ok(());
        };
        if path.is_dir() {
            return Ok(());
        }
        let mut bytes = read_entry(path)?;
        entries.insert(key, std::mem::take(&mut *bytes));
        Ok(())
    }
}

fn unreadable(folder: &Path, cause: io::Error) -> Error {
    let kind = match cause.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::ConfigInvalid,
    };
    Error::new(kind, "a folder of a mounted Secret cannot be read")
        .context("folder", folder.display().to_string())
        .source(cause)
}

#[async_trait]
impl SecretSource for Directory {
    async fn secret(&self, name: &str) -> Result<SecretData> {
        self.read(name)
    }
}

#[cfg(test)]
mod tests {
    use kms_core::{ConnectionDetails, KmsSpec};

    use super::*;

    #[tokio::test]
    async fn a_secret_is_a_folder_with_a_file_for_each_key() {
        let root = tempfile::tempdir().unwrap();
        // The kubelet writes the key as a link through `..data` to a folder that is named after a time.
        let secret = root.path().join("vault-token");
        std::fs::create_dir_all(secret.join("..2026_01_01")).unwrap();
        std::fs::write(secret.join("..2026_01_01/token"), "s.first\n").unwrap();
        std::os::unix::fs::symlink("..2026_01_01", secret.join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/token", secret.join("token")).unwrap();

        let source = Directory::new(root.path());
        let read = source.secret("vault-token").await.unwrap();
        assert_eq!(read.keys().collect::<Vec<_>>(), ["token"]);
        assert_eq!(read.bytes("token").unwrap(), b"s.first\n");

        std::fs::write(secret.join("..2026_01_01/token"), "s.second").unwrap();
        assert_eq!(source.secret("vault-token").await.unwrap().bytes("token").unwrap(), b"s.second");

        let error = source.secret("nosuch").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains(r#"Secret "nosuch" was not found in "#), "{error}");
    }

    #[tokio::test]
    async fn the_files_of_rooks_mounts_stand_for_the_secrets_that_the_block_names() {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in
            [("vault.ca", "ca"), ("vault.crt", "crt"), ("vault.key", "key"), ("vault.token", "token")]
        {
            std::fs::write(root.path().join(file), text).unwrap();
        }
        let details = [("VAULT_CACERT", "a"), ("VAULT_CLIENT_CERT", "b"), ("VAULT_CLIENT_KEY", "c\n")];
        let spec = SecuritySpec::new(KmsSpec::new(details.into_iter().collect::<ConnectionDetails>(), "d"));
        let source = Directory::new(root.path()).with_rook_mounts_of(&spec);
        for (secret, key, text) in
            [("a", "cert", "ca"), ("b", "cert", "crt"), ("c", "key", "key"), ("d", "token", "token")]
        {
            assert_eq!(source.secret(secret).await.unwrap().bytes(key).unwrap(), text.as_bytes());
        }
        assert_eq!(source.secret("e").await.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn no_name_leads_out_of_the_directory() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("inner");
        std::fs::create_dir_all(root.path().join("outside")).unwrap();
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(root.path().join("outside/token"), "canary").unwrap();
        let outside = root.path().join("outside").display().to_string();
        for name in ["../outside", "..", ".", "", "a/../../outside", &outside] {
            let error = Directory::new(&inner).secret(name).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{name:?}");
        }
    }
}
