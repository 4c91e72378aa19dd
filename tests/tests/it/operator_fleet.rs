//! The operator on a cluster of many OSDs: its memory, and its requests.
#![expect(clippy::print_stdout, reason = "figures for people who run it with --sweep")]

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use kms_testkit::servers::{self, Kube};
use kms_tests::operator::{Run, Scene, condition};
use serde_json::{Value, json};

/// The most memory that the operator may take with a thousand OSDs, in KiB.
const MOST_KIB: u64 = 64 * 1024;

/// The resources that the operator asks for.
const RESOURCES: [&str; 9] = [
    "cephclusters",
    "cronjobs",
    "deployments",
    "jobs",
    "keypolicies",
    "nodes",
    "osdkeys",
    "persistentvolumeclaims",
    "pods",
];

/// The operator, which ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// The greatest memory so far in KiB, without the pages of the program itself: that of the tests is not optimised.
    fn peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let of = |name: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        of("VmHWM:") - of("RssFile:")
    }
}

/// The requests so far for what the operator asks for, watches included.
async fn requests(scene: &Scene) -> f64 {
    let reply = scene.cluster.kube.request("GET", "/metrics", Value::Null).await.unwrap().ok().unwrap();
    let counts = reply.as_str().unwrap().lines().filter(|line| {
        line.starts_with("apiserver_request_total{")
            && RESOURCES.iter().any(|resource| line.contains(&format!("resource=\"{resource}\"")))
    });
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it operator"]
async fn many_osds_take_little_memory_and_few_requests() {
    let sweep = servers::optional_setting(servers::SWEEP).is_some();
    let count = if sweep { 1000 } else { 40 };
    let programs = servers::setting(servers::KUBE_BIN).unwrap();
    let scene = Scene::on(Kube::start(&programs).await.unwrap(), &[]).await;
    scene.policy(json!({"paused": true, "maxParallel": 20})).await;
    let add = |id: usize| {
        let (scene, node) = (&scene, format!("n{}", id % 50));
        async move { scene.add_osd(id, &node, &node).await }
    };
    stream::iter((0..count).map(add)).buffer_unordered(16).collect::<Vec<()>>().await;

    let before = requests(&scene).await;
    let kms = servers::setting(servers::KMS).unwrap();
    let config = scene.cluster.kubeconfig(&scene.token);
    let child =
        Command::new(kms).args(["--kubeconfig", &config, "operator"]).stderr(Stdio::null()).spawn().unwrap();
    let operator = Process(child);
    let settled = async |reason: &str| {
        scene
            .until(&format!("every key to be {reason}"), async || {
                let keys = scene.keys().await;
                let is = |key: &&Value| condition(key, "Ready")["reason"] == json!(reason);
                Ok((keys.as_array().unwrap().iter().filter(is).count() == count).then_some(()))
            })
            .await;
    };
    settled("Paused").await;
    let of_start = requests(&scene).await - before;
    let kib = operator.peak_kib();
    println!("{count} OSDs: {of_start} requests until every OsdKey is there, {kib} KiB");
    assert!(kib < MOST_KIB, "{kib} KiB");

    if sweep {
        // Nothing happens for a while: what is left are watches.
        let before = requests(&scene).await;
        tokio::time::sleep(Duration::from_secs(300)).await;
        println!("{:.0} requests an hour while nothing happens", (requests(&scene).await - before) * 12.0);
    }

    let before = requests(&scene).await;
    scene.policy(json!({"maxParallel": 20})).await;
    let clock = scene.replica_by(&config, "clock").await;
    scene.until("a first response", async || Ok(clock.clock.now())).await;
    let (clock, _ended) = (clock.clock.clone(), clock.kill().await);
    let mut rotated = 0;
    while rotated < count {
        // The requests of the test itself are not the operator's.
        let ended = scene.until("rotations", async || {
            let ended = scene.end_jobs(&clock, |_| Run::Succeeds).await;
            Ok((!ended.is_empty()).then_some(ended))
        });
        rotated += ended.await.len();
    }
    settled("UpToDate").await;
    assert_eq!(scene.jobs().await.len(), count);
    let kib = operator.peak_kib();
    println!(
        "{count} rotations: {} requests with those of the test, {kib} KiB",
        requests(&scene).await - before
    );
    assert!(kib < MOST_KIB, "{kib} KiB");
}
