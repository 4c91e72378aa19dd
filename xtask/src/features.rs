//! `cargo xtask features`: checks that every combination of features that users can choose compiles without a warning.

use anyhow::Result;
use clap::Args;
use xshell::{Shell, cmd};

use crate::{provision, run};

const CARGO_HACK: &str = "0.6.46";

/// The crate whose code differs between any two sets of providers. In `kms-cli` no feature changes code that another one
/// changes too, so that each feature alone shows every line of it.
const POWERSET: &str = "kms-dispatch";

/// The features that choose providers.
const PROVIDERS: &str = "azure,ibmkp,k8s-secret,kmip,vault";

/// Check each crate alone: without features, with each feature, with all, and with every combination of providers
#[derive(Args, Debug)]
pub(crate) struct Features {}

impl Features {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        let hack = provision::cargo_tool(sh, "cargo-hack", CARGO_HACK)?;
        // Each crate has its own command: in one command, the features of one member would be on for all. Clippy
        // replaces check, since it can deny warnings without a new build of the dependencies.
        let names = run::crates(sh)?;
        for name in &names {
            let lint = |what: &[&str]| {
                run::run(cmd!(sh, "{hack} hack clippy --package {name} {what...} -- --deny warnings"))
            };
            // Without tests: their dependencies would add features.
            lint(&["--each-feature"])?;
            if name == POWERSET {
                lint(&["--feature-powerset", "--include-features", PROVIDERS])?;
            }
        }
        // With tests, so that `cargo test --package` has the features that it needs.
        for name in names.iter().map(String::as_str).chain(["kms-tests", "xtask"]) {
            run::run(cmd!(
                sh,
                "cargo clippy --package {name} --all-targets --all-features -- --deny warnings"
            ))?;
        }
        Ok(())
    }
}
