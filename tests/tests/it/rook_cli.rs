//! Runs `kms cronjobs` and `kms render` on a real API server, with the rights that `deploy/` grants.
use kms_tests::{
    Kms,
    rook::{ADMIN, Cluster, fixture},
};
use serde_json::{Value, json};

/// The OSDs with three devices, with two, and with one.
const OSDS: [&str; 3] = ["vault-token", "vault-kubernetes", "vault-tls"];

async fn cluster(case: &str) -> Cluster {
    let cluster = Cluster::new(fixture(case, "security.json")).await;
    for osd in OSDS {
        cluster.add_osd(osd).await;
    }
    cluster
}

/// The results by OSD.
fn results(document: &Value) -> Vec<(u64, String)> {
    let jobs = document["cron_jobs"].as_array().unwrap().iter();
    jobs.map(|job| (job["osd"].as_u64().unwrap(), job["result"].as_str().unwrap().to_owned())).collect()
}

fn all(word: &str) -> Vec<(u64, String)> {
    (1..4).map(|id| (id, word.to_owned())).collect()
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it rook"]
async fn cron_jobs_follow_the_ceph_cluster_and_its_osds() {
    let cluster = cluster("vault-tls").await;
    let token = cluster.account("rook-kms-cronjobs", &["cronjob-manager.yaml"]).await;
    let kms = cluster.kms(&token);
    let apply = |args: &[&str]| {
        let args: Vec<&str> = ["-o", "json", "cronjobs", "apply"].iter().chain(args).copied().collect();
        results(&kms.run(&args).want(0).json())
    };
    assert_eq!(apply(&["--dry-run"]), all("created"));
    assert!(cluster.cron_jobs().await.is_empty());
    assert_eq!(apply(&[]), all("created"));
    assert_eq!(apply(&[]), all("unchanged"));
    assert_eq!(apply(&["--image", "mine:1"]), all("changed"));

    // `render` prints the CronJobs that `apply` stores.
    let listed = kms.run(&["-o", "json", "cronjobs", "render", "--image", "mine:1"]).want(0).json();
    let printed = listed["items"].as_array().unwrap();
    assert_eq!(printed.len(), 3);
    let stored = cluster.call("GET", "batch/v1", "cronjobs/rook-ceph-osd-key-rotation-3", Value::Null).await;
    assert_eq!(printed[2]["metadata"]["ownerReferences"], stored["metadata"]["ownerReferences"]);
    assert_eq!(stored["spec"]["schedule"], "0 3 * * 0");
    assert_eq!(kms.run(&["cronjobs", "render"]).want(0).stdout.matches("kind: CronJob\n").count(), 3);

    // An OSD is removed, and then the rotation is switched off.
    cluster.call("DELETE", "apps/v1", "deployments/rook-ceph-osd-2", Value::Null).await;
    let text = kms.run(&["cronjobs", "prune"]).want(0).stdout;
    assert!(
        text.lines().nth(1).unwrap().starts_with("rook-ceph-osd-key-rotation-2  2    -    deleted"),
        "{text}"
    );
    cluster.set_key_rotation(false).await;
    let ran = kms.run(&["cronjobs", "render"]).want(2);
    assert!(ran.stderr.contains("keyRotation.enabled is not true"), "{}", ran.stderr);
    let gone: Vec<_> = apply(&[]).into_iter().map(|(_, result)| result).collect();
    assert_eq!(gone, ["deleted", "deleted"]);
    let idle = kms.run(&["cronjobs", "apply"]).want(0).stderr;
    assert!(idle.contains("nothing to do") && idle.contains("or give --beside-rook"), "{idle}");

    // The cluster's Rook does not rotate.
    assert_eq!(apply(&["--beside-rook"]).len(), 2);
    assert_eq!(cluster.cron_jobs().await, ["rook-kms-key-rotation-1", "rook-kms-key-rotation-3"]);
    let _ = kms.run(&["cronjobs", "prune", "--all"]).want(0);
    assert_eq!(cluster.cron_jobs().await.len(), 2);
    let _ = kms.run(&["cronjobs", "prune", "--all", "--beside-rook"]).want(0);
    assert!(cluster.cron_jobs().await.is_empty());
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it rook"]
async fn cron_jobs_with_names_of_our_own_go_once_rook_rotates() {
    let cluster = cluster("vault-token").await;
    let token = cluster.account("rook-kms-cronjobs", &["cronjob-manager.yaml"]).await;
    let kms = cluster.kms(&token);
    let beside = |ids: [u32; 3]| ids.map(|id| format!("rook-kms-key-rotation-{id}"));
    for args in [&["apply", "--beside-rook"][..], &["prune", "--beside-rook"], &["apply"], &["prune"]] {
        cluster.set_key_rotation(false).await;
        let _ = kms.run(&["cronjobs", "apply", "--beside-rook"]).want(0);
        assert_eq!(cluster.cron_jobs().await, beside([1, 2, 3]), "{args:?}");

        cluster.set_key_rotation(true).await;
        let dry = kms.run(&[&["-o", "json", "cronjobs"], args, &["--dry-run"]].concat()).want(0).json();
        assert_eq!(cluster.cron_jobs().await.len(), 3, "{args:?}");
        let ran = kms.run(&[&["-o", "json", "cronjobs"], args].concat()).want(0);
        assert!(ran.stderr.contains("keyRotation.enabled is true"), "{args:?}: {}", ran.stderr);
        let document = ran.json();
        let deleted: Vec<_> = document["cron_jobs"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|job| job["result"] == "deleted" && job["reason"] == "rook-rotates")
            .map(|job| job["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(deleted, beside([1, 2, 3]), "{args:?}: {document}");
        assert_eq!(
            dry["cron_jobs"].as_array().unwrap().len(),
            document["cron_jobs"].as_array().unwrap().len()
        );
        // Plain `apply` puts CronJobs of ours in place of Rook's.
        let left = cluster.cron_jobs().await;
        assert!(
            left.iter().all(|name| name.starts_with("rook-ceph-osd-key-rotation-")),
            "{args:?}: {left:?}"
        );
        assert_eq!(left.len(), if args == ["apply"] { 3 } else { 0 }, "{args:?}");
    }
    // And the other way round: with rotation off, no CronJob with a name of Rook's is left beside ours.
    let _ = kms.run(&["cronjobs", "apply"]).want(0);
    cluster.set_key_rotation(false).await;
    let document = kms.run(&["-o", "json", "cronjobs", "apply", "--beside-rook"]).want(0).json();
    assert_eq!(document["cron_jobs"][3]["reason"], "rotation-off", "{document}");
    assert_eq!(cluster.cron_jobs().await, beside([1, 2, 3]));
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it rook"]
async fn a_failure_is_reported_and_gives_the_exit_code_and_the_others_are_done() {
    let cluster = cluster("vault-token").await;
    let token = cluster.account("rook-kms-cronjobs", &["cronjob-manager.yaml"]).await;
    let kms = cluster.kms(&token);
    // Rook has created one of the CronJobs.
    let mut rooks = fixture("vault-tls", "cronjob.json");
    rooks["metadata"]["namespace"] = json!(cluster.place.name());
    rooks["metadata"]["labels"]["rook_cluster"] = json!(cluster.place.name());
    cluster.call("POST", "batch/v1", "cronjobs?fieldManager=rook", rooks).await;
    let ran = kms.run(&["cronjobs", "apply"]).want(1);
    assert!(
        ran.stdout.contains("rook-ceph-osd-key-rotation-1  1    set1-data-0b7dwll  created"),
        "{}",
        ran.stdout
    );
    assert!(
        ran.stdout.contains("rook-ceph-osd-key-rotation-3  3    set1-data-0d7dwll  failed"),
        "{}",
        ran.stdout
    );
    assert!(ran.stderr.contains("conflict with \"rook\""), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("1 CronJob failed") && ran.stderr.contains("--beside-rook"),
        "{}",
        ran.stderr
    );
    let document = kms.run(&["-o", "json", "cronjobs", "apply"]).want(1).json();
    assert_eq!(document["cron_jobs"][2]["error"]["kind"], "conflict");
    let _ = kms.run(&["cronjobs", "apply", "--force-conflicts"]).want(0);

    // A broken Deployment.
    let label = json!({"metadata": {"labels": {"ceph.rook.io/pvc": ""}}});
    cluster.patch("apps/v1", "deployments/rook-ceph-osd-2", &label).await;
    let ran = kms.run(&["-o", "json", "cronjobs", "apply", "--image", "mine:1"]).want(2);
    let document = ran.json();
    assert_eq!(document["faults"][0]["deployment"], "rook-ceph-osd-2");
    let changed: Vec<_> = results(&document);
    assert_eq!(changed, [(1, "changed".to_owned()), (3, "changed".to_owned())]);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it rook"]
async fn without_a_right_it_is_named() {
    let cluster = cluster("vault-token").await;
    let token = cluster.account("rook-ceph-osd", &[]).await;
    let ran = cluster.kms(&token).run(&["cronjobs", "apply"]).want(4);
    // CronJobs that are not wanted go first, whatever becomes of the others.
    assert!(ran.stderr.contains("may not list cronjobs"), "{}", ran.stderr);
    assert!(!ran.text().contains(&token));
    // The program reports a bad schedule and bad settings before it reads the OSDs.
    let bad = Cluster::new(json!({"keyRotation": {"enabled": true, "schedule": "every week"}})).await;
    let token = bad.account("rook-kms-cronjobs", &["cronjob-manager.yaml"]).await;
    let ran = bad.kms(&token).run(&["cronjobs", "apply"]).want(2);
    assert!(ran.stderr.contains("keyRotation.schedule is not a cron schedule"), "{}", ran.stderr);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it rook"]
async fn what_a_pod_needs_is_printed_for_a_cluster_and_for_a_file() {
    let cluster = cluster("vault-tls").await;
    let kms = cluster.kms(ADMIN);
    let env = kms.run(&["-o", "json", "render", "env"]).want(0).json();
    assert_eq!(env["env"], fixture("vault-tls", "env.json"));
    let volumes = kms.run(&["render", "volumes"]).want(0).stdout;
    let file = json!({"security": fixture("vault-tls", "security.json")}).to_string();
    assert_eq!(Kms::new().document("a.yaml", &file).run(&["render", "volumes"]).want(0).stdout, volumes);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server and kubectl: cargo xtask it rook"]
async fn warnings_of_the_api_server_are_printed_as_kubectl_prints_them() {
    let cluster = cluster("vault-token").await;
    let namespace = cluster.place.name();
    cluster.kubectl(&format!("label namespace {namespace} pod-security.kubernetes.io/warn=restricted"));
    let kms = cluster.kms(ADMIN);
    let ran = kms.run(&["cronjobs", "apply", "--dry-run"]).want(0);
    let warnings = |text: &str| {
        let lines = text.lines().filter(|line| line.starts_with("Warning: ")).map(str::to_owned);
        lines.collect::<std::collections::BTreeSet<_>>()
    };
    let ours = warnings(&ran.stderr);
    assert!(ours.iter().any(|line| line.contains("would violate PodSecurity")), "{}", ran.stderr);
    // Each one once, though there are three CronJobs.
    assert_eq!(ours.len(), ran.stderr.lines().filter(|line| line.starts_with("Warning: ")).count());
    let folder = tempfile::tempdir().unwrap();
    let line =
        format!("kms -n {namespace} cronjobs render | kubectl apply --server-side --dry-run=server -f -");
    let theirs = cluster.shell(&line, folder.path()).want(0);
    assert_eq!(warnings(&theirs.stderr), ours);
    assert!(kms.run(&["-q", "cronjobs", "apply", "--dry-run"]).want(0).stderr.is_empty());
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it rook"]
async fn the_namespace_is_enough_where_it_has_one_cluster() {
    let cluster = cluster("vault-token").await;
    let config = cluster.kubeconfig(ADMIN);
    let namespace = cluster.place.name();
    let run = |option: &str, code: i32| {
        let args = ["--kubeconfig", &config, option, namespace, "-o", "json", "cronjobs", "render"];
        Kms::new().run(&args).want(code)
    };
    for option in ["-n", "--namespace", "--cluster"] {
        assert_eq!(run(option, 0).json()["items"].as_array().unwrap().len(), 3, "{option}");
    }
    cluster.place.create_ceph_cluster("second", json!({})).await.unwrap();
    let ran = run("-n", 2);
    let why = format!("--cluster {namespace}/rook-ceph or --cluster {namespace}/second");
    assert!(ran.stderr.contains(&why), "{}", ran.stderr);
    let empty = cluster.kube.create_namespace("empty").await.unwrap();
    let ran = Kms::new().run(&["--kubeconfig", &config, "-n", empty.name(), "list"]).want(3);
    assert!(ran.stderr.contains("has no CephCluster"), "{}", ran.stderr);
}
