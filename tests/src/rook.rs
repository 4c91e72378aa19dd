//! A Rook cluster in a namespace of a real API server: a CephCluster, the Deployments of its OSDs as Rook's operator
//! creates them, and service accounts.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
};

pub use kms_testkit::servers::kube::ADMIN_TOKEN as ADMIN;
use kms_testkit::servers::{
    self, OpenBao,
    kube::{Kube, KubeNamespace},
    wait,
};
use serde_json::{Value, json};

use crate::{Kms, Ran};

/// The rights that concern keys and that a Rook cluster grants to the OSDs' account (rook-behaviour §16).
const RIGHTS_OF_OSDS: [(&str, &str, &[&str]); 2] =
    [("", "secrets", &["get", "update"]), ("ceph.rook.io", "cephclusters", &["get", "list"])];

/// The cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The API server.
    pub kube: Kube,
    /// The namespace of the cluster.
    pub place: KubeNamespace,
    folder: tempfile::TempDir,
}

/// An object of an OSD in the fixtures.
pub fn fixture(case: &str, file: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/kms-rook/tests/fixtures/rook");
    let text = std::fs::read_to_string(folder.join(case).join(file)).expect("a fixture");
    serde_json::from_str(&text).expect("JSON")
}

/// The documents of a file in `deploy/`.
pub fn deployed(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file);
    serde_saphyr::from_multiple(&std::fs::read_to_string(path).expect("a file of deploy/")).expect("YAML")
}

/// The CephCluster of a namespace with this `security` block, as users write it.
pub fn ceph_cluster(kube_namespace: &str, security: &Value) -> String {
    json!({
        "apiVersion": "ceph.rook.io/v1", "kind": "CephCluster",
        "metadata": {"name": "rook-ceph", "namespace": kube_namespace}, "spec": {"security": security},
    })
    .to_string()
}

/// The same with its keys on the mount `rookv2` of a server, and the Secrets that it names.
pub fn ceph_cluster_on_vault(kube_namespace: &str, server: &OpenBao, token: &str) -> String {
    let secret = |name: &str, key: &str, value: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {key: value}})
            .to_string()
    };
    let security = json!({"kms": {"tokenSecretName": "token", "connectionDetails": {
        "KMS_PROVIDER": "vault", "VAULT_ADDR": server.url(), "VAULT_BACKEND_PATH": "rookv2", "VAULT_CACERT": "ca",
    }}});
    let documents = [
        ceph_cluster(kube_namespace, &security),
        secret("token", "token", token),
        secret("ca", "cert", &server.pki().ca.cert),
    ];
    documents.join("\n---\n")
}

impl Cluster {
    /// Creates a namespace with a CephCluster that has this `security` block, and records an image for rotation jobs.
    pub async fn new(security: Value) -> Self {
        Self::with_image(Self::bare(security).await).await
    }

    /// Records an image for rotation jobs.
    pub async fn with_image(cluster: Self) -> Self {
        let image = json!({"metadata": {"annotations": {"kms.ceph.rook.io/rotation-image": "mine:0"}}});
        cluster.patch("ceph.rook.io/v1", "cephclusters/rook-ceph", &image).await;
        cluster
    }

    /// Creates a cluster with a weekly rotation and its keys on a mount of this server. Returns the settings in its pods too,
    /// which name the file of the CA.
    pub async fn on_vault(vault: &OpenBao) -> (Self, [(&str, &str); 5]) {
        Self::on_vault_at(Kube::for_tests().await.expect("an API server"), vault).await
    }

