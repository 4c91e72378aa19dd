//! `cargo xtask ci`: everything that must hold before a change goes in.

use anyhow::Result;
use clap::Args;
use xshell::{Shell, cmd};

use crate::{
    codegen::Codegen,
    deny::Deny,
    features::Features,
    run::{Steps, crates, run},
    test,
    tidy::Tidy,
};

/// Run everything that must hold: format, lints, documentation, all tests, features, tidiness, dependencies
#[derive(Args, Debug)]
pub(crate) struct Ci {}

impl Ci {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        let mut steps = Steps::new();
        let result = all(sh, &mut steps);
        steps.print();
        result
    }
}

fn all(sh: &Shell, steps: &mut Steps) -> Result<()> {
    steps.step("fmt", || run(cmd!(sh, "cargo fmt --all --check")))?;
    // The cheap ones first, so that a slip is known at once.
    steps.step("tidy", || Tidy::default().run(sh))?;
    steps.step("clippy", || {
        let packages = crates(sh)?.into_iter().chain(["kms-tests".to_owned(), "xtask".to_owned()]);
        // Crate by crate: together they would see each other's features.
        for name in packages {
            run(cmd!(sh, "cargo clippy --package {name} --all-targets --all-features -- --deny warnings"))?;
        }
        Ok(())
    })?;
    steps.step("doc", || {
        run(cmd!(sh, "cargo doc --workspace --no-deps --all-features").env("RUSTDOCFLAGS", "--deny warnings"))
    })?;
    steps.step("codegen", || Codegen::check().run(sh))?;
    test::all(sh, steps)?;
    steps.step("features", || Features {}.run(sh))?;
    steps.step("deny", || Deny::default().run(sh))
}
