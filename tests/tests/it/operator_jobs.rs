//! The Jobs of the operator that rotate nothing, run as a kubelet runs them, on a real API server.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use kms_core::Kek;
use kms_operator::Clock;
use kms_testkit::{
    luks::Image,
    servers::{self, Kube, OpenBao, OpenBaoConfig},
};
use kms_tests::{
    Kms, Ran,
    age::Pair,
    operator::{Run, Scene, condition, is_verification},
    rook::{ADMIN, Cluster},
};
use serde_json::{Value, json};

const HOUR: Duration = Duration::from_secs(3600);

/// This cluster with two OSDs, each on a node of its own, whose keys were rotated two hours ago and are not due.
async fn rotated_cluster(cluster: Cluster) -> Scene {
    cluster.set_key_rotation(false).await;
    let admin = cluster.kms(ADMIN);
    for id in [0, 1] {
        let _ = admin.run(&["create", &Scene::key(id)]).want(0);
    }
    let scene = Scene::prepare(cluster).await;
    let before = |hours| Timestamp::now() - SignedDuration::from_hours(hours);
    for (id, node) in [(0, "a"), (1, "b")] {
        scene.add_osd(id, node, node).await;
        let at = Timestamp::from_second(before(2).as_second()).unwrap().to_string();
        let deployment = format!("deployments/rook-ceph-osd-{id}");
        scene.annotate(&deployment, "kms.ceph.rook.io/key-rotated-at", json!(at)).await;
    }
    scene
}

/// A schedule whose last time was two days ago, and whose next one is in a year.
fn yearly() -> String {
    let day = (Timestamp::now() - SignedDuration::from_hours(48)).to_zoned(TimeZone::UTC);
    format!("0 0 {} {} *", day.day(), day.month())
}

/// The file of a container that the kubelet reads when it has ended.
fn termination_log(folder: &Path) -> PathBuf {
    folder.join("termination-log")
}

/// What the program has reported there.
fn report(folder: &Path) -> Value {
    let log = std::fs::read_to_string(termination_log(folder)).unwrap();
    serde_json::from_str(log.lines().last().unwrap()).unwrap()
}

/// Ends a Job that failed, with a pod that says what its container has written.
async fn fail(scene: &Scene, clock: &Clock, (name, job): (&str, &Value), folder: &Path) {
    let report = std::fs::read_to_string(termination_log(folder)).unwrap();
    let now = clock.now().unwrap();
    scene.add_job_pod(name, job, now, &report).await;
    scene.end_job(name, now, false).await;
}

/// Waits until `Verified` of an OSD's key has this status and this reason, and returns the key.
async fn until_verified_is(scene: &Scene, id: usize, status: &str, reason: &str) -> Value {
    scene
        .until(&format!("Verified of OSD {id} to be {status} for the reason {reason}"), async || {
            let key = scene.osd_key(id).await;
            let verified = condition(&key, "Verified");
            let is_so = verified["status"] == json!(status) && verified["reason"] == json!(reason);
            Ok(is_so.then_some(key))
        })
        .await
}

