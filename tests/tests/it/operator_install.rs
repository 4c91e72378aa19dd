//! What people install the operator with: the kustomize base and the Helm chart, rendered by the code of kustomize and Helm,
//! and taken by a real API server.

use std::{fs, path::Path, process::Command};

use kms_testkit::servers;
use kms_tests::rook::{Cluster, deployed, fixture};
use serde_json::{Value, json};
use tempfile::TempDir;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
const IMAGE: &str = "mirror.example.com/kms:v9";
const DEFINITIONS: &str = "CustomResourceDefinition";

/// Runs the program with the code of Helm and kustomize. Returns what it prints, or its error.
fn go(args: &[&str]) -> Result<String, String> {
    let output = Command::new(servers::setting("KMS_IT_GO_INSTALL").unwrap()).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// The objects that the program prints.
fn rendered(args: &[&str]) -> Result<Vec<Value>, String> {
    let text = go(args)?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let mut objects: Vec<Value> = objects.into_iter().filter(|object| !object.is_null()).collect();
    objects.sort_by_key(|object| format!("{} {}", object["kind"], object["metadata"]));
    Ok(objects)
}

/// The objects of the chart with these values.
fn chart(kube_namespace: &str, values: &Value) -> Result<Vec<Value>, String> {
    rendered(&["helm", &format!("{DEPLOY}/helm/kms-operator"), kube_namespace, &values.to_string()])
}

fn page() -> String {
    fs::read_to_string(Path::new(DEPLOY).join("README.md")).unwrap()
}

/// The text of a file that the page shows.
fn shown<'a>(page: &'a str, file: &str) -> &'a str {
    let behind = page.split(&format!("```yaml\n# {file}\n")).nth(1).unwrap_or_else(|| panic!("no {file}"));
    behind.split("```").next().unwrap_or_default()
}

/// The objects of an overlay on the base, as `deploy/README.md` shows it, for this namespace and with [`IMAGE`].
fn overlay(kube_namespace: &str) -> Vec<Value> {
    overlay_with(kube_namespace, "")
}

/// The same, with this line in the overlay.
fn overlay_with(kube_namespace: &str, line: &str) -> Vec<Value> {
    let folder = TempDir::new().unwrap();
    for part in ["kustomize/base", "monitoring"] {
        let place = folder.path().join("deploy").join(part);
        fs::create_dir_all(&place).unwrap();
        for entry in fs::read_dir(Path::new(DEPLOY).join(part)).unwrap() {
            let from = entry.unwrap().path();
            fs::copy(&from, place.join(from.file_name().unwrap())).unwrap();
        }
    }
    let page = page();
    let text = (shown(&page, "mine/kustomization.yaml").to_owned() + line)
        .replace("namespace: rook-ceph", &format!("namespace: {kube_namespace}"))
        .replace("newName: registry.example.com/kms", "newName: mirror.example.com/kms")
        .replace("newTag: v0.1.0", "newTag: v9");
    let mine = folder.path().join("mine");
    fs::create_dir(&mine).unwrap();
    fs::write(mine.join("kustomization.yaml"), text).unwrap();
    rendered(&["kustomize", mine.to_str().unwrap()]).unwrap()
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// The line of an overlay that adds monitoring, as the page about it shows it.
fn component() -> String {
    let page = fs::read_to_string(Path::new(DEPLOY).join("monitoring/README.md")).unwrap();
    shown(&page, "mine/kustomization.yaml").to_owned()
}

/// Whether the Prometheus Operator defines the kind of this object.
fn is_of_prometheus(object: &Value) -> bool {
    object["apiVersion"].as_str().unwrap().starts_with("monitoring.coreos.com/")
}

/// Compares one object after another, so that a failure shows one alone.
fn same(ours: &[Value], others: &[Value]) {
    let names = |objects: &[Value]| -> Vec<String> {
        objects.iter().map(|object| format!("{} {}", object["kind"], object["metadata"]["name"])).collect()
    };
    assert_eq!(names(ours), names(others));
    for (one, other) in ours.iter().zip(others) {
        assert_eq!(one, other);
    }
}

/// All values of the chart, none of them the default.
fn every_value() -> Value {
    json!({
        "image": IMAGE,
        "imagePullPolicy": "Always",
        "namespaces": ["rook-ceph", "other"],
        "imagePullSecrets": [{"name": "registry"}],
        "replicas": 3,
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}]},
        ]}}},
        "podAnnotations": {"example.com/note": "12", "example.com/other": "x: y"},
        "page": {"auth": false, "tlsSecret": "operator-tls"},
        "monitoring": {"enabled": true, "labels": {"release": "prometheus"}, "tlsConfig": {"serverName": "operator.example"}},
        "crds": {"enabled": true, "keep": false},
        "podDisruptionBudget": {"enabled": false},
        "networkPolicy": {
            "enabled": true,
            "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
            "apiServerPorts": [{"port": 8443, "protocol": "TCP"}],
        },
    })
}

