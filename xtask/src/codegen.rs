//! `cargo xtask codegen`: writes the parts of Markdown files that are generated from the code, and the answers of Go's
//! library about proxies.
//!
//! A test of `kms-cli` compares the parts with the program, and writes them when `KMS_CODEGEN` is set.

use anyhow::{Result, bail};
use clap::Args;
use xshell::{Shell, cmd};

use crate::{provision::need_go, run};

/// The Go module that asks Go's library, and the file of its answers, which tests of `kms-http` and `kms-kube` read.
const PROXIES: &str = "tests/go/httpproxy";

/// Write the generated parts of the documentation, and the answers of Go's library about proxies
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
        let test = cmd!(sh, "cargo test --quiet --package kms-cli --test it -- codegen::");
        run::run(if self.check { test } else { test.env("KMS_CODEGEN", "overwrite") })?;
        self.proxies(sh)
    }

    /// Asks Go's library, and writes its answers or compares them with the file.
    fn proxies(&self, sh: &Shell) -> Result<()> {
        need_go(sh)?;
        let _folder = sh.push_dir(run::root().join(PROXIES));
        let answers = cmd!(sh, "go run -mod=readonly .").env("CGO_ENABLED", "0").read()? + "\n";
        let file = "cases.json";
        if !self.check {
            sh.write_file(file, answers)?;
        } else if sh.read_file(file)? != answers {
            bail!("{PROXIES}/{file} is not what Go answers: run `cargo xtask codegen`");
        }
        Ok(())
    }
}
