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
    /// A rotation beside the calls of cryptsetup that Rook makes, and beside its own
    Rotate,
    /// The provider of Vault beside a bare loop on the same server, and kms beside curl
    Vault,
}

impl Bench {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        let Self { what, osds } = self;
        if matches!(what, What::Boot | What::Rotate) {
            provision::cryptsetup(sh)?;
        }
        let bao = provision::bao(sh)?;
        eprintln!("building kms as it is released, which takes some minutes");
        let kms = provision::kms_release(sh)?;
        let folder = provision::target_dir(sh).join("bench");
        sh.create_dir(&folder)?;
        let (example, name, args) = match what {
            What::Boot => ("bench_boot", "boot.json", vec![osds.to_string()]),
            What::Rotate => ("bench_rotate", "rotate.json", Vec::new()),
            What::Vault => ("bench_vault", "vault.json", Vec::new()),
        };
        let (profile, out) = (provision::it_profile(), folder.join(name));
        run(cmd!(sh, "cargo run {profile...} --package kms-tests --example {example} -- {out} {args...}")
            .env(servers::BAO, bao)
            .env(servers::KMS, kms))
    }
}