#[tokio::test]
#[ignore = "needs cryptsetup, a Vault server and a Kubernetes API server: cargo xtask it operator"]
async fn a_verification_that_could_not_be_made_is_no_failed_one() {
    let config = OpenBaoConfig { sealable: true, ..OpenBaoConfig::default() };
    let vault = OpenBao::start(config).await.unwrap();
    let scene = rotated_cluster(Cluster::on_vault(&vault).await.0).await;
    let cluster = &scene.cluster;
    let stored = Kek::parse(cluster.kms(ADMIN).run(&["get", &Scene::key(0)]).want(0).stdout).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let device = Image::luks2(&stored).copy(folder.path().join("block-tmp"));
    let token = cluster.account("rook-ceph-osd", &["rotation-status.yaml"]).await;
    let kms = servers::setting(servers::KMS).unwrap();
    scene.policy(json!({"schedule": yearly(), "maxParallel": 2, "verify": {"maxAge": "1h"}})).await;
    scene.annotate("cephclusters/rook-ceph", "kms.ceph.rook.io/operator", json!("true")).await;
    let leader = scene.leader().await;
    let run = async |job: &Value| {
        std::fs::write(termination_log(folder.path()), "").unwrap();
        let mut job = job.clone();
        let args = job["spec"]["template"]["spec"]["containers"][0]["args"].as_array_mut().unwrap();
        args.extend(["--timeout", "2s"].map(Value::from));
        cluster.run_job(&kms.display().to_string(), &job, &token, folder.path()).await
    };
    let attempt = async |id: usize, number: usize| {
        let named = |name: &str| {
            name.starts_with(&format!("rook-kms-verify-{id}-")) && name.ends_with(&format!("-{number}"))
        };
        let found = async || Ok(scene.active_jobs().await.into_iter().find(|(name, _)| named(name)));
        scene.until("a verification", found).await
    };
    let ((first, job), (other, _)) = (attempt(0, 1).await, attempt(1, 1).await);
    vault.seal().await.unwrap();
    let ran = run(&job).await.want(5);
    assert!(ran.text().contains("sealed"), "{}", ran.text());
    fail(&scene, &leader.clock, (&first, &job), folder.path()).await;
    // The Job of the other one has a pod that was evicted, and reports nothing.
    scene.end_job(&other, leader.clock.now().unwrap(), false).await;
    for (id, reason) in [(0, "KmsUnavailable"), (1, "VerificationIncomplete")] {
        let key = until_verified_is(&scene, id, "Unknown", reason).await;
        let ready = condition(&key, "Ready");
        assert_eq!((&ready["status"], &ready["reason"]), (&json!("True"), &json!("UpToDate")), "{key}");
    }
    let events = cluster.call("GET", "events.k8s.io/v1", "events", Value::Null).await;
    assert_eq!(events["items"], json!([]), "nothing is known to have failed");

    vault.unseal().await.unwrap();
    leader.clock.advance(HOUR);
    let (second, job) = attempt(0, 2).await;
    let ran = run(&job).await.want(0);
    assert!(ran.stdout.contains("ok ") && device.opens(&stored), "{}", ran.text());
    scene.end_job(&second, leader.clock.now().unwrap(), true).await;
    let _key = until_verified_is(&scene, 0, "True", "VerificationSucceeded").await;
    leader.stop().await;
}

