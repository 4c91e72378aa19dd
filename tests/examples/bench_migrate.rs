//! Measures a migration from Kubernetes Secrets to OpenBao, beside a bare loop. `cargo xtask bench migrate` runs it.
//!
//! The bare loop does the least that moves a KEK: it reads each Secret and creates each entry, with one HTTP client and as
//! many requests at a time as kms has. It has no journal, retries nothing and compares nothing.

#![expect(clippy::print_stdout, clippy::indexing_slicing, reason = "a program for people who measure")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kms_core::Kek;
use kms_testkit::servers::{Kube, OpenBao, OpenBaoConfig, Pki, kube::KubeNamespace};
use kms_tests::{
    Kms,
    measure::{answered, f64_of, is_short, median},
    rook::{ceph_cluster, ceph_cluster_on_vault},
};
use nix::sys::resource::{UsageWho, getrusage};
use reqwest::{Client, Method};
use serde_json::{Value, json};

/// The numbers of keys: the second shows whether memory grows.
const KEYS: [usize; 2] = [100, 1000];
/// How often each side runs.
const RUNS: usize = 3;
/// How many requests the bare loop has in flight, as many as kms.
const AT_A_TIME: usize = 8;
/// The prefix of Rook's Secrets, and of its entries in Vault.
const PREFIX: &str = "rook-ceph-osd-encryption-key-";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["measure", program, rest @ ..] => measured(program, rest),
        [out] => all(Path::new(out)).await,
        _ => bail!("usage: bench_migrate OUT"),
    }
}

/// Runs a program, and prints its cost.
fn measured(program: &str, arguments: &[&str]) -> Result<()> {
    let begin = Instant::now();
    let status = Command::new(program).args(arguments).env_clear().stdout(Stdio::null()).status()?;
    if !status.success() {
        bail!("{program}: {status}");
    }
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    println!("{}", json!({"seconds": begin.elapsed().as_secs_f64(), "peak_kib": usage.max_rss()}));
    Ok(())
}

/// The two servers.
struct Scene {
    kube: Kube,
    place: KubeNamespace,
    bao: OpenBao,
    kms: Kms,
    token: String,
    client: Client,
}

/// What one run has cost.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    seconds: f64,
    peak_kib: u64,
    /// The requests for Secrets, and those to the KV mount.
    requests: [f64; 2],
}

impl Scene {
    async fn new() -> Result<Self> {
        let kube = Kube::for_tests().await?;
        let place = kube.create_namespace("rook-ceph").await?;
        let bao = OpenBao::start(OpenBaoConfig::default()).await?;
        let token = bao.admin().rook_token().await?;
        let kms = Kms::new();
        kms.file("from.yaml", &ceph_cluster(place.name(), &json!({})));
        kms.file("to.yaml", &ceph_cluster_on_vault(place.name(), &bao, &token));
        kube.write_kubeconfig(&kms.folder().join("kubeconfig"), place.name(), "admintoken")?;
        // One client trusts both servers.
        let authorities = format!("{}\n{}", kube.ca(), bao.pki().ca.cert);
        let client = Client::builder()
            .tls_backend_preconfigured(Pki::client_config(&authorities, None)?)
            .no_proxy()
            .tcp_nodelay(true)
            .build()?;
        Ok(Self { kube, place, bao, kms, token, client })
    }

    /// Stores keys as Rook does, up to this number.
    async fn store(&self, from: usize, to: usize) -> Result<()> {
        let name = |number: usize| format!("set1-data-{number}");
        let create = |number: usize| async move {
            let kek = STANDARD.encode(Kek::generate()?.expose_secret_bytes());
            let secret = json!({
                "metadata": {"name": format!("{PREFIX}{}", name(number)), "labels": {"pvc_name": name(number)}},
                "type": "kubernetes.io/rook", "data": {"dmcrypt-key": kek},
            });
            self.place.call("POST", &self.place.path("secrets"), secret).await.map(drop)
        };
        stream::iter(from..to).map(create).buffer_unordered(AT_A_TIME).try_collect().await
    }

    /// Empties the KV mount.
    async fn empty(&self) -> Result<()> {
        let reply = self.bao.admin().request("LIST", "rookv2/metadata", Value::Null).await?;
        let names = reply.ok().map(|list| list["data"]["keys"].as_array().cloned().unwrap_or_default());
        let names: Vec<String> =
            names.unwrap_or_default().iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect();
        stream::iter(names)
            .map(|name| async move {
                self.bao
                    .admin()
                    .request("DELETE", &format!("rookv2/metadata/{name}"), Value::Null)
                    .await
                    .map(drop)
            })
            .buffer_unordered(AT_A_TIME)
            .try_collect()
            .await
    }

