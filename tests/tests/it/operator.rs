//! The operator on a real API server. There is no kubelet and no controller of Jobs: the tests end Jobs themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use kms_core::Kek;
use kms_operator::Role;
use kms_testkit::{
    figures,
    luks::Image,
    servers::{Kube, OpenBao, OpenBaoConfig},
};
use kms_tests::{
    crash::Dice,
    operator::{Run, Scene, condition},
    process::Process,
    rook::{ADMIN, Cluster},
};
use serde_json::{Value, json};

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

/// Three OSDs, two of them in one zone.
const THREE: [(usize, &str, &str); 3] = [(0, "a", "z1"), (1, "b", "z1"), (2, "c", "z2")];

#[tokio::test]
#[ignore = "needs a Kubernetes API server and kubectl: cargo xtask it operator"]
async fn a_cluster_that_is_handed_over_gets_keys_jobs_and_no_more_cron_jobs() {
    let scene = Scene::new(&THREE).await;
    let cluster = &scene.cluster;
    let _ = cluster.kms(ADMIN).run(&["cronjobs", "apply", "--beside-rook"]).want(0);
    assert_eq!(cluster.cron_jobs().await.len(), 3);
    // One that is not valid does not block the others.
    let mut broken = cluster.call("GET", "apps/v1", "deployments/rook-ceph-osd-2", Value::Null).await;
    broken["metadata"] = json!({"name": "rook-ceph-osd-9", "labels": broken["metadata"]["labels"]});
    for (label, value) in [("ceph.rook.io/pvc", "set1-data-9"), ("ceph-osd-id", "9")] {
        broken["metadata"]["labels"][label] = json!(value);
    }
    cluster.call("POST", "apps/v1", "deployments", broken).await;
    // Not handed over: nothing happens.
    scene.annotate("cephclusters/rook-ceph", "kms.ceph.rook.io/operator", json!("false")).await;
    let leader = scene.leader().await;
    scene
        .until("a look at the namespace", async || {
            Ok((leader.health.reconciles() > 0 && leader.health.is_ready()).then_some(()))
        })
        .await;
    assert_eq!(
        (scene.keys().await, scene.jobs().await.len(), cluster.cron_jobs().await.len()),
        (json!([]), 0, 3)
    );

    scene.annotate("cephclusters/rook-ceph", "kms.ceph.rook.io/operator", json!("true")).await;
    let ran = scene.rotate_all(&leader.clock, &[0, 1, 2]).await;
    assert!(ran.values().all(|jobs| jobs.len() == 1), "{ran:?}");
    assert_eq!(cluster.cron_jobs().await, Vec::<String>::new());
    for (id, ..) in THREE {
        let key = scene.until_ready_is(id, "UpToDate").await;
        let owner = &key["metadata"]["ownerReferences"][0];
        let deployment =
            cluster.call("GET", "apps/v1", &format!("deployments/rook-ceph-osd-{id}"), Value::Null).await;
        assert_eq!(owner["uid"], deployment["metadata"]["uid"]);
        assert_eq!(
            key["spec"],
            json!({"osd": id, "cluster": "rook-ceph", "deployment": format!("rook-ceph-osd-{id}")})
        );
        let status = &key["status"];
        assert_eq!(
            (&status["provider"], &status["failedAttempts"]),
            (&json!("kubernetes"), &json!(0)),
            "{status}"
        );
        assert!(status["node"].as_str().unwrap().starts_with(cluster.place.name()), "{status}");
        assert_eq!(status["verifiedAt"], status["rotatedAt"]);
        assert_eq!(
            (&condition(&key, "Verified")["status"], &condition(&key, "Escrowed")["status"]),
            (&json!("True"), &json!("Unknown"))
        );
        let jobs = scene.jobs().await;
        let job = &jobs[&ran[&id][0]];
        assert_eq!(job["metadata"]["ownerReferences"][0]["uid"], deployment["metadata"]["uid"]);
        assert_eq!(
            (&job["spec"]["backoffLimit"], &job["spec"]["template"]["spec"]["restartPolicy"]),
            (&json!(0), &json!("Never"))
        );
    }
    assert_eq!(scene.keys().await.as_array().unwrap().len(), 3, "the OSD that cannot be parsed has no key");
    let table = cluster.kubectl("get osdkeys");
    let mut lines = table.lines();
    let head: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["NAME", "OSD", "PROVIDER", "READY", "REASON", "KEY-AGE", "NEXT"]);
    let row: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(row[..5], ["set1-data-0", "0", "kubernetes", "True", "UpToDate"]);

    // A change of the object by hand is taken back, and every condition is computed anew from the object of today.
    let before = scene.osd_key(2).await["metadata"]["generation"].as_i64().unwrap();
    let wrong = json!({"spec": {"deployment": "another"}});
    cluster.patch("kms.ceph.rook.io/v1alpha1", "osdkeys/set1-data-2", &wrong).await;
    scene
        .until("the change to be taken back", async || {
            let key = scene.osd_key(2).await;
            let (generation, conditions) = (&key["metadata"]["generation"], &key["status"]["conditions"]);
            let conditions = conditions.as_array().unwrap();
            let is_new = conditions.iter().all(|condition| condition["observedGeneration"] == *generation);
            assert_eq!(conditions.len(), 4);
            Ok((generation.as_i64().unwrap() >= before + 2 && is_new).then_some(()))
        })
        .await;
    assert_eq!(scene.osd_key(2).await["spec"]["deployment"], json!("rook-ceph-osd-2"));

    // The key goes with its Deployment, and nothing else does.
    cluster.call("DELETE", "apps/v1", "deployments/rook-ceph-osd-1", Value::Null).await;
    scene.until("the OsdKey to go", async || Ok(scene.osd_key(1).await.is_null().then_some(()))).await;
    assert_eq!(scene.keys().await.as_array().unwrap().len(), 2);
    leader.stop().await;
}