#[tokio::test]
#[ignore = "needs cryptsetup, a Vault server and a Kubernetes API server: cargo xtask it operator"]
async fn a_key_that_does_not_open_its_device_is_found_by_a_verification() {
    let vault = OpenBao::start(OpenBaoConfig::default()).await.unwrap();
    let scene = rotated_cluster(Cluster::on_vault(&vault).await.0).await;
    let cluster = &scene.cluster;
    let admin = cluster.kms(ADMIN);
    let stored = |id| Kek::parse(admin.run(&["get", &Scene::key(id)]).want(0).stdout).unwrap();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let device = |id: usize| folders[id].path().join("block-tmp");
    let right = Image::luks2(&stored(0)).copy(device(0));
    // The device of the OSD 1 has the KEK of another time.
    let wrong = Image::luks2(&Kek::generate().unwrap()).copy(device(1));
    let token = cluster.account("rook-ceph-osd", &["rotation-status.yaml"]).await;
    let kms = servers::setting(servers::KMS).unwrap();

    let policy = json!({"schedule": yearly(), "maxParallel": 2, "verify": {"maxAge": "1h"}});
    scene.policy(policy).await;
    scene.annotate("cephclusters/rook-ceph", "kms.ceph.rook.io/operator", json!("true")).await;
    let leader = scene.leader().await;
    let two = async || {
        let jobs = scene.active_jobs().await;
        Ok((jobs.len() == 2).then_some(jobs))
    };
    let jobs = scene.until("two verifications", two).await;
    let run = async |id: usize, folder: &Path| {
        let prefix = format!("rook-kms-verify-{id}-");
        let (name, job) = jobs.iter().find(|(name, _)| name.starts_with(&prefix)).unwrap();
        assert!(is_verification(job) && name.ends_with("-1"), "{job}");
        cluster.run_job(&kms.display().to_string(), job, &token, folder).await
    };
    let logs = [0, 1].map(|id: usize| termination_log(folders[id].path()));
    logs.iter().for_each(|log| std::fs::write(log, "").unwrap());
    let ran = run(0, folders[0].path()).await.want(0);
    let gets = json!({"provider": "vault", "operation": "get", "outcome": "done", "count": 1});
    let told = report(folders[0].path());
    assert_eq!(told["requests"], json!([gets]));
    // The token of the Secret was looked up: those of the tests live for an hour.
    let expires: Timestamp = told["token"]["expires"].as_str().unwrap().parse().unwrap();
    let left = expires.duration_since(Timestamp::now()).as_mins();
    assert!((1..=60).contains(&left) && told["token"]["provider"] == json!("vault"), "{told}");
    assert!(ran.stdout.contains("ok ") && right.opens(&stored(0)), "{}", ran.text());
    let ran = run(1, folders[1].path()).await.want(1);
    assert!(ran.text().contains("opens no key slot") && !wrong.opens(&stored(1)), "{}", ran.text());
    let (name, job) = jobs.iter().find(|(name, _)| name.starts_with("rook-kms-verify-1-")).unwrap();
    fail(&scene, &leader.clock, (name, job), folders[1].path()).await;
    assert_eq!(scene.end_jobs(&leader.clock, |_| Run::Ends).await.len(), 1);

    let failed = scene.until_ready_is(1, "VerificationFailed").await;
    let verified = condition(&failed, "Verified");
    assert_eq!((&verified["status"], &verified["reason"]), (&json!("False"), &json!("VerificationFailed")));
    let key = until_verified_is(&scene, 0, "True", "VerificationSucceeded").await;
    let [proven, rotated] = ["verifiedAt", "rotatedAt"].map(|field| key["status"][field].as_str().unwrap());
    assert!(proven > rotated, "{key}");
    assert_eq!(condition(&key, "Ready")["reason"], json!("UpToDate"));
    let told = async || {
        let events = cluster.call("GET", "events.k8s.io/v1", "events", Value::Null).await;
        let told = events["items"].as_array().unwrap().iter().find(|event| {
            event["reason"] == json!("KeyVerificationFailed")
                && event["regarding"]["name"] == json!("rook-ceph-osd-1")
        });
        Ok(told.cloned())
    };
    assert_eq!(scene.until("the Event", told).await["type"], json!("Warning"));

    // After an hour it is tried again; by then the device is the right one.
    let mended = Image::luks2(&stored(1)).copy(device(1));
    leader.clock.advance(HOUR);
    let again = async || {
        let mut jobs = scene.active_jobs().await.into_iter();
        Ok(jobs.find(|(name, _)| name.starts_with("rook-kms-verify-1-") && name.ends_with("-2")))
    };
    let (_, job) = scene.until("the second attempt", again).await;
    let ran = cluster.run_job(&kms.display().to_string(), &job, &token, folders[1].path()).await.want(0);
    assert!(ran.stdout.contains("ok ") && mended.opens(&stored(1)), "{}", ran.text());
    let _ = scene.end_jobs(&leader.clock, |_| Run::Ends).await;
    let _key = scene.until_ready_is(1, "UpToDate").await;

    // Then another program overwrites the header.
    let bytes = mended.bytes().len();
    std::fs::write(mended.path(), vec![0; bytes]).unwrap();
    std::fs::write(&logs[1], "").unwrap();
    leader.clock.advance(HOUR);
    let next = async || {
        let mut jobs = scene.active_jobs().await.into_iter();
        Ok(jobs.find(|(name, _)| name.starts_with("rook-kms-verify-1-")))
    };
    let (name, job) = scene.until("the next verification", next).await;
    let ran = cluster.run_job(&kms.display().to_string(), &job, &token, folders[1].path()).await;
    assert!(ran.code != 0 && ran.text().contains("no LUKS header"), "{}", ran.text());
    let error = report(folders[1].path())["error"].clone();
    assert_eq!((&error["opens"], &error["header"]), (&json!(false), &json!(false)), "{error}");
    fail(&scene, &leader.clock, (&name, &job), folders[1].path()).await;
    let key = until_verified_is(&scene, 1, "False", "HeaderDamaged").await;
    let ready = condition(&key, "Ready");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("HeaderDamaged")));
    let way_back = format!("kms escrow restore DIR {} --header DEVICE", Scene::key(1));
    assert!(ready["message"].as_str().unwrap().contains(&way_back), "{ready}");
    leader.stop().await;
}

