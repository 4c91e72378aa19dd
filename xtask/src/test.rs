//! `cargo xtask test`: every test there is.

use anyhow::{Context as _, Result};
use clap::Args;
use xshell::{Shell, cmd};

use crate::{
    live::{Live, Needs},
    run::{Steps, root, run},
    vm,
};

/// Run all tests: unit and documentation tests, downstream crates, live tests on real servers
#[derive(Args, Debug)]
pub(crate) struct Test {}

impl Test {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        let mut steps = Steps::new();
        let result = all(sh, &mut steps);
        steps.print();
        result
    }
}

/// The steps, also of `cargo xtask ci`.
pub(crate) fn all(sh: &Shell, steps: &mut Steps) -> Result<()> {
    steps.step("test: units and documentation", || run(cmd!(sh, "cargo test --workspace")))?;
    steps.step("test: downstream crates", || downstream(sh))?;
    let mut live = None;
    steps.step("test: real servers", || {
        let live = live.insert(Live::start(sh, Needs::ALL)?);
        let vm = vm::MODULE;
        // Without the documentation tests: there, `ignored` means something else.
        run(live.apply(cmd!(sh, "cargo test --workspace --lib --bins --tests -- --ignored --skip {vm}")))
    })?;
    let mut live = live.context("no servers were started")?;
    vm::step(sh, &mut live, steps)
}

/// The crates that use ours as anybody would, each with a lock file of its own.
fn downstream(sh: &Shell) -> Result<()> {
    let folder = root().join("tests/downstream");
    if !folder.exists() {
        return Ok(());
    }
    for path in sh.read_dir(&folder)?.into_iter().filter(|path| path.join("Cargo.toml").exists()) {
        let _folder = sh.push_dir(&path);
        // One folder for all of them, so that what they share is built once.
        let target = root().join("target/downstream");
        let locked = path.join("Cargo.lock").exists().then_some("--locked");
        run(cmd!(sh, "cargo test {locked...}").env("CARGO_TARGET_DIR", &target))?;
    }
    Ok(())
}
