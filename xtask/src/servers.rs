//! `cargo xtask servers`: runs servers for experiments until `down` stops them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use kms_testkit::servers::{
    Kube, OpenBao, OpenBaoConfig, PyKmip, Raft, Scratch, process, pykmip::Flavour, wait,
};
use xshell::{Shell, cmd};

use crate::{
    manifests, provision,
    run::{block_on, run, servers_dir},
};

/// Variables and their values.
type Lines = Vec<(String, String)>;

/// Start servers that keep running, or stop them
#[derive(Args, Debug)]
pub(crate) struct Servers {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Start servers and print their settings
    Up { which: Which },
    /// Stop servers
    Down { which: Which },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    All,
    /// The double of Entra ID and Key Vault
    Azure,
    /// The double of IBM's IAM and Key Protect
    Ibmkp,
    /// PyKMIP
    Kmip,
    Kube,
    /// Three OpenBao nodes
    Raft,
    /// One OpenBao
    Vault,
}

impl Which {
    fn each(self) -> Vec<Self> {
        if self == Self::All {
            vec![Self::Vault, Self::Raft, Self::Kube, Self::Azure, Self::Ibmkp, Self::Kmip]
        } else {
            vec![self]
        }
    }

    /// The folder with the server's files.
    fn folder(self) -> PathBuf {
        let name = match self {
            Self::All => "all",
            Self::Azure => "azure",
            Self::Ibmkp => "ibmkp",
            Self::Kmip => "kmip",
            Self::Kube => "kube",
            Self::Raft => "raft",
            Self::Vault => "vault",
        };
        servers_dir().join("up").join(name)
    }
}

impl Servers {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        match self.what {
            What::Up { which } => which.each().into_iter().try_for_each(|which| up(sh, which)),
            What::Down { which } => which.each().into_iter().try_for_each(|which| down(sh, which)),
        }
    }
}

fn up(sh: &Shell, which: Which) -> Result<()> {
    let folder = which.folder();
    let ids = folder.join("pids");
    if ids.exists() && alive(&ids)? > 0 {
        bail!(
            "it is running: see {}, or stop it with cargo xtask servers down",
            folder.join("env").display()
        );
    }
    // Removes the files of a server that was killed.
    sh.remove_path(&folder)?;
    sh.create_dir(&ids)?;
    let (pids, lines) = block_on(start(sh, which, &folder))??;
    for pid in pids {
        let started = process::start_time(pid).context("a server has ended already")?;
        sh.write_file(ids.join(pid.to_string()), started)?;
    }
    let text: String = lines.iter().map(|(name, value)| format!("export {name}={value}\n")).collect();
    kms_testkit::servers::pki::write_private(&folder.join("env"), &text)?;
    println!("# {}", folder.join("env").display());
    println!("{text}");
    Ok(())
}