    /// Runs a step of the program.
    async fn step(&self, step: &str) -> Result<Cost> {
        let program: PathBuf = kms_testkit::servers::setting(kms_testkit::servers::KMS)?;
        let mut seen = self.bao.requests()?;
        seen.forget()?;
        let before = answered(&self.kube, &["secrets"]).await?;
        let output = Command::new(std::env::current_exe()?)
            .arg("measure")
            .arg(program)
            .args(["-q", "migrate", step, "--from", "from.yaml", "--to", "to.yaml", "--journal", "journal"])
            .args(["--kubeconfig", "kubeconfig"])
            .current_dir(self.kms.folder())
            .stderr(Stdio::inherit())
            .output()?;
        let value: Value = serde_json::from_slice(&output.stdout).context("what was measured")?;
        let requests =
            [answered(&self.kube, &["secrets"]).await? - before, f64_of(u64::try_from(seen.all()?.len())?)];
        let seconds = value["seconds"].as_f64().context("seconds")?;
        Ok(Cost { seconds, peak_kib: value["peak_kib"].as_u64().unwrap_or_default(), requests })
    }

    /// The least that moves every key.
    async fn bare(&self) -> Result<f64> {
        let begin = Instant::now();
        let secrets = format!("{}{}", self.kube.url(), self.place.path("secrets"));
        let listed: Value = self.kube_get(&secrets).await?;
        let items = listed["items"].as_array().context("items")?.clone();
        let names: Vec<String> =
            items.iter().filter_map(|item| Some(item["metadata"]["name"].as_str()?.to_owned())).collect();
        let secrets = &secrets;
        stream::iter(names)
            .map(|name| async move {
                let secret = self.kube_get(&format!("{secrets}/{name}")).await?;
                let kek = STANDARD.decode(secret["data"]["dmcrypt-key"].as_str().context("a KEK")?)?;
                let body = json!({"options": {"cas": 0}, "data": {&name: String::from_utf8(kek)?}});
                let url = format!("{}/v1/rookv2/data/{name}", self.bao.url());
                let request = self.client.request(Method::PUT, url).header("X-Vault-Token", &self.token);
                request.body(body.to_string()).send().await?.error_for_status()?;
                anyhow::Ok(())
            })
            .buffer_unordered(AT_A_TIME)
            .try_collect::<()>()
            .await?;
        Ok(begin.elapsed().as_secs_f64())
    }

    async fn kube_get(&self, url: &str) -> Result<Value> {
        let reply = self.client.get(url).bearer_auth("admintoken").send().await?.error_for_status()?;
        Ok(serde_json::from_slice(&reply.bytes().await?)?)
    }
}

async fn all(out: &Path) -> Result<()> {
    let scene = Scene::new().await?;
    let (mut rows, mut stored) = (Vec::new(), 0);
    println!("{:>5}  {:14} {:>8} {:>16} {:>10}", "keys", "", "seconds", "requests a key", "peak MiB");
    for keys in if is_short() { &KEYS[..1] } else { &KEYS } {
        let keys = *keys;
        scene.store(stored, keys).await?;
        stored = keys;
        let (mut copies, mut verifies, mut bare) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..if is_short() { 1 } else { RUNS } {
            scene.empty().await?;
            bare.push(scene.bare().await?);
            scene.empty().await?;
            let journal = scene.kms.folder().join("journal");
            if journal.exists() {
                std::fs::remove_file(&journal)?;
            }
            copies.push(scene.step("copy").await?);
            verifies.push(scene.step("verify").await?);
        }
        let bare = median(bare);
        println!("{keys:>5}  {:14} {bare:>8.2}", "bare loop");
        rows.push(json!({"keys": keys, "step": "bare loop", "seconds": bare}));
        for (step, costs) in [("copy", copies), ("verify", verifies)] {
            let seconds = median(costs.iter().map(|cost| cost.seconds).collect());
            let peak = costs.iter().map(|cost| cost.peak_kib).max().unwrap_or_default();
            let requests = costs.iter().map(|cost| cost.requests.iter().sum::<f64>()).fold(0.0, f64::max);
            let [per_key, mebibytes] = [requests / f64_of(u64::try_from(keys)?), f64_of(peak) / 1024.0];
            println!("{keys:>5}  {step:14} {seconds:>8.2} {per_key:>16.2} {mebibytes:>10.1}");
            rows.push(json!({
                "keys": keys, "step": step, "seconds": seconds, "requests_a_key": per_key, "peak_mib": mebibytes,
                "beside_bare": seconds / bare,
            }));
        }
    }
    std::fs::write(out, format!("{:#}\n", json!({"rows": rows})))
        .with_context(|| format!("write {}", out.display()))?;
    println!("written to {}", out.display());
    Ok(())
}
