//! Writes YAML as in Rook's documentation, for the servers of xtask.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kms_testkit::servers::pki::write_private;

/// A Vault, a token for it, and its CA.
#[derive(Debug)]
pub(crate) struct Vault<'a> {
    pub(crate) addr: &'a str,
    pub(crate) backend_path: &'a str,
    pub(crate) token: &'a str,
    pub(crate) ca: &'a str,
}

impl Vault<'_> {
    /// Writes `cluster.yaml`, `token.yaml` and `ca.yaml` to `folder`; returns their paths.
    pub(crate) fn write(&self, folder: &Path) -> Result<[PathBuf; 3]> {
        let Self { addr, backend_path, token, ca } = self;
        let settings = [
            ("KMS_PROVIDER", "vault"),
            ("VAULT_ADDR", addr),
            ("VAULT_BACKEND_PATH", backend_path),
            ("VAULT_SECRET_ENGINE", "kv"),
            ("VAULT_AUTH_METHOD", "token"),
            ("VAULT_CACERT", "vault-ca"),
        ];
        let files = [
            ("cluster.yaml", cluster(&settings, "rook-vault-token")),
            ("token.yaml", secret("rook-vault-token", &format!("  token: {token}\n"))),
            ("ca.yaml", secret("vault-ca", &format!("  cert: |\n{}", block(ca)))),
        ];
        write(folder, files)
    }
}

/// A KMIP server, and the entries of its token Secret.
#[derive(Debug)]
pub(crate) struct Kmip<'a> {
    pub(crate) endpoint: &'a str,
    pub(crate) credentials: [(&'static str, &'a String); 3],
}

impl Kmip<'_> {
    /// Writes `cluster.yaml` and `token.yaml` to `folder`; returns their paths.
    pub(crate) fn write(&self, folder: &Path) -> Result<[PathBuf; 2]> {
        let Self { endpoint, credentials } = self;
        let settings = [("KMS_PROVIDER", "kmip"), ("KMIP_ENDPOINT", endpoint)];
        let data: String =
            credentials.iter().map(|(key, pem)| format!("  {key}: |\n{}", block(pem))).collect();
        let files = [
            ("cluster.yaml", cluster(&settings, "rook-kmip-token")),
            ("token.yaml", secret("rook-kmip-token", &data)),
        ];
        write(folder, files)
    }
}

/// Writes files that only the owner can read, and returns their paths.
fn write<const N: usize>(folder: &Path, files: [(&str, String); N]) -> Result<[PathBuf; N]> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    for (name, text) in &files {
        write_private(&folder.join(name), text)?;
    }
    Ok(files.map(|(name, _)| folder.join(name)))
}

/// A CephCluster with these connection details.
fn cluster(settings: &[(&str, &str)], token_secret: &str) -> String {
    let details: String = settings.iter().map(|(name, value)| format!("        {name}: {value}\n")).collect();
    format!(
        "apiVersion: ceph.rook.io/v1
kind: CephCluster
metadata:
  name: rook-ceph
  namespace: rook-ceph
spec:
  security:
    kms:
      connectionDetails:
{details}      tokenSecretName: {token_secret}
"
    )
}

/// Formats the lines of a block of text below a key of `stringData`.
fn block(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// A Secret with this `stringData`.
fn secret(name: &str, data: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n  namespace: rook-ceph\nstringData:\n{data}"
    )
}
