//! A cluster that moves from Kubernetes Secrets to OpenBao, with a task that does to its OSDs what Rook's operator does.
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use kms_testkit::{
    luks::Image,
    servers::{OpenBao, OpenBaoConfig, wait},
};
use kms_tests::{
    Kms, Ran,
    age::Pair,
    rook::{ADMIN, Cluster, ceph_cluster, ceph_cluster_on_vault, fixture, move_to},
};
use serde_json::{Value, json};

const OSDS: usize = 4;
/// A key that no OSD of the cluster uses.
const OF_OTHERS: &str = "set9-data-0";
const HOLD: &str = "ceph.rook.io/do-not-reconcile";

fn key(osd: usize) -> String {
    format!("set1-data-{osd}")
}

/// The cluster, the server, and the program with the files of both sides.
struct Move {
    cluster: Arc<Cluster>,
    kms: Kms,
    arguments: Vec<String>,
    server: OpenBao,
}

impl Move {
    async fn new() -> Self {
        let cluster = Cluster::new(json!({})).await;
        for osd in 0..OSDS {
            let path = "deployments";
            cluster.call("POST", "apps/v1", path, deployment(osd, cluster.place.name())).await;
            set_running(&cluster, osd).await;
        }
        cluster.rook_accounts(&[]).await;
        let admin = cluster.kms(ADMIN);
        for name in (0..OSDS).map(key).chain([OF_OTHERS.to_owned()]) {
            let _ = admin.run(&["create", &name]).want(0);
        }
        let server = OpenBao::start(OpenBaoConfig::default()).await.unwrap();
        let token = server.admin().rook_token().await.unwrap();
        for (name, key, value) in [("token", "token", &token), ("ca", "cert", &server.pki().ca.cert)] {
            cluster.place.create_secret(name, &[(key, value)]).await.unwrap();
        }
        let place = cluster.place.name().to_owned();
        let kms = Kms::new();
        kms.file("from.yaml", &ceph_cluster(&place, &json!({})));
        kms.file("to.yaml", &ceph_cluster_on_vault(&place, &server, &token));
        let config = cluster.kubeconfig(ADMIN);
        let named = format!("{}/rook-ceph", cluster.place.name());
        let arguments =
            ["--from", "from.yaml", "--to", "to.yaml", "--kubeconfig", &config, "--cluster", &named];
        let arguments = arguments.map(str::to_owned).to_vec();
        Self { cluster: Arc::new(cluster), kms, arguments, server }
    }

