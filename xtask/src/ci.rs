//! `cargo xtask ci`: runs every check that a change must pass.

use anyhow::Result;
use clap::Args;
use xshell::{Shell, cmd};

use crate::{
    codegen::Codegen,
    deny::Deny,
    features::Features,
    provision::Background,
    run::{Steps, run},
    test,
    tidy::Tidy,
};

/// Run every check: format, tidiness, lints, documentation, all tests, features, dependencies
#[derive(Args, Debug)]
pub(crate) struct Ci {}

impl Ci {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        let mut steps = Steps::new();
        let result = Background::start(sh).and_then(|servers| all(sh, &mut steps, servers));
        steps.print();
        result
    }
}

fn all(sh: &Shell, steps: &mut Steps, servers: Background) -> Result<()> {
    // The quick steps come first, so that they report a slip at once.
    steps.step("fmt", || run(cmd!(sh, "cargo fmt --all --check")))?;
    steps.step("tidy", || Tidy::default().run(sh))?;
    // Runs once for the workspace; `features` lints each crate alone.
    steps.step("clippy", || {
        run(cmd!(sh, "cargo clippy --workspace --all-targets --all-features -- --deny warnings"))
    })?;
    steps.step("doc", || {
        run(cmd!(sh, "cargo doc --workspace --no-deps --all-features").env("RUSTDOCFLAGS", "--deny warnings"))
    })?;
    test::all(sh, steps, servers)?;
    steps.step("codegen", || Codegen::check().run(sh))?;
    steps.step("features", || Features {}.run(sh))?;
    steps.step("deny", || Deny::default().run(sh))
}
