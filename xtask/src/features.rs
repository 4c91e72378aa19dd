//! `cargo xtask features`: every combination of features that people can choose compiles without a warning.

use anyhow::Result;
use clap::Args;
use xshell::{Shell, cmd};

use crate::{provision, run};

const CARGO_HACK: &str = "0.6.46";

/// Crates whose provider features are checked in every combination.
const POWERSET: [&str; 2] = ["kms-cli", "kms-dispatch"];

/// The features that choose providers.
const PROVIDERS: &str = "azure,ibmkp,k8s-secret,kmip,vault";

/// Check each crate without features, with each one, and providers in every combination
#[derive(Args, Debug)]
pub(crate) struct Features {}

impl Features {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        let hack = provision::cargo_tool(sh, "cargo-hack", CARGO_HACK)?;
        // Crate by crate, so that no other member of the workspace adds features. Development dependencies add none
        // either: since resolver 2 they count only where tests are built. Clippy, since it can deny warnings here
        // without building the dependencies anew.
        for name in run::crates(sh)? {
            let lint = |what: &[&str]| {
                run::run(cmd!(sh, "{hack} hack clippy --package {name} {what...} -- --deny warnings"))
            };
            lint(&["--each-feature"])?;
            if POWERSET.contains(&name.as_str()) {
                lint(&["--feature-powerset", "--include-features", PROVIDERS])?;
            }
        }
        Ok(())
    }
}
