//! `cargo xtask demo`: runs the program as a user does, on real servers.

mod fleet;

use std::{
    cell::Cell,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use kms_testkit::servers::{OpenBao, OpenBaoConfig, Scratch};
use serde_json::Value;
use xshell::{Shell, cmd};

use crate::{
    live::{Live, Needs},
    manifests, provision,
    run::{block_on, clock, run},
};

/// The policy that Rook's documentation tells an administrator to create.
const POLICY: &str = r#"path "rookv2/*" {
  capabilities = ["create", "read", "update", "delete", "list"]
}
path "sys/mounts" {
  capabilities = ["read"]
}
"#;

/// Room for a LUKS2 header of the usual size.
const IMAGE_BYTES: u64 = 17 << 20;

/// Show the program at work: start OpenBao, then check, create, get, list, rotate and delete a key; then see, move and save
/// all keys of a cluster
#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// Show the operator instead: five OSDs on images, rotated by Jobs, from kubectl to the status page
    #[arg(long)]
    cluster: bool,
}

impl Demo {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        if self.cluster {
            return cluster(sh);
        }
        eprintln!("building kms (development profile: quick to build, slower to run)");
        let kms = provision::kms_dev(sh)?;
        provision::cryptsetup(sh)?;
        let programs = Programs {
            kms,
            bao: provision::bao(sh)?,
            kube: provision::kube(sh)?,
            age: provision::go_age(sh)?,
        };
        let begin = Instant::now();
        block_on(show(programs))??;
        println!("\nDone in {}, and everything is stopped and removed.", clock(begin.elapsed()));
        Ok(())
    }
}

/// Shows the operator. It needs what the tests across crates have, so it is an example of theirs.
fn cluster(sh: &Shell) -> Result<()> {
    let needs = Needs { cryptsetup: true, kms: true, ..Needs::NONE };
    let live = Live::start(sh, needs)?;
    let page = provision::target_dir(sh).join("status.html");
    run(live.apply(cmd!(sh, "cargo run --package kms-tests --example demo_cluster -- {page}")))
}

/// The programs of a demonstration.
struct Programs {
    kms: PathBuf,
    bao: PathBuf,
    /// The folder with etcd and kube-apiserver.
    kube: PathBuf,
    age: PathBuf,
}

async fn show(programs: Programs) -> Result<()> {
    let Programs { kms, bao, kube, age } = programs;
    let server = OpenBao::start(OpenBaoConfig { bao: Some(bao), ..OpenBaoConfig::default() }).await?;
    println!("OpenBao serves {} over TLS, ready after {}.", server.url(), clock(server.took()));
    println!("It has a KV store (version 2) at rookv2/ and this policy for Rook:\n\n{}", indent(POLICY));
    let admin = server.admin();
    admin.put_policy("rook", POLICY).await?;
    let folder = Scratch::new()?;
    let files = manifests::Vault {
        addr: server.url(),
        backend_path: "rookv2",
        token: &admin.rook_token().await?,
        ca: &server.pki().ca.cert,
    }
    .write(folder.path())?;
    println!("cluster.yaml is the CephCluster, token.yaml and ca.yaml are the Secrets that it names:\n");
    println!("{}", indent(&std::fs::read_to_string(&files[0]).context("read cluster.yaml")?));
    let requests = server.requests()?;
    let count = Cell::new(0);
    let user = User { kms: &kms, folder: folder.path(), before: OF_VAULT, count: &count };
    let name = "set1-data-0-x7k2p";
    user.runs("check", 0)?;
    user.runs(&format!("create {name}"), 0)?;
    user.runs(&format!("create {name}"), 1)?;
    user.runs(&format!("create {name} --if-absent"), 0)?;
    user.runs(&format!("get {name} kek"), 0)?;
    let kek = std::fs::metadata(folder.path().join("kek")).context("look at the KEK's file")?;
    println!(
        "    (kek has {} bytes and mode {:o}; it is not shown)\n",
        kek.len(),
        kek.permissions().mode() & 0o777
    );
    user.runs("list", 0)?;
    let id = format!("rook-ceph-osd-encryption-key-{name}");
    let stored = admin
        .call("GET", &format!("rookv2/data/{id}"), Value::Null)
        .await
        .context("look at the key in the server")?;
    let fields =
        stored.pointer("/data/data").and_then(Value::as_object).context("the server's answer has no data")?;
    for (field, value) in fields {
        let length = value.as_str().unwrap_or_default().len();
        println!(
            "    (in the server, where Rook looks for it: rookv2/{id}, field {field}, {length} characters)\n"
        );
    }
    rotate(&user, name)?;
    user.runs(&format!("delete {name}"), 0)?;
    user.runs(&format!("undelete {name}"), 0)?;
    user.runs(&format!("delete {name} --destroy"), 0)?;
    user.runs("list", 0)?;
    user.runs(&format!("get {name}"), 3)?;
    let seen = requests.all()?.len();
    println!("So far {} commands have sent {seen} requests to OpenBao.\n", count.get());
    fleet::show(&user, &kube, &age).await?;
    println!("All {} commands did what they should.", count.get());
    Ok(())
}

