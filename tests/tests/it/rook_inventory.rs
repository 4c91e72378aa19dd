//! The inventory of a cluster on a real API server: with `--cluster`, from what kubectl prints, and on a host.
use kms_core::Kek;
use kms_testkit::luks::Image;
use kms_tests::{
    Kms, Ran,
    age::Pair,
    rook::{ADMIN, Cluster},
};
use serde_json::{Value, json};

const OSDS: [(&str, &str); 3] =
    [("default", "set1-data-0a7dwll"), ("kmip", "set1-data-0f7dwll"), ("azure", "set1-data-0g7dwll")];
const CLAIM_ONLY: &str = "set2-data-0new";
const NO_OSD: &str = "set0-data-0gone";

/// A cluster with three OSDs, of which one has no key; a PVC without an OSD; and a key with neither.
async fn cluster() -> Cluster {
    let cluster = Cluster::new(json!({})).await;
    let admin = cluster.kms(ADMIN);
    for (case, name) in OSDS {
        cluster.add_osd(case).await;
        claim(&cluster, name);
    }
    claim(&cluster, CLAIM_ONLY);
    for name in [OSDS[0].1, OSDS[1].1, CLAIM_ONLY, NO_OSD] {
        let _ = admin.run(&["create", name]).want(0);
    }
    cluster.kubectl(
        "run osd-0 --image=none --labels=app=rook-ceph-osd,ceph-osd-id=0 \
         --overrides='{\"spec\": {\"nodeName\": \"node-a\"}}'",
    );
    cluster
}

fn claim(cluster: &Cluster, name: &str) {
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    cluster.kubectl(&format!("create -f - <<'END'\n{claim}\nEND"));
}

/// The state of each row, by its name.
fn states(ran: &Ran) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let document = ran.json();
    document["rows"].as_array().unwrap().iter().map(|row| (text(&row["name"]), text(&row["state"]))).collect()
}

fn expected(states: [&str; 5]) -> Vec<(String, String)> {
    let names = [OSDS[0].1, OSDS[1].1, OSDS[2].1, NO_OSD, CLAIM_ONLY];
    names.into_iter().zip(states).map(|(name, state)| (name.to_owned(), state.to_owned())).collect()
}

const INVENTORY: [&str; 3] = ["-o", "json", "inventory"];
/// The words of `--fail-on`.
const WORDS: [&str; 4] = ["missing", "orphan", "stale", "mixed"];