    fn line<'a>(&'a self, step: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let mut line = vec!["-o", "json", "migrate", step];
        line.extend(self.arguments.iter().map(String::as_str));
        if step != "plan" {
            line.extend(["--journal", "journal"]);
        }
        line.extend(more);
        line
    }

    fn step(&self, step: &str, more: &[&str]) -> Ran {
        self.kms.run(&self.line(step, more))
    }

    /// Runs a step while other tasks of this process run.
    async fn step_beside(&self, step: &str, more: &[&str]) -> Ran {
        let (kms, line) = (&self.kms, self.line(step, more));
        tokio::task::block_in_place(|| kms.run(&line))
    }

    fn verified(&self) {
        let plan = self.step("plan", &[]).want(0).json();
        assert_eq!(plan["outcomes"]["to-create"], OSDS + 1, "{plan}");
        let change: Vec<_> =
            plan["change"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
        assert!(change.contains(&"+       tokenSecretName: token"), "{change:?}");
        let _ = self.step("copy", &[]).want(0);
        let _ = self.step("verify", &[]).want(0);
    }

    /// What stops the migration, and what the plan notes of the accounts. Sorted; the namespace is `NS`.
    fn found(&self, more: &[&str]) -> (Vec<String>, Vec<String>) {
        let plan = self.step("plan", more).json();
        let name = self.cluster.place.name();
        let lines = |field: &str| {
            let lines =
                plan[field].as_array().unwrap().iter().map(|line| line.as_str().unwrap().replace(name, "NS"));
            let mut lines: Vec<_> = lines.filter(|line| !line.contains("CephObjectStores")).collect();
            lines.sort();
            lines
        };
        let notes = lines("notes").into_iter().filter(|line| !line.contains("keys belong to no OSD"));
        (lines("stops"), notes.collect())
    }

    /// Replaces the rights of an account.
    async fn set_rights(&self, account: &str, rules: &Value) {
        let rbac = self.cluster.place.name();
        let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{rbac}/roles/{account}");
        let patch = Some(("application/merge-patch+json", json!({"rules": rules}).to_string()));
        self.cluster.kube.http().send_as("PATCH", &path, patch).await.unwrap().ok().unwrap();
    }

    /// Waits until an account may, or may not, use a verb on all Secrets.
    async fn wait_for_secrets(&self, account: &str, verb: &str, wanted: bool) {
        self.cluster.until_allowed(account, &json!({"verb": verb, "resource": "secrets"}), wanted).await;
    }

    async fn block(&self) -> Value {
        let found = self.cluster.call("GET", "ceph.rook.io/v1", "cephclusters/rook-ceph", Value::Null).await;
        found["spec"]["security"]["kms"].clone()
    }

    /// The OSDs that are held back.
    async fn held(&self) -> Vec<usize> {
        let mut held = Vec::new();
        for osd in 0..OSDS {
            if read(&self.cluster, osd).await["metadata"]["labels"].get(HOLD).is_some() {
                held.push(osd);
            }
        }
        held
    }

    fn secrets(&self) -> BTreeSet<String> {
        let from = std::fs::read_to_string(self.kms.folder().join("from.yaml")).unwrap();
        let config = self.cluster.kubeconfig(ADMIN);
        let kms = Kms::new().document("from.yaml", &from).global(&["--kubeconfig", &config]);
        let listed = kms.run(&["-o", "json", "list"]).want(0).json();
        let keys = listed["keys"].as_array().unwrap().iter();
        keys.map(|key| key["name"].as_str().unwrap().to_owned()).collect()
    }
}

