//! `cargo xtask it`: the live tests of one provider.

use anyhow::Result;
use clap::{Args, ValueEnum};
use xshell::{Shell, cmd};

use crate::{
    live::{Live, Needs},
    run::{root, run},
};

/// Run the live tests of one provider, or all of them
#[derive(Args, Debug)]
pub(crate) struct It {
    /// Which ones
    provider: Provider,
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Show what the tests print
    #[arg(long)]
    nocapture: bool,
}

/// Whose tests to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Provider {
    All,
    /// Microsoft's own clients on the double of Entra ID and Key Vault
    Azure,
    /// The servers themselves
    Harness,
    /// IBM's own clients on the double of Key Protect
    Ibmkp,
    K8sSecret,
    /// PyKMIP
    Kmip,
    /// CronJobs of rotation, for every provider
    Rook,
    /// LUKS devices by cryptsetup
    Luks,
    /// Rotations on LUKS devices, by every provider
    Rotation,
    Vault,
}

impl Provider {
    /// The crate whose live tests these are, and how the files of its cross-crate tests begin.
    fn parts(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::All | Self::Harness => None,
            Self::Azure => Some(("kms-azure", "azure")),
            Self::Ibmkp => Some(("kms-ibmkp", "ibmkp")),
            Self::K8sSecret => Some(("kms-k8s-secret", "k8s_secret")),
            Self::Kmip => Some(("kms-kmip", "kmip")),
            Self::Rook => Some(("kms-rook", "rook")),
            Self::Luks => Some(("kms-luks", "luks")),
            Self::Rotation => Some(("kms-rotation", "rotate")),
            Self::Vault => Some(("kms-vault", "vault")),
        }
    }
}

impl It {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        let Self { provider, filter, nocapture } = self;
        let live = Live::start(
            sh,
            Needs {
                azure_clients: matches!(provider, Provider::All | Provider::Azure),
                kms: !matches!(provider, Provider::Harness | Provider::Ibmkp),
                ibm_clients: matches!(provider, Provider::All | Provider::Ibmkp),
                pykmip: matches!(provider, Provider::All | Provider::Kmip | Provider::Rotation),
                cryptsetup: matches!(provider, Provider::All | Provider::Luks | Provider::Rotation),
            },
        )?;
        let filter = filter.iter();
        let nocapture = nocapture.then_some("--nocapture");
        let tests: &[String] = &match provider {
            Provider::All => vec!["--workspace --lib --bins --tests".to_owned()],
            Provider::Harness => vec!["--package kms-testkit --features servers --tests".to_owned()],
            _ => selected(sh, provider)?,
        };
        for selection in tests {
            let selection = selection.split(' ');
            let (filter, nocapture) = (filter.clone(), nocapture.iter());
            run(live.apply(cmd!(sh, "cargo test {selection...} -- --ignored {filter...} {nocapture...}")))?;
        }
        Ok(())
    }
}

/// The tests of a provider: its crate's, and those in `tests/tests` whose file is not another provider's.
fn selected(sh: &Shell, provider: Provider) -> Result<Vec<String>> {
    let Some((package, _)) = provider.parts() else { return Ok(Vec::new()) };
    let others: Vec<&str> = Provider::value_variants()
        .iter()
        .filter(|other| **other != provider)
        .filter_map(|other| Some(other.parts()?.1))
        .collect();
    // What needs a cluster is behind a feature of its own there.
    let features = if provider == Provider::Rook { " --features client" } else { "" };
    let mut selection = vec![format!("--package {package}{features} --lib --tests")];
    if provider == Provider::Rotation {
        // What the program writes of a rotation, compared with its documentation.
        selection.push("--package kms-cli --bins".to_owned());
    }
    let mut files = Vec::new();
    let folder = root().join("tests/tests");
    let paths = if folder.exists() { sh.read_dir(&folder)? } else { Vec::new() };
    for path in paths {
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(stem) = path.file_stem().and_then(|stem| stem.to_str())
            && !others.iter().any(|other| stem.starts_with(other))
        {
            files.push(format!("--test {stem}"));
        }
    }
    if !files.is_empty() {
        selection.push(format!("--package kms-tests {}", files.join(" ")));
    }
    Ok(selection)
}
