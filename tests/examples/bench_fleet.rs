//! Measures commands on a large cluster: 1,000 OSDs on 50 nodes, with their Deployments, PVCs, Secrets, pods and CronJobs on a
//! real API server and their keys on a real OpenBao. `cargo xtask bench fleet` runs it.
//!
//! A command that takes too long or too much memory fails the benchmark.

#![expect(clippy::print_stdout, clippy::indexing_slicing, reason = "a program for people who measure")]

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use kms_core::Kek;
use kms_testkit::servers::{OpenBao, OpenBaoConfig};
use kms_tests::{
    Kms,
    age::Pair,
    measure::{MEASURE, answered, cost, f64_of, is_short, measured, words_of},
    rook::{ADMIN, Cluster, ceph_cluster, ceph_cluster_on_vault, osd_on_vault},
};
use serde_json::{Map, Value, json};

/// The number of OSDs unless another one is given, and of the nodes that they run on.
const OSDS: usize = 1000;
const NODES: usize = 50;
/// How many requests set the cluster up at a time.
const PARALLEL: usize = 16;
/// The most that a command may take, in milliseconds and in MiB.
const MOST_MS: f64 = 60_000.0;
const MOST_MIB: f64 = 64.0;
/// What a cluster consists of, for the API server.
const RESOURCES: [&str; 10] = [
    "cephclusters",
    "cronjobs",
    "deployments",
    "namespaces",
    "persistentvolumeclaims",
    "pods",
    "secrets",
    "selfsubjectreviews",
    "serviceaccounts",
    "subjectaccessreviews",
];
/// The prefix of the names of keys in Vault.
const PREFIX: &str = "rook-ceph-osd-encryption-key-";

/// The commands that are measured: add a row for a new one.
const ROWS: [(&str, &[&str]); 7] = [
    ("list", &["list"]),
    ("inventory", &["inventory"]),
    ("check", &["check", "--read-only"]),
    ("doctor", &["doctor"]),
    ("cronjobs apply", &["cronjobs", "apply", "--dry-run"]),
    ("escrow create", &["escrow", "create", "escrow", "--recipients-file", "keks.txt"]),
    ("escrow drill", &["escrow", "drill", "escrow", "--identity", "keks.id"]),
];
/// The steps of a migration from OpenBao to Kubernetes Secrets, which are measured too. With `--cluster`, a plan looks at the
/// CephCluster, its OSDs and CronJobs, and at the rights of its accounts.
const STEPS: [&str; 4] = ["plan", "plan --cluster", "copy", "verify"];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [MEASURE, file] => measured(Path::new(file)),
        [out] => {
            let osds = if is_short() { NODES } else { OSDS };
            tokio::runtime::Runtime::new()?.block_on(all(Path::new(out), osds))
        }
        // A smaller cluster, to try the benchmark itself.
        [out, osds] => tokio::runtime::Runtime::new()?.block_on(all(Path::new(out), osds.parse()?)),
        _ => bail!("usage: bench_fleet OUT [OSDS]"),
    }
}

async fn all(out: &Path, osds: usize) -> Result<()> {
    let vault = OpenBao::start(OpenBaoConfig::default()).await?;
    let cluster = fleet(&vault, osds).await?;
    let kms: Kms = cluster.kms(ADMIN);
    let pair = Pair::generate();
    kms.file("keks.txt", &pair.recipient);
    kms.file("keks.id", &pair.identity);
    // The CronJobs of the fleet are those of kms.
    let _ = kms.run(&["cronjobs", "apply"]).want(0);
    println!("{:40} {:>9} {:>10} {:>9}", "", "seconds", "requests", "peak MiB");
    let mut table = Table { cluster: &cluster, vault: &vault, figures: Map::new(), slow: Vec::new() };
    for (what, args) in ROWS {
        table.add(&kms, what, args).await?;
    }
    // A migration does not begin while keys are rotated.
    cluster.set_key_rotation(false).await;
    cluster.call("DELETE", "batch/v1", "cronjobs", Value::Null).await;
    let mover = mover(&vault, &cluster).await?;
    let named = format!("{}/rook-ceph", cluster.place.name());
    for step in STEPS {
        let (verb, option) = step.split_once(' ').unwrap_or((step, ""));
        let mut args = vec!["migrate", verb, "--from", "from.yaml", "--to", "to.yaml"];
        if verb != "plan" {
            args.extend(["--journal", "journal"]);
        }
        if !option.is_empty() {
            args.extend([option, &named]);
        }
        table.add(&mover, &format!("migrate {step}"), &args).await?;
    }
    let Table { figures, slow, .. } = table;
    fs::write(out, serde_json::to_string_pretty(&figures)?).with_context(|| out.display().to_string())?;
    // A program without optimisation is larger.
    if !slow.is_empty() && !is_short() {
        bail!("more than {MOST_MS} ms or {MOST_MIB} MiB: {}", slow.join(", "));
    }
    Ok(())
}

