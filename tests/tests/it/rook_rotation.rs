//! Follows a rotation from a CephCluster to a new KEK: applies the CronJob, reads it back from the API server, and runs
//! its container as the CronJob says, on real LUKS headers and a real KMS.
use std::{fs, path::Path, process::Command};

use kms_testkit::servers::openbao::{OpenBao, OpenBaoConfig};
use kms_tests::{
    Kms,
    rook::{ADMIN, Cluster, fixture, move_to},
};
use serde_json::{Value, json};

/// The OSD with three devices.
const CASE: &str = "vault-tls";
const NAME: &str = "set1-data-0d7dwll";
const DEPLOYMENT: &str = "deployments/rook-ceph-osd-3";
const DEVICES: [&str; 3] = ["block-tmp", "block.db-tmp", "block.wal-tmp"];

/// The program in the containers of CronJobs. Its clock ends grace periods early.
const PROGRAM: &str = env!("CARGO_BIN_EXE_kms-hurried");

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
    let ran = cluster.run_container(PROGRAM, "rook-ceph-osd-key-rotation-3", &token, &devices).await.want(0);
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
    let ran = cluster.run_container(PROGRAM, "rook-ceph-osd-key-rotation-3", &token, &devices).await;
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

/// A cluster with the OSD, whose key is in a Secret, and devices in a folder of Rook's on this host.
struct Host {
    cluster: Cluster,
    admin: Kms,
    folder: tempfile::TempDir,
}

impl Host {
    async fn new(key_rotation: bool) -> Self {
        let cluster = Cluster::new(json!({"keyRotation": {"enabled": key_rotation}})).await;
        cluster.add_osd(CASE).await;
        let (admin, folder) = (cluster.kms(ADMIN), tempfile::tempdir().unwrap());
        let _ = admin.run(&["create", NAME]).want(0);
        let host = Self { cluster, admin, folder };
        fs::create_dir_all(host.devices()).unwrap();
        fs::write(host.key(), host.kek()).unwrap();
        format(&host.devices(), &host.key());
        host
    }

    /// The OSD's folder.
    fn devices(&self) -> std::path::PathBuf {
        self.folder.path().join(self.cluster.place.name()).join(NAME).join("ceph-3")
    }

    /// A file with the first KEK.
    fn key(&self) -> std::path::PathBuf {
        self.folder.path().join("key")
    }

    fn kek(&self) -> String {
        self.admin.run(&["get", NAME]).want(0).stdout
    }

    fn paths(&self) -> [String; 3] {
        DEVICES.map(|name| self.devices().join(name).display().to_string())
    }