/// Starts the server. Returns the process ids and the settings to use it.
async fn start(sh: &Shell, which: Which, folder: &Path) -> Result<(Vec<u32>, Lines)> {
    let show = |path: PathBuf| path.display().to_string();
    let kept = || Some(folder.to_owned());
    match which {
        Which::All => bail!("one at a time"),
        Which::Vault => {
            let config =
                OpenBaoConfig { bao: Some(provision::bao(sh)?), folder: kept(), ..OpenBaoConfig::default() };
            let bao = OpenBao::start(config).await?;
            let admin = bao.admin();
            let example = example(folder, bao.url(), &admin.rook_token().await?, &bao.pki().ca.cert)?;
            let lines = vec![
                ("VAULT_ADDR", bao.url().to_owned()),
                ("VAULT_CACERT", show(bao.pki_file("ca.crt"))),
                ("VAULT_TOKEN", admin.token().to_owned()),
                ("KMS_EXAMPLE", example),
            ];
            Ok((vec![bao.detach()], owned(lines)))
        }
        Which::Raft => {
            let config =
                OpenBaoConfig { bao: Some(provision::bao(sh)?), folder: kept(), ..OpenBaoConfig::default() };
            let raft = Raft::start_with(config).await?;
            let admin = raft.admin(raft.leader().await?);
            let example = example(folder, &raft.url(0), &admin.rook_token().await?, &raft.pki().ca.cert)?;
            let lines = vec![
                ("VAULT_ADDR", raft.url(0)),
                ("VAULT_ADDRS", format!("\"{}\"", raft.urls().join(" "))),
                ("VAULT_CACERT", show(raft.pki_file("ca.crt"))),
                ("VAULT_TOKEN", admin.token().to_owned()),
                ("KMS_EXAMPLE", example),
            ];
            Ok((raft.detach(), owned(lines)))
        }
        Which::Azure => double(sh, folder, "azure").await,
        Which::Ibmkp => double(sh, folder, "ibmkp").await,
        Which::Kmip => {
            let python = provision::pykmip(sh)?;
            let kmip = PyKmip::start_in(python, Scratch::kept(folder)?, Flavour::Tls13).await?;
            let (endpoint, pki) = (kmip.endpoint(), kmip.pki());
            let credentials = [
                ("CA_CERT", &pki.ca.cert),
                ("CLIENT_CERT", &pki.client1.cert),
                ("CLIENT_KEY", &pki.client1.key),
            ];
            let files =
                manifests::Kmip { endpoint: &endpoint, credentials }.write(&folder.join("example"))?;
            let lines = vec![("KMIP_ENDPOINT", endpoint.clone()), ("KMS_EXAMPLE", arguments(&files))];
            Ok((vec![kmip.detach()], owned(lines)))
        }
        Which::Kube => {
            let kube = Kube::start_in(&provision::kube(sh)?, Scratch::kept(folder)?).await?;
            let lines = vec![
                ("KUBECONFIG", show(kube.kubeconfig())),
                (kms_testkit::servers::KUBE, show(folder.to_owned())),
            ];
            Ok((kube.detach(), owned(lines)))
        }
    }
}

fn owned(lines: Vec<(&'static str, String)>) -> Lines {
    lines.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Starts one of the doubles of kms-testkit, and returns the settings that the double prints.
async fn double(sh: &Shell, folder: &Path, name: &'static str) -> Result<(Vec<u32>, Lines)> {
    run(cmd!(sh, "cargo build --package kms-testkit --features servers --example double"))?;
    let program = provision::target_dir(sh).join("debug/examples/double");
    let process = process::Launch::new(name, program, folder).arg(name).arg(folder).start()?;
    let lines = wait::until(name, wait::START, async || {
        let log = process.log();
        let settings: Vec<_> = log.lines().filter_map(|line| line.split_once('=')).collect();
        let ready = log.lines().any(|line| line == "ready");
        Ok(ready.then(|| {
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        }))
    })
    .await?;
    Ok((vec![process.detach()], lines))
}

/// Writes the YAML for `kms`. Returns it as arguments: `kms $KMS_EXAMPLE list`.
fn example(folder: &Path, addr: &str, token: &str, ca: &str) -> Result<String> {
    let files = manifests::Vault { addr, backend_path: "rook", token, ca }.write(&folder.join("example"))?;
    Ok(arguments(&files))
}

/// Formats files as arguments for `kms`, quoted as one.
fn arguments(files: &[PathBuf]) -> String {
    let args: Vec<String> = files.iter().map(|path| format!("-f {}", path.display())).collect();
    format!("\"{}\"", args.join(" "))
}

fn down(sh: &Shell, which: Which) -> Result<()> {
    let folder = which.folder();
    let ids = folder.join("pids");
    if !ids.exists() {
        return Ok(());
    }
    let stopped = process::sweep(&ids)?;
    sh.remove_path(&folder)?;
    eprintln!("{which:?}: stopped {stopped} processes");
    Ok(())
}

/// The number of processes noted in `ids` that are running.
fn alive(ids: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in ids.read_dir().context("read the folder of process ids")? {
        let path = entry?.path();
        let pid = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        if pid.and_then(process::start_time) == std::fs::read_to_string(&path).ok() {
            count += 1;
        }
    }
    Ok(count)
}
