//! `cargo xtask it`: runs the live tests of one provider.

use anyhow::Result;
use clap::{Args, ValueEnum};
use kms_testkit::servers;
use xshell::{Shell, cmd};

use crate::{
    live::{Live, Needs},
    run::{root, run},
    vm,
};

/// Run the live tests of one provider, or all of them
#[derive(Args, Debug)]
pub(crate) struct It {
    /// Whose tests to run
    provider: Provider,
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Show what the tests print
    #[arg(long)]
    nocapture: bool,
    /// With `vm`: how often to cut the power of the virtual machine during a rotation [default: 5]; shows what each cut
    /// leaves behind
    #[arg(long)]
    cuts: Option<u32>,
    /// With `kmip`: every habit of servers at every version, and a thousand races of each kind; takes an hour or more. With
    /// `migrate`: all pairs of providers, with 100 keys and 220 kills. With `operator`: 50 kills of a leader
    #[arg(long)]
    sweep: bool,
    /// With `vm`: the seed of the moments, as an earlier run printed it
    #[arg(long)]
    seed: Option<u64>,
}

/// Selects tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Provider {
    All,
    /// Microsoft's own clients on the double of Entra ID and Key Vault
    Azure,
    /// Escrows, with OpenBao, an API server, LUKS devices and Go's own age
    Escrow,
    /// The servers themselves
    Harness,
    /// IBM's own clients on the double of Key Protect
    Ibmkp,
    K8sSecret,
    /// Migrations between all providers
    Migrate,
    /// PyKMIP
    Kmip,
    /// The operator on an API server with several replicas, what people install it with, and what they see of it
    Operator,
    /// CronJobs of rotation, for every provider
    Rook,
    /// LUKS devices by cryptsetup
    Luks,
    /// Rotations on LUKS devices, by every provider
    Rotation,
    /// Go's own TLS as the server
    Tls,
    Vault,
    /// A virtual machine as a host of OSDs
    Vm,
}

impl Provider {
    /// The crate with the provider's live tests, and the prefix of its modules among the cross-crate tests.
    fn parts(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::All | Self::Harness | Self::Vm => None,
            Self::Azure => Some(("kms-azure", "azure")),
            Self::Escrow => Some(("kms-escrow", "escrow")),
            Self::Ibmkp => Some(("kms-ibmkp", "ibmkp")),
            Self::K8sSecret => Some(("kms-k8s-secret", "k8s_secret")),
            Self::Kmip => Some(("kms-kmip", "kmip")),
            Self::Migrate => Some(("kms-migrate", "migrate")),
            Self::Operator => Some(("kms-operator", "operator")),
            Self::Rook => Some(("kms-rook", "rook")),
            Self::Luks => Some(("kms-luks", "luks")),
            Self::Rotation => Some(("kms-rotation", "rotate")),
            Self::Tls => Some(("kms-tls", "tls")),
            Self::Vault => Some(("kms-vault", "vault")),
        }
    }
}

impl It {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        let Self { provider, filter, nocapture, cuts, sweep, seed } = self;
        // A test in `tests/` that belongs to no provider needs more than one server.
        let many = provider != Provider::Harness;
        let mut live = Live::start(
            sh,
            Needs {
                azure_clients: matches!(provider, Provider::All | Provider::Azure),
                kms: !matches!(provider, Provider::Harness | Provider::Ibmkp | Provider::Tls),
                go_age: matches!(provider, Provider::All | Provider::Escrow),
                go_promql: matches!(provider, Provider::All | Provider::Operator),
                go_install: matches!(provider, Provider::All | Provider::Operator),
                go_tls: matches!(provider, Provider::All | Provider::Tls),
                ibm_clients: matches!(provider, Provider::All | Provider::Ibmkp),
                pykmip: many,
                browser: matches!(provider, Provider::All | Provider::Operator | Provider::Rook),
                cryptsetup: many,
                faketime: matches!(provider, Provider::All | Provider::Operator),
                vm: matches!(provider, Provider::All | Provider::Vm),
            },
        )?;
        for (name, value) in [(vm::CUTS, cuts.map(u64::from)), (vm::SEED, seed)] {
            if let Some(value) = value {
                live.set(name, value.to_string());
            }
        }
        if sweep {
            live.set(servers::SWEEP, "1");
        }
        // The figures are what a long run is for.
        let nocapture = (nocapture || cuts.is_some()).then_some("--nocapture");
        let (filter, nocapture) = (filter.as_slice(), nocapture.as_slice());
        for Selection { tests, skip } in selections(sh, provider)? {
            let tests = tests.split(' ');
            let skip = skip.iter().flat_map(|module| ["--skip", module]);
            run(live
                .apply(cmd!(sh, "cargo test {tests...} -- --ignored {skip...} {filter...} {nocapture...}")))?;
        }
        live.validate(sh)
    }
}

/// Tests, as arguments of `cargo test`, and the modules to skip.
struct Selection {
    tests: String,
    skip: Vec<String>,
}

/// The tests of a provider: all tests of its crate, and the tests in `tests/` except the modules of other providers.
fn selections(sh: &Shell, provider: Provider) -> Result<Vec<Selection>> {
    let whole = |tests: &str| Selection { tests: tests.to_owned(), skip: Vec::new() };
    if provider == Provider::All {
        return Ok(vec![whole("--workspace --lib --bins --tests")]);
    }
    if provider == Provider::Harness {
        return Ok(vec![whole("--package kms-testkit --features servers --tests")]);
    }
    let mut selections = Vec::new();
    if let Some((package, _)) = provider.parts() {
        // In that crate, the tests that need a cluster are behind a feature.
        let features = if provider == Provider::Rook { " --features client" } else { "" };
        selections.push(whole(&format!("--package {package}{features} --lib --tests")));
    }
    if provider == Provider::Rotation {
        // Tests that compare the output of `kms rotate` with its documentation.
        selections.push(whole("--package kms-cli --bins"));
    }
    if provider == Provider::Operator {
        // The files of a release.
        selections.push(whole("--package xtask --bins"));
    }
    let others: Vec<&str> = Provider::value_variants()
        .iter()
        .filter(|other| **other != provider)
        .filter_map(|other| Some(other.parts()?.1))
        .collect();
    let mut skip = Vec::new();
    for path in sh.read_dir(root().join("tests/tests/it"))? {
        let Some(module) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        let of_another = others.iter().any(|other| module.starts_with(other));
        let wanted = if provider == Provider::Vm { module == "vm" } else { module != "vm" && !of_another };
        if !wanted {
            skip.push(format!("{module}::"));
        }
    }
    let tests = if provider == Provider::Vm { "--test it" } else { "--tests" };
    selections.push(Selection { tests: format!("--package kms-tests {tests}"), skip });
    Ok(selections)
}