#[tokio::test]
#[ignore = "needs a Kubernetes API server and kubectl: cargo xtask it rook"]
async fn an_inventory_shows_what_is_missing_and_which_keys_have_no_osd() {
    let cluster = cluster().await;
    let admin = cluster.kms(ADMIN);
    let run = |more: &[&str]| admin.run(&[&INVENTORY, more].concat());
    let ran = run(&[]).want(0);
    assert_eq!(states(&ran), expected(["ok", "ok", "missing", "orphan", "ok"]), "{}", ran.stdout);
    let document = ran.json();
    assert_eq!((&document["complete"], &document["rows"][0]["node"]), (&json!(true), &json!("node-a")));
    assert_eq!(document["counts"], json!({"missing": 1, "orphan": 1, "ok": 3}));
    // The exit code with each word alone.
    let fails_on =
        |age: &str| WORDS.map(|word| run(&["--fail-on", word, "--devices", "--older-than", age]).code);
    assert_eq!(fails_on("90d"), [1, 1, 0, 0]);
    let _ = run(&["--fail-on", "stale,mixed", "--older-than", "90d", "--devices"]).want(0);
    let _ = run(&["--fail-on", "stale"]).want(2);
    // A rotation is noted at the Deployment, and then shown here.
    cluster.kubectl(
        "annotate deployment rook-ceph-osd-0 kms.ceph.rook.io/key-rotated-at=2026-11-30T01:02:03Z \
         kms.ceph.rook.io/key-rotation-outcome=rotated",
    );
    let row = &run(&[]).want(0).json()["rows"][0];
    assert_eq!((&row["rotated"], &row["outcome"]), (&json!("2026-11-30T01:02:03Z"), &json!("rotated")));
    let text = admin.run(&["inventory"]).want(0).stdout;
    for line in [
        format!("missing: {}: the KMS has no key of this name", OSDS[2].1),
        format!("orphan: {NO_OSD}: no OSD and no PVC has this name"),
        "5 rows: 1 missing, 1 orphan, 3 ok".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    let _ = admin.run(&["delete", NO_OSD, "--destroy"]).want(0);
    assert_eq!(fails_on("90d"), [1, 0, 0, 0]);
    let _ = admin.run(&["create", OSDS[2].1]).want(0);
    assert_eq!(fails_on("90d"), [0; 4]);
    assert_eq!(fails_on("0s"), [0, 0, 1, 0]);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server and kubectl: cargo xtask it rook"]
async fn a_source_that_cannot_be_listed_is_a_gap_and_nothing_is_called_an_orphan() {
    let cluster = cluster().await;
    let all = [
        ("apps", "deployments", "osds", ["unknown"; 5]),
        ("", "persistentvolumeclaims", "pvcs", ["ok", "ok", "missing", "unknown", "unknown"]),
        ("", "pods", "nodes", ["ok", "ok", "missing", "orphan", "ok"]),
        ("", "secrets", "keys", ["unknown"; 5]),
    ];
    for (_, left_out, source, states_then) in all {
        let account = format!("without-{source}");
        let rules: Vec<Value> = all
            .iter()
            .filter(|(_, resource, ..)| *resource != left_out)
            .map(|(group, resource, ..)| json!({"apiGroups": [group], "resources": [resource], "verbs": ["list"]}))
            .chain([json!({"apiGroups": ["ceph.rook.io"], "resources": ["cephclusters"], "verbs": ["get"]})])
            .collect();
        cluster.place.create_service_account(&account).await.unwrap();
        cluster.place.grant(&account, &json!(rules)).await.unwrap();
        let token = cluster.place.create_token(&account, &[]).await.unwrap();
        let ran = cluster.kms(&token).run(&INVENTORY).want(4);
        let document = ran.json();
        let gaps: Vec<_> = document["gaps"].as_array().unwrap().iter().map(|gap| &gap["source"]).collect();
        assert_eq!((&document["complete"], gaps), (&json!(false), vec![&json!(source)]), "{}", ran.stdout);
        let found = states(&ran);
        match source {
            // Without the list of OSDs, every row is a key.
            "osds" => {
                let key = |name: &str, state: &str| (name.to_owned(), state.to_owned());
                assert_eq!(
                    found,
                    [
                        key(NO_OSD, "unknown"),
                        key(OSDS[0].1, "ok"),
                        key(OSDS[1].1, "ok"),
                        key(CLAIM_ONLY, "ok")
                    ]
                );
            }
            "keys" => {
                let osds = OSDS.map(|(_, name)| (name.to_owned(), "unknown".to_owned()));
                assert_eq!(found, osds);
            }
            _ => assert_eq!(found, expected(states_then), "{source}"),
        }
    }
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server and kubectl: cargo xtask it rook"]
async fn files_have_what_kubectl_prints_and_a_host_knows_its_own_osds() {
    let cluster = cluster().await;
    let config = cluster.kubeconfig(ADMIN);
    let kms = || Kms::new().global(&["--kubeconfig", &config]);
    let exported = cluster.kubectl("get cephclusters,deployments,persistentvolumeclaims,pods -o yaml");
    let ran = kms().document("all.yaml", &exported).run(&INVENTORY).want(0);
    assert_eq!(states(&ran), expected(["ok", "ok", "missing", "orphan", "ok"]), "{}", ran.text());
    let without = cluster.kubectl("get cephclusters,deployments -o yaml");
    let ran = kms().document("some.yaml", &without).run(&INVENTORY).want(0);
    assert_eq!(states(&ran), expected(["ok", "ok", "missing", "unknown", "unknown"]), "{}", ran.text());
    assert_eq!(ran.json()["complete"], false);

    // A host has the folders of two OSDs, of which one has a device that another KEK opens.
    let host = kms().document("cluster.yaml", &cluster.kubectl("get cephclusters -o yaml"));
    for (at, (_, name)) in OSDS[..2].iter().enumerate() {
        let stored = Kek::parse(cluster.kms(ADMIN).run(&["get", name]).want(0).stdout).unwrap();
        let kek = if at == 0 { stored } else { Kek::generate().unwrap() };
        let folder = host.folder().join(format!("rook/{}/{name}/ceph-{at}", cluster.place.name()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("block"), "").unwrap();
        let _ = Image::luks2(&kek).copy(folder.join("block-tmp"));
    }
    let on_devices = |more: &[&str]| {
        host.run(
            &[&INVENTORY[..], &["--devices", "--data-dir", "rook", "--older-than", "90d"], more].concat(),
        )
    };
    // A host does not know whether a key has an OSD elsewhere, so it does not rule out an orphan.
    assert_eq!(WORDS.map(|word| on_devices(&["--fail-on", word]).code), [0, 1, 0, 1]);
    let ran = on_devices(&[]).want(0);
    let found = states(&ran);
    let state = |name: &str| found.iter().find(|(row, _)| row == name).map(|(_, state)| state.as_str());
    assert_eq!(
        [state(OSDS[0].1), state(OSDS[1].1), state(NO_OSD)],
        [Some("ok"), Some("mixed"), Some("unknown")]
    );
    let document = ran.json();
    assert_eq!(document["rows"][0]["devices"][0]["opens"], true, "{}", ran.stdout);
    assert_eq!(document["rows"][1]["devices"][0]["opens"], false, "{}", ran.stdout);
    let (name, cluster_name) = (OSDS[1].1, cluster.place.name());
    let kek = Kek::parse(cluster.kms(ADMIN).run(&["get", name]).want(0).stdout).unwrap();
    let _ =
        Image::luks2(&kek).copy(host.folder().join(format!("rook/{cluster_name}/{name}/ceph-1/block-tmp")));
    assert_eq!(WORDS.map(|word| on_devices(&["--fail-on", word]).code), [0, 1, 0, 0]);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server and kubectl: cargo xtask it rook"]
async fn an_orphan_is_deleted_once_an_escrow_has_it_and_nothing_else_is() {
    let cluster = cluster().await;
    let admin = cluster.kms(ADMIN);
    let pair = Pair::generate();
    admin.file("recipients.txt", &pair.recipient);
    admin.file("identity.txt", &pair.identity);
    let prune =
        |more: &[&str]| admin.run(&[&["-o", "json", "inventory", "prune", "--older-than"], more].concat());
    let outcomes = |ran: &Ran| -> Vec<(String, String)> {
        let keys = ran.json()["keys"].as_array().unwrap().clone();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        keys.iter().map(|key| (text(&key["name"]), text(&key["outcome"]))).collect()
    };
    let expected = |outcome: &str| vec![(NO_OSD.to_owned(), outcome.to_owned())];
    // Secrets of Rook and of others.
    cluster.kubectl("create secret generic rook-ceph-mon --from-literal=fsid=1");
    cluster.kubectl("create secret generic rook-ceph-osd-encryption-key-of-mine --from-literal=password=1");
    let secrets =
        || cluster.kubectl("get secrets -o jsonpath='{range .items[*]}{.metadata.name}{\"\\n\"}{end}'");
    let before = secrets();
    let kek = admin.run(&["get", NO_OSD]).want(0).stdout;

    // It shows, and deletes nothing.
    assert_eq!(outcomes(&prune(&["1h"]).want(0)), expected("kept"));
    assert_eq!(outcomes(&prune(&["0"]).want(0)), expected("would-be-deleted"));
    let act = ["--yes", "--escrow", "saved", "-R", "recipients.txt", "--destroy"];
    let with = |more: &[&'static str]| [more, &act].concat();
    // Neither names nor --all; a key in use beside an orphan; too young; an account that cannot list PVCs.
    let _ = prune(&with(&["0"])).want(2);
    let _ = prune(&with(&["0", NO_OSD, OSDS[0].1])).want(1);
    let _ = prune(&with(&["0", "no-such-key"])).want(3);
    let ran = prune(&with(&["1h", "--all"])).want(0);
    assert_eq!((outcomes(&ran), &ran.json()["escrow"]), (expected("kept"), &Value::Null));
    let rules = json!([
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "delete"]},
        {"apiGroups": ["ceph.rook.io"], "resources": ["cephclusters"], "verbs": ["get"]},
    ]);
    cluster.place.create_service_account("blind").await.unwrap();
    cluster.place.grant("blind", &rules).await.unwrap();
    let blind = cluster.kms(&cluster.place.create_token("blind", &[]).await.unwrap());
    blind.file("recipients.txt", &pair.recipient);
    let _ =
        blind.run(&[&["inventory", "prune", "--older-than"], &with(&["0", "--all"])[..]].concat()).want(4);
    // A folder with other files is not replaced, and then nothing is deleted.
    let other = admin.file("saved/other", "");
    let _ = prune(&with(&["0", "--all"])).want(2);
    std::fs::remove_dir_all(other.parent().unwrap()).unwrap();
    assert_eq!(secrets(), before);
    assert!(!blind.folder().join("saved").exists() && !admin.folder().join("saved").exists());

    // Kubernetes cannot bring a Secret back, so --destroy says that it is meant.
    let ran = prune(&["0", "--all", "--yes", "--escrow", "first", "-R", "recipients.txt"]).want(2);
    assert_eq!(outcomes(&ran), expected("failed"));
    assert_eq!(secrets(), before);
    assert_eq!(outcomes(&prune(&with(&["0", "--all"])).want(0)), expected("destroyed"));
    let of_key = format!("rook-ceph-osd-encryption-key-{NO_OSD}\n");
    assert_eq!(secrets(), before.replace(&of_key, ""));
    let _ = admin.run(&["get", NO_OSD]).want(3);
    assert_eq!(outcomes(&prune(&["0"]).want(0)), []);

    // The escrow brings it back.
    let _ = admin.run(&["escrow", "restore", "saved", "-i", "identity.txt", NO_OSD]).want(0);
    assert_eq!(admin.run(&["get", NO_OSD]).want(0).stdout, kek);
}