/// Runs the container of an escrow's Job as the kubelet would: with this folder as its claim, and with the file of the
/// recipients from the annotation of the pod.
fn run_escrow(scene: &Scene, job: &Value, token: &str, archives: &Path) -> Ran {
    let pod = &job["spec"]["template"];
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["command"], json!(["kms"]));
    assert_eq!(pod["spec"]["serviceAccountName"], json!("rook-kms-escrow"));
    let recipients = archives.join("recipients");
    let text = pod["metadata"]["annotations"]["kms.ceph.rook.io/escrow-recipients"].as_str().unwrap();
    std::fs::write(&recipients, text).unwrap();
    let args: Vec<String> = container["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|arg| arg.as_str().unwrap().replace("/recipients/recipients", &recipients.display().to_string()))
        .map(|arg| match arg.strip_prefix("/escrow/") {
            Some(folder) => archives.join(folder).display().to_string(),
            None => arg,
        })
        .collect();
    let log = termination_log(archives);
    std::fs::write(&log, "").unwrap();
    let env = container["env"].as_array().unwrap();
    assert_eq!(env[0], json!({"name": "KMS_REPORT_FILE", "value": "/dev/termination-log"}));
    assert_eq!((env.len(), &env[1]["name"]), (2, &json!("TRACEPARENT")), "{env:?}");
    let kms = Kms::new().env("KUBECONFIG", &scene.cluster.kubeconfig(token));
    let kms = kms.env("KMS_REPORT_FILE", &log.display().to_string());
    kms.run(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

#[tokio::test]
#[ignore = "needs a Vault server, a Kubernetes API server and kubectl: cargo xtask it operator"]
async fn an_escrow_is_made_on_time_for_the_recipients_of_the_policy() {
    let vault = OpenBao::start(OpenBaoConfig::default()).await.unwrap();
    // The limit of its policy holds for every cluster of an API server, so this test has a server of its own.
    let programs = servers::setting(servers::KUBE_BIN).unwrap();
    let kube = Kube::start(&programs).await.unwrap();
    let scene = rotated_cluster(Cluster::on_vault_at(kube, &vault).await.0).await;
    let cluster = &scene.cluster;
    let kube_namespace = cluster.place.name();
    let folder = tempfile::tempdir().unwrap();
    let rights = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/escrow.yaml");
    let rights = std::fs::read_to_string(rights).unwrap();
    let rights = rights.replace("namespace: rook-ceph", &format!("namespace: {kube_namespace}"));
    std::fs::write(folder.path().join("escrow.yaml"), rights).unwrap();
    let _ = cluster.shell("kubectl apply --server-side -f escrow.yaml", folder.path()).want(0);
    let token = cluster.place.create_token("rook-kms-escrow", &[]).await.unwrap();
    let pair = Pair::generate();

    scene
        .policy(json!({
            "schedule": yearly(),
            "limits": [{"provider": "vault", "maxParallel": 1}],
            "escrow": {"recipients": [pair.recipient], "schedule": yearly(), "claim": "archives"},
        }))
        .await;
    scene.annotate("cephclusters/rook-ceph", "kms.ceph.rook.io/operator", json!("true")).await;
    let leader = scene.leader().await;
    let job = async |number: &str| {
        let escrow = async || {
            let jobs = "jobs?labelSelector=kms.ceph.rook.io/escrow";
            let list = cluster.call("GET", "batch/v1", jobs, Value::Null).await;
            let mut jobs = list["items"].as_array().unwrap().iter();
            let name = |job: &&Value| job["metadata"]["name"].as_str().unwrap().to_owned();
            Ok(jobs.find(|job| name(job).ends_with(number)).map(|job| (name(&job), job.clone())))
        };
        scene.until("the Job of an escrow", escrow).await
    };
    let (first, _) = job("-1").await;
    // The one place that the limit of the KMS has is taken.
    scene.annotate("osdkeys/set1-data-0", "kms.ceph.rook.io/rotate-now", json!("1")).await;
    let looks = leader.health.reconciles();
    scene.until("further looks", async || Ok((leader.health.reconciles() > looks + 2).then_some(()))).await;
    assert_eq!(scene.running().await, Vec::<usize>::new());
    // The first attempt fails: its pod found no node.
    scene.end_job(&first, leader.clock.now().unwrap(), false).await;
    let told = async || {
        let events = cluster.call("GET", "events.k8s.io/v1", "events", Value::Null).await;
        let told = events["items"].as_array().unwrap().iter().find(|event| {
            event["reason"] == json!("EscrowFailed") && event["regarding"]["kind"] == json!("CephCluster")
        });
        Ok(told.cloned())
    };
    let told = scene.until("the Event", told).await;
    assert_eq!(told["regarding"]["name"], json!("rook-ceph"));
    let escrowed = async |id: usize, reason: &str| {
        scene
            .until(&format!("Escrowed of OSD {id} to have the reason {reason}"), async || {
                let key = scene.osd_key(id).await;
                Ok((condition(&key, "Escrowed")["reason"] == json!(reason)).then_some(key))
            })
            .await
    };
    assert_eq!(condition(&escrowed(0, "EscrowFailed").await, "Escrowed")["status"], json!("False"));
    let ended = scene.until("the rotation", async || {
        Ok(scene.end_jobs(&leader.clock, |_| Run::Succeeds).await.into_iter().next())
    });
    assert!(ended.await.0.contains("-now-"));

    leader.clock.advance(HOUR);
    let (second, object) = job("-2").await;
    let ran = run_escrow(&scene, &object, &token, folder.path()).want(0);
    assert!(ran.stdout.contains(&format!("2 KEKs for {}", pair.recipient)), "{}", ran.text());
    let [get, list] = [("get", 2), ("list", 1)].map(|(operation, count)| {
        json!({"provider": "vault", "operation": operation, "outcome": "done", "count": count})
    });
    assert_eq!(report(folder.path())["requests"], json!([get, list]));
    scene.end_job(&second, leader.clock.now().unwrap(), true).await;
    let key = escrowed(1, "Saved").await;
    assert!(key["status"]["escrowedAt"].is_string(), "{key}");
    // What is there decrypts with the identity, and the drill is recorded.
    std::fs::write(folder.path().join("identity"), &pair.identity).unwrap();
    let line = format!("kms --cluster {kube_namespace}/rook-ceph escrow drill {second} -i identity");
    let drilled = cluster.shell(&line, folder.path()).want(0);
    assert!(drilled.stdout.contains("all 2 keys would come back"), "{}", drilled.text());
    let path = "{.metadata.annotations.kms\\.ceph\\.rook\\.io/drilled-at}";
    assert!(!cluster.kubectl(&format!("get cephclusters rook-ceph -o 'jsonpath={path}'")).is_empty());
    leader.stop().await;
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it operator"]
async fn the_limit_of_a_kms_counts_the_jobs_of_two_namespaces_together() {
    // No other test has a cluster on KMIP, so the limit concerns no other one. The Jobs do not run, so there is no server.
    let details = json!({"KMS_PROVIDER": "kmip", "KMIP_ENDPOINT": "kmip.example.net:5696"});
    let cluster = async || {
        let kms = json!({"connectionDetails": details, "tokenSecretName": "kmip"});
        let cluster = Cluster::new(json!({"kms": kms, "keyRotation": {"enabled": false}})).await;
        Scene::of(cluster, &[(0, "a", "z1"), (1, "b", "z2")]).await
    };
    let scenes = [cluster().await, cluster().await];
    let limit = async |most: usize| {
        let limits = json!([{"provider": "kmip", "maxParallel": most}]);
        scenes[0].policy(json!({"schedule": yearly(), "maxParallel": 2, "limits": limits})).await;
    };
    limit(1).await;
    scenes[1].policy(json!({"schedule": yearly(), "maxParallel": 2})).await;
    let leader = scenes[0].leader_of_both(&scenes[1]).await;
    let running = async || scenes[0].running().await.len() + scenes[1].running().await.len();
    let ended = async |run: Run| {
        let mut ended = 0;
        for scene in &scenes {
            ended += scene.end_jobs(&leader.clock, |_| run).await.len();
        }
        ended
    };
    // Each cluster alone would begin two.
    for (most, at_a_time) in [(1, 1), (1, 1), (2, 2)] {
        limit(most).await;
        scenes[0].until("a Job", async || Ok((running().await >= at_a_time).then_some(()))).await;
        let looks = leader.health.reconciles();
        let further = async || {
            // A change that means nothing, so that both loops look again.
            let now = json!(leader.health.reconciles().to_string());
            scenes[1].annotate("cephclusters/rook-ceph", "example.com/looks", now).await;
            Ok((leader.health.reconciles() > looks + 4).then_some(()))
        };
        scenes[0].until("further looks at both", further).await;
        assert_eq!(running().await, at_a_time);
        assert_eq!(ended(Run::Succeeds).await, at_a_time);
    }
    leader.stop().await;
}
