//! `cargo xtask codegen`: writes the parts of Markdown files that are generated from the code, the files in `deploy/` that are
//! made for the operator, the schemas in `docs/schema`, and the answers of Go's libraries.
//!
//! A test of `kms-cli` compares the parts with the program, and writes them when `KMS_CODEGEN` is set. So do the tests of
//! `kms-tls` and `kms-http` with our own answers to Go's tables. The answers to handshakes need a server in Go:
//! `KMS_CODEGEN=overwrite cargo xtask it tls` writes them.

use anyhow::{Result, bail};
use clap::Args;
use xshell::{Cmd, Shell, cmd};

use crate::{provision::need_go, run};

/// The Go modules that ask Go's libraries. Each prints its answers, which tests read from its `cases.json`.
///
/// The certificates of `tests/go/tls` are in its file: new ones come from `go run . make`, since signatures differ each
/// time.
const TABLES: [&str; 3] = ["tests/go/httpproxy", "tests/go/duration", "tests/go/tls"];

/// Write the generated parts of the documentation, its schemas, the manifests in deploy/, and the answers of Go's libraries
#[derive(Args, Debug)]
pub(crate) struct Codegen {
    /// Change nothing; fail if a part is out of date
    #[arg(long)]
    check: bool,
}

impl Codegen {
    /// `--check`.
    pub(crate) fn check() -> Self {
        Self { check: true }
    }

    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        TABLES.into_iter().try_for_each(|module| self.table(sh, module))?;
        // The README shows our answers to Go's tables, so they come first.
        let answers = [("kms-tls", "go::"), ("kms-http", "proxy::")];
        for (package, tests) in answers {
            self.part(cmd!(sh, "cargo test --quiet --package {package} --lib -- {tests}"))?;
        }
        self.part(cmd!(
            sh,
            "cargo test --quiet --package kms-cli --package kms-escrow --package kms-migrate --lib -- the_schema"
        ))?;
        // One call of cargo, so that both have the same features of the libraries.
        self.part(cmd!(
            sh,
            "cargo test --quiet --package kms-cli --package kms-operator --test it --test install -- codegen:: generated:: the_files_in_deploy"
        ))
    }

    /// Runs a test that writes or compares generated parts.
    fn part(&self, test: Cmd<'_>) -> Result<()> {
        run::run(if self.check { test } else { test.env("KMS_CODEGEN", "overwrite") })
    }

    /// Asks Go's library, and writes its answers or compares them with the file.
    fn table(&self, sh: &Shell, module: &str) -> Result<()> {
        need_go(sh)?;
        let _folder = sh.push_dir(run::root().join(module));
        let answers = cmd!(sh, "go run -mod=readonly .").env("CGO_ENABLED", "0").read()? + "\n";
        let file = "cases.json";
        if !self.check {
            sh.write_file(file, answers)?;
        } else if sh.read_file(file)? != answers {
            bail!("{module}/{file} is not what Go answers: run `cargo xtask codegen`");
        }
        Ok(())
    }
}
