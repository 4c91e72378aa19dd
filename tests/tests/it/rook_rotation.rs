//! Follows a rotation from a CephCluster to a new KEK: applies the CronJob, reads it back from the API server, and runs
//! its container as the CronJob says, on real LUKS headers and a real KMS.
use std::{fs, path::Path, process::Command};

use kms_testkit::servers::openbao::{OpenBao, OpenBaoConfig};
use kms_tests::rook::{ADMIN, Cluster};
use serde_json::{Value, json};

/// The OSD with three devices.
const CASE: &str = "vault-tls";
const NAME: &str = "set1-data-0d7dwll";
const DEPLOYMENT: &str = "deployments/rook-ceph-osd-3";
const DEVICES: [&str; 3] = ["block-tmp", "block.db-tmp", "block.wal-tmp"];

/// Runs cryptsetup with a KEK in a file, and returns its exit code.
fn cryptsetup(args: &[&str], kek: &Path, device: &Path) -> i32 {
    let run = Command::new("cryptsetup")
        .args(args)
        .args(["--batch-mode", "--key-file"])
        .args([kek, device])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    run.status.code().unwrap()
}

fn opens(kek: &Path, device: &Path) -> bool {
    match cryptsetup(&["open", "--test-passphrase"], kek, device) {
        0 => true,
        2 => false,
        other => panic!("cryptsetup ended with {other}"),
    }
}

/// Creates devices as Rook does; this KEK opens them.
fn format(folder: &Path, kek: &Path) {
    for name in DEVICES {
        let device = folder.join(name);
        fs::File::create(&device).unwrap().set_len(20 << 20).unwrap();
        let args = ["luksFormat", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
        assert_eq!(cryptsetup(&args, kek, &device), 0);
    }
}

/// Rotates through the CronJob, and checks every expected change.
async fn rotates(cluster: &Cluster) {
    let folder = tempfile::tempdir().unwrap();
    let (devices, old, new) =
        (folder.path().join("devices"), folder.path().join("old"), folder.path().join("new"));
    fs::create_dir(&devices).unwrap();
    let admin = cluster.kms(ADMIN);
    let _ = admin.run(&["create", NAME]).want(0);
    fs::write(&old, admin.run(&["get", NAME]).want(0).stdout).unwrap();
    format(&devices, &old);

    cluster.add_osd(CASE).await;
    let before = cluster.call("GET", "apps/v1", DEPLOYMENT, Value::Null).await;
    let manager = cluster.account("rook-kms-cronjobs", &["cronjob-manager.yaml"]).await;
    let _ = cluster.kms(&manager).run(&["cronjobs", "apply", "--grace", "0s"]).want(0);

    let token = cluster.account("rook-ceph-osd", &["rotation-status.yaml"]).await;
    let ran = cluster.run_container("rook-ceph-osd-key-rotation-3", &token, &devices).await.want(0);
    fs::write(&new, admin.run(&["get", NAME]).want(0).stdout).unwrap();
    for secret in [&old, &new] {
        assert!(!ran.text().contains(&fs::read_to_string(secret).unwrap()));
    }
    assert!(!ran.text().contains("not noted"), "{}", ran.text());
    for name in DEVICES {
        let device = devices.join(name);
        assert!(!opens(&old, &device) && opens(&new, &device), "{name}: {}", ran.text());
    }

    // The result is visible at the OSD, which does not restart, and in the output of `cronjobs apply`.
    let after = cluster.call("GET", "apps/v1", DEPLOYMENT, Value::Null).await;
    assert_eq!(after["spec"], before["spec"]);
    let annotations = &after["metadata"]["annotations"];
    assert_eq!(annotations["kms.ceph.rook.io/key-rotation-outcome"], "rotated", "{annotations}");
    let applied =
        cluster.kms(&manager).run(&["-o", "json", "cronjobs", "apply", "--grace", "0s"]).want(0).json();
    assert_eq!(applied["cron_jobs"][0]["result"], "unchanged");
    assert_eq!(applied["cron_jobs"][0]["rotated_at"], annotations["kms.ceph.rook.io/key-rotated-at"]);
    let events = cluster.place.call("GET", &cluster.place.path("events"), Value::Null).await.unwrap();
    assert_eq!(events["items"].as_array().unwrap().len(), 1);
    assert_eq!(events["items"][0]["type"], "Normal");

    // If the KEK does not open a device, the rotation changes nothing, and this result is visible too.
    let other = folder.path().join("other");
    fs::write(&other, "not the KEK").unwrap();
    format(&devices, &other);
    let ran = cluster.run_container("rook-ceph-osd-key-rotation-3", &token, &devices).await;
    assert_ne!(ran.code, 0, "{}", ran.text());
    assert_eq!(fs::read_to_string(&new).unwrap(), admin.run(&["get", NAME]).want(0).stdout);
    let after = cluster.call("GET", "apps/v1", DEPLOYMENT, Value::Null).await;
    let annotations = &after["metadata"]["annotations"];
    assert_eq!(annotations["kms.ceph.rook.io/key-rotation-outcome"], "failed");
    assert_eq!(annotations["kms.ceph.rook.io/key-rotated-at"], applied["cron_jobs"][0]["rotated_at"]);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it rook"]
async fn a_cron_job_rotates_a_key_in_a_secret() {
    rotates(&Cluster::new(json!({"keyRotation": {"enabled": true}})).await).await;
}

#[tokio::test]
#[ignore = "needs a Vault server and a Kubernetes API server: cargo xtask it rook"]
async fn a_cron_job_rotates_a_key_in_vault() {
    let server = OpenBao::start(OpenBaoConfig::default()).await.unwrap();
    let token = server.admin().rook_token().await.unwrap();
    let cluster = Cluster::new(json!({
        "keyRotation": {"enabled": true},
        "kms": {"tokenSecretName": "vault-token", "connectionDetails": {
            "KMS_PROVIDER": "vault",
            "VAULT_ADDR": server.url(),
            "VAULT_BACKEND_PATH": "rook",
            "VAULT_CACERT": "vault-ca",
        }},
    }))
    .await;
    cluster.place.create_secret("vault-token", &[("token", &token)]).await.unwrap();
    cluster.place.create_secret("vault-ca", &[("cert", &server.pki().ca.cert)]).await.unwrap();
    rotates(&cluster).await;
}
