//! Disasters, and the way back: a namespace without Secrets, and a KMS that was restored from a backup that is too old.

use std::{path::PathBuf, process::Command};

use kms_core::Kek;
use kms_testkit::{
    luks::Image,
    servers::{self, openbao::Raft},
};
use kms_tests::{
    Kms,
    age::Pair,
    rook::{ADMIN, Cluster},
    secret, vault_security,
};
use serde_json::{Value, json};

/// Writes a recipient and its identity.
fn recipients(kms: &Kms) {
    let pair = Pair::generate();
    kms.file("keks.txt", &pair.recipient);
    kms.file("keks.id", &pair.identity);
}

/// Creates keys, and for each a device that its KEK opens, where Rook keeps the data of an OSD on a host.
fn osds(kms: &Kms, kube_namespace: &str, count: usize) -> Vec<(String, Image)> {
    let osd = |id: usize| {
        let name = format!("set1-data-{id}x7dwl");
        let _ = kms.run(&["create", &name]).want(0);
        let kek = Kek::parse(kms.run(&["get", &name]).want(0).stdout).unwrap();
        let folder = kms.folder().join(format!("rook/{kube_namespace}/{name}/ceph-{id}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("block"), "").unwrap();
        let image = Image::luks2(&kek).copy(folder.join("block-tmp"));
        (name, image)
    };
    (0..count).map(osd).collect()
}

fn path(image: &Image) -> String {
    image.path().display().to_string()
}

#[tokio::test]
#[ignore = "needs cryptsetup, a Kubernetes API server and kubectl: cargo xtask it escrow"]
async fn a_cluster_that_was_made_anew_has_its_keys_from_the_escrow() {
    let cluster = Cluster::new(json!({})).await;
    let kms = cluster.kms(ADMIN);
    recipients(&kms);
    let osds = osds(&kms, cluster.place.name(), 3);
    let made = kms.run(&["-o", "json", "escrow", "create", "backup", "-R", "keks.txt"]).want(0).json();
    let named = format!("{}/rook-ceph", cluster.place.name());
    assert_eq!((&made["cluster"], &made["keks"]["entries"]), (&json!(named), &json!(3)));
    // The CephCluster says when; an escrow of some keys does not count.
    let recorded = |what: &str| {
        let path = format!("{{.metadata.annotations.kms\\.ceph\\.rook\\.io/{what}-at}}");
        cluster.kubectl(&format!("get cephclusters rook-ceph -o 'jsonpath={path}'"))
    };
    assert_eq!(recorded("escrowed"), made["created"].as_str().unwrap());
    cluster.kubectl("annotate cephclusters rook-ceph kms.ceph.rook.io/escrowed-at-");
    let _ = kms.run(&["escrow", "create", "some", "-R", "keks.txt", &osds[0].0]).want(0);
    assert_eq!(recorded("escrowed"), "");
    // A drill counts if it brings back every key that the KMS has.
    let _ = kms.run(&["escrow", "drill", "some", "-i", "keks.id"]).want(1);
    let _ = kms.run(&["escrow", "drill", "backup", "-i", "keks.id", "--offline"]).want(0);
    assert_eq!(recorded("drilled"), "");
    let _ = kms.run(&["escrow", "drill", "backup", "-i", "keks.id"]).want(0);
    let noted: Value =
        serde_json::from_slice(&std::fs::read(kms.folder().join("backup/drill.json")).unwrap()).unwrap();
    assert_eq!(recorded("drilled"), noted["drilled"].as_str().unwrap());

    // Kubernetes Secrets have no value of KMS_PROVIDER, and a name for people all the same.
    let listed = kms.run(&["escrow", "list", "backup"]).want(0).stdout;
    assert!(listed.contains("  k8s-secret  "), "{listed}");
    let diagnosis = kms.run(&["doctor", "-v"]).stdout;
    assert!(diagnosis.contains("KMS0201  k8s-secret: "), "{diagnosis}");

    // Everything is gone: the CephCluster, and all Secrets of the namespace.
    cluster.kubectl("delete cephclusters rook-ceph");
    cluster.kubectl("delete secrets --all");
    cluster.place.create_ceph_cluster("rook-ceph", json!({})).await.unwrap();
    for (name, _) in &osds {
        let _ = kms.run(&["get", name]).want(3);
    }
    let drilled = kms.run(&["escrow", "drill", "backup", "-i", "keks.id"]).want(0);
    assert!(drilled.stdout.contains("the KMS lacks 3 of them"), "{}", drilled.stdout);
    let _ = kms.run(&["escrow", "restore", "backup", "--all", "-i", "keks.id"]).want(0);
    for (name, image) in &osds {
        let _ = kms.run(&["verify", name, &path(image)]).want(0);
    }
    // The new CephCluster owns the Secrets, as if its operator had made them.
    let uid = cluster.kubectl("get cephclusters rook-ceph -o jsonpath={.metadata.uid}");
    let owners = cluster.kubectl("get secrets -o jsonpath={.items[*].metadata.ownerReferences[*].uid}");
    assert_eq!(owners.split_whitespace().collect::<Vec<_>>(), [uid.as_str(); 3]);
}

/// The administrator's `bao operator raft snapshot`.
fn snapshot(raft: &Raft, args: &[&str]) {
    let program: PathBuf = servers::setting(servers::BAO).unwrap();
    let output = Command::new(program)
        .args(["operator", "raft", "snapshot"])
        .args(args)
        .env("BAO_ADDR", raft.url(0))
        .env("BAO_CACERT", raft.pki_file("ca.crt"))
        .env("BAO_TOKEN", raft.admin(0).token())
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// How many OSDs of this host are in each state.
fn counts(kms: &Kms) -> Value {
    let ran = kms.run(&["-o", "json", "inventory", "--devices", "--data-dir", "rook"]).want(0);
    ran.json()["counts"].clone()
}

#[tokio::test]
#[ignore = "needs cryptsetup and Vault servers: cargo xtask it escrow"]
async fn a_kms_restored_to_before_a_rotation_opens_nothing_and_the_escrow_does() {
    let raft = Raft::start().await.unwrap();
    let token = raft.admin(0).rook_token().await.unwrap();
    let url = raft.url(0);
    let settings =
        [("VAULT_ADDR", url.as_str()), ("VAULT_BACKEND_PATH", "rookv2"), ("VAULT_CACERT", "vault-ca")];
    let kms = Kms::new()
        .document("cluster.yaml", &vault_security(&settings))
        .document("token.yaml", &secret("vault-token", &[("token", &token)]))
        .document("ca.yaml", &secret("vault-ca", &[("cert", &raft.pki().ca.cert)]));
    recipients(&kms);
    let osds = osds(&kms, "rook-ceph", 10);
    let old = kms.folder().join("old.snapshot").display().to_string();
    snapshot(&raft, &["save", &old]);
    let _ = kms.run(&["rotate", "--all", "--grace", "0", "--data-dir", "rook"]).want(0);
    let _ = kms.run(&["escrow", "create", "backup", "-R", "keks.txt"]).want(0);
    let names: Vec<String> = osds.iter().map(|(name, image)| format!("{name}={}", path(image))).collect();
    let devices: Vec<&str> = names.iter().flat_map(|named| ["--device", named]).collect();
    let drill = [&["-o", "json", "escrow", "drill", "backup", "-i", "keks.id"][..], &devices].concat();
    let _ = kms.run(&drill).want(0);

    snapshot(&raft, &["restore", &old]);
    assert_eq!(counts(&kms)["mixed"], 10);
    // The drill says so too: the KMS has other KEKs, and those of the escrow open every device.
    let drilled = kms.run(&drill).want(1).json();
    for key in drilled["keys"].as_array().unwrap() {
        assert_eq!(key["kek"], "other");
        assert!(key["devices"][0]["opened"].is_number(), "{key}");
    }
    for (name, image) in &osds {
        let device = path(image);
        let _ = kms.run(&["recover", name, &device]).want(1);
        let escrow = ["recover", name, &device, "--escrow", "backup", "-i", "keks.id", "--write"];
        let _ = kms.run(&escrow).want(0);
        let _ = kms.run(&["verify", name, &device]).want(0);
    }
    assert_eq!(counts(&kms)["mixed"], Value::Null);
    let _ = kms.run(&drill).want(0);
}