    /// Creates the same, on an API server of its own.
    pub async fn on_vault_at(kube: Kube, vault: &OpenBao) -> (Self, [(&str, &str); 5]) {
        let settings = [
            ("KMS_PROVIDER", "vault"),
            ("VAULT_ADDR", vault.url()),
            ("VAULT_BACKEND_PATH", "rookv2"),
            ("VAULT_BACKEND", "v2"),
            ("VAULT_CACERT", "vault-ca"),
        ];
        let details: serde_json::Map<String, Value> =
            settings.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let security = json!({
            "kms": {"connectionDetails": details, "tokenSecretName": "rook-vault-token"},
            "keyRotation": {"enabled": true, "schedule": "@weekly"},
        });
        let cluster = Self::with_image(Self::on(kube, security).await).await;
        let token = vault.admin().rook_token().await.expect("a token");
        for (name, key, value) in
            [("rook-vault-token", "token", &token), ("vault-ca", "cert", &vault.pki().ca.cert)]
        {
            cluster.place.create_secret(name, &[(key, value)]).await.expect("a Secret");
        }
        let of_pods = settings
            .map(|(name, value)| (name, if name == "VAULT_CACERT" { "/etc/vault/vault.ca" } else { value }));
        (cluster, of_pods)
    }

    /// Creates the same, without options for rotation jobs.
    pub async fn bare(security: Value) -> Self {
        Self::on(Kube::for_tests().await.expect("an API server"), security).await
    }

    /// Creates the same, on a server of its own.
    pub async fn on(kube: Kube, security: Value) -> Self {
        let place = kube.create_namespace("rook-ceph").await.expect("a namespace");
        place.create_ceph_cluster("rook-ceph", security).await.expect("a CephCluster");
        Self { kube, place, folder: tempfile::tempdir().expect("a folder") }
    }

    /// Adds the OSD of a case in the fixtures.
    pub async fn add_osd(&self, case: &str) {
        let mut osd = fixture(case, "osd-deployment.json");
        move_to(&mut osd, self.place.name());
        self.call("POST", "apps/v1", "deployments", osd).await;
    }

    /// Sends a request as the administrator. The request has to succeed.
    pub async fn call(&self, method: &str, group: &str, resource: &str, body: Value) -> Value {
        let path = format!("/apis/{group}/namespaces/{}/{resource}", self.place.name());
        self.kube.call(method, &path, body).await.expect("an answer")
    }

    /// Creates a service account with the rights of these Roles in `deploy/`, and returns a token.
    pub async fn account(&self, name: &str, files: &[&str]) -> String {
        let mut rules: Vec<Value> = files
            .iter()
            .flat_map(|file| deployed(file))
            .filter(|object| object["kind"] == "Role")
            .flat_map(|role| role["rules"].as_array().expect("rules").clone())
            .collect();
        if name == "rook-ceph-osd" {
            let of_osds = RIGHTS_OF_OSDS.iter().map(|(group, resource, verbs)| {
                json!({"apiGroups": [group], "resources": [resource], "verbs": verbs})
            });
            rules.extend(of_osds);
        }
        self.place.create_service_account(name).await.expect("an account");
        self.place.grant(name, &json!(rules)).await.expect("rights");
        self.place.create_token(name, &[]).await.expect("a token")
    }

    /// Creates the accounts of the OSDs and of the operator with the rights that Rook grants them, as far as they concern keys.
    /// The OSDs have the rights of these files in `deploy` too.
    pub async fn rook_accounts(&self, files: &[&str]) {
        let _token = self.account("rook-ceph-osd", files).await;
        self.place.create_service_account("rook-ceph-system").await.expect("an account");
        let of_operator = json!([
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create", "update"]},
            {"apiGroups": ["batch"], "resources": ["cronjobs"], "verbs": ["get", "list", "create", "update", "delete"]},
        ]);
        self.place.grant("rook-ceph-system", &of_operator).await.expect("rights");
    }

    /// Waits until the API server allows this to an account, or denies it. `what` are attributes of a resource without its
    /// namespace.
    pub async fn until_allowed(&self, account: &str, what: &Value, wanted: bool) {
        let place = self.place.name();
        let mut review = json!({"spec": {
            "user": format!("system:serviceaccount:{place}:{account}"),
            "resourceAttributes": what,
        }});
        review["spec"]["resourceAttributes"]["namespace"] = json!(place);
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        wait::until("the rights of the account", wait::START, async || {
            let answer = self.kube.call("POST", path, review.clone()).await?;
            Ok((answer["status"]["allowed"] == json!(wanted)).then_some(()))
        })
        .await
        .expect("the rights of the account");
    }