#[test]
#[ignore = "needs Helm's and kustomize's libraries: cargo xtask it operator"]
fn the_chart_and_the_base_have_the_same_objects() {
    let base = overlay("rook-ceph");
    let kept = chart("rook-ceph", &json!({"image": IMAGE})).unwrap();
    let chosen = chart("rook-ceph", &json!({"image": IMAGE, "crds": {"keep": false}})).unwrap();
    same(&chosen, &base);
    let definitions = |objects: &[Value]| -> Vec<Value> {
        objects.iter().filter(|object| object["kind"] == DEFINITIONS).cloned().collect()
    };
    assert_eq!(definitions(&base).len(), 2);
    let mut changed = base.clone();
    for object in changed.iter_mut().filter(|object| object["kind"] == DEFINITIONS) {
        object["metadata"]["annotations"] = json!({"helm.sh/resource-policy": "keep"});
    }
    same(&kept, &changed);
    let without = chart("rook-ceph", &json!({"image": IMAGE, "crds": {"enabled": false}})).unwrap();
    changed.retain(|object| object["kind"] != DEFINITIONS);
    same(&without, &changed);
    let monitored = overlay_with("rook-ceph", &component());
    let values = json!({"image": IMAGE, "crds": {"keep": false}, "monitoring": {"enabled": true}});
    same(&chart("rook-ceph", &values).unwrap(), &monitored);
    assert_eq!(monitored.iter().filter(|object| is_of_prometheus(object)).count(), 2);
    assert!(!base.iter().any(is_of_prometheus));
    // An overlay moves everything, also the subjects of bindings. Names of cluster-wide objects stay, and are unique.
    for object in overlay_with("storage", &component()) {
        let place = &object["metadata"]["namespace"];
        assert!(place.is_null() || place == "storage", "{object}");
        for subject in object["subjects"].as_array().into_iter().flatten() {
            assert_eq!(subject["namespace"], "storage", "{object}");
        }
    }
}