/// The rows so far.
struct Table<'a> {
    cluster: &'a Cluster,
    vault: &'a OpenBao,
    figures: Map<String, Value>,
    /// The commands that take too much.
    slow: Vec<String>,
}

impl Table<'_> {
    /// Measures a command.
    async fn add(&mut self, kms: &Kms, what: &str, args: &[&str]) -> Result<()> {
        let what = format!("kms {what}");
        let before = answered(&self.cluster.kube, &RESOURCES).await?;
        let of_vault = self.vault.requests()?;
        let found = cost(kms.folder(), &[words_of(&kms.command(args))])?;
        let requests = answered(&self.cluster.kube, &RESOURCES).await? - before
            + f64_of(u64::try_from(of_vault.all()?.len())?);
        let mib = f64_of(found.peak_kib) / 1024.0;
        println!("{what:40} {:>9.1} {requests:>10.0} {mib:>9.1}", found.wall_ms / 1000.0);
        let mut figure = found.json();
        figure["requests"] = json!(requests);
        self.figures.insert(what.clone(), figure);
        if found.wall_ms > MOST_MS || mib > MOST_MIB {
            self.slow.push(what);
        }
        Ok(())
    }
}

/// The program with the files of a migration of this cluster to Kubernetes Secrets.
async fn mover(vault: &OpenBao, cluster: &Cluster) -> Result<Kms> {
    let place = cluster.place.name();
    let token = vault.admin().rook_token().await?;
    let kms = Kms::new().global(&["--kubeconfig", &cluster.kubeconfig(ADMIN)]);
    kms.file("from.yaml", &ceph_cluster_on_vault(place, vault, &token));
    kms.file("to.yaml", &ceph_cluster(place, &json!({})));
    Ok(kms)
}

/// Makes the cluster.
async fn fleet(vault: &OpenBao, osds: usize) -> Result<Cluster> {
    let (cluster, of_pods) = Cluster::on_vault(vault).await;
    cluster.rook_accounts(&["rotation-status.yaml"]).await;
    // Each part has its own OSDs.
    let parts = (0..PARALLEL).map(|part| {
        let (cluster, of_pods) = (&cluster, &of_pods[1..]);
        async move {
            for id in (part..osds).step_by(PARALLEL) {
                add(cluster, vault, id, of_pods).await?;
            }
            anyhow::Ok(())
        }
    });
    futures_util::future::try_join_all(parts).await?;
    Ok(cluster)
}

/// Adds one OSD with everything that belongs to it.
async fn add(cluster: &Cluster, vault: &OpenBao, id: usize, settings: &[(&str, &str)]) -> Result<()> {
    let place = &cluster.place;
    let pvc = format!("set1-data-{id}x7dwl");
    let osd = osd_on_vault(place.name(), id, &pvc, settings);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("rook-ceph-osd-{id}"),
            "labels": {"app": "rook-ceph-osd", "ceph-osd-id": id.to_string()},
        },
        "spec": {
            "nodeName": format!("node-{}", id % NODES),
            "containers": [{"name": "osd", "image": "none"}],
        },
    });
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": pvc},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    cluster.call("POST", "apps/v1", "deployments", osd).await;
    place.call("POST", &place.path("persistentvolumeclaims"), claim).await?;
    place.call("POST", &place.path("pods"), pod).await?;
    place.create_secret(&format!("rook-ceph-osd-{id}-keyring"), &[("keyring", "[osd]")]).await?;
    let key = format!("{PREFIX}{pvc}");
    let kek = Kek::generate()?;
    let data = json!({"data": {&key: kek.expose_secret_text()?}});
    vault.admin().call("POST", &format!("rookv2/data/{key}"), data).await?;
    Ok(())
}
