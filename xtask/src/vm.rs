//! The tests in a virtual machine: which they are, and how they are run or passed over.

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::{
    live::Live,
    provision,
    run::{Steps, run},
};

/// The tests, as arguments of `cargo test`.
pub(crate) const TESTS: &str = "--package kms-tests --test vm";

/// What the path of each of them begins with.
pub(crate) const MODULE: &str = "guest::";

/// How often the power is cut, and the seed of the moments, for the test that does it.
pub(crate) const CUTS: &str = "KMS_IT_VM_CUTS";
pub(crate) const SEED: &str = "KMS_IT_VM_SEED";

/// Runs them, as a step of its own. Where there can be no virtual machine that is said, and nothing fails.
pub(crate) fn step(sh: &Shell, live: &mut Live, steps: &mut Steps) -> Result<()> {
    const NAME: &str = "test: virtual machine";
    match provision::vm(sh) {
        Ok(vm) => live.add_vm(vm),
        Err(error) => {
            steps.skip(NAME, &format!("{error:#}"));
            return Ok(());
        }
    }
    steps.step(NAME, || {
        let tests = TESTS.split(' ');
        run(live.apply(cmd!(sh, "cargo test {tests...} -- --ignored --nocapture")))
    })
}
