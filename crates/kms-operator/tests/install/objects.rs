//! The objects of an installation.

use k8s_openapi::{Resource, api::rbac::v1::ClusterRole};
use kms_operator::{
    Rights,
    api::{GROUP, KeyPolicy, OsdKey},
    rights,
};
use kube::CustomResourceExt as _;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    rules::rules,
    settings::{IMAGE, MONITORING, fragment, reference},
};

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
    let rights = rights(NAME, PLACE, &[WATCHED]);
    vec![
        only_if("crds.enabled", "crds.yaml", definitions()),
        file("account.yaml", account(&rights)),
        File { for_each: true, ..file("watched-rights.yaml", watched(&rights)) },
        file("deployment.yaml", vec![deployment()]),
        file("service.yaml", vec![service()]),
        only_if("podDisruptionBudget.enabled", "pod-disruption-budget.yaml", vec![disruption_budget()]),
        only_if("networkPolicy.enabled", "network-policy.yaml", vec![network_policy()]),
        only_if(MONITORING, "rules.yaml", vec![selected(rules())]),
        only_if(MONITORING, "service-monitor.yaml", vec![selected(service_monitor())]),
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

/// An object with its version and kind.
fn object<K: Resource + Serialize>(object: &K) -> Value {
    let mut value = serde_json::to_value(object).unwrap();
    value["apiVersion"] = Value::from(K::API_VERSION);
    value["kind"] = Value::from(K::KIND);
    value
}

/// The account, with the rights outside of the namespaces that the operator watches.
fn account(
    Rights { account, cluster_role, cluster_binding, lease_role, lease_binding, .. }: &Rights,
) -> Vec<Value> {
    // Readers of a namespace see the state of its keys.
    let view = json!({
        "apiVersion": ClusterRole::API_VERSION,
        "kind": ClusterRole::KIND,
        "metadata": {
            "name": format!("{NAME}.{PLACE}-view"),
            "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"},
        },
        "rules": [{"apiGroups": [GROUP], "resources": ["keypolicies", "osdkeys"], "verbs": ["get", "list", "watch"]}],
    });
    vec![
        object(account),
        object(cluster_role),
        object(cluster_binding),
        object(lease_role),
        object(lease_binding),
        view,
    ]
}

/// The rights in one watched namespace.
fn watched(rights: &Rights) -> Vec<Value> {
    rights.watched.iter().flat_map(|(role, binding)| [object(role), object(binding)]).collect()
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
            "args": ["operator", "--log-format=json", format!("--listen=[::]:{PORT}"), fragment("arguments")],
            // What it begins and ends, and no requests.
            "env": [{"name": "RUST_LOG", "value": "warn,kms_operator=info"}],
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

/// What Prometheus scrapes, as the Prometheus Operator wants it.
fn service_monitor() -> Value {
    json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "spec": {
            "selector": {"matchLabels": labels()},
            "endpoints": [{
                "port": "http",
                "path": "/metrics",
                // The namespace of a series is that of the OSD.
                "honorLabels": true,
                "bearerTokenFile": fragment("scraperToken"),
                "scheme": fragment("scraperTls"),
            }],
        },
    })
}

/// An object that a Prometheus selects by its labels.
fn selected(mut object: Value) -> Value {
    object["metadata"] = placed();
    object["metadata"]["labels"]["more"] = fragment("selectedBy");
    object
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