#[test]
#[ignore = "needs Helm's and kustomize's libraries: cargo xtask it operator"]
fn each_value_of_the_chart_has_its_effect_and_wrong_ones_are_refused() {
    let values = every_value();
    let objects = chart("storage", &values).unwrap();
    let deployment = &find(&objects, "Deployment", "kms-operator")["spec"];
    let pod = &deployment["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(deployment["replicas"], values["replicas"]);
    assert_eq!(deployment["template"]["metadata"]["annotations"], values["podAnnotations"]);
    for field in ["imagePullSecrets", "nodeSelector", "tolerations", "affinity"] {
        assert_eq!(pod[field], values[field], "{field}");
    }
    for field in ["image", "imagePullPolicy", "resources"] {
        assert_eq!(container[field], values[field], "{field}");
    }
    assert_eq!(
        container["args"].as_array().unwrap().iter().skip(3).collect::<Vec<_>>(),
        [
            "--watch-namespace=rook-ceph",
            "--watch-namespace=other",
            "--page-auth=off",
            "--listen-certificate=/etc/kms/tls/tls.crt",
            "--listen-key=/etc/kms/tls/tls.key",
        ]
    );
    assert_eq!(pod["volumes"][0]["secret"]["secretName"], "operator-tls");
    assert_eq!(container["volumeMounts"][0]["mountPath"], "/etc/kms/tls");
    for probe in ["livenessProbe", "readinessProbe"] {
        assert_eq!(container[probe]["httpGet"]["scheme"], "HTTPS", "{probe}");
    }
    let watched = objects.iter().filter(|object| {
        ["Role", "RoleBinding"].map(Value::from).contains(&object["kind"])
            && object["metadata"]["name"] == "kms-operator"
    });
    let mut places: Vec<&str> = watched.map(|role| role["metadata"]["namespace"].as_str().unwrap()).collect();
    places.sort_unstable();
    assert_eq!(places, ["other", "other", "rook-ceph", "rook-ceph"]);
    let policy = &find(&objects, "NetworkPolicy", "kms-operator")["spec"];
    assert_eq!(policy["ingress"][0]["from"], values["networkPolicy"]["from"]);
    assert_eq!(policy["egress"][1]["ports"], values["networkPolicy"]["apiServerPorts"]);
    assert!(!objects.iter().any(|object| object["kind"] == "PodDisruptionBudget"));
    for kind in ["PrometheusRule", "ServiceMonitor"] {
        let object = find(&objects, kind, "kms-operator");
        let labels = json!({"app.kubernetes.io/name": "kms-operator", "release": "prometheus"});
        assert_eq!(object["metadata"]["labels"], labels, "{kind}");
        go(&["monitoring", &object.to_string()]).unwrap();
    }
    let scraped = json!([{
        "port": "http", "path": "/metrics", "honorLabels": true, "scheme": "https",
        "tlsConfig": values["monitoring"]["tlsConfig"],
    }]);
    assert_eq!(find(&objects, "ServiceMonitor", "kms-operator")["spec"]["endpoints"], scraped);
    let secured =
        json!({"image": IMAGE, "monitoring": {"enabled": true}, "page": {"tlsSecret": "operator-tls"}});
    let secured = chart("storage", &secured).unwrap();
    let monitor = find(&secured, "ServiceMonitor", "kms-operator");
    go(&["monitoring", &monitor.to_string()]).unwrap();
    let endpoint = &monitor["spec"]["endpoints"][0];
    let ca = json!({"secret": {"name": "operator-tls", "key": "ca.crt"}});
    assert_eq!(endpoint["tlsConfig"], json!({"ca": ca, "serverName": "kms-operator.storage.svc"}));
    assert_eq!(endpoint["bearerTokenFile"], "/var/run/secrets/kubernetes.io/serviceaccount/token");
    // The program with Prometheus' types refuses what it does not know.
    let mut misspelt = monitor.clone();
    misspelt["spec"]["endpoints"][0]["honourLabels"] = json!(true);
    assert!(go(&["monitoring", &misspelt.to_string()]).unwrap_err().contains("honourLabels"));
    assert!(find(&objects, DEFINITIONS, "osdkeys.kms.ceph.rook.io")["metadata"]["annotations"].is_null());

    for (values, wanted) in [
        (json!({}), "set image: it has no default"),
        (json!({"image": IMAGE, "replica": 1}), "replica"),
        (json!({"image": IMAGE, "replicas": "2"}), "replicas"),
        (json!({"image": IMAGE, "crds": {"enable": true}}), "crds"),
        (json!({"image": IMAGE, "networkPolicy": {"apiServerPorts": []}}), "apiServerPorts"),
    ] {
        let error = chart("storage", &values).unwrap_err();
        assert!(error.contains(wanted), "{values}: {error}");
    }
}

#[test]
#[ignore = "needs Argo CD's interpreter of Lua: cargo xtask it operator"]
fn argo_cd_shows_the_state_of_a_key_and_of_a_policy() {
    let scripts = &deployed("argocd-health.yaml")[0]["data"];
    let health = |kind: &str, object: &Value| {
        let script = &scripts[format!("resource.customizations.health.kms.ceph.rook.io_{kind}")];
        go(&["health", script.as_str().unwrap(), &object.to_string()]).unwrap()
    };
    let ready = |status: &str| {
        let rotating = json!({"type": "Rotating", "status": "True", "reason": "Job", "message": "x"});
        let ready = json!({"type": "Ready", "status": status, "reason": "Why", "message": "a sentence"});
        health("OsdKey", &json!({"spec": {}, "status": {"conditions": [rotating, ready]}}))
    };
    assert_eq!(ready("True"), "Healthy Why: a sentence\n");
    assert_eq!(ready("False"), "Degraded Why: a sentence\n");
    assert_eq!(ready("Unknown"), "Progressing Why: a sentence\n");
    let unseen = "Progressing the operator has not seen it yet\n";
    assert_eq!(health("OsdKey", &json!({"spec": {}})), unseen);
    assert_eq!(health("OsdKey", &json!({"spec": {}, "status": {"conditions": []}})), unseen);
    assert_eq!(
        health("KeyPolicy", &json!({"spec": {"paused": true}})),
        "Suspended the operator makes no Jobs\n"
    );
    assert_eq!(health("KeyPolicy", &json!({"spec": {"paused": false}})), "Healthy \n");
}

/// A cluster whose API server knows our resources, and a folder for files.
struct Site {
    cluster: Cluster,
    folder: TempDir,
}

impl Site {
    async fn new() -> Self {
        let cluster = Cluster::bare(fixture("vault-tls", "security.json")).await;
        let site = Self { cluster, folder: TempDir::new().unwrap() };
        let objects = overlay(site.cluster.place.name());
        let definitions: Vec<Value> =
            objects.into_iter().filter(|object| object["kind"] == DEFINITIONS).collect();
        site.kubectl("apply --server-side --force-conflicts -f", &definitions).unwrap();
        for definition in &definitions {
            let name = definition["metadata"]["name"].as_str().unwrap();
            site.kubectl(&format!("wait --for condition=established crd/{name}"), &[]).unwrap();
        }
        site
    }

    /// Runs kubectl, with the objects in a file as the last argument if there are any. Returns what it prints.
    fn kubectl(&self, args: &str, objects: &[Value]) -> Result<String, String> {
        let mut line = format!("kubectl {args}");
        if !objects.is_empty() {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
            fs::write(self.folder.path().join("objects.json"), list.to_string()).unwrap();
            line.push_str(" objects.json");
        }
        let ran = self.cluster.shell(&line, self.folder.path());
        if ran.code == 0 { Ok(ran.stdout) } else { Err(ran.stderr) }
    }
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server, kubectl, Helm's and kustomize's libraries: cargo xtask it operator"]
async fn the_api_server_takes_every_object_and_the_pod_meets_the_restricted_standard() {
    let site = Site::new().await;
    let place = site.cluster.place.name();
    let base = overlay(place);
    let mut without_definitions = every_value();
    without_definitions["namespaces"] = json!([place]);
    without_definitions["crds"]["enabled"] = json!(false);
    without_definitions["monitoring"]["enabled"] = json!(false);
    for objects in [
        base.clone(),
        chart(place, &json!({"image": IMAGE})).unwrap(),
        chart(place, &without_definitions).unwrap(),
    ] {
        // With the manager that owns the definitions. Fields that the API server does not know are errors.
        let said =
            site.kubectl("apply --server-side --force-conflicts --dry-run=server -f", &objects).unwrap();
        assert_eq!(said.matches("serverside-applied (server dry run)").count(), objects.len(), "{said}");
    }
    monitoring_is_refused_alone_where_prometheus_is_absent(&site, overlay_with(place, &component())).await;
    let mut misspelt = find(&base, "Deployment", "kms-operator").clone();
    misspelt["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = json!({});
    let error = site.kubectl("apply --server-side --dry-run=server -f", &[misspelt]).unwrap_err();
    assert!(error.contains("livenesProbe"), "{error}");

    let label = "pod-security.kubernetes.io/enforce=restricted";
    site.kubectl(&format!("label namespace {place} {label}"), &[]).unwrap();
    site.kubectl("apply --server-side -f", &[find(&base, "ServiceAccount", "kms-operator").clone()]).unwrap();
    let template = &find(&base, "Deployment", "kms-operator")["spec"]["template"];
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", "namespace": place}});
    pod["spec"] = template["spec"].clone();
    site.kubectl("create --dry-run=server -f", &[pod.clone()]).unwrap();
    pod["spec"]["containers"][0]["securityContext"]["capabilities"] = json!({});
    let error = site.kubectl("create --dry-run=server -f", &[pod]).unwrap_err();
    assert!(error.contains("restricted") && error.contains("capabilities"), "{error}");
}

/// Without the definitions of the Prometheus Operator, the API server takes all but its objects; with them, everything.
async fn monitoring_is_refused_alone_where_prometheus_is_absent(site: &Site, objects: Vec<Value>) {
    const APPLY: &str = "apply --server-side --force-conflicts --dry-run=server -f";
    const KINDS: [(&str, &str); 2] =
        [("PrometheusRule", "prometheusrules"), ("ServiceMonitor", "servicemonitors")];
    let error = site.kubectl(APPLY, &objects).unwrap_err();
    for (kind, _) in KINDS {
        assert!(error.contains(&format!("no matches for kind \"{kind}\"")), "{error}");
    }
    let definitions = KINDS.map(|(kind, plural)| {
        let schema =
            json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": DEFINITIONS,
            "metadata": {"name": format!("{plural}.monitoring.coreos.com")},
            "spec": {
                "group": "monitoring.coreos.com", "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural, "singular": plural.trim_end_matches('s')},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
            },
        })
    });
    site.kubectl("apply --server-side -f", &definitions).unwrap();
    for (_, plural) in KINDS {
        site.kubectl(&format!("wait --for condition=established crd/{plural}.monitoring.coreos.com"), &[])
            .unwrap();
    }
    let said = site.kubectl(APPLY, &objects).unwrap();
    assert_eq!(said.matches("serverside-applied (server dry run)").count(), objects.len(), "{said}");
}

/// An `OsdKey` or a `KeyPolicy` with this spec.
fn resource(kind: &str, name: &str, spec: Value) -> Value {
    let mut object =
        json!({"apiVersion": "kms.ceph.rook.io/v1alpha1", "kind": kind, "metadata": {"name": name}});
    object["spec"] = spec;
    object
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server, kubectl, Helm's and kustomize's libraries: cargo xtask it operator"]
async fn the_api_server_checks_our_resources_and_shows_them_as_a_table() {
    let site = Site::new().await;
    let about = json!({"osd": 7, "cluster": "rook-ceph", "deployment": "rook-ceph-osd-7"});
    site.kubectl("create -f", &[resource("OsdKey", "set1-data-0", about.clone())]).unwrap();
    let state = json!({
        "provider": "vault", "rotatedAt": "2026-01-01T00:00:00Z", "nextRotationAt": "2026-12-06T02:00:00Z",
        "failedAttempts": 0,
        "conditions": [{"type": "Ready", "status": "True", "reason": "Fresh", "message": "", "observedGeneration": 1,
                        "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    });
    let path = format!(
        "/apis/kms.ceph.rook.io/v1alpha1/namespaces/{}/osdkeys/set1-data-0/status",
        site.cluster.place.name()
    );
    let set = async |status: Value| {
        let body = Some(("application/merge-patch+json", json!({"status": status}).to_string()));
        site.cluster.kube.http().send_as("PATCH", &path, body).await.unwrap()
    };
    set(state.clone()).await.ok().unwrap();
    let table = site.kubectl("get osdkeys", &[]).unwrap();
    let cells: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(cells[0], ["NAME", "OSD", "PROVIDER", "READY", "REASON", "KEY-AGE", "NEXT"]);
    assert_eq!(cells[1][..5], ["set1-data-0", "7", "vault", "True", "Fresh"]);
    assert_eq!(cells[1][6], "2026-12-06T02:00:00Z");
    assert!(cells[1][5].ends_with('d'), "{table}");

    // The lines of the page that need no installation, for this key and this namespace.
    let page = page();
    let section = page.split("\n## ").find(|section| section.starts_with("The operator\n")).unwrap();
    let lines = section.lines().filter(|line| line.starts_with("kubectl ") && line.contains("-n rook-ceph"));
    let lines: Vec<String> = lines
        .map(|line| line.replace("set1-data-0x7dwl", "set1-data-0"))
        .map(|line| line.replace("-n rook-ceph", &format!("-n {}", site.cluster.place.name())))
        .collect();
    assert_eq!(lines.len(), 6);
    for line in lines {
        let ran = site.cluster.shell(&line, site.folder.path());
        assert_eq!(ran.code, 0, "{line}: {}", ran.text());
    }

    let mut wrong = state.clone();
    wrong["conditions"][0]["type"] = json!("Happy");
    assert_eq!(set(wrong).await.status, 422);
    let mut wrong = state;
    wrong["rotatedAt"] = json!("yesterday");
    assert_eq!(set(wrong).await.status, 422);

    let policy: Value = serde_saphyr::from_str(shown(&page, "policy.yaml")).unwrap();
    // What the API server checks, not what kubectl checks before.
    let create = "create --dry-run=server --validate=false -f";
    site.kubectl(create, &[policy]).unwrap();
    let with = |name: &str, value: Value| {
        let mut spec = about.clone();
        spec[name] = value;
        resource("OsdKey", "set1-data-1", spec)
    };
    let policy = |spec: Value| resource("KeyPolicy", "all", spec);
    for (object, wanted) in [
        (with("osd", json!(-1)), "spec.osd"),
        (with("osd", Value::Null), "spec.osd"),
        (with("cluster", json!("")), "spec.cluster"),
        (with("deployment", json!("")), "spec.deployment"),
        (policy(json!({"maxParallel": 0})), "spec.maxParallel"),
        (policy(json!({"maxAge": "90 days"})), "spec.maxAge"),
        (policy(json!({"verify": {"maxAge": "59m"}})), "an hour or longer"),
        (policy(json!({"window": {"opens": "0 2 * * *"}})), "spec.window.duration"),
        (policy(json!({"window": {"opens": "", "duration": "4h"}})), "spec.window.opens"),
    ] {
        let error = site.kubectl(create, std::slice::from_ref(&object)).unwrap_err();
        assert!(error.contains(wanted), "{object}: {error}");
    }
}
