//! The objects of an installation.

use kms_operator::api::{KeyPolicy, OsdKey};
use kube::CustomResourceExt as _;
use serde_json::{Value, json};

use crate::settings::{IMAGE, reference};

/// The name of each object.
const NAME: &str = "kms-operator";

/// The namespace in the files for kustomize: Rook's own.
pub(crate) const NAMESPACE: &str = "rook-ceph";

/// The namespace in the objects here.
pub(crate) const PLACE: &str = "__namespace";

/// The port of metrics, of the page and of the probes.
const PORT: u16 = 8080;

/// The user of the image, which is not root.
const USER: u32 = 65532;

/// Objects that stand in one file.
pub(crate) struct File {
    pub(crate) name: &'static str,
    /// The setting that the file depends on.
    pub(crate) wanted: Option<&'static str>,
    pub(crate) objects: Vec<Value>,
}

pub(crate) fn files() -> Vec<File> {
    let file = |name, objects| File { name, wanted: None, objects };
    let only_if = |wanted, name, objects| File { name, wanted: Some(wanted), objects };
    vec![
        only_if("crds.enabled", "crds.yaml", definitions()),
        file("account.yaml", vec![account()]),
        file("rights.yaml", rights()),
        file("deployment.yaml", vec![deployment()]),
        file("service.yaml", vec![service()]),
        only_if("podDisruptionBudget.enabled", "pod-disruption-budget.yaml", vec![disruption_budget()]),
        only_if("networkPolicy.enabled", "network-policy.yaml", vec![network_policy()]),
    ]
}

/// The CustomResourceDefinitions.
fn definitions() -> Vec<Value> {
    [OsdKey::crd(), KeyPolicy::crd()].map(|crd| whole_numbers(serde_json::to_value(crd).unwrap())).into()
}

/// Writes `1` for `1.0`. The bounds in a schema are fractions to k8s-openapi, and kustomize would rewrite them.
fn whole_numbers(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(whole_numbers).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, whole_numbers(value))).collect()
        }
        Value::Number(number) if number.is_f64() && number.to_string().ends_with(".0") => {
            number.to_string().trim_end_matches(".0").parse().unwrap()
        }
        other => other,
    }
}

fn labels() -> Value {
    json!({"app.kubernetes.io/name": NAME})
}

fn placed() -> Value {
    json!({"name": NAME, "namespace": PLACE, "labels": labels()})
}

fn account() -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": placed()})
}

/// What the operator may do in all namespaces. It reads no Secret and changes no object but its own.
fn rules() -> Value {
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    json!([
        rule("ceph.rook.io", &["cephclusters"], &["get", "list", "watch"]),
        rule("apps", &["deployments"], &["get", "list", "watch"]),
        rule("", &["nodes"], &["get", "list", "watch"]),
        rule("batch", &["jobs"], &["get", "list", "watch", "create", "delete"]),
        rule("batch", &["cronjobs"], &["list", "delete"]),
        rule("kms.ceph.rook.io", &["keypolicies"], &["get", "list", "watch"]),
        rule("kms.ceph.rook.io", &["osdkeys"], &["get", "list", "watch", "create", "patch", "delete"]),
        rule("kms.ceph.rook.io", &["osdkeys/status"], &["patch"]),
        rule("events.k8s.io", &["events"], &["create"]),
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        rule("authorization.k8s.io", &["subjectaccessreviews"], &["create"]),
    ])
}

/// What it may do in its own namespace: to hold the Lease of the replica that works.
fn rules_here() -> Value {
    json!([
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": [NAME],
         "verbs": ["get", "update"]},
    ])
}

fn rights() -> Vec<Value> {
    let rbac = "rbac.authorization.k8s.io";
    let version = format!("{rbac}/v1");
    let everywhere = json!({"name": NAME, "labels": labels()});
    let subjects = json!([{"kind": "ServiceAccount", "name": NAME, "namespace": PLACE}]);
    let binding = |kind: &str, metadata: &Value, of: &str| {
        json!({"apiVersion": version, "kind": kind, "metadata": metadata, "subjects": subjects,
               "roleRef": {"apiGroup": rbac, "kind": of, "name": NAME}})
    };
    vec![
        json!({"apiVersion": version, "kind": "ClusterRole", "metadata": everywhere, "rules": rules()}),
        binding("ClusterRoleBinding", &everywhere, "ClusterRole"),
        json!({"apiVersion": version, "kind": "Role", "metadata": placed(), "rules": rules_here()}),
        binding("RoleBinding", &placed(), "Role"),
        // Readers of a namespace see the state of its keys.
        json!({
            "apiVersion": version,
            "kind": "ClusterRole",
            "metadata": {
                "name": format!("{NAME}-view"),
                "labels": {
                    "app.kubernetes.io/name": NAME,
                    "rbac.authorization.k8s.io/aggregate-to-view": "true",
                },
            },
            "rules": [{"apiGroups": ["kms.ceph.rook.io"], "resources": ["keypolicies", "osdkeys"],
                       "verbs": ["get", "list", "watch"]}],
        }),
    ]
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": placed(),
        "spec": {
            "replicas": reference("replicas"),
            "selector": {"matchLabels": labels()},
            "template": {
                "metadata": {"labels": labels(), "annotations": reference("podAnnotations")},
                "spec": pod(),
            },
        },
    })
}

/// The pod, as the Pod Security Standard `restricted` wants it.
fn pod() -> Value {
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": 10, "timeoutSeconds": 5});
    let spread = |label: &str| {
        json!({"labelSelector": {"matchLabels": labels()}, "maxSkew": 1, "topologyKey": label,
               "whenUnsatisfiable": "ScheduleAnyway"})
    };
    json!({
        "serviceAccountName": NAME,
        "imagePullSecrets": reference("imagePullSecrets"),
        "nodeSelector": reference("nodeSelector"),
        "tolerations": reference("tolerations"),
        "affinity": reference("affinity"),
        "topologySpreadConstraints": [spread("kubernetes.io/hostname"), spread("topology.kubernetes.io/zone")],
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{
            "name": "kms",
            "image": reference(IMAGE),
            "imagePullPolicy": reference("imagePullPolicy"),
            // The pod names the program, so that a wrong image fails at once.
            "command": ["kms"],
            "args": ["operator", format!("--listen=[::]:{PORT}")],
            "env": [field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace")],
            "ports": [{"name": "http", "containerPort": PORT}],
            "livenessProbe": probe("/livez"),
            "readinessProbe": probe("/readyz"),
            "resources": reference("resources"),
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": true,
            },
        }],
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": placed(),
        "spec": {"selector": labels(), "ports": [{"name": "http", "port": PORT, "targetPort": "http"}]},
    })
}

fn disruption_budget() -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": placed(),
        // With one replica or none, a drain would wait for ever if one had to be available.
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels()}},
    })
}

fn network_policy() -> Value {
    let dns = |protocol: &str| json!({"port": 53, "protocol": protocol});
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": placed(),
        "spec": {
            "podSelector": {"matchLabels": labels()},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{
                "ports": [{"port": "http", "protocol": "TCP"}],
                "from": reference("networkPolicy.from"),
            }],
            "egress": [
                {"ports": [dns("UDP"), dns("TCP")]},
                // The API server has no pods that a policy could name.
                {"ports": reference("networkPolicy.apiServerPorts")},
            ],
        },
    })
}
