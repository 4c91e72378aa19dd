//! `cargo xtask bench`: what things cost beside the limit or beside Rook's way, in one run on one machine.

use anyhow::Result;
use clap::{Args, ValueEnum};
use kms_testkit::servers;
use xshell::{Shell, cmd};

use crate::{provision, run::run};

/// Measure what things cost, beside the least that could do the same or beside what Rook does
#[derive(Args, Debug)]
pub(crate) struct Bench {
    /// What
    what: What,
    /// With `boot`: how many OSDs the host has
    #[arg(long, default_value_t = 60)]
    osds: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// The cold boot of a host: every KEK is fetched and every device unlocked
    Boot,
    /// The provider beside a bare loop on the same server, and kms beside curl
    Vault,
}

impl Bench {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        let Self { what, osds } = self;
        let bao = provision::bao(sh)?;
        let folder = provision::target_dir(sh).join("bench");
        sh.create_dir(&folder)?;
        let (kms, run_example) = match what {
            What::Boot => {
                provision::cryptsetup(sh)?;
                let out = folder.join("boot.json");
                let osds = osds.to_string();
                let example = cmd!(sh, "cargo run --package kms-tests --example bench_boot -- {out} {osds}");
                (provision::kms(sh)?, example)
            }
            What::Vault => {
                eprintln!("building kms as it is released, which takes some minutes");
                let (profile, out) = (provision::it_profile(), folder.join("vault.json"));
                let example =
                    cmd!(sh, "cargo run {profile...} --package kms-tests --example bench_vault -- {out}");
                (provision::kms_release(sh)?, example)
            }
        };
        run(run_example.env(servers::BAO, bao).env(servers::KMS, kms))
    }
}