/// The Deployment of an OSD, made of a fixture.
fn deployment(osd: usize, kube_namespace: &str) -> Value {
    let fixture = fixture("default", "osd-deployment.json");
    let name = fixture["metadata"]["labels"]["ceph.rook.io/pvc"].as_str().unwrap().to_owned();
    let text = fixture.to_string();
    let text = text.replace(&name, &key(osd)).replace("osd-0", &format!("osd-{osd}"));
    let text = text.replace("/ceph-0\"", &format!("/ceph-{osd}\""));
    let mut object: Value = serde_json::from_str(&text).unwrap();
    let number = json!(osd.to_string());
    for place in ["/metadata/labels", "/spec/selector/matchLabels", "/spec/template/metadata/labels"] {
        let labels = object.pointer_mut(place).unwrap().as_object_mut().unwrap();
        for label in ["ceph-osd-id", "osd", "ceph_daemon_id", "app.kubernetes.io/instance"] {
            if labels.contains_key(label) {
                labels.insert(label.to_owned(), number.clone());
            }
        }
    }
    let containers = object["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap();
    for var in containers.iter_mut().flat_map(|container| container["env"].as_array_mut().unwrap()) {
        if var["name"] == "ROOK_OSD_ID" {
            var["value"] = number.clone();
        }
    }
    move_to(&mut object, kube_namespace);
    object
}

async fn read(cluster: &Cluster, osd: usize) -> Value {
    cluster.call("GET", "apps/v1", &format!("deployments/rook-ceph-osd-{osd}"), Value::Null).await
}

/// Writes the status of a Deployment whose pod is ready, as the controllers of a cluster do.
async fn set_running(cluster: &Cluster, osd: usize) {
    let generation = read(cluster, osd).await["metadata"]["generation"].clone();
    let status = json!({"status": {
        "observedGeneration": generation, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1,
        "availableReplicas": 1,
    }});
    cluster.patch("apps/v1", &format!("deployments/rook-ceph-osd-{osd}/status"), &status).await;
}

/// Does once what Rook's operator does when it looks after the OSDs: changes each OSD that is not held back and has other
/// settings than the CephCluster. Returns the OSDs that it has restarted.
async fn reconcile(cluster: &Cluster) -> Vec<usize> {
    let found = cluster.call("GET", "ceph.rook.io/v1", "cephclusters/rook-ceph", Value::Null).await;
    let details =
        found["spec"]["security"]["kms"]["connectionDetails"].as_object().cloned().unwrap_or_default();
    let mut restarted = Vec::new();
    for osd in 0..OSDS {
        let mut object = read(cluster, osd).await;
        if object["metadata"]["labels"].get(HOLD).is_some() {
            continue;
        }
        let containers = object["spec"]["template"]["spec"]["initContainers"].as_array_mut().unwrap();
        let is_fetch = |container: &Value| container["name"] == "encryption-kms-get-kek";
        if containers.iter().any(is_fetch) != details.is_empty() {
            continue;
        }
        if details.is_empty() {
            containers.retain(|container| !is_fetch(container));
        } else {
            let env: Vec<Value> = details
                .iter()
                .map(|(name, value)| match name.as_str() {
                    "VAULT_CACERT" => json!({"name": name, "value": "/etc/vault/vault.ca"}),
                    _ => json!({"name": name, "value": value}),
                })
                .collect();
            containers.push(json!({"name": "encryption-kms-get-kek", "image": "rook", "env": env}));
        }
        cluster.call("PUT", "apps/v1", &format!("deployments/rook-ceph-osd-{osd}"), object).await;
        set_running(cluster, osd).await;
        restarted.push(osd);
    }
    restarted
}

/// An operator that works until it is dropped.
struct Operator {
    task: tokio::task::JoinHandle<()>,
    /// The OSDs that each round has restarted.
    rounds: Arc<Mutex<Vec<Vec<usize>>>>,
}

impl Operator {
    fn start(cluster: &Arc<Cluster>) -> Self {
        let (cluster, rounds) = (Arc::clone(cluster), Arc::<Mutex<Vec<Vec<usize>>>>::default());
        let noted = Arc::clone(&rounds);
        let task = tokio::spawn(async move {
            let mut every = tokio::time::interval(Duration::from_millis(200));
            loop {
                every.tick().await;
                let restarted = reconcile(&cluster).await;
                if !restarted.is_empty() {
                    noted.lock().unwrap().push(restarted);
                }
            }
        });
        Self { task, rounds }
    }

    fn rounds(&self) -> Vec<Vec<usize>> {
        self.rounds.lock().unwrap().clone()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a Vault server and a Kubernetes API server: cargo xtask it migrate"]
async fn a_cluster_is_switched_osd_by_osd_and_the_source_is_deleted_at_the_end() {
    let moved = Move::new().await;
    moved.verified();
    // Without an operator no OSD restarts, and all but the first are held back.
    let ran = moved.step("cutover", &["--wait", "0"]).want(5);
    assert!(ran.stderr.contains("have not restarted"), "{}", ran.stderr);
    assert_eq!(moved.held().await, [1, 2, 3]);
    assert_eq!(moved.block().await["connectionDetails"]["KMS_PROVIDER"], "vault");
    let _ = moved.step("copy", &[]).want(1);
    let pair = Pair::generate();
    moved.kms.file("recipients.txt", &pair.recipient);
    moved.kms.file("identity.txt", &pair.identity);
    let save = |folder, names: &[&str]| {
        let line = [&["-f", "to.yaml", "escrow", "create", folder, "-R", "recipients.txt"], names].concat();
        let _ = moved.kms.run(&line).want(0);
    };
    let finish = ["--escrow", "escrow", "-i", "identity.txt"];
    let _ = moved.step("finish", &finish).want(2);
    save("escrow", &[]);
    let _ = moved.step("finish", &finish).want(1);

    let operator = Operator::start(&moved.cluster);
    let switched = moved.step_beside("cutover", &["--batch", "2"]).await.want(0).json();
    assert_eq!((&switched["outcomes"]["restarted"], &switched["phase"]), (&json!(OSDS), &json!("switched")));
    let rounds = operator.rounds();
    assert_eq!(rounds[0], [0], "one OSD restarts alone: {rounds:?}");
    assert!(rounds.iter().flatten().copied().eq(0..OSDS) && rounds.iter().all(|round| round.len() <= 2));
    assert_eq!(moved.held().await, [0; 0]);
    drop(operator);

    // An escrow of fewer keys; an escrow of as many, but of another one.
    save("few", &[&key(0)]);
    let _ = moved.step("finish", &["--escrow", "few"]).want(2);
    let others: Vec<_> = (1..OSDS).map(key).chain([OF_OTHERS.to_owned()]).collect();
    save("other", &others.iter().map(String::as_str).collect::<Vec<_>>());
    let finished = moved.step("finish", &["--escrow", "other", "-i", "identity.txt"]).want(1).json();
    assert_eq!(finished["outcomes"], json!({"deleted": OSDS - 1, "left": 1}), "{finished}");
    assert_eq!(finished["failures"][0]["name"], key(0), "{finished}");
    let finished = moved.step("finish", &finish).want(0).json();
    assert_eq!(finished["outcomes"], json!({"deleted": 1, "done-before": OSDS - 1, "left": 1}), "{finished}");
    assert_eq!(moved.secrets(), [OF_OTHERS.to_owned()].into());
    let kms =
        Kms::new().document("to.yaml", &std::fs::read_to_string(moved.kms.folder().join("to.yaml")).unwrap());
    let _ = kms.run(&["get", &key(0)]).want(0);
    let _ = moved.step("abort", &[]).want(1);
}

#[tokio::test]
#[ignore = "needs a Vault server, a Kubernetes API server and kubectl: cargo xtask it migrate"]
async fn a_plan_names_the_rights_that_accounts_lack_in_kubernetes_and_how_to_grant_them() {
    let moved = Move::new().await;
    let shared =
        "to: the operator and the OSDs use the same credentials of the Secret token as this plan, which has \
                  checked their rights in the KMS"
            .to_owned();
    assert_eq!(moved.found(&[]), (Vec::new(), vec![shared.clone()]));

    // The OSDs may read the Secrets of their keys, and no other; the operator may not write any.
    let secret = |name: String| format!("rook-ceph-osd-encryption-key-{name}");
    let keys: Vec<_> = (0..OSDS).map(key).map(secret).collect();
    let cluster = json!({"apiGroups": ["ceph.rook.io"], "resources": ["cephclusters"], "verbs": ["get"]});
    let of_keys =
        json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": keys});
    let only_get = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]);
    moved.set_rights("rook-ceph-osd", &json!([cluster, of_keys])).await;
    moved.set_rights("rook-ceph-system", &only_get).await;
    moved.wait_for_secrets("rook-ceph-osd", "get", false).await;
    moved.wait_for_secrets("rook-ceph-system", "create", false).await;
    moved.cluster.kubectl("delete secret ca");
    let config = moved.cluster.kubeconfig(ADMIN);
    let kubectl = format!("kubectl --kubeconfig {config} -n NS");
    let (stops, notes) = moved.found(&[]);
    let grant = |account: &str, rights: &str| {
        format!(
            "{kubectl} create role kms-{account}-1 {rights} && {kubectl} create rolebinding kms-{account}-1 \
             --role=kms-{account}-1 --serviceaccount=NS:{account}"
        )
    };
    let of_osds =
        grant("rook-ceph-osd", "--verb=get --resource=secrets --resource-name=ca --resource-name=token");
    assert_eq!(
        stops,
        [
            format!(
                "to: ServiceAccount NS/rook-ceph-osd may not get secrets/ca, get secrets/token, so the OSDs do not start: \
                 {of_osds}"
            ),
            "to: the settings name the Secret ca, and the namespace NS does not have it, so no OSD starts: create it there"
                .to_owned(),
        ]
    );
    let of_operator = grant("rook-ceph-system", "--verb=create,update --resource=secrets");
    let at_source = format!(
        "from: ServiceAccount NS/rook-ceph-system may not create secrets, update secrets, so Rook cannot make keys for new \
         OSDs: {of_operator}"
    );
    assert_eq!(notes, [at_source, shared.clone()]);

    // The commands of the plan mend it.
    for line in [&of_osds, &of_operator] {
        let line = line.replace("NS", moved.cluster.place.name());
        let _ = moved.cluster.shell(&line, moved.kms.folder()).want(0);
    }
    moved.cluster.place.create_secret("ca", &[("cert", &moved.server.pki().ca.cert)]).await.unwrap();
    moved.wait_for_secrets("rook-ceph-system", "create", true).await;
    wait::until("the rights of the OSDs", wait::START, async || {
        Ok(moved.found(&[]).0.is_empty().then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(moved.found(&[]), (Vec::new(), vec![shared]));

    // What cannot be checked is said: an operator elsewhere, and a run without the cluster.
    let (stops, notes) = moved.found(&["--operator", "elsewhere"]);
    assert_eq!(stops, Vec::<String>::new());
    assert!(
        notes[0].starts_with(
            "not checked: the rights of the operator: ServiceAccount elsewhere/rook-ceph-system"
        )
    );
    let files = ["migrate", "plan", "--from", "from.yaml", "--to", "to.yaml", "--kubeconfig", &config];
    let ran = moved.kms.run(&files).want(0);
    assert!(
        ran.stdout.contains("note: not checked: the rights of the operator's and the OSDs' accounts"),
        "{}",
        ran.text()
    );
}

#[tokio::test]
#[ignore = "needs a Vault server and a Kubernetes API server: cargo xtask it migrate"]
async fn a_plan_logs_in_as_the_accounts_where_each_has_a_login_of_its_own() {
    let moved = Move::new().await;
    let (kube, place, admin) = (&moved.cluster.kube, &moved.cluster.place, moved.server.admin());
    let reviewer = kube.create_reviewer(place).await.unwrap();
    admin.enable_kubernetes("kubernetes", kube.url(), kube.ca(), &reviewer).await.unwrap();
    let role = async |accounts: &[&str], policy: &str| {
        let policy = json!({"policies": [policy]});
        admin.kubernetes_role("kubernetes", "rook", accounts, place.name(), policy).await.unwrap();
    };
    let token = place.create_token("rook-ceph-system", &[]).await.unwrap();
    moved.kms.file("account", &token);
    let security = json!({"kms": {"connectionDetails": {
        "KMS_PROVIDER": "vault", "VAULT_ADDR": moved.server.url(), "VAULT_BACKEND_PATH": "rookv2", "VAULT_CACERT": "ca",
        "VAULT_AUTH_METHOD": "kubernetes", "VAULT_AUTH_KUBERNETES_ROLE": "rook",
        "VAULT_AUTH_KUBERNETES_TOKEN_PATH": moved.kms.folder().join("account"),
    }}});
    let ca = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "ca"},
                    "stringData": {"cert": moved.server.pki().ca.cert}});
    moved.kms.file("to.yaml", &format!("{}\n---\n{ca}", ceph_cluster(place.name(), &security)));
    role(&["rook-ceph-system", "rook-ceph-osd"], "rook").await;
    let audit = moved.server.requests().unwrap();
    assert_eq!(moved.found(&[]), (Vec::new(), Vec::new()));
    assert_eq!(audit.logins().unwrap(), 3, "the plan, the OSDs and the operator");

    // The role binds the operator alone: its own login is right, and no OSD would start.
    role(&["rook-ceph-system"], "rook").await;
    let (stops, notes) = moved.found(&[]);
    assert_eq!((stops.len(), notes), (1, Vec::new()), "{stops:?}");
    let expected =
        "to: ServiceAccount NS/rook-ceph-osd at the KMS: login: vault: log in: the server refused the login";
    assert!(stops[0].starts_with(expected) && stops[0].ends_with("so the OSDs do not start"), "{stops:?}");

    // All may read, and the operator may not write.
    let reader = "path \"rookv2/*\" { capabilities = [\"read\", \"list\"] }";
    admin.put_policy("reader", reader).await.unwrap();
    role(&["rook-ceph-system", "rook-ceph-osd"], "reader").await;
    let (stops, notes) = moved.found(&[]);
    let expected = "to: ServiceAccount NS/rook-ceph-system may not write 5 of 5 keys in the KMS, so Rook cannot make keys";
    assert!(stops.iter().any(|stop| stop.starts_with(expected)), "{stops:?}");
    assert_eq!(
        notes.iter().filter(|note| note.contains("at the KMS: rights: the policy lacks")).count(),
        2,
        "{notes:?}"
    );

    // An administrator who may not create tokens.
    role(&["rook-ceph-system", "rook-ceph-osd"], "rook").await;
    let rules = json!([
        {"apiGroups": ["ceph.rook.io"], "resources": ["cephclusters"], "verbs": ["list"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]},
        {"apiGroups": ["batch"], "resources": ["cronjobs"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list"]},
    ]);
    place.create_service_account("planner").await.unwrap();
    place.grant("planner", &rules).await.unwrap();
    let config = moved.cluster.kubeconfig(&place.create_token("planner", &[]).await.unwrap());
    let cluster = format!("{}/rook-ceph", place.name());
    let ran = moved.kms.run(&[
        "migrate",
        "plan",
        "--from",
        "from.yaml",
        "--to",
        "to.yaml",
        "--kubeconfig",
        &config,
        "--cluster",
        &cluster,
    ]);
    let not_checked = |what: &str| ran.stdout.matches(&format!("note: not checked: {what}")).count();
    assert_eq!(not_checked("from: what ServiceAccount"), 2, "{}", ran.text());
    assert_eq!(not_checked("to: what ServiceAccount"), 2, "{}", ran.text());
    assert_eq!(not_checked("to: the login to the KMS as ServiceAccount"), 2, "{}", ran.text());
    assert!(!ran.text().contains(&token));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a Vault server and a Kubernetes API server: cargo xtask it migrate"]
async fn a_switched_cluster_is_put_back_and_the_copies_are_deleted() {
    let moved = Move::new().await;
    moved.verified();
    let operator = Operator::start(&moved.cluster);
    let _ = moved.step_beside("cutover", &[]).await.want(0);
    let undone = moved.step_beside("abort", &[]).await.want(0).json();
    assert_eq!((&undone["outcomes"]["removed"], &undone["phase"]), (&json!(OSDS + 1), &json!("aborted")));
    drop(operator);
    let details = moved.block().await["connectionDetails"].clone();
    assert!(details.as_object().is_none_or(serde_json::Map::is_empty), "{details}");
    assert_eq!((moved.held().await, moved.secrets().len()), (Vec::new(), OSDS + 1));
}

#[tokio::test]
#[ignore = "needs a Vault server and a Kubernetes API server: cargo xtask it migrate"]
async fn a_rotation_after_the_comparison_keeps_the_cluster_at_the_source() {
    let moved = Move::new().await;
    moved.verified();
    let admin = moved.cluster.kms(ADMIN);
    let kek = admin.run(&["get", &key(1)]).want(0).stdout;
    for text in ["another-kek", &kek] {
        // Also the same KEK once more is a change: another program is at work.
        let _ = admin.run_with(&["put", &key(1), "--from", "-", "--replace"], text).want(0);
        let refused = moved.step("cutover", &[]).want(1).json();
        assert_eq!(refused["failures"][0]["name"], key(1), "{refused}");
        assert_eq!((moved.held().await, moved.block().await.get("connectionDetails")), (Vec::new(), None));
    }
    let _ = moved.step("verify", &[]).want(0);

    // The gates of Rook are off, the cluster rotates keys, and its CronJobs stay when that ends.
    let gates = ["skipUpgradeChecks", "continueUpgradeAfterChecksEvenIfNotHealthy"];
    let set_gates = async |on: bool| {
        let change = json!({"spec": {gates[0]: on, gates[1]: on}});
        moved.cluster.patch("ceph.rook.io/v1", "cephclusters/rook-ceph", &change).await;
    };
    moved.cluster.set_key_rotation(true).await;
    let _ = admin.run(&["cronjobs", "apply"]).want(0);
    set_gates(true).await;
    let unasked = format!(
        "Rook would restart OSDs without asking Ceph whether that is safe: set {} and {} of the CephCluster to false",
        gates[0], gates[1]
    );
    let rotates = "keyRotation.enabled of the CephCluster is true, and a rotation makes copies stale: set it to false until \
                   the migration is finished";
    let cron_jobs = |count: usize| {
        format!(
            "CronJobs rotate {count} of the keys, and a rotation makes copies stale: suspend them until the migration is \
             finished"
        )
    };
    let expect = |stops: &[&str], refusal: &str| {
        assert_eq!(moved.found(&[]).0, stops);
        let refused = moved.step("cutover", &[]).want(2);
        assert!(refused.stderr.contains(refusal), "{}", refused.stderr);
    };
    let all = cron_jobs(OSDS);
    expect(&[&all, &unasked, rotates], &format!("{unasked}; {rotates}"));
    set_gates(false).await;
    expect(&[&all, rotates], rotates);
    moved.cluster.set_key_rotation(false).await;
    expect(&[&all], &all);
    // A suspended CronJob rotates nothing.
    for osd in 0..OSDS {
        let job = format!("cronjobs/rook-ceph-osd-key-rotation-{osd}");
        moved.cluster.patch("batch/v1", &job, &json!({"spec": {"suspend": true}})).await;
        if osd == 0 {
            expect(&[&cron_jobs(OSDS - 1)], &cron_jobs(OSDS - 1));
        }
    }
    assert_eq!(moved.found(&[]).0, Vec::<String>::new());
    assert_eq!((moved.held().await, moved.block().await.get("connectionDetails")), (Vec::new(), None));
}

#[tokio::test]
#[ignore = "needs cryptsetup, a Vault server and a Kubernetes API server: cargo xtask it migrate"]
async fn the_devices_of_a_host_prove_that_the_keys_have_arrived() {
    let moved = Move::new().await;
    let _ = moved.step("copy", &[]).want(0);
    let proof = ["--proof", "device", "--data-dir", "rook"];
    let _ = moved.step("verify", &proof).want(3);
    let kek =
        |osd| kms_core::Kek::parse(moved.cluster.kms(ADMIN).run(&["get", &key(osd)]).want(0).stdout).unwrap();
    let image = |osd: usize, kek: &kms_core::Kek| {
        let folder =
            moved.kms.folder().join(format!("rook/{}/{}/ceph-{osd}", moved.cluster.place.name(), key(osd)));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("block"), "").unwrap();
        let _ = Image::luks2(kek).copy(folder.join("block-tmp"));
    };
    image(0, &kek(0));
    image(1, &kek(1));
    let verified = moved.step("verify", &proof).want(0).json();
    assert_eq!(
        (&verified["devices"], &verified["outcomes"]["equal"]),
        (&json!(2), &json!(OSDS + 1)),
        "{verified}"
    );
    // A device that the KEK of both sides does not open.
    image(2, &kek(1));
    let failed = moved.step("verify", &proof).want(1).json();
    assert_eq!(
        (&failed["failures"][0]["name"], &failed["phase"]),
        (&json!(key(2)), &json!("copying")),
        "{failed}"
    );
}
