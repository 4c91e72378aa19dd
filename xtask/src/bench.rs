//! `cargo xtask bench`: measures the cost of operations, beside the least possible cost or beside Rook's, in one run on
//! one machine.

use anyhow::Result;
use clap::{Args, ValueEnum};
use kms_testkit::servers;
use xshell::{Shell, cmd};

use crate::{
    live::{Live, Needs},
    provision,
    run::run,
};

/// Measure operations, beside the least possible cost or beside Rook
#[derive(Args, Debug)]
pub(crate) struct Bench {
    /// The operation to measure
    what: What,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// The cold boot of a host: fetch every KEK and unlock every device, with our key slots and with cryptsetup's defaults
    Boot,
    /// kms on a generated cluster of 1,000 OSDs, on a real API server and OpenBao
    Fleet,
    /// The provider of KMIP beside the same requests without it, on PyKMIP, and kms as a process
    Kmip,
    /// A migration of 1,000 keys from Kubernetes Secrets to OpenBao, beside a bare loop
    Migrate,
    /// A rotation beside the calls of cryptsetup that Rook makes, and beside its own
    Rotate,
    /// The provider of Vault beside a bare loop on the same server, and kms beside curl
    Vault,
}

impl Bench {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        let what = self.what;
        // The name of the example, and its part.
        let (example, part, name) = match what {
            What::Boot => ("bench_rotate", Some("boot"), "boot"),
            What::Fleet => ("bench_fleet", None, "fleet"),
            What::Kmip => ("bench_kmip", None, "kmip"),
            What::Migrate => ("bench_migrate", None, "migrate"),
            What::Rotate => ("bench_rotate", None, "rotate"),
            What::Vault => ("bench_vault", None, "vault"),
        };
        if matches!(what, What::Boot | What::Rotate) {
            provision::cryptsetup(sh)?;
        }
        let (setting, server) = match what {
            What::Kmip => (servers::PYKMIP, provision::pykmip(sh)?),
            _ => (servers::BAO, provision::bao(sh)?),
        };
        let kube = if matches!(what, What::Fleet) { Some(provision::kube(sh)?) } else { None };
        eprintln!("building kms as it is released, which takes some minutes");
        let kms = provision::kms_release(sh)?;
        let folder = provision::target_dir(sh).join("bench");
        sh.create_dir(&folder)?;
        let (profile, out) = (provision::bench_profile(), folder.join(format!("{name}.json")));
        let example =
            cmd!(sh, "cargo run {profile...} --package kms-tests --example {example} -- {part...} {out}");
        let kube = kube.map(|programs| (servers::KUBE_BIN, programs));
        let example = example.env(setting, server).env(servers::KMS, kms).envs(kube);
        if !matches!(what, What::Migrate) {
            return run(example);
        }
        let none = Needs {
            azure_clients: false,
            browser: false,
            cryptsetup: false,
            go_promql: false,
            go_tls: false,
            ibm_clients: false,
            pykmip: false,
            ..Needs::ALL
        };
        let live = Live::start(sh, none)?;
        run(live.apply(example))
    }
}
