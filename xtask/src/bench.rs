//! `cargo xtask bench`: how fast we are beside the limit, in one run on one server.

use anyhow::Result;
use clap::{Args, ValueEnum};
use kms_testkit::servers;
use xshell::{Shell, cmd};

use crate::{provision, run::run};

/// Measure a provider beside a bare loop on the same server and kms beside curl, or a rotation beside Rook's
#[derive(Args, Debug)]
pub(crate) struct Bench {
    /// What
    what: What,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// A rotation beside the calls of cryptsetup that Rook makes, and beside its own
    Rotate,
    /// The provider of Vault
    Vault,
}

impl Bench {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        let name = match self.what {
            What::Rotate => {
                provision::cryptsetup(sh)?;
                "rotate"
            }
            What::Vault => "vault",
        };
        let bao = provision::bao(sh)?;
        eprintln!("building kms as it is released, which takes some minutes");
        let kms = provision::kms_release(sh)?;
        let folder = provision::target_dir(sh).join("bench");
        sh.create_dir(&folder)?;
        let (profile, out) = (provision::it_profile(), folder.join(format!("{name}.json")));
        run(cmd!(sh, "cargo run {profile...} --package kms-tests --example bench_{name} -- {out}")
            .env(servers::BAO, bao)
            .env(servers::KMS, kms))
    }
}
