//! The objects of an installation.

use kms_operator::api::{KeyPolicy, OsdKey};
use kube::CustomResourceExt as _;
use serde_json::{Value, json};

use crate::settings::{IMAGE, fragment, reference};

/// The name of each object.
const NAME: &str = "kms-operator";

/// The namespace in the files for kustomize: Rook's own.
pub(crate) const NAMESPACE: &str = "rook-ceph";

/// The namespace in the objects here.
pub(crate) const PLACE: &str = "__namespace";

/// A namespace with CephClusters, in the objects that each of them has.
pub(crate) const WATCHED: &str = "__watched";

/// The port of metrics, of the page and of the probes.
const PORT: u16 = 8080;

/// The user of the image, which is not root.
const USER: u32 = 65532;

/// Objects that stand in one file.
pub(crate) struct File {
    pub(crate) name: &'static str,
    /// The setting that the file depends on.
    pub(crate) wanted: Option<&'static str>,
    /// Whether each watched namespace has them.
    pub(crate) for_each: bool,
    pub(crate) objects: Vec<Value>,
}

pub(crate) fn files() -> Vec<File> {
    let file = |name, objects| File { name, wanted: None, for_each: false, objects };
    let only_if = |wanted, name, objects| File { name, wanted: Some(wanted), for_each: false, objects };
    vec![
        only_if("crds.enabled", "crds.yaml", definitions()),
        file("account.yaml", vec![account()]),
        file("rights.yaml", rights()),
        File { for_each: true, ..file("watched-rights.yaml", watched_rights()) },
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

/// The group of Roles and ClusterRoles.
const RBAC: &str = "rbac.authorization.k8s.io";

fn rule(group: &str, resource: &str, verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": [resource], "verbs": verbs})
}

/// Rules by the name `name`, in a namespace or in all, and what gives them to the operator.
fn granted(name: &str, place: Option<&str>, rules: &[Value]) -> [Value; 2] {
    let kind = if place.is_some() { "Role" } else { "ClusterRole" };
    let mut metadata = json!({"name": name});
    if let Some(place) = place {
        metadata["namespace"] = Value::from(place);
    }
    let role =
        json!({"apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": metadata, "rules": rules});
    [role, binding(name, place, kind, name)]
}

/// Gives the role `role` to the operator.
fn binding(name: &str, place: Option<&str>, kind: &str, role: &str) -> Value {
    let mut metadata = json!({"name": name});
    if let Some(place) = place {
        metadata["namespace"] = Value::from(place);
    }
    json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": if place.is_some() { "RoleBinding" } else { "ClusterRoleBinding" },
        "metadata": metadata,
        "roleRef": {"apiGroup": RBAC, "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": PLACE}],
    })
}

/// What the operator may do with objects of no namespace, and in its own: to hold the Lease of the replica that works, and
/// to ask who looks at its page.
fn rights() -> Vec<Value> {
    let everywhere = format!("{NAME}.{PLACE}");
    let cluster =
        [rule("kms.ceph.rook.io", "keypolicies", &["list", "watch"]), rule("", "nodes", &["list", "watch"])];
    let mut hold = rule("coordination.k8s.io", "leases", &["get", "update"]);
    hold["resourceNames"] = json!([NAME]);
    let lease = [rule("coordination.k8s.io", "leases", &["create"]), hold];
    let mut rights = Vec::from(granted(&everywhere, None, &cluster));
    rights.extend(granted(&format!("{NAME}-lease"), Some(PLACE), &lease));
    rights.push(binding(&format!("{everywhere}-page"), None, "ClusterRole", "system:auth-delegator"));
    // Readers of a namespace see the state of its keys.
    rights.push(json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": "ClusterRole",
        "metadata": {
            "name": format!("{everywhere}-view"),
            "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"},
        },
        "rules": [
            rule("kms.ceph.rook.io", "osdkeys", &["get", "list", "watch"]),
            rule("kms.ceph.rook.io", "keypolicies", &["get", "list", "watch"]),
        ],
    }));
    rights
}

/// What the operator may do in a namespace with CephClusters. It reads no Secret and changes no object but its own.
fn watched_rights() -> Vec<Value> {
    let rules = [
        rule("ceph.rook.io", "cephclusters", &["list", "watch"]),
        rule("apps", "deployments", &["get", "list", "watch"]),
        rule("", "pods", &["list", "watch"]),
        rule("batch", "jobs", &["create", "delete", "list", "watch"]),
        rule("batch", "cronjobs", &["delete", "list", "watch"]),
        rule("kms.ceph.rook.io", "osdkeys", &["create", "delete", "list", "patch", "watch"]),
        rule("kms.ceph.rook.io", "osdkeys/status", &["patch"]),
        rule("events.k8s.io", "events", &["create"]),
    ];
    granted(NAME, Some(WATCHED), &rules).into()
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
    let probe = |path: &str| {
        json!({"httpGet": {"path": path, "port": "http", "scheme": fragment("scheme")}, "periodSeconds": 10,
               "timeoutSeconds": 5})
    };
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
        "volumes": fragment("volumes"),
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
            "args": ["operator", format!("--listen=[::]:{PORT}"), fragment("arguments")],
            "ports": [{"name": "http", "containerPort": PORT}],
            "livenessProbe": probe("/livez"),
            "readinessProbe": probe("/readyz"),
            "resources": reference("resources"),
            "volumeMounts": fragment("volumeMounts"),
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
