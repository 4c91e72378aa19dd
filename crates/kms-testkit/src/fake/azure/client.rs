//! Microsoft's own clients, connected to the double.

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;
use tokio::process::Command;

use super::{Azure, CLIENT, TENANT};
use crate::servers::setting;

/// One of Microsoft's clients, run by a script of `tests/clients/azure`, which documents its commands.
#[derive(Debug)]
pub struct Client<'a> {
    double: &'a Azure,
    program: PathBuf,
    script: &'static str,
    node_path: Option<PathBuf>,
    folder: TempDir,
}

impl<'a> Client<'a> {
    /// The Python client: `KMS_IT_AZURE_PYTHON` is a Python that has it.
    ///
    /// # Errors
    ///
    /// If the variable is not set.
    pub fn python(double: &'a Azure) -> Result<Self> {
        Self::new(double, setting("KMS_IT_AZURE_PYTHON")?, "client.py", None)
    }

    /// The Node client: `KMS_IT_AZURE_NODE_PATH` is the folder `node_modules` that has it.
    ///
    /// # Errors
    ///
    /// If the variable is not set.
    pub fn node(double: &'a Azure) -> Result<Self> {
        let modules = setting("KMS_IT_AZURE_NODE_PATH")?;
        Self::new(double, "node".into(), "client.js", Some(modules))
    }

    fn new(
        double: &'a Azure,
        program: PathBuf,
        script: &'static str,
        node_path: Option<PathBuf>,
    ) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a folder")?;
        std::fs::write(folder.path().join("ca.crt"), double.ca())?;
        std::fs::write(folder.path().join("sp.pem"), double.service_principal())?;
        Ok(Self { double, program, script, node_path, folder })
    }

    /// Runs a command of the script.
    ///
    /// # Errors
    ///
    /// If the program cannot be started.
    pub async fn run(&self, args: &[&str]) -> Result<Output> {
        let ca = self.folder.path().join("ca.crt");
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients/azure");
        let output = Command::new(&self.program)
            .arg(scripts.join(self.script))
            .args(args)
            .env("AZ_VAULT", self.double.vault_url())
            .env("AZ_AUTHORITY", self.double.authority())
            .env("AZ_TENANT", TENANT)
            .env("AZ_CLIENT", CLIENT)
            .env("AZ_CERT", self.folder.path().join("sp.pem"))
            .env("AZ_CA", &ca)
            .env("NODE_EXTRA_CA_CERTS", &ca)
            .envs(self.node_path.iter().map(|path| ("NODE_PATH", path)))
            .env_remove("HTTPS_PROXY")
            .env_remove("https_proxy")
            .output();
        output.await.with_context(|| format!("run {}", self.script))
    }

    /// Runs a command that must succeed, and returns its output.
    ///
    /// # Errors
    ///
    /// If the command fails. The message has its standard error and the last requests.
    pub async fn done(&self, args: &[&str]) -> Result<String> {
        let output = self.run(args).await?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            let asked: Vec<_> =
                self.double.requests().into_iter().rev().take(3).map(|request| request.line()).collect();
            bail!("{} {args:?}: {words}, last asked: {asked:?}", self.script);
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}
