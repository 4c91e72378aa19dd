//! `cargo xtask crash`: the long run that kills rotations.

use anyhow::Result;
use clap::Args;
use kms_testkit::servers;
use xshell::{Shell, cmd};

use crate::{
    live::{Live, Needs},
    provision::target_dir,
    run::run,
};

/// Kill rotations on every provider, and check after each kill that no device is lost
///
/// A kill is a SIGKILL to a process that rotates the KEK of an OSD on one to three LUKS2 images. Two of three kills fall on
/// an announced step, one of three on any moment of the program kms. After each kill the KEK that the KMS returns must open
/// every image, and after at most four kills in a row the next run must finish.
///
/// There are two classes of providers: with compare-and-set (vault-v2, k8s-secret, kmip) and without it (vault-v1,
/// ibmkeyprotect, azure). Each provider gets its share of the kills of its class. Grace periods pass 120 times as fast as in
/// real time.
#[derive(Args, Debug)]
pub(crate) struct Crash {
    /// How many kills in each of the two classes of providers
    #[arg(long, default_value_t = 1000)]
    runs: usize,
    /// The seed of the random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this provider, such as `vault-v2`
    #[arg(long)]
    provider: Option<String>,
}

impl Crash {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        let Self { runs, seed, provider } = self;
        let needs = Needs { cryptsetup: true, pykmip: true, ..Needs::NONE };
        kill(sh, &mut Live::start(sh, needs)?, runs, seed, provider.as_deref())
    }
}

/// Kills so many rotations in each class of providers.
pub(crate) fn kill(
    sh: &Shell,
    live: &mut Live,
    runs: usize,
    seed: u64,
    provider: Option<&str>,
) -> Result<()> {
    let (runs, seed) = (runs.to_string(), seed.to_string());
    let provider = provider.iter();
    run(cmd!(sh, "cargo build --package kms-tests --bins"))?;
    let programs = target_dir(sh).join("debug");
    // The run has its own program, with a faster clock.
    live.set(servers::KMS, programs.join("kms-hurried"));
    let crash = programs.join("crash");
    run(live.apply(cmd!(sh, "{crash} run {runs} {seed} {provider...}")))
}
