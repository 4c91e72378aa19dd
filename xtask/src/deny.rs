//! `cargo xtask deny`: checks licences, duplicates, sources and advisories of the dependencies.

use anyhow::Result;
use clap::Args;
use xshell::{Shell, cmd};

use crate::{provision, run::run};

const CARGO_DENY: &str = "0.20.2";

/// Check licences, duplicates and sources of the dependencies, and advisories where the database can be fetched
#[derive(Args, Debug, Default)]
pub(crate) struct Deny {
    /// Fail where the database of advisories cannot be fetched
    #[arg(long)]
    advisories: bool,
}

impl Deny {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        let deny = provision::cargo_tool(sh, "cargo-deny", CARGO_DENY)?;
        run(cmd!(sh, "{deny} --workspace check licenses bans sources"))?;
        match run(cmd!(sh, "{deny} fetch db")) {
            Ok(()) => run(cmd!(sh, "{deny} --workspace check --disable-fetch advisories")),
            Err(error) if self.advisories => Err(error),
            Err(_) => {
                eprintln!(
                    "advisories: NOT CHECKED, their database could not be fetched from here (see above)"
                );
                Ok(())
            }
        }
    }
}
