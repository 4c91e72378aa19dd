//! `kms doctor` on a real API server and a real OpenBao: nothing wrong, and then one thing wrong at a time.
use kms_core::Kek;
use kms_testkit::{
    doctor::{Finding, because, finding, found, wrong},
    luks::Image,
    servers::{OpenBao, OpenBaoConfig, http::Http, openbao::TokenSpec, port, wait},
};
use kms_tests::{
    Kms,
    age::Pair,
    documents::keep_file,
    gateway::Gateway,
    rook::{ADMIN, Cluster, osd_on_vault},
};
use serde_json::{Value, json};

const OSDS: [(usize, &str); 2] = [(1, "set1-data-0a"), (3, "set1-data-1b")];
const ACCOUNT: &str = "rook-kms-rotation";
const PREFIX: &str = "rook-ceph-osd-encryption-key-";

/// A cluster in which nothing is wrong.
struct Scene {
    cluster: Cluster,
    vault: OpenBao,
    config: String,
}

impl Scene {
    async fn new() -> Self {
        let vault = OpenBao::start(OpenBaoConfig::default()).await.unwrap();
        let (cluster, of_pods) = Cluster::on_vault(&vault).await;
        let place = &cluster.place;
        for (id, name) in OSDS {
            cluster
                .call("POST", "apps/v1", "deployments", osd_on_vault(place.name(), id, name, &of_pods[1..]))
                .await;
            let claim = json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            });
            cluster.kubectl(&format!("create -f - <<'END'\n{claim}\nEND"));
        }
        cluster.rook_accounts(&[]).await;
        let account =
            json!({"metadata": {"annotations": {"kms.ceph.rook.io/rotation-service-account": ACCOUNT}}});
        cluster.patch("ceph.rook.io/v1", "cephclusters/rook-ceph", &account).await;
        let config = cluster.kubeconfig(ADMIN);
        let scene = Self { cluster, vault, config };
        let _ = scene.kms().run(&["cronjobs", "apply"]).want(0);
        for (_, name) in OSDS {
            let _ = scene.kms().run(&["create", name]).want(0);
        }
        let name = scene.cluster.place.name();
        scene
            .cluster
            .shell(&format!("kms -n {name} cronjobs rights | kubectl apply -f -"), scene.kms().folder());
        scene.wait_for_rights(true).await;
        scene
    }

    fn kms(&self) -> Kms {
        self.cluster.kms(ADMIN)
    }

    /// The start of the next commands.
    fn start(&self) -> (String, String) {
        let (config, name) = (&self.config, self.cluster.place.name());
        (
            format!("kms --kubeconfig {config} -n {name}/rook-ceph"),
            format!("kubectl --kubeconfig {config} -n {name}"),
        )
    }

    /// What is not in order.
    fn found(&self) -> Vec<Finding> {
        found(&self.kms().run(&["-o", "json", "doctor"]).json())
    }

    /// Waits until the API server grants the rotation account its rights, or does not.
    async fn wait_for_rights(&self, wanted: bool) {
        let what = json!({"verb": "get", "resource": "secrets", "name": "rook-vault-token"});
        self.cluster.until_allowed(ACCOUNT, &what, wanted).await;
    }

    /// Checks that nothing is wrong.
    fn expect_health(&self) {
        assert_eq!(self.found(), Vec::<Finding>::new());
    }
}

