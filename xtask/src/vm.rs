//! Selects the tests that need a virtual machine, and runs or skips them.

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::{
    live::Live,
    provision,
    run::{Steps, run},
};

/// The module of these tests in the binary `it` of `tests/`.
pub(crate) const MODULE: &str = "vm::";

/// The environment variables that `kms_tests::machine` reads: the emulator, and the folder with kernel and busybox.
pub(crate) const QEMU: &str = "KMS_IT_QEMU";
pub(crate) const FOLDER: &str = "KMS_IT_VM";

/// The environment variables of the test that cuts the power: the number of cuts, and the seed of their moments.
pub(crate) const CUTS: &str = "KMS_IT_VM_CUTS";
pub(crate) const SEED: &str = "KMS_IT_VM_SEED";

/// Runs the tests as a separate step, or skips the step if this machine cannot run a virtual machine.
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
        run(live.apply(cmd!(sh, "cargo test --workspace --test it -- --ignored --nocapture {MODULE}")))
    })
}
