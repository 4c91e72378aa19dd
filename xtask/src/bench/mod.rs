//! `cargo xtask bench`: measures the cost of operations, beside the least possible cost or beside Rook's, in one run on
//! one machine.

mod builds;
mod page;
mod plot;

use std::path::PathBuf;

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
    /// With `all`: measure nothing, and write the page from the figures of earlier runs
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// Everything, and the page docs/performance.md
    All,
    /// The cold boot of a host: fetch every KEK and unlock every device, with our key slots and with cryptsetup's defaults
    Boot,
    /// A release build of kms with each provider alone: crates, seconds, bytes
    Builds,
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

impl What {
    /// What `all` measures, in the order of the page.
    const EACH: [Self; 7] =
        [Self::Vault, Self::Kmip, Self::Rotate, Self::Boot, Self::Fleet, Self::Migrate, Self::Builds];

    /// The name of its results.
    fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Boot => "boot",
            Self::Builds => "builds",
            Self::Fleet => "fleet",
            Self::Kmip => "kmip",
            Self::Migrate => "migrate",
            Self::Rotate => "rotate",
            Self::Vault => "vault",
        }
    }

    /// The file with its figures.
    fn figures(self, sh: &Shell) -> PathBuf {
        folder(sh).join(format!("{}.json", self.name()))
    }
}

/// The folder of all figures.
fn folder(sh: &Shell) -> PathBuf {
    provision::target_dir(sh).join("bench")
}

impl Bench {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        sh.create_dir(folder(sh))?;
        let Self { what, keep } = self;
        if what != What::All {
            return measure(sh, what);
        }
        if !keep {
            What::EACH.into_iter().try_for_each(|what| measure(sh, what))?;
        }
        page::write(sh)
    }
}

/// Measures one thing, and writes its figures.
fn measure(sh: &Shell, what: What) -> Result<()> {
    let out = what.figures(sh);
    // The name of the example, and its part.
    let (example, part) = match what {
        What::All => return page::write(sh),
        What::Builds => return builds::measure(sh, &out),
        What::Boot => ("bench_rotate", Some("boot")),
        What::Fleet => ("bench_fleet", None),
        What::Kmip => ("bench_kmip", None),
        What::Migrate => ("bench_migrate", None),
        What::Rotate => ("bench_rotate", None),
        What::Vault => ("bench_vault", None),
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
    let profile = provision::bench_profile();
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
        faketime: false,
        go_promql: false,
        go_age: false,
        go_install: false,
        go_tls: false,
        ibm_clients: false,
        pykmip: false,
        ..Needs::ALL
    };
    let live = Live::start(sh, none)?;
    run(live.apply(example))
}