    /// Writes a kubeconfig for a token, in its own file.
    pub fn kubeconfig(&self, token: &str) -> String {
        let mut hasher = DefaultHasher::new();
        token.hash(&mut hasher);
        let path = self.folder.path().join(format!("{:x}", hasher.finish()));
        self.kube.write_kubeconfig(&path, self.place.name(), token).expect("a kubeconfig");
        path.display().to_string()
    }

    /// The program with this token, for this cluster.
    pub fn kms(&self, token: &str) -> Kms {
        let config = self.kubeconfig(token);
        Kms::new().global(&[
            "--kubeconfig",
            &config,
            "--cluster",
            &format!("{}/rook-ceph", self.place.name()),
        ])
    }

    /// Runs a line of a shell as the administrator, in `folder`, with `kms` and kubectl on the search path. Both have the
    /// namespace of the cluster as the default one.
    pub fn shell(&self, line: &str, folder: &Path) -> Ran {
        let kms: PathBuf = servers::setting(servers::KMS).expect("run under cargo xtask test");
        let programs = kms.parent().expect("a folder").display().to_string();
        let output = Command::new("sh")
            .args(["-e", "-c", &format!("PATH=\"$0:$PATH\"\n{line}"), &programs])
            .current_dir(folder)
            .env("KUBECONFIG", self.kubeconfig(ADMIN))
            .env("HOME", folder)
            .output()
            .expect("a shell");
        Ran::of(&output)
    }

    /// Runs kubectl as the administrator, which has to succeed, and returns what it prints.
    pub fn kubectl(&self, args: &str) -> String {
        self.shell(&format!("kubectl {args}"), self.folder.path()).want(0).stdout
    }

    /// Sets `security.keyRotation.enabled` of the CephCluster.
    pub async fn set_key_rotation(&self, enabled: bool) {
        let change = json!({"spec": {"security": {"keyRotation": {"enabled": enabled}}}});
        self.patch("ceph.rook.io/v1", "cephclusters/rook-ceph", &change).await;
    }

    /// Changes fields of an object as the administrator.
    pub async fn patch(&self, group: &str, resource: &str, change: &Value) {
        let path = format!("/apis/{group}/namespaces/{}/{resource}", self.place.name());
        let patch = Some(("application/merge-patch+json", change.to_string()));
        self.kube.http().send_as("PATCH", &path, patch).await.expect("an answer").ok().expect("a change");
    }

