//! `cargo xtask crash`: the long run that kills rotations.

use anyhow::Result;
use clap::Args;
use xshell::{Shell, cmd};

use crate::{
    live::{Live, Needs},
    run::run,
};

/// Kill rotations on every provider: at each step, and the program itself at any time
#[derive(Args, Debug)]
pub(crate) struct Crash {
    /// How many kills in all
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
        let needs = Needs {
            azure_clients: false,
            kms: true,
            ibm_clients: false,
            pykmip: true,
            cryptsetup: true,
            vm: false,
        };
        let live = Live::start(sh, needs)?;
        let (runs, seed) = (runs.to_string(), seed.to_string());
        let provider = provider.iter();
        run(live
            .apply(cmd!(sh, "cargo run --package kms-tests --bin crash -- run {runs} {seed} {provider...}")))
    }
}