fn all(findings: impl IntoIterator<Item = Vec<Finding>>) -> Vec<Finding> {
    let mut all: Vec<_> = findings.into_iter().flatten().collect();
    all.sort();
    all
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server, OpenBao and kubectl: cargo xtask it rook"]
async fn a_healthy_cluster_is_one_line() {
    let scene = Scene::new().await;
    scene.expect_health();
    let ran = scene.kms().run(&["doctor"]).want(0);
    let name = scene.cluster.place.name();
    let expected = format!(" checks of {name}/rook-ceph with vault\n");
    assert!(
        ran.stdout.starts_with("\u{2713} ok  all is well: ") && ran.stdout.ends_with(&expected),
        "{}",
        ran.text()
    );
    assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.text());
    let _ = scene.kms().run(&["doctor", "--fail-on", "warning"]).want(0);
    let exchanged =
        scene.kms().run(&["-o", "json", "doctor", "--post-quantum", "--fail-on", "warning"]).want(0).json();
    let expected = json!([{"object": "vault", "group": "X25519MLKEM768", "post_quantum": true}]);
    assert_eq!(exchanged["key_exchanges"], expected);
    // The name of the only CephCluster is found too.
    let alone =
        Kms::new().global(&["--kubeconfig", &scene.config, "-n", name]).run(&["-v", "doctor"]).want(0);
    for code in ["KMS0101", "KMS0303", "KMS0503", "KMS0602", "KMS0803", "KMS1101", "KMS1102"] {
        assert!(
            alone.stdout.lines().any(|line| line.starts_with(&format!("\u{2713} ok           {code}  "))),
            "{code}: {}",
            alone.stdout
        );
    }
    assert!(alone.stdout.contains("X25519MLKEM768 (post-quantum)"), "{}", alone.stdout);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server, OpenBao and kubectl: cargo xtask it rook"]
async fn what_is_wrong_in_the_kms_is_found_and_what_needs_it_is_not_checked() {
    let scene = Scene::new().await;
    let (kms, _) = scene.start();
    let check = format!("{kms} check --read-only");
    let admin = scene.vault.admin();
    // A token without the right to list.
    admin.put_policy("reader", "path \"rookv2/data/*\" { capabilities = [\"read\"] }").await.unwrap();
    let spec = TokenSpec { policies: &["reader"], ..Default::default() };
    let token = admin.create_token(spec).await.unwrap();
    let rook_token = admin.rook_token().await.unwrap();
    let set_token = async |token: &str| {
        let change = json!({"stringData": {"token": token}});
        let patch = Some(("application/merge-patch+json", change.to_string()));
        let path = scene.cluster.place.path("secrets/rook-vault-token");
        scene.cluster.kube.http().send_as("PATCH", &path, patch).await.unwrap().ok().unwrap();
    };
    set_token(&token).await;
    let expected = [
        vec![
            finding("KMS0405", "warning", "vault", &check),
            finding("KMS0801", "error", "vault", format!("{kms} list")),
        ],
        because("KMS0801", &["KMS0803", "KMS0804"]),
    ];
    assert_eq!(scene.found(), all(expected));

    // A token without any right on keys.
    let spec = TokenSpec { policies: &["default"], ..Default::default() };
    set_token(&admin.create_token(spec).await.unwrap()).await;
    let expected = [
        vec![finding("KMS0404", "error", "vault", &check)],
        because("KMS0404", &["KMS0405", "KMS0801", "KMS0803", "KMS0804"]),
    ];
    assert_eq!(scene.found(), all(expected));

    // A token that has ended.
    set_token("s.gone").await;
    let after_login = ["KMS0402", "KMS0403", "KMS0404", "KMS0405", "KMS0801", "KMS0803", "KMS0804"];
    let expected = [vec![finding("KMS0401", "error", "vault", &check)], because("KMS0401", &after_login)];
    assert_eq!(scene.found(), all(expected));

    // A token that nothing can renew.
    let spec = TokenSpec { renewable: false, ..TokenSpec::default() };
    set_token(&admin.create_token(spec).await.unwrap()).await;
    assert_eq!(scene.found(), [finding("KMS0402", "warning", "vault", &check)]);
    set_token(&rook_token).await;
    scene.expect_health();

    // The clusters' keys go with the mount, so this comes last.
    admin.call("DELETE", "sys/mounts/rookv2", Value::Null).await.unwrap();
    let expected = [
        vec![finding("KMS0403", "error", "vault", &check)],
        because("KMS0403", &["KMS0404", "KMS0405", "KMS0801", "KMS0803", "KMS0804"]),
    ];
    assert_eq!(scene.found(), all(expected));
    let _ = scene.kms().run(&["doctor", "--short"]).want(1);
    let _ = scene.kms().run(&["doctor", "--skip", "KMS0403"]).want(0);

    admin.call("PUT", "sys/seal", Value::Null).await.unwrap();
    // The doctor tries again until the time limit.
    let report = scene.kms().run(&["--timeout", "2s", "-o", "json", "doctor"]).want(1).json();
    assert_eq!(wrong(&report), [finding("KMS0305", "error", "vault", &check)]);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server, OpenBao and kubectl: cargo xtask it rook"]
async fn an_expired_certificate_keeps_everything_behind_it_from_being_checked() {
    let scene = Scene::new().await;
    let (url, pki) = (scene.vault.url(), scene.vault.pki());
    for kind in ["crt", "key"] {
        std::fs::copy(
            scene.vault.pki_file(&format!("expired-server.{kind}")),
            scene.vault.pki_file(&format!("server.{kind}")),
        )
        .unwrap();
    }
    // OpenBao reads its certificate again.
    let reload = std::process::Command::new("kill").args(["-HUP", &scene.vault.pid().to_string()]).status();
    assert!(reload.unwrap().success());
    wait::until("the expired certificate", wait::START, async || {
        let fresh = Http::new(url, &pki.ca.cert, None)?;
        Ok(fresh.send("GET", "/v1/sys/health", &Value::Null).await.is_err().then_some(()))
    })
    .await
    .unwrap();
    let (kms, _) = scene.start();
    let behind = [
        "KMS0304", "KMS0305", "KMS0306", "KMS0401", "KMS0402", "KMS0403", "KMS0404", "KMS0405", "KMS0801",
        "KMS0803", "KMS0804", "KMS1101",
    ];
    let expected = [
        vec![finding("KMS0303", "error", "vault", format!("{kms} check --read-only"))],
        because("KMS0303", &behind),
    ];
    assert_eq!(scene.found(), all(expected));
    let ran = scene.kms().run(&["doctor", "--short"]).want(1);
    assert!(ran.stdout.contains("ended on 2021-01-01"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("\u{2713}"), "{}", ran.stdout);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server, OpenBao and kubectl: cargo xtask it rook"]
async fn osds_without_keys_and_keys_without_osds_are_found() {
    let scene = Scene::new().await;
    let (kms, kubectl) = scene.start();
    let (_, name) = OSDS[0];
    let _ = scene.kms().run(&["create", "gone"]).want(0);
    let orphan = vec![finding("KMS0804", "warning", "key gone", format!("{kms} inventory"))];
    assert_eq!(scene.found(), orphan);
    let _ = scene.kms().run(&["doctor"]).want(0);
    let _ = scene.kms().run(&["doctor", "--fail-on", "warning"]).want(1);
    let well = scene.kms().run(&["doctor", "--fail-on", "warning", "--skip", "KMS0804"]).want(0);
    assert!(
        well.stdout.starts_with("\u{2713} ok  all is well") && well.stdout.ends_with("without KMS0804\n")
    );
    let _ = scene.kms().run(&["delete", "gone", "--destroy"]).want(0);
    scene.expect_health();

    let path = format!("rookv2/metadata/{PREFIX}{name}");
    scene.vault.admin().call("DELETE", &path, Value::Null).await.unwrap();
    let missing =
        finding("KMS0803", "error", &format!("{name} (OSD 1)"), format!("{kms} recover {name} DEVICE"));
    assert_eq!(scene.found(), [missing]);
    let _ = scene.kms().run(&["create", name]).want(0);
    scene.expect_health();

    // A Deployment that contradicts itself may belong to any key.
    let label = |pvc: &str| json!({"metadata": {"labels": {"ceph.rook.io/pvc": pvc}}});
    let deployment = "rook-ceph-osd-1";
    scene.cluster.patch("apps/v1", &format!("deployments/{deployment}"), &label("other")).await;
    let show = format!("{kubectl} get deployment {deployment} -o yaml");
    let expected = [
        vec![finding("KMS0702", "error", &format!("Deployment {deployment}"), show.clone())],
        because("KMS0702", &["KMS0605", "KMS0803", "KMS0804"]),
    ];
    assert_eq!(scene.found(), all(expected));
    scene.cluster.patch("apps/v1", &format!("deployments/{deployment}"), &label(name)).await;
    scene.expect_health();

    // Every key is older than nothing.
    let stale = found(&scene.kms().run(&["-o", "json", "doctor", "--older-than", "0s"]).want(0).json());
    let is_stale = |(id, name)| {
        let rotate = format!("{kms} rotate {name} DEVICE");
        finding("KMS0805", "warning", &format!("{name} (OSD {id})"), rotate)
    };
    assert_eq!(stale, OSDS.map(is_stale));

    // Of two device sets one is not encrypted.
    let storage = |storage: Value| json!({"spec": {"storage": storage}});
    let both = json!({"storageClassDeviceSets": [{"name": "a", "count": 1, "encrypted": true}, {"name": "b", "count": 1}]});
    scene.cluster.patch("ceph.rook.io/v1", "cephclusters/rook-ceph", &storage(both)).await;
    let object = format!("CephCluster {}/rook-ceph", scene.cluster.place.name());
    let show = format!("{kubectl} get cephcluster -o yaml");
    assert_eq!(scene.found(), [finding("KMS0203", "warning", &object, show)]);
    scene.cluster.patch("ceph.rook.io/v1", "cephclusters/rook-ceph", &storage(Value::Null)).await;
    scene.expect_health();

    // The CephCluster has moved on, and the operator has not.
    let moved =
        json!({"spec": {"security": {"kms": {"connectionDetails": {"VAULT_BACKEND_PATH": "rookv2/"}}}}});
    scene.cluster.patch("ceph.rook.io/v1", "cephclusters/rook-ceph", &moved).await;
    let differ = |id: usize| {
        let deployment = format!("rook-ceph-osd-{id}");
        let show = format!("{kubectl} get deployment {deployment} -o yaml");
        finding("KMS0703", "warning", &format!("Deployment {deployment}"), show)
    };
    assert_eq!(scene.found(), OSDS.map(|(id, _)| differ(id)));
    let back =
        json!({"spec": {"security": {"kms": {"connectionDetails": {"VAULT_BACKEND_PATH": "rookv2"}}}}});
    scene.cluster.patch("ceph.rook.io/v1", "cephclusters/rook-ceph", &back).await;
    scene.expect_health();

    let limits = json!({"metadata": {"annotations": {"kms.ceph.rook.io/key-rotation-outcome": "failed"}}});
    scene.cluster.patch("apps/v1", &format!("deployments/{deployment}"), &limits).await;
    let events = format!("{kubectl} events --for deployment/{deployment}");
    let failed = finding("KMS0704", "warning", &format!("Deployment {deployment}"), events);
    assert_eq!(scene.found(), std::slice::from_ref(&failed));

    // Its CronJob outlives an OSD.
    let (gone, _) = OSDS[1];
    scene.cluster.call("DELETE", "apps/v1", &format!("deployments/rook-ceph-osd-{gone}"), Value::Null).await;
    let left = format!("CronJob rook-ceph-osd-key-rotation-{gone}");
    let left = finding("KMS0605", "warning", &left, format!("{kms} cronjobs prune --dry-run"));
    assert_eq!(scene.found(), [left, failed]);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server, OpenBao and kubectl: cargo xtask it rook"]
async fn cron_jobs_that_do_not_rotate_or_rotate_twice_are_found() {
    let scene = Scene::new().await;
    let (kms, kubectl) = scene.start();
    let ours = "rook-ceph-osd-key-rotation-1";
    let object = format!("CronJob {ours}");
    let suspend = |suspend: bool| json!({"spec": {"suspend": suspend}});
    scene.cluster.patch("batch/v1", &format!("cronjobs/{ours}"), &suspend(true)).await;
    let resume = format!("{kubectl} patch cronjob {ours} --patch '{{\"spec\": {{\"suspend\": false}}}}'");
    assert_eq!(scene.found(), [finding("KMS0604", "warning", &object, resume)]);
    scene.cluster.patch("batch/v1", &format!("cronjobs/{ours}"), &suspend(false)).await;
    scene.expect_health();

    // The run of Sunday has not succeeded.
    let status = json!({"status": {"lastScheduleTime": "2026-11-29T03:00:00Z"}});
    scene.cluster.patch("batch/v1", &format!("cronjobs/{ours}/status"), &status).await;
    assert_eq!(
        scene.found(),
        [finding("KMS0608", "warning", &object, format!("{kubectl} describe cronjob {ours}"))]
    );
    let status = json!({"status": {"lastSuccessfulTime": "2026-11-29T03:10:00Z"}});
    scene.cluster.patch("batch/v1", &format!("cronjobs/{ours}/status"), &status).await;
    scene.expect_health();

    // A CronJob with a name of our own beside it.
    let mut twin = scene.cluster.call("GET", "batch/v1", &format!("cronjobs/{ours}"), Value::Null).await;
    let name = "rook-kms-key-rotation-1";
    twin["metadata"] = json!({"name": name, "labels": {"app": "rook-kms-key-rotation", "rook_cluster": scene.cluster.place.name()}});
    scene.cluster.call("POST", "batch/v1", "cronjobs", twin).await;
    let apply = format!("{kms} cronjobs apply --dry-run");
    assert_eq!(scene.found(), [finding("KMS0602", "error", &format!("key {}", OSDS[0].1), apply.clone())]);
    scene.cluster.call("DELETE", "batch/v1", &format!("cronjobs/{name}"), Value::Null).await;
    scene.expect_health();

    scene.cluster.call("DELETE", "batch/v1", &format!("cronjobs/{ours}"), Value::Null).await;
    assert_eq!(
        scene.found(),
        [finding("KMS0603", "warning", &format!("{} (OSD 1)", OSDS[0].1), apply.clone())]
    );
    let _ = scene.kms().run(&["cronjobs", "apply"]).want(0);
    scene.expect_health();

    let schedule = |schedule: &str| json!({"spec": {"schedule": schedule}});
    scene.cluster.patch("batch/v1", &format!("cronjobs/{ours}"), &schedule("*/5 * * * *")).await;
    let edit = format!("{kubectl} edit cephcluster rook-ceph");
    assert_eq!(scene.found(), [finding("KMS0606", "warning", "schedule */5 * * * *", edit.clone())]);
    scene.cluster.patch("batch/v1", &format!("cronjobs/{ours}"), &schedule("@weekly")).await;
    scene.expect_health();

    // Twenty more of other OSDs in the same minute, which no Deployment of this cluster has.
    let mut many = scene.cluster.call("GET", "batch/v1", &format!("cronjobs/{ours}"), Value::Null).await;
    let labels = many["metadata"]["labels"].clone();
    for id in 100..120 {
        many["metadata"] = json!({"name": format!("rook-ceph-osd-key-rotation-{id}"), "labels": labels});
        scene.cluster.call("POST", "batch/v1", "cronjobs", many.clone()).await;
    }
    let at_once: Vec<_> = scene.found().into_iter().filter(|found| found.code == "KMS0607").collect();
    assert_eq!(at_once, [finding("KMS0607", "warning", "schedule @weekly", apply)]);
    scene.cluster.kubectl(&format!(
        "delete cronjobs {}",
        (100..120).map(|id| format!("rook-ceph-osd-key-rotation-{id} ")).collect::<String>()
    ));
    scene.expect_health();

    let weekly = json!({"spec": {"security": {"keyRotation": {"schedule": "weekly"}}}});
    scene.cluster.patch("ceph.rook.io/v1", "cephclusters/rook-ceph", &weekly).await;
    assert_eq!(scene.found(), [finding("KMS0609", "error", "keyRotation.schedule", edit)]);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server, OpenBao and kubectl: cargo xtask it rook"]
async fn rights_that_accounts_lack_are_found() {
    let scene = Scene::new().await;
    let (kms, kubectl) = scene.start();
    let name = scene.cluster.place.name();
    let of = |account: &str| format!("ServiceAccount {name}/{account}");
    scene
        .cluster
        .call("DELETE", "rbac.authorization.k8s.io/v1", &format!("rolebindings/{ACCOUNT}"), Value::Null)
        .await;
    scene.wait_for_rights(false).await;
    let rights = format!("{kms} cronjobs rights --service-account {ACCOUNT}");
    let expected = [
        finding("KMS0504", "error", &of(ACCOUNT), &rights),
        finding("KMS0505", "warning", &of(ACCOUNT), rights),
    ];
    assert_eq!(scene.found(), expected);

    scene.cluster.kubectl(&format!("delete serviceaccount {ACCOUNT}"));
    let expected = [
        vec![finding("KMS0502", "error", &of(ACCOUNT), format!("{kubectl} get serviceaccount {ACCOUNT}"))],
        because("KMS0502", &["KMS0504", "KMS0505"]),
    ];
    assert_eq!(scene.found(), all(expected));

    // The operator may read, and not make CronJobs.
    let rules = json!({"rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]});
    scene.cluster.patch("rbac.authorization.k8s.io/v1", "roles/rook-ceph-system", &rules).await;
    // The OSDs may read nothing.
    scene.cluster.patch("rbac.authorization.k8s.io/v1", "roles/rook-ceph-osd", &json!({"rules": []})).await;
    let list =
        |account: &str| format!("{kubectl} auth can-i --list --as=system:serviceaccount:{name}:{account}");
    let lacking = [
        finding("KMS0503", "error", &of("rook-ceph-osd"), list("rook-ceph-osd")),
        finding("KMS0506", "error", &of("rook-ceph-system"), list("rook-ceph-system")),
    ];
    wait::until("the rights of the OSDs and of the operator", wait::START, async || {
        let found = scene.found();
        Ok(lacking.iter().all(|lacking| found.contains(lacking)).then_some(()))
    })
    .await
    .unwrap();

    // An account that may look at the cluster, and may not ask what others may do.
    let rules = json!([
        {"apiGroups": ["ceph.rook.io"], "resources": ["cephclusters"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["secrets", "serviceaccounts"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["list"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]},
    ]);
    scene.cluster.place.create_service_account("looker").await.unwrap();
    scene.cluster.place.grant("looker", &rules).await.unwrap();
    let token = scene.cluster.place.create_token("looker", &[]).await.unwrap();
    let ran = scene.cluster.kms(&token).run(&["-o", "json", "doctor"]).want(1);
    let start = format!("kubectl --kubeconfig {} -n {name} auth can-i", scene.cluster.kubeconfig(&token));
    let review = format!("{start} create subjectaccessreviews.authorization.k8s.io");
    let expected = [
        vec![
            finding("KMS0501", "warning", "subjectaccessreviews", review),
            finding("KMS0601", "error", "CronJobs", format!("{start} list cronjobs")),
        ],
        because("KMS0501", &["KMS0503", "KMS0504", "KMS0505", "KMS0506"]),
        because(
            "KMS0601",
            &["KMS0502", "KMS0602", "KMS0603", "KMS0604", "KMS0605", "KMS0606", "KMS0607", "KMS0608"],
        ),
        // It may not read its namespace, which nothing else needs: no finding is the reason.
        because("", &["KMS0508"]),
    ];
    let report = ran.json();
    assert_eq!(found(&report), all(expected));
    let of_namespace =
        report["findings"].as_array().unwrap().iter().find(|finding| finding["code"] == "KMS0508");
    let message = of_namespace.unwrap()["message"].as_str().unwrap();
    assert!(message.contains("may not get namespaces"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Kubernetes API server, OpenBao and kubectl: cargo xtask it rook"]
async fn what_keeps_a_cluster_from_being_looked_at_is_found() {
    let scene = Scene::new().await;
    let (kube, place) = (&scene.cluster.kube, &scene.cluster.place);
    let name = place.name();
    let (kms, kubectl) = scene.start();
    // Its server ends each connection at once, as a load balancer does that has no API server behind it.
    let alone = Gateway::start(port::free().unwrap(), kube.ca()).await.unwrap();
    let to = |cluster: &Value, token: &str| {
        let kms = Kms::new().global(&["--allow-http", "--kubeconfig", "config", "-n", name]);
        kms.file("ca.crt", kube.ca());
        kms.file("other.crt", &scene.vault.pki().ca.cert);
        let config = json!({
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        });
        kms.file("config", &config.to_string());
        kms.run(&["-o", "json", "doctor"])
    };
    let verified = |url: &str, ca: &str| json!({"server": url, "certificate-authority": ca});
    let version = format!("kubectl --kubeconfig config -n {name} version");
    let of_api = "API server";
    for (expected, server, token) in [
        (
            finding("KMS0102", "error", of_api, &version),
            verified("https://nosuch.invalid:6443", "ca.crt"),
            ADMIN,
        ),
        (finding("KMS0104", "error", of_api, &version), verified(kube.url(), "other.crt"), ADMIN),
        (finding("KMS0106", "error", of_api, &version), json!({"server": alone.url()}), ADMIN),
        (finding("KMS0107", "error", of_api, &version), verified(kube.url(), "ca.crt"), "wrong"),
    ] {
        assert_eq!(wrong(&to(&server, token).want(1).json()), [expected]);
    }
    let unverified = json!({"server": kube.url(), "insecure-skip-tls-verify": true});
    let report = to(&unverified, ADMIN).want(0).json();
    assert_eq!(wrong(&report), [finding("KMS0105", "warning", of_api, &version)]);

    // An account that may list neither Deployments nor PVCs.
    let rules = json!([
        {"apiGroups": ["ceph.rook.io"], "resources": ["cephclusters"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["secrets", "serviceaccounts"], "verbs": ["get"]},
        {"apiGroups": ["batch"], "resources": ["cronjobs"], "verbs": ["list"]},
    ]);
    place.create_service_account("looker").await.unwrap();
    place.grant("looker", &rules).await.unwrap();
    let token = place.create_token("looker", &[]).await.unwrap();
    let ran = scene.cluster.kms(&token).run(&["-o", "json", "doctor"]).want(1);
    let can = format!("kubectl --kubeconfig {} -n {name} auth can-i", scene.cluster.kubeconfig(&token));
    let review = format!("{can} create subjectaccessreviews.authorization.k8s.io");
    let expected = [
        finding("KMS0501", "warning", "subjectaccessreviews", review),
        finding("KMS0701", "error", "Deployments", format!("{can} list deployments")),
        finding("KMS0802", "error", "PVCs", format!("{can} list pvcs")),
    ];
    assert_eq!(wrong(&ran.json()), expected);

    // The operator is elsewhere, and the namespace does not admit pods that open devices.
    let elsewhere = scene.kms().run(&["-o", "json", "doctor", "--operator", "elsewhere"]).want(0).json();
    let account = "ServiceAccount elsewhere/rook-ceph-system";
    let next = format!("{kms} doctor --operator NAMESPACE");
    assert_eq!(wrong(&elsewhere), [finding("KMS0507", "warning", account, next)]);
    let label = "pod-security.kubernetes.io/enforce";
    scene.cluster.kubectl(&format!("label namespace {name} {label}=baseline"));
    let next = format!("{kubectl} label namespace {name} --overwrite {label}=privileged");
    assert_eq!(scene.found(), [finding("KMS0508", "warning", &format!("Namespace {name}"), next)]);
    scene.cluster.kubectl(&format!("label namespace {name} {label}-"));
    scene.expect_health();

    // A KMS without an address, one that is not verified, and a CephCluster that is being deleted.
    let cluster = "cephclusters/rook-ceph";
    let set = async |name: &str, value: Value| {
        let change = json!({"spec": {"security": {"kms": {"connectionDetails": {name: value}}}}});
        scene.cluster.patch("ceph.rook.io/v1", cluster, &change).await;
    };
    let check = format!("{kms} check --read-only");
    let differ = |(id, _)| {
        let deployment = format!("rook-ceph-osd-{id}");
        let show = format!("{kubectl} get deployment {deployment} -o yaml");
        finding("KMS0703", "warning", &format!("Deployment {deployment}"), show)
    };
    set("VAULT_ADDR", json!("https://nosuch.invalid:8200")).await;
    // The doctor tries again until the time limit.
    let report = scene.kms().run(&["--timeout", "5s", "-o", "json", "doctor"]).want(1).json();
    let expected = [vec![finding("KMS0301", "error", "vault", &check)], OSDS.map(differ).to_vec()];
    assert_eq!(wrong(&report), expected.concat());
    set("VAULT_ADDR", json!(scene.vault.url())).await;
    set("VAULT_SKIP_VERIFY", json!("true")).await;
    assert_eq!(scene.found(), [finding("KMS0304", "warning", "vault", &check)]);
    set("VAULT_SKIP_VERIFY", Value::Null).await;
    scene
        .cluster
        .patch("ceph.rook.io/v1", cluster, &json!({"metadata": {"finalizers": ["test/keep"]}}))
        .await;
    scene.cluster.call("DELETE", "ceph.rook.io/v1", cluster, Value::Null).await;
    let object = format!("CephCluster {name}/rook-ceph");
    let show = format!("{kubectl} get cephcluster -o yaml");
    assert_eq!(scene.found(), [finding("KMS0202", "warning", &object, show)]);
    scene.cluster.patch("ceph.rook.io/v1", cluster, &json!({"metadata": {"finalizers": null}})).await;
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server, OpenBao, kubectl and cryptsetup: cargo xtask it rook"]
async fn devices_of_a_host_are_looked_at() {
    let scene = Scene::new().await;
    let (_, name) = OSDS[0];
    let host = scene.kms();
    let (kms, _) = scene.start();
    let kek = Kek::parse(host.run(&["get", name]).want(0).stdout).unwrap();
    let folder = host.folder().join(format!("rook/{}/{name}/ceph-1", scene.cluster.place.name()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("block"), "").unwrap();
    let image = Image::luks2(&kek).copy(folder.join("block-tmp"));
    let node = std::fs::canonicalize(image.path()).unwrap().display().to_string();
    let run = || found(&host.run(&["-o", "json", "doctor", "--data-dir", "rook"]).json());
    let slots = format!("{kms} slots {node}");
    assert_eq!(run(), Vec::<Finding>::new());

    // A second slot of the rotation, a slot of another key, and a token of another program.
    image.add(&kek, 1, &Kek::generate().unwrap());
    let finish = format!("{kms} rotate {name} {node} --finish");
    assert_eq!(run(), [finding("KMS1005", "warning", &node, finish)]);
    image.kill(&kek, 1);
    image.add(&kek, 3, &Kek::generate().unwrap());
    assert_eq!(run(), [finding("KMS1006", "warning", &node, &slots)]);
    std::fs::write(folder.join("token"), r#"{"type": "clevis", "keyslots": ["3"]}"#).unwrap();
    let token = folder.join("token").display().to_string();
    assert_eq!(image.cryptsetup(&["token", "import", "--json-file", &token], &[]), 0);
    assert_eq!(run(), [finding("KMS1007", "warning", &node, &slots)]);
    assert_eq!(image.cryptsetup(&["token", "remove", "--token-id", "0"], &[]), 0);
    image.kill(&kek, 3);
    assert_eq!(run(), Vec::<Finding>::new());

    // A slot that needs 32 KiB, and a container that opens the device with half of that.
    let (id, other) = OSDS[1];
    let foreign = scene.cluster.place.name();
    let second = host.folder().join(format!("rook/{foreign}/{other}/ceph-3"));
    std::fs::create_dir_all(&second).unwrap();
    let kek = Kek::parse(host.run(&["get", other]).want(0).stdout).unwrap();
    let _ = Image::argon2id(&kek).copy(second.join("block-tmp"));
    assert_eq!(run(), Vec::<Finding>::new());
    let place = format!("deployments/rook-ceph-osd-{id}");
    let mut osd = scene.cluster.call("GET", "apps/v1", &place, Value::Null).await;
    let containers = osd["spec"]["template"]["spec"]["initContainers"].as_array_mut().unwrap();
    let open = containers.iter_mut().find(|container| container["name"] == "encryption-open").unwrap();
    open["resources"] = json!({"limits": {"memory": "16Ki"}});
    scene.cluster.call("PUT", "apps/v1", &place, osd).await;
    let node = std::fs::canonicalize(second.join("block-tmp")).unwrap().display().to_string();
    assert_eq!(run(), [finding("KMS1008", "error", &node, format!("{kms} slots {node}"))]);

    // The KEK of the KMS opens nothing.
    let _ = Image::luks2(&Kek::generate().unwrap()).copy(second.join("block-tmp"));
    let recover = format!("{kms} recover {other} {node}");
    assert_eq!(run(), [finding("KMS1004", "error", &node, recover)]);
    std::fs::write(second.join("block-tmp"), "no header").unwrap();
    let restore = format!("{kms} escrow restore DIR {other} --header {node} --uuid UUID");
    assert_eq!(run(), [finding("KMS1003", "error", &node, restore)]);

    // A file where the folders should be, a cryptsetup that calls every device busy, and one that is too old.
    host.file("file", "");
    let report = host.run(&["-o", "json", "doctor", "--data-dir", "file"]).json();
    assert_eq!(wrong(&report), [finding("KMS1001", "error", "folders", "ls -l /var/lib/rook")]);
    let replace_cryptsetup = |host: &Kms, script: &str| {
        let program = host.file("bin/cryptsetup", script);
        assert!(std::process::Command::new("chmod").arg("755").arg(&program).status().unwrap().success());
        program.parent().unwrap().display().to_string()
    };
    std::fs::remove_dir_all(second.parent().unwrap()).unwrap();
    let busy =
        "#!/bin/sh\n[ $1 = open ] && exit 5\nPATH=/usr/sbin:/sbin:/usr/bin:/bin\nexec cryptsetup \"$@\"\n";
    let search = replace_cryptsetup(&host, busy);
    let host = host.env("PATH", &search);
    let node = std::fs::canonicalize(image.path()).unwrap().display().to_string();
    let verify = format!("{kms} verify {name} {node}");
    let report = || host.run(&["-o", "json", "doctor", "--data-dir", "rook"]).json();
    assert_eq!(wrong(&report()), [finding("KMS1009", "warning", &node, verify)]);
    replace_cryptsetup(&host, "#!/bin/sh\necho cryptsetup 2.0.4\n");
    assert_eq!(wrong(&report()), [finding("KMS1002", "error", "cryptsetup", "cryptsetup --version")]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Kubernetes API server, OpenBao and kubectl: cargo xtask it rook"]
async fn a_wrong_clock_is_found() {
    let scene = Scene::new().await;
    let kube = &scene.cluster.kube;
    let port = kube.url().rsplit(':').next().unwrap().parse().unwrap();
    let to_api = Gateway::start(port, kube.ca()).await.unwrap();
    let to_vault = Gateway::start(scene.vault.port(), &scene.vault.pki().ca.cert).await.unwrap();
    let address =
        json!({"spec": {"security": {"kms": {"connectionDetails": {"VAULT_ADDR": to_vault.url()}}}}});
    scene.cluster.patch("ceph.rook.io/v1", "cephclusters/rook-ceph", &address).await;
    let config = json!({
        "clusters": [{"name": "c", "cluster": {"server": to_api.url()}}],
        "users": [{"name": "u", "user": {"token": ADMIN}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    });
    let kms =
        Kms::new().global(&["--allow-http", "--kubeconfig", "config", "-n", scene.cluster.place.name()]);
    kms.file("config", &config.to_string());
    let run = || found(&kms.run(&["-o", "json", "doctor"]).json());
    // What the gateways themselves bring about is there before and after.
    let before = run();
    for (gateway, expected) in [
        (&to_api, finding("KMS1102", "warning", "API server", "timedatectl")),
        (&to_vault, finding("KMS1101", "warning", "vault", "timedatectl")),
    ] {
        for seconds in [600, -600] {
            gateway.shift(seconds);
            let new: Vec<_> = run().into_iter().filter(|found| !before.contains(found)).collect();
            assert_eq!(new, std::slice::from_ref(&expected));
        }
        gateway.shift(0);
    }
    assert_eq!(run(), before);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server, OpenBao and kubectl: cargo xtask it rook"]
async fn an_escrow_is_whole_newer_than_the_keys_and_proven_by_a_drill() {
    let scene = Scene::new().await;
    let kms = scene.kms();
    let pair = Pair::generate();
    kms.file("recipients.txt", &pair.recipient);
    kms.file("identity.txt", &pair.identity);
    let look = || found(&kms.run(&["-o", "json", "doctor", "--escrow", "saved"]).json());
    let (start, _) = scene.start();
    let make = format!("{start} escrow create saved --overwrite -R RECIPIENTS");
    let none = [
        vec![finding("KMS0901", "error", "saved", &make)],
        because("KMS0901", &["KMS0902", "KMS0903", "KMS0904"]),
    ];
    let none = all(none);
    assert_eq!(look(), none);
    let create = ["escrow", "create", "saved", "-R", "recipients.txt", "--overwrite"];
    let _ = kms.run(&create).want(0);
    let drill = format!("{start} escrow drill saved -i IDENTITY");
    assert_eq!(look(), [finding("KMS0904", "warning", "saved", drill)]);
    let drill = ["escrow", "drill", "saved", "-i", "identity.txt"];
    let _ = kms.run(&drill).want(0);
    let record = std::fs::read_to_string(kms.folder().join("saved/drill.json")).unwrap();
    keep_file("escrow-drill-record", &record, false);
    assert_eq!(look(), []);
    // One more key, and no OSD for it.
    let _ = kms.run(&["create", "new"]).want(0);
    assert!(look().contains(&finding("KMS0903", "warning", "saved", &make)));
    let _ = kms.run(&["delete", "new", "--destroy"]).want(0);
    assert_eq!(look(), []);
    // An escrow of another cluster, and a damaged one.
    let sidecar = kms.folder().join("saved/escrow.json");
    let text = std::fs::read_to_string(&sidecar).unwrap();
    let name = format!("{}/rook-ceph", scene.cluster.place.name());
    std::fs::write(&sidecar, text.replace(&name, "other/rook-ceph")).unwrap();
    assert_eq!(look(), [finding("KMS0902", "error", "saved", make)]);
    std::fs::write(&sidecar, &text).unwrap();
    std::fs::write(kms.folder().join("saved/keks.tar.age"), "age").unwrap();
    assert_eq!(look(), none);
}