    /// The names of the CronJobs.
    pub async fn cron_jobs(&self) -> Vec<String> {
        let list = self.call("GET", "batch/v1", "cronjobs", Value::Null).await;
        let names = list["items"].as_array().expect("items").iter();
        names.map(|job| job["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// Runs the container of a CronJob as the kubelet would, as [`run_job`](Self::run_job) does.
    pub async fn run_container(&self, program: &str, cron_job: &str, token: &str, devices: &Path) -> Ran {
        let job = self.call("GET", "batch/v1", &format!("cronjobs/{cron_job}"), Value::Null).await;
        self.run_job(program, &job["spec"]["jobTemplate"], token, devices).await
    }

    /// Runs the container of a Job, or of the template of one, as the kubelet would: with its command, arguments and
    /// environment, and with the folder `devices` in place of the OSD's mounted folder. The container finds its account
    /// through a kubeconfig, and has `program` as `kms`.
    pub async fn run_job(&self, program: &str, job: &Value, token: &str, devices: &Path) -> Ran {
        let container = &job["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["command"], json!(["kms"]));
        let mount = container["volumeMounts"].as_array().expect("mounts").iter();
        let inside = mount.clone().find(|mount| mount["name"] == "bridge").expect("the devices");
        let inside = inside["mountPath"].as_str().expect("a path");
        let mut kms = Kms::new().program(program).env("KUBECONFIG", &self.kubeconfig(token));
        for var in container["env"].as_array().expect("variables") {
            if let Some(mut value) = self.value(var).await {
                if var["name"] == json!("KMS_REPORT_FILE") {
                    // A file of the kubelet, which this host may have too.
                    value = devices.join("termination-log").display().to_string();
                }
                kms = kms.env(var["name"].as_str().expect("a name"), &value);
            }
        }
        let outside = format!("{}/", devices.display());
        let args: Vec<String> = container["args"]
            .as_array()
            .expect("arguments")
            .iter()
            .map(|arg| arg.as_str().expect("text").replace(inside, &outside))
            .collect();
        kms.run(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The value of an environment variable, from the object to which the variable refers.
    async fn value(&self, var: &Value) -> Option<String> {
        let Some(from) = var.get("valueFrom") else {
            return Some(var["value"].as_str().unwrap_or_default().to_owned());
        };
        if let Some(secret) = from.get("secretKeyRef") {
            // There are no monitors in this cluster, and the program does not need them.
            let path = self.place.path(&format!("secrets/{}", secret["name"].as_str()?));
            let found = self.place.request("GET", &path, Value::Null).await.expect("an answer").ok().ok()?;
            let text = found["data"][secret["key"].as_str()?].as_str()?.to_owned();
            let bytes =
                base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).expect("base64");
            return Some(String::from_utf8(bytes).expect("text"));
        }
        from.get("fieldRef").map(|_| "127.0.0.1".to_owned())
    }
}

/// The Deployment of an encrypted OSD on a Vault, as Rook's operator creates it from these settings.
pub fn osd_on_vault(kube_namespace: &str, id: usize, pvc: &str, settings: &[(&str, &str)]) -> Value {
    let mut osd = fixture("vault-token", "osd-deployment.json");
    move_to(&mut osd, kube_namespace);
    rename(&mut osd, id, pvc);
    let containers = osd["spec"]["template"]["spec"]["initContainers"].as_array_mut().expect("containers");
    for container in containers.iter_mut().filter(|container| container["name"] == "encryption-kms-get-kek") {
        let variables = container["env"].as_array_mut().expect("variables");
        variables.retain(|var| {
            !var["name"].as_str().is_some_and(|name| name.starts_with("VAULT_") && name != "VAULT_TOKEN")
        });
        variables.extend(settings.iter().map(|(name, value)| json!({"name": name, "value": value})));
    }
    osd
}

/// Gives the OSD 1 of the fixtures another number and another PVC.
pub fn rename(value: &mut Value, id: usize, pvc: &str) {
    match value {
        Value::Object(fields) => {
            // The divisor of a resource is no number of an OSD.
            fields
                .iter_mut()
                .filter(|(name, _)| *name != "divisor")
                .for_each(|(_, value)| rename(value, id, pvc));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| rename(value, id, pvc)),
        Value::String(text) if text == "1" => *text = id.to_string(),
        Value::String(text) if text == "ceph-1" => *text = format!("ceph-{id}"),
        Value::String(text) => {
            *text = text
                .replace("set1-data-0b7dwll", pvc)
                .replace("ceph-osd-1", &format!("ceph-osd-{id}"))
                .replace("osd/ceph-1", &format!("osd/ceph-{id}"));
        }
        _ => {}
    }
}

/// Moves an object of the fixtures to another namespace.
pub fn move_to(value: &mut Value, kube_namespace: &str) {
    match value {
        Value::Object(fields) => {
            let is_namespace = fields.get("name").is_some_and(|name| name == "POD_NAMESPACE");
            for (name, value) in fields {
                if matches!(name.as_str(), "namespace" | "rook_cluster") || (is_namespace && name == "value")
                {
                    *value = Value::from(kube_namespace);
                } else {
                    move_to(value, kube_namespace);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| move_to(value, kube_namespace)),
        _ => {}
    }
}
