//! `cargo xtask test`: runs every test.

use std::thread::available_parallelism;

use anyhow::Result;
use clap::Args;
use kms_testkit::servers;
use xshell::{Shell, cmd};

use crate::{
    image,
    live::{Live, Needs},
    provision::{self, Background},
    run::{Steps, root, run},
    vm,
};

/// Run all tests: unit and documentation tests, downstream crates, live tests on real servers, a virtual machine
#[derive(Args, Debug)]
pub(crate) struct Test {}

impl Test {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        let mut steps = Steps::new();
        let result = Background::start(sh).and_then(|servers| all(sh, &mut steps, servers));
        steps.print();
        result
    }
}

/// Runs the tests as steps, while `servers` are provisioned.
pub(crate) fn all(sh: &Shell, steps: &mut Steps, servers: Background) -> Result<()> {
    steps.step("test: units and documentation", || run(cmd!(sh, "cargo test --workspace")))?;
    steps.step("test: downstream crates", || downstream(sh))?;
    steps.step("test: servers are provisioned", || servers.wait())?;
    let mut live = Live::start(sh, Needs::ALL)?;
    // The first step has built this program.
    let kms = provision::target_dir(sh).join("debug/kms");
    live.set(servers::KMS, kms.clone());
    steps.step("test: real servers", || {
        let vm = vm::MODULE;
        // A test waits for servers for two thirds of its time, so twice as many keep the processors busy.
        let threads = (2 * available_parallelism()?.get()).to_string();
        // Without documentation tests: there, `ignored` has another meaning.
        run(live.apply(cmd!(
            sh,
            "cargo test --workspace --no-fail-fast --lib --bins --tests -- --ignored --test-threads {threads} --skip {vm}"
        )))?;
        live.validate(sh)
    })?;
    vm::step(sh, &mut live, &kms, steps)?;
    image::step(sh, steps)
}

/// Tests the crates that use ours as an outside crate would. Each has its own lock file.
fn downstream(sh: &Shell) -> Result<()> {
    for path in sh.read_dir(root().join("tests/downstream"))? {
        if !path.join("Cargo.toml").exists() {
            continue;
        }
        let _folder = sh.push_dir(&path);
        // Uses the folder and profile of the workspace, so that cargo reuses the libraries that both builds share.
        run(cmd!(sh, "cargo test --locked")
            .env("CARGO_TARGET_DIR", provision::target_dir(sh))
            .env("CARGO_PROFILE_DEV_DEBUG", "0"))?;
    }
    Ok(())
}