#[tokio::test]
#[ignore = "needs cryptsetup, a Vault server and a Kubernetes API server: cargo xtask it operator"]
async fn a_job_rotates_a_key_in_vault_and_the_osd_key_shows_it() {
    let vault = OpenBao::start(OpenBaoConfig::default()).await.unwrap();
    let (cluster, _) = Cluster::on_vault(&vault).await;
    cluster.set_key_rotation(false).await;
    let scene = Scene::of(cluster, &[(1, "a", "z1")]).await;
    let cluster = &scene.cluster;
    scene.annotate("cephclusters/rook-ceph", "kms.ceph.rook.io/rotation-grace", json!("0s")).await;
    let name = Scene::key(1);
    let admin = cluster.kms(ADMIN);
    let _ = admin.run(&["create", &name]).want(0);
    let kek = || Kek::parse(admin.run(&["get", &name]).want(0).stdout).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let old = kek();
    let device = Image::luks2(&old).copy(folder.path().join("block-tmp"));
    let token = cluster.account("rook-ceph-osd", &["rotation-status.yaml"]).await;

    let leader = scene.leader().await;
    let job = scene.until("the Job", async || Ok(scene.jobs().await.into_values().next())).await;
    let header = "sys/config/auditing/request-headers/traceparent";
    vault.admin().call("POST", header, json!({"hmac": false})).await.unwrap();
    let requests = vault.requests().unwrap();
    let ran = cluster.run_job(env!("CARGO_BIN_EXE_kms-hurried"), &job, &token, folder.path()).await.want(0);
    let env = job["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap().iter();
    let trace = env.clone().find(|var| var["name"] == "TRACEPARENT").and_then(|var| var["value"].as_str());
    let seen = requests.all().unwrap();
    assert!(!seen.is_empty() && trace.is_some(), "{job:#}");
    for request in seen {
        assert_eq!(request.traceparent.as_deref(), trace, "the reconcile that has made the Job: {request:?}");
    }
    let new = kek();
    assert!(device.opens(&new) && !device.opens(&old), "{}", ran.text());
    let ended = scene.end_jobs(&leader.clock, |_| Run::Ends).await;
    assert_eq!(ended.len(), 1);
    let key = scene.until_ready_is(1, "UpToDate").await;
    let looks = leader.health.reconciles();
    scene.until("a further look", async || Ok((leader.health.reconciles() > looks + 1).then_some(()))).await;
    assert_eq!(scene.events().await, ["KeyRotation", "KeyRotationStarted"], "one Event of the end");
    let deployment = cluster.call("GET", "apps/v1", "deployments/rook-ceph-osd-1", Value::Null).await;
    let recorded =
        |name: &str| deployment["metadata"]["annotations"][format!("kms.ceph.rook.io/key-{name}")].clone();
    assert_eq!(recorded("rotation-outcome"), json!("rotated"));
    assert_eq!(key["status"]["provider"], json!("vault"));
    assert_eq!(
        (key["status"]["keyVersion"].clone(), recorded("generation")),
        (json!(2), json!("2")),
        "the first KEK and the new one"
    );
    let (rotated, stored) = (key["status"]["rotatedAt"].as_str().unwrap(), recorded("rotated-at"));
    // The Job ends after the KEK was stored.
    assert!(rotated >= stored.as_str().unwrap(), "{rotated} {stored}");
    assert_eq!(scene.running().await, Vec::<usize>::new());
    leader.stop().await;
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it operator"]
async fn no_more_than_the_policy_allows_run_at_a_time_and_one_in_each_failure_domain() {
    let osds =
        [(0, "a", "z1"), (1, "b", "z1"), (2, "c", "z2"), (3, "d", "z2"), (4, "e", "z3"), (5, "f", "z3")];
    let scene = Scene::new(&osds).await;
    scene.policy(json!({"maxParallel": 2})).await;
    let leader = scene.leader().await;
    let zone = |osd: &usize| osds[*osd].2;
    let mut rotated = BTreeSet::new();
    while rotated.len() < osds.len() {
        let running = scene
            .until("rotations", async || {
                let running = scene.running().await;
                // Both places are taken while there are two zones to choose from.
                Ok((running.len() == 2 || rotated.len() >= 4 && !running.is_empty()).then_some(running))
            })
            .await;
        let zones: BTreeSet<_> = running.iter().map(zone).collect();
        assert!(running.len() <= 2 && zones.len() == running.len(), "{running:?}");
        // One ends, and the other goes on.
        let first = running[0];
        let ended =
            scene.end_jobs(&leader.clock, |osd| if osd == first { Run::Succeeds } else { Run::Hangs }).await;
        assert_eq!(ended.len(), 1);
        assert!(rotated.insert(first), "OSD {first} was rotated twice");
    }
    leader.stop().await;
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it operator"]
async fn rotations_wait_for_the_window_and_failures_for_an_hour() {
    let scene = Scene::new(&[(0, "a", "z1")]).await;
    // A window that opens in three hours, give or take one.
    let hour = (Timestamp::now() + SignedDuration::from_hours(3)).to_zoned(TimeZone::UTC).hour();
    let window = json!({"opens": format!("0 {hour} * * *"), "duration": "20h"});
    // A verification could begin while a rotation waits.
    scene.policy(json!({"window": window, "verify": {"enabled": false}})).await;
    let leader = scene.leader().await;
    let key = scene.until("the key to wait", async || {
        let key = scene.osd_key(0).await;
        let waits =
            condition(&key, "Ready")["message"].as_str().is_some_and(|text| text.contains("may begin at"));
        Ok(waits.then_some(key))
    });
    let key = key.await;
    assert_eq!(condition(&key, "Ready")["status"], json!("True"));
    assert_eq!(scene.jobs().await.len(), 0);

    leader.clock.advance(3 * HOUR);
    let fail = async || {
        scene
            .until("a rotation to fail", async || {
                Ok(scene.end_jobs(&leader.clock, |_| Run::Fails).await.into_iter().next())
            })
            .await
            .0
    };
    let first = fail().await;
    let key = scene.until_ready_is(0, "RotationFailed").await;
    assert_eq!(
        (&key["status"]["failedAttempts"], &condition(&key, "Ready")["status"]),
        (&json!(1), &json!("False"))
    );
    leader.clock.advance(HOUR / 2);
    let looks = leader.health.reconciles();
    scene.annotate("osdkeys/set1-data-0", "test", json!("a reason to look")).await;
    scene.until("another look", async || Ok((leader.health.reconciles() > looks).then_some(()))).await;
    assert_eq!(scene.running().await, Vec::<usize>::new());
    leader.clock.advance(HOUR / 2);
    let second = fail().await;
    assert_eq!(
        (first.strip_suffix("-1"), second.strip_suffix("-2")),
        (second.strip_suffix("-2"), first.strip_suffix("-1"))
    );
    leader.clock.advance(2 * HOUR);
    let ran = scene.rotate_all(&leader.clock, &[0]).await;
    assert!(ran[&0][0].ends_with("-3"), "{ran:?}");
    let key = scene.until_ready_is(0, "UpToDate").await;
    assert_eq!(key["status"]["failedAttempts"], json!(0));

    // The next period has a Job of its own; once it has ended, those of the last one go.
    leader.clock.advance(8 * DAY);
    let ran = scene.rotate_all(&leader.clock, &[0]).await;
    assert!(ran[&0][0].ends_with("-1"), "{ran:?}");
    scene.until("the old Jobs to go", async || Ok((scene.jobs().await.len() == 1).then_some(()))).await;
    leader.stop().await;
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it operator"]
async fn a_key_is_rotated_when_asked_for_and_not_where_the_operator_is_paused_or_rook_rotates() {
    let scene = Scene::new(&[(0, "a", "z1"), (1, "b", "z2")]).await;
    let cluster = &scene.cluster;
    scene.annotate("cephclusters/rook-ceph", "kms.ceph.rook.io/paused", json!("true")).await;
    let leader = scene.leader().await;
    for id in [0, 1] {
        let key = scene.until_ready_is(id, "Paused").await;
        assert_eq!(condition(&key, "Ready")["status"], json!("False"));
    }
    // Rook's own rotation: enabled, then off with a CronJob that is left.
    cluster.set_key_rotation(true).await;
    scene.annotate("cephclusters/rook-ceph", "kms.ceph.rook.io/paused", Value::Null).await;
    let key = scene.until_ready_is(0, "RookRotates").await;
    assert!(condition(&key, "Ready")["message"].as_str().unwrap().contains("keyRotation.enabled"), "{key}");
    let mut rooks = kms_tests::rook::fixture("vault-token", "cronjob.json");
    kms_tests::rook::move_to(&mut rooks, cluster.place.name());
    let name = rooks["metadata"]["name"].as_str().unwrap().to_owned();
    let args = &mut rooks["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["args"];
    args[2] = json!("set1-data-0");
    cluster.call("POST", "batch/v1", "cronjobs", rooks).await;
    cluster.set_key_rotation(false).await;
    scene
        .until("the CronJob of Rook to be seen", async || {
            let key = scene.osd_key(0).await;
            let message = condition(&key, "Ready")["message"].as_str().unwrap_or_default().to_owned();
            Ok(message.contains("a CronJob of Rook rotates this key too").then_some(()))
        })
        .await;
    assert_eq!((scene.jobs().await.len(), cluster.cron_jobs().await), (0, vec![name.clone()]));
    cluster.call("DELETE", "batch/v1", &format!("cronjobs/{name}"), Value::Null).await;
    let ran = scene.rotate_all(&leader.clock, &[0, 1]).await;
    assert!(ran.values().all(|jobs| jobs.len() == 1), "{ran:?}");

    // A paused key is not rotated; the other one is, once for each value.
    scene.annotate("osdkeys/set1-data-1", "kms.ceph.rook.io/paused", json!("true")).await;
    for id in [1, 0] {
        scene
            .annotate(&format!("osdkeys/set1-data-{id}"), "kms.ceph.rook.io/rotate-now", json!("first"))
            .await;
    }
    let ran = scene.rotate_all(&leader.clock, &[0]).await;
    assert!(ran.keys().eq(&[0]) && ran[&0][0].contains("-now-"), "{ran:?}");
    scene
        .until("the value to be recorded", async || {
            Ok((scene.osd_key(0).await["status"]["rotateNow"] == json!("first")).then_some(()))
        })
        .await;
    scene.annotate("osdkeys/set1-data-0", "kms.ceph.rook.io/rotate-now", json!("second")).await;
    let again = scene.rotate_all(&leader.clock, &[0]).await;
    assert_ne!(again[&0], ran[&0]);
    assert!(!again.contains_key(&1));
    // An orderly end releases the Lease.
    leader.stop().await;
    let lease = cluster.call("GET", "coordination.k8s.io/v1", "leases/kms-operator", Value::Null).await;
    assert_eq!(lease["spec"]["holderIdentity"], Value::Null, "{lease}");
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it operator"]
async fn no_osd_is_rotated_twice_or_forgotten_when_leaders_are_killed() {
    let kills =
        if kms_testkit::servers::optional_setting(kms_testkit::servers::SWEEP).is_some() { 50 } else { 10 };
    let names: Vec<(usize, String)> = (0..2 * kills).map(|id| (id, format!("n{id}"))).collect();
    let osds: Vec<_> = names.iter().map(|(id, name)| (*id, name.as_str(), name.as_str())).collect();
    let scene = Scene::new(&osds).await;
    scene.policy(json!({"maxParallel": 2})).await;
    let watched = scene.replica_by(&scene.cluster.kubeconfig(&scene.token), "watcher").await;
    let clock = watched.clock.clone();
    scene.until("a first response", async || Ok(clock.now())).await;
    watched.kill().await;

    let mut dice = Dice::new(7);
    let mut ran: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let mut replicas: BTreeMap<String, Process> = BTreeMap::new();
    let mut started = 0;
    for kill in 0..kills {
        while replicas.len() < 2 {
            started += 1;
            let identity = format!("replica-{started}");
            replicas.insert(identity.clone(), Process::start(&scene, &identity));
        }
        // Some rotations end while the leader lives, and others after it has been killed.
        let leader = scene
            .until("a leader", async || {
                for (name, osd) in scene
                    .end_jobs(&clock, |osd| if (osd + kill) % 3 == 0 { Run::Hangs } else { Run::Succeeds })
                    .await
                {
                    ran.entry(osd).or_default().push(name);
                }
                Ok(scene.holder().await?.filter(|holder| replicas.contains_key(holder)))
            })
            .await;
        tokio::time::sleep(Duration::from_millis(dice.below(600).try_into().unwrap())).await;
        drop(replicas.remove(&leader));
    }
    let survivor = Process::start(&scene, "survivor");
    let all: Vec<usize> = osds.iter().map(|(id, ..)| *id).collect();
    scene
        .until("every OSD to be rotated", async || {
            for (name, osd) in scene.end_jobs(&clock, |_| Run::Succeeds).await {
                ran.entry(osd).or_default().push(name);
            }
            Ok(all.iter().all(|osd| ran.contains_key(osd)).then_some(()))
        })
        .await;
    // The last one has ended; nothing more begins.
    let last = all.iter().max().copied().unwrap();
    scene.until_ready_is(last, "UpToDate").await;
    assert!(ran.values().all(|jobs| jobs.len() == 1), "an OSD was rotated twice: {ran:?}");
    assert_eq!(scene.jobs().await.len(), all.len());
    figures::survived("the operator that leads", kills);
    drop(replicas);
    scene
        .until("the survivor to lead", async || {
            Ok((scene.holder().await?.as_deref() == Some("survivor")).then_some(()))
        })
        .await;
    assert_eq!(survivor.terminate(), Some(0));
    assert_eq!(scene.holder().await.unwrap(), None, "the Lease is released");
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it operator"]
async fn two_leaders_at_once_rotate_no_osd_twice() {
    let names: Vec<String> = (0..12).map(|id| format!("n{id}")).collect();
    let osds: Vec<_> =
        names.iter().enumerate().map(|(id, name)| (id, name.as_str(), name.as_str())).collect();
    let scene = Scene::new(&osds).await;
    scene.policy(json!({"maxParallel": 4})).await;
    scene.annotate("cephclusters/rook-ceph", "kms.ceph.rook.io/paused", json!("true")).await;
    let lease = scene.cluster.kube.create_namespace("other-lease").await.unwrap();
    let (one, two) = (scene.leader().await, scene.second_leader(lease.name()).await);
    scene
        .until("both to lead", async || {
            let lead = [&one, &two]
                .map(|replica| replica.health.role() == Role::Leading && replica.health.is_ready());
            Ok((lead == [true; 2]).then_some(()))
        })
        .await;
    // Both get the event at the same moment.
    scene.annotate("cephclusters/rook-ceph", "kms.ceph.rook.io/paused", Value::Null).await;
    let all: Vec<usize> = (0..osds.len()).collect();
    let ran = scene.rotate_all(&one.clock, &all).await;
    assert!(ran.values().all(|jobs| jobs.len() == 1), "an OSD was rotated twice: {ran:?}");
    for id in all {
        let _key = scene.until_ready_is(id, "UpToDate").await;
    }
    assert_eq!(scene.jobs().await.len(), osds.len());
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it operator"]
async fn a_replica_takes_over_when_the_network_of_the_leader_stalls_and_the_other_stops() {
    let scene = Scene::new(&THREE).await;
    let server = url::host(scene.cluster.kube.url());
    let relay = kms_testkit::servers::Relay::start(server).await.unwrap();
    let config = scene.cluster.kubeconfig(&scene.token);
    let text = std::fs::read_to_string(&config).unwrap().replace(scene.cluster.kube.url(), &relay.url());
    let stalled = format!("{config}-relay");
    std::fs::write(&stalled, text).unwrap();

    let one = scene.replica_by(&stalled, "one").await;
    scene.until("the first leader", async || Ok((one.health.role() == Role::Leading).then_some(()))).await;
    scene.until("a rotation", async || Ok((!scene.running().await.is_empty()).then_some(()))).await;
    let two = scene.replica_by(&config, "two").await;
    scene.until("a standby that is ready", async || Ok(two.health.is_ready().then_some(()))).await;
    assert_eq!(two.health.role(), Role::Standby);
    relay.freeze(true);
    scene.until("the other leader", async || Ok((two.health.role() == Role::Leading).then_some(()))).await;
    assert_eq!(one.health.role(), Role::Standby, "it stops before another one begins");
    let ran = scene.rotate_all(&two.clock, &[0, 1, 2]).await;
    assert!(ran.values().all(|jobs| jobs.len() == 1), "{ran:?}");
    relay.freeze(false);
    // The first one sees the Lease of the other, and does nothing.
    let looks = one.health.reconciles();
    scene
        .until("the first replica to look again", async || {
            Ok((one.health.reconciles() > looks + 2).then_some(()))
        })
        .await;
    assert_eq!((one.health.role(), two.health.role()), (Role::Standby, Role::Leading));
    assert_eq!(scene.running().await, Vec::<usize>::new());
    assert_eq!(scene.jobs().await.len(), 3);
    two.stop().await;
    scene
        .until("the first replica to lead again", async || {
            Ok((one.health.role() == Role::Leading).then_some(()))
        })
        .await;
    one.stop().await;
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it operator"]
async fn a_restart_of_the_api_server_and_expired_watches_are_survived() {
    let programs = kms_testkit::servers::setting(kms_testkit::servers::KUBE_BIN).unwrap();
    let mut scene = Scene::on(Kube::start(&programs).await.unwrap(), &THREE).await;
    let leader = scene.leader().await;
    scene.until("a rotation", async || Ok((!scene.running().await.is_empty()).then_some(()))).await;
    scene.cluster.kube.restart_without_history().await.unwrap();
    let ran = scene.rotate_all(&leader.clock, &[0, 1, 2]).await;
    assert!(ran.values().all(|jobs| jobs.len() == 1), "{ran:?}");
    for (id, ..) in THREE {
        let _key = scene.until_ready_is(id, "UpToDate").await;
    }
    let expired = leader.health.errors().iter().any(|error| error.contains("HTTP status 410"));
    assert!(expired, "no watch has expired: {:?}", leader.health.errors());
    leader.stop().await;
}

mod url {
    //! The address in a URL.

    /// The address of a server on this host.
    pub(super) fn host(url: &str) -> std::net::SocketAddr {
        url.strip_prefix("https://").unwrap().parse().unwrap()
    }
}