/// Formats an image, rotates its KEK, and checks with cryptsetup alone that the old KEK no longer opens the image.
fn rotate(user: &User<'_>, name: &str) -> Result<()> {
    let image = user.folder.join("osd.img");
    std::fs::File::create(&image)
        .and_then(|file| file.set_len(IMAGE_BYTES))
        .context("make an image for an OSD")?;
    println!("osd.img is an empty disk image that stands for the disk of an OSD.\n");
    user.runs(&format!("format {name} osd.img"), 0)?;
    let opens = |key: &str, wanted: bool| -> Result<()> {
        let command = format!("cryptsetup open --test-passphrase --key-file {key} osd.img");
        println!("$ {command}");
        let mut words = command.split(' ');
        let status = Command::new(words.next().unwrap_or_default())
            .args(words)
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .current_dir(user.folder)
            .status()
            .context("run cryptsetup")?;
        println!("    ({key} {} the device)\n", if status.success() { "opens" } else { "does not open" });
        if status.success() != wanted {
            bail!("{command}: {status}");
        }
        Ok(())
    };
    opens("kek", true)?;
    user.runs(&format!("rotate {name} osd.img --grace 0"), 0)?;
    user.runs(&format!("get {name} new-kek"), 0)?;
    opens("kek", false)?;
    opens("new-kek", true)?;
    user.runs(&format!("verify {name} osd.img"), 0)?;
    user.runs("slots osd.img", 0)
}

/// The options that name the KMS of the first part.
const OF_VAULT: &str = "-f cluster.yaml -f token.yaml -f ca.yaml";

/// A user, who runs `kms` in their folder.
#[derive(Clone, Copy)]
struct User<'a> {
    kms: &'a Path,
    folder: &'a Path,
    /// The options before each command.
    before: &'static str,
    /// How many commands were run.
    count: &'a Cell<usize>,
}

impl User<'_> {
    /// Runs one command, shows it with its output, and fails unless it ends with this exit code.
    fn runs(&self, line: &str, code: i32) -> Result<()> {
        println!("$ kms {} {line}", self.before);
        self.count.set(self.count.get() + 1);
        let begin = Instant::now();
        let output = Command::new(self.kms)
            .args(self.before.split(' '))
            .args(line.split(' '))
            // Clears the environment, whose settings would influence `kms`.
            .env_clear()
            .current_dir(self.folder)
            .output()
            .context("run kms")?;
        let took = begin.elapsed().as_millis();
        for text in [&output.stdout, &output.stderr] {
            print!("{}", indent(&String::from_utf8_lossy(text)));
        }
        println!("    (exit code {}, {took} ms)\n", output.status.code().unwrap_or(-1));
        if output.status.code() != Some(code) {
            bail!("kms {line}: {}, expected exit code {code}", output.status);
        }
        Ok(())
    }
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}
