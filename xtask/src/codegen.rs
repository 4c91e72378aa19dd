//! `cargo xtask codegen`: writes the parts of Markdown files that are generated from the code.
//!
//! A test of `kms-cli` compares the parts with the program, and writes them when `KMS_CODEGEN` is set.

use anyhow::Result;
use clap::Args;
use xshell::{Shell, cmd};

use crate::run;

/// Write the generated parts of the documentation
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
        run::run(if self.check { test } else { test.env("KMS_CODEGEN", "overwrite") })
    }
}
