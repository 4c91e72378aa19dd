//! Selects the tests that need a virtual machine, and runs or skips them.

use std::path::Path;

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::{
    live::Live,
    provision,
    run::{Steps, run},
};

/// The module of these tests in the binary `it` of `tests/`.
pub(crate) const MODULE: &str = "vm::";

/// The module of the test that boots the image.
const OF_IMAGE: &str = "vm::image::";

/// The environment variables that `kms_tests::machine` reads: the emulator, the folder with kernel and busybox, and the tree
/// of the image.
pub(crate) const QEMU: &str = "KMS_IT_QEMU";
pub(crate) const FOLDER: &str = "KMS_IT_VM";
pub(crate) const IMAGE: &str = "KMS_IT_IMAGE";

/// The environment variables of the test that cuts the power: the number of cuts, and the seed of their moments.
pub(crate) const CUTS: &str = "KMS_IT_VM_CUTS";
pub(crate) const SEED: &str = "KMS_IT_VM_SEED";

/// Runs the tests as a separate step, with the image of the program `kms`. Skips what this machine cannot do: the step if it
/// cannot run a virtual machine, the image if it cannot make one.
pub(crate) fn step(sh: &Shell, live: &mut Live, kms: &Path, steps: &mut Steps) -> Result<()> {
    const NAME: &str = "test: virtual machine";
    match provision::vm(sh) {
        Ok(vm) => live.add_vm(vm),
        Err(error) => {
            steps.skip(NAME, &format!("{error:#}"));
            return Ok(());
        }
    }
    let image = live.add_image(sh, kms);
    if let Err(error) = &image {
        steps.skip("test: the image in a virtual machine", &format!("{error:#}"));
    }
    let skip = image.is_err().then_some(["--skip", OF_IMAGE]);
    let skip = skip.iter().flatten();
    steps.step(NAME, || {
        run(live
            .apply(cmd!(sh, "cargo test --workspace --test it -- --ignored --nocapture {skip...} {MODULE}")))
    })
}
