//! The second part: the keys of a cluster are seen, moved from Kubernetes Secrets to OpenBao, saved and brought back.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use kms_testkit::servers::{Kube, Scratch, kube::ADMIN_TOKEN, pki::write_private};
use serde_json::json;

use super::{IMAGE_BYTES, User};
use crate::run::clock;

const NAMES: [&str; 3] = ["set1-data-0", "set1-data-1", "set1-data-2"];
/// Where the migration goes, and where it keeps its state.
const MOVE: &str = "--from now.yaml --to cluster.yaml --to token.yaml --to ca.yaml";
const JOURNAL: &str = "--journal move.jsonl";

pub(super) async fn show(on_vault: &User<'_>, programs: &Path, age: &Path) -> Result<()> {
    let folder = on_vault.folder;
    let kube = Kube::start_in(programs, Scratch::new()?).await?;
    println!("An API server is ready after {}; it has a CephCluster without a KMS.\n", clock(kube.took()));
    let place = kube.create_namespace("rook-ceph").await?;
    place.create_ceph_cluster("rook-ceph", json!({})).await?;
    kube.write_kubeconfig(&folder.join("kubeconfig"), place.name(), ADMIN_TOKEN)?;
    let cluster = json!({"apiVersion": "ceph.rook.io/v1", "kind": "CephCluster",
                         "metadata": {"name": "rook-ceph", "namespace": place.name()}, "spec": {"security": {}}});
    write_private(&folder.join("now.yaml"), &cluster.to_string())?;

    let on_secrets = User { before: "--kubeconfig kubeconfig -f now.yaml", ..*on_vault };
    let on_both = User { before: "--kubeconfig kubeconfig", ..*on_vault };
    for name in NAMES {
        on_secrets.runs(&format!("create {name}"), 0)?;
    }
    println!("rook/ is what Rook keeps on a host of OSDs, with an image in place of a disk.\n");
    let disk = format!("rook/{}/{}/ceph-0", place.name(), NAMES[0]);
    std::fs::create_dir_all(folder.join(&disk)).context("make the folder of an OSD")?;
    std::fs::write(folder.join(&disk).join("block"), "").context("make the node of an OSD")?;
    std::fs::File::create(folder.join(&disk).join("block-tmp"))
        .and_then(|file| file.set_len(IMAGE_BYTES))
        .context("make an image for an OSD")?;
    on_secrets.runs(&format!("format {} {disk}/block-tmp", NAMES[0]), 0)?;
    on_secrets.runs("inventory --devices --data-dir rook", 0)?;

    on_both.runs(&format!("migrate plan {MOVE}"), 0)?;
    on_both.runs(&format!("migrate copy {MOVE} {JOURNAL}"), 0)?;
    on_both.runs(&format!("migrate verify {MOVE} {JOURNAL}"), 0)?;
    on_both
        .runs(&format!("migrate verify {MOVE} {JOURNAL} --proof device --data-dir rook {}", NAMES[0]), 0)?;
    on_vault.runs("list", 0)?;

    let keys = Command::new(age).arg("keygen").output().context("make an identity of age")?;
    let keys = String::from_utf8(keys.stdout).context("an identity")?;
    let [identity, recipient] = keys.lines().collect::<Vec<_>>()[..] else { bail!("age makes no identity") };
    write_private(&folder.join("identity.txt"), identity)?;
    write_private(&folder.join("recipients.txt"), recipient)?;
    println!("identity.txt and recipients.txt are what age-keygen makes.\n");
    on_vault.runs("escrow create saved -R recipients.txt", 0)?;
    on_vault.runs("escrow drill saved -i identity.txt", 0)?;
    on_vault.runs(&format!("delete {} --destroy", NAMES[1]), 0)?;
    on_vault.runs(&format!("escrow restore saved {} -i identity.txt", NAMES[1]), 0)?;
    on_vault.runs("escrow drill saved -i identity.txt", 0)
}
