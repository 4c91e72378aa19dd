//! Common parts of the end-to-end tests: the program `kms` as a user runs it, and its documents.
//!
//! The tests are under `tests/`. They need real servers: run `cargo xtask test`.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

pub mod age;
pub mod clock;
pub mod crash;
pub mod documents;
pub mod gateway;
pub mod machine;
pub mod measure;
pub mod operator;
pub mod process;
pub mod rook;
pub mod stores;
pub mod terminal;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use kms_testkit::servers::{self, openbao::OpenBao};

/// The program `kms`, with a working folder.
#[derive(Debug)]
pub struct Kms {
    program: PathBuf,
    folder: tempfile::TempDir,
    env: Vec<(String, String)>,
    global: Vec<String>,
}

/// The result of running a command.
#[derive(Debug)]
#[non_exhaustive]
pub struct Ran {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Fails unless the run has this exit code.
    #[must_use]
    pub fn want(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Standard output and standard error.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Standard output as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

impl Default for Kms {
    fn default() -> Self {
        Self::new()
    }
}

impl Kms {
    /// Returns the program that `cargo xtask` has built, in its own folder, without an environment.
    pub fn new() -> Self {
        Self {
            program: servers::setting(servers::KMS).expect("run under cargo xtask test"),
            folder: tempfile::tempdir().expect("a temporary folder"),
            env: Vec::new(),
            global: Vec::new(),
        }
    }

    /// The same with another program, such as `kms-hurried`.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Writes a file into the folder, and passes it to every run with `-f`.
    #[must_use]
    pub fn document(mut self, name: &str, text: &str) -> Self {
        self.file(name, text);
        self.global.extend(["-f".to_owned(), name.to_owned()]);
        self
    }

    /// Passes the documents for a mount of an OpenBao server, with this token and further settings.
    #[must_use]
    pub fn on_vault(self, server: &OpenBao, token: &str, mount: &str, settings: &[(&str, &str)]) -> Self {
        let own = [("VAULT_ADDR", server.url()), ("VAULT_BACKEND_PATH", mount), ("VAULT_CACERT", "vault-ca")];
        self.document("cluster.yaml", &vault_security(&[&own, settings].concat()))
            .document("token.yaml", &secret("vault-token", &[("token", token)]))
            .document("ca.yaml", &secret("vault-ca", &[("cert", &server.pki().ca.cert)]))
    }

    /// Passes these arguments to every run, before the command.
    #[must_use]
    pub fn global(mut self, args: &[&str]) -> Self {
        self.global.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Writes a file into the folder.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("make the folder");
        std::fs::write(&path, text).expect("write the file");
        path
    }

    /// The arguments that every run has before the command.
    pub fn globals(&self) -> &[String] {
        &self.global
    }

    /// The command, ready to run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.global)
            .args(args)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder());
        command
    }

    /// Runs a command.
    pub fn run(&self, args: &[&str]) -> Ran {
        let ran = Ran::of(&self.command(args).stdin(Stdio::null()).output().expect("run kms"));
        documents::keep_output(args, &ran);
        ran
    }

    /// Runs a command with this standard input.
    pub fn run_with(&self, args: &[&str], input: &str) -> Ran {
        use std::io::Write;
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run kms");
        // A program that does not read its input closes the pipe, which is not an error here.
        let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        Ran::of(&child.wait_with_output().expect("wait for kms"))
    }
}

/// A Secret as users write it.
pub fn secret(name: &str, entries: &[(&str, &str)]) -> String {
    let data = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "rook-ceph"},
        "stringData": entries.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
    });
    data.to_string()
}

/// The `security` block of a Vault with these settings.
pub fn vault_security(settings: &[(&str, &str)]) -> String {
    let mut details: std::collections::BTreeMap<_, _> = settings.iter().copied().collect();
    details.insert("KMS_PROVIDER", "vault");
    serde_json::json!({
        "apiVersion": "ceph.rook.io/v1", "kind": "CephCluster",
        "metadata": {"name": "rook-ceph", "namespace": "rook-ceph"},
        "spec": {"security": {"kms": {"tokenSecretName": "vault-token", "connectionDetails": details}}},
    })
    .to_string()
}
