//! `cargo xtask bench`: measures the cost of operations, beside the least possible cost or beside Rook's, in one run on
//! one machine.

mod builds;
mod page;
mod plot;
mod safety;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use kms_testkit::servers;
use xshell::{Shell, cmd};

use crate::{
    live::{Live, Needs},
    provision,
    run::{root, run},
};

/// The variable that `kms_tests::measure` reads.
const SHORT: &str = "KMS_BENCH_SHORT";

/// Measure operations, beside the least possible cost or beside Rook
#[derive(Args, Debug)]
pub(crate) struct Bench {
    /// The operation to measure
    what: What,
    /// With `all`: measure nothing, and write the page from the figures of earlier runs
    #[arg(long)]
    keep: bool,
    /// Try the benchmarks: few turns, small clusters, programs without optimisation. Figures and page go to
    /// target/bench-short, and say nothing about speed
    #[arg(long)]
    short: bool,
}

/// A run.
struct Runner<'a> {
    sh: &'a Shell,
    short: bool,
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
    /// The providers of Key Protect, Key Vault and Secrets beside the same requests without them, on doubles and on a real API
    /// server
    Providers,
    /// A rotation beside the calls of cryptsetup that Rook makes, and beside its own
    Rotate,
    /// The conformance of every provider, and what survives kills: rotations on every provider, migrations, the operator
    Safety,
    /// The provider of Vault beside a bare loop on the same server, and kms beside curl
    Vault,
}

impl What {
    /// What `all` measures, in the order of the page.
    const EACH: [Self; 9] = [
        Self::Vault,
        Self::Kmip,
        Self::Providers,
        Self::Rotate,
        Self::Boot,
        Self::Fleet,
        Self::Migrate,
        Self::Builds,
        Self::Safety,
    ];

    /// The name of its results.
    fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Boot => "boot",
            Self::Builds => "builds",
            Self::Fleet => "fleet",
            Self::Kmip => "kmip",
            Self::Migrate => "migrate",
            Self::Providers => "providers",
            Self::Rotate => "rotate",
            Self::Safety => "safety",
            Self::Vault => "vault",
        }
    }
}

impl Bench {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        let Self { what, keep, short } = self;
        let runner = Runner { sh, short };
        sh.create_dir(runner.folder())?;
        if what != What::All {
            return runner.measure(what);
        }
        if !keep {
            // What takes hours is no part of a try.
            let each = What::EACH.into_iter().filter(|what| !short || *what != What::Builds);
            each.into_iter().try_for_each(|what| runner.measure(what))?;
        }
        let docs = if short { runner.folder() } else { root().join("docs") };
        page::write(sh, &runner.folder(), &docs)
    }
}

impl Runner<'_> {
    /// The folder of all figures.
    fn folder(&self) -> PathBuf {
        provision::target_dir(self.sh).join(if self.short { "bench-short" } else { "bench" })
    }

    /// Measures one thing, and writes its figures.
    fn measure(&self, what: What) -> Result<()> {
        let Self { sh, short } = *self;
        let out = self.folder().join(format!("{}.json", what.name()));
        // The name of the example, and its part.
        let (example, part) = match what {
            What::All => bail!("all is every benchmark, not one"),
            What::Builds => return builds::measure(sh, &out),
            What::Safety => return safety::measure(sh, &out, short),
            What::Boot => ("bench_rotate", Some("boot")),
            What::Fleet => ("bench_fleet", None),
            What::Kmip => ("bench_kmip", None),
            What::Migrate => ("bench_migrate", None),
            What::Providers => ("bench_providers", None),
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
        let (kms, profile) = if short {
            (provision::kms_dev(sh)?, Vec::new())
        } else {
            eprintln!("building kms as it is released, which takes some minutes");
            (provision::kms_release(sh)?, provision::bench_profile())
        };
        if matches!(what, What::Vault) {
            // The least program, which it measures.
            let profile = &profile;
            run(cmd!(sh, "cargo build {profile...} --package kms-tests --example bench_get"))?;
        }
        let example =
            cmd!(sh, "cargo run {profile...} --package kms-tests --example {example} -- {part...} {out}");
        let kube = kube.map(|programs| (servers::KUBE_BIN, programs));
        let short = short.then_some((SHORT, "1"));
        let example = example.env(setting, server).env(servers::KMS, kms).envs(kube).envs(short);
        if !matches!(what, What::Migrate | What::Providers) {
            return run(example);
        }
        let live = Live::start(sh, Needs::NONE)?;
        run(live.apply(example))
    }
}