    /// Runs a rotation that has to be refused, and changes nothing.
    fn refused(&self, args: &[&str], code: i32, why: &str) {
        let before = self.kek();
        let ran = self.admin.run(args).want(code);
        assert!(ran.text().contains(why), "{args:?}: {}", ran.text());
        assert_eq!(self.kek(), before, "{args:?}");
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Kubernetes API server: cargo xtask it rook"]
async fn no_rotation_begins_while_rook_may_rotate() {
    let host = Host::new(true).await;
    let [data, metadata, wal] = host.paths();
    let data_dir = host.folder.path().display().to_string();
    let one = ["rotate", NAME, &data, &metadata, &wal, "--grace", "0"];
    let with = |more: &[&'static str]| [&one[..], more].concat();
    fs::write(host.devices().join("block"), "").unwrap();
    let all_of_them = |code: i32, why: &str| {
        host.refused(&one, code, why);
        host.refused(&with(&["--dry-run"]), code, why);
        host.refused(&with(&["--finish"]), code, why);
        host.refused(&["rotate", "--all", "--data-dir", &data_dir, "--grace", "0"], code, why);
        let rooks = ["key-management", "rotate-key", NAME, &data, &metadata, &wal, "--grace", "0"];
        host.refused(&rooks, code, why);
    };
    // Rook makes its CronJob at the next reconcile; then it has made it.
    all_of_them(2, "CronJob: not made yet");
    let mut rooks = fixture(CASE, "cronjob.json");
    move_to(&mut rooks, host.cluster.place.name());
    host.cluster.call("POST", "batch/v1", "cronjobs?fieldManager=rook", rooks.clone()).await;
    all_of_them(2, "CronJob: rook-ceph-osd-key-rotation-3");

    // Our CronJob takes its place.
    let _ = host.admin.run(&["cronjobs", "apply", "--force-conflicts"]).want(0);
    let _ = host.admin.run(&one).want(0);

    // Rotation is off, and Rook's last Job still runs.
    host.cluster.set_key_rotation(false).await;
    let _ = host.admin.run(&["cronjobs", "prune"]).want(0);
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "rook-ceph-osd-key-rotation-3-1"}});
    job["spec"] = rooks["spec"]["jobTemplate"]["spec"].clone();
    host.cluster.call("POST", "batch/v1", "jobs", job).await;
    all_of_them(5, "Rook is rotating keys in this cluster");
    let before = host.kek();
    let _ = host.admin.run(&with(&["--even-if-rook-rotates"])).want(0);
    assert_ne!(host.kek(), before);
    let (now, condition) = (
        "2026-01-01T00:00:00Z",
        |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}),
    );
    let ended = json!({"status": {
        "startTime": now, "completionTime": now, "succeeded": 1,
        "conditions": [condition("SuccessCriteriaMet"), condition("Complete")],
    }});
    host.cluster.patch("batch/v1", "jobs/rook-ceph-osd-key-rotation-3-1/status", &ended).await;
    let _ = host.admin.run(&one).want(0);
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Kubernetes API server: cargo xtask it rook"]
async fn a_device_that_the_deployment_has_is_not_left_out() {
    let host = Host::new(false).await;
    let [data, metadata, wal] = host.paths();
    let data_dir = host.folder.path().display().to_string();
    // Out of the folder of Rook, so that the Deployment alone knows the other devices.
    let elsewhere = host.folder.path().join("data");
    fs::copy(&data, &elsewhere).unwrap();
    let elsewhere = elsewhere.display().to_string();
    let why = "has 3 devices that one KEK opens";
    host.refused(&["rotate", NAME, &elsewhere, "--grace", "0"], 2, why);
    host.refused(&["key-management", "rotate-key", NAME, &elsewhere, "--grace", "0"], 2, why);
    host.refused(&["rotate", NAME, &data, &metadata, "--grace", "0"], 2, "block.wal-tmp");
    host.admin.file("list", &format!("{NAME} {elsewhere}\n"));
    host.refused(&["rotate", "--all", "--list", "list", "--grace", "0"], 2, why);
    // The init container for the write-ahead log has not run yet.
    let aside = host.folder.path().join("aside");
    fs::rename(&wal, &aside).unwrap();
    let all = ["rotate", "--all", "--data-dir", &data_dir, "--grace", "0"];
    host.refused(&all, 2, why);
    fs::rename(&aside, &wal).unwrap();
    let document = host.admin.run(&[&["-o", "json"], &all[..]].concat()).want(0).json();
    assert_eq!(document["outcomes"], json!({"rotated": 1}), "{document}");
    let one = ["-o", "json", "rotate", NAME, &data, &metadata, &wal, "--grace", "0"];
    assert_eq!(host.admin.run(&one).want(0).json()["confirmed"], json!(true));
    for device in host.paths() {
        assert!(!opens(&host.key(), Path::new(&device)), "{device}");
    }
    // A Deployment that cannot be understood does not say which devices there are.
    let label = json!({"metadata": {"labels": {"ceph-osd-id": "three"}}});
    host.cluster.patch("apps/v1", DEPLOYMENT, &label).await;
    let why = "so the devices of the OSD are not known";
    host.refused(&one, 2, why);
    host.refused(&all, 2, why);
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Kubernetes API server: cargo xtask it rook"]
async fn a_job_beside_rooks_refuses_once_rook_rotates() {
    // Also an account that may not list CronJobs, and so cannot see whether Rook has any.
    for files in [&["rotation-status.yaml"][..], &[]] {
        let host = Host::new(false).await;
        let _ = host.admin.run(&["cronjobs", "apply", "--beside-rook", "--grace", "0s"]).want(0);
        let token = host.cluster.account("rook-ceph-osd", files).await;
        let before = host.kek();
        host.cluster.set_key_rotation(true).await;
        let job = "rook-kms-key-rotation-3";
        let ran = host.cluster.run_container(PROGRAM, job, &token, &host.devices()).await.want(2);
        assert!(ran.stderr.contains("keyRotation.enabled is true, so Rook rotates"), "{}", ran.stderr);
        assert_eq!(host.kek(), before);
        if !files.is_empty() {
            let deployment = host.cluster.call("GET", "apps/v1", DEPLOYMENT, Value::Null).await;
            let annotations = &deployment["metadata"]["annotations"];
            assert_eq!(annotations["kms.ceph.rook.io/key-rotation-outcome"], "failed", "{annotations}");
        }
        host.cluster.set_key_rotation(false).await;
        let _ = host.cluster.run_container(PROGRAM, job, &token, &host.devices()).await.want(0);
        assert_ne!(host.kek(), before);
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Kubernetes API server: cargo xtask it rook"]
async fn a_rotation_by_hand_is_noted_as_one_by_a_job_and_a_rehearsal_lists_its_steps() {
    let host = Host::new(false).await;
    let [data, metadata, wal] = host.paths();
    let devices = [&data, &metadata, &wal];
    let one = ["-o", "json", "rotate", NAME, &data, &metadata, &wal];
    // Its clock is the real one, so that a run which waits is seen.
    let kms = host.cluster.kms(ADMIN);
    let noted = async || {
        let deployment = host.cluster.call("GET", "apps/v1", DEPLOYMENT, Value::Null).await;
        let annotations = deployment["metadata"]["annotations"].clone();
        let of = |name: &str| annotations[format!("kms.ceph.rook.io/key-{name}")].clone();
        (of("rotation-outcome"), of("rotated-at"))
    };

    let rehearsed = kms.run(&[&one[..], &["--dry-run"]].concat()).want(0).json();
    let plan: Vec<_> =
        rehearsed["plan"].as_array().unwrap().iter().map(|step| step.as_str().unwrap().to_owned()).collect();
    let slots =
        |word: &str, slot: u8| devices.map(|device| format!("{word} slot {slot} of {device}")).to_vec();
    let middle = ["store the new KEK", "read it back", "wait for the end of the grace period, 600 s"];
    let expected =
        [slots("add the new KEK in", 1), middle.map(str::to_owned).to_vec(), slots("remove", 0)].concat();
    assert_eq!(plan, expected);
    assert_eq!(noted().await, (Value::Null, Value::Null));

    // Without a wait, and again while the first is young: both end at once, and there is one new KEK.
    let before = host.kek();
    let first = kms.run(&[&one[..], &["--no-wait"]].concat()).want(0).json();
    let new = host.kek();
    assert!(first["outcome"] == "pending" && new != before, "{first}");
    assert_eq!(noted().await, (json!("pending"), first["stored"].clone()));
    let second = kms.run(&[&one[..], &["--no-wait"]].concat()).want(0).json();
    assert_eq!((&second["outcome"], host.kek()), (&json!("pending"), new));
    // The rehearsal knows the slots that the first run has left.
    let rehearsed = kms.run(&[&one[..], &["--dry-run"]].concat()).want(0).json();
    let begin = &rehearsed["plan"].as_array().unwrap()[..4];
    let watched = "see that the KMS and all key slots stay unchanged for 600 s".to_owned();
    assert_eq!(begin, [vec![watched], slots("remove", 0)].concat());
    let all = ["-o", "json", "rotate", "--all", "--no-wait", "--data-dir"];
    fs::write(host.devices().join("block"), "").unwrap();
    let data_dir = host.folder.path().display().to_string();
    let document = kms.run(&[&all[..], &[&data_dir]].concat()).want(0).json();
    assert_eq!(document["outcomes"], json!({"pending": 1}), "{document}");
}
