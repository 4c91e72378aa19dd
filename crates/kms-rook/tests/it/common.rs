//! Objects that Rook's own operator printed for seven `security` blocks; see `fixtures/rook/README.md`.

#![cfg_attr(not(feature = "client"), allow(dead_code, reason = "the tests with a client use the rest"))]

use std::path::PathBuf;

use k8s_openapi::api::apps::v1::Deployment;
use kms_core::SecuritySpec;
use serde_json::Value;

/// The cases, in the order of their OSDs' numbers.
pub(crate) const CASES: [&str; 7] =
    ["default", "vault-token", "vault-kubernetes", "vault-tls", "ibm", "kmip", "azure"];

/// A file of a case.
pub(crate) fn fixture(case: &str, file: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rook").join(case).join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// The `security` block of a case.
pub(crate) fn security(case: &str) -> SecuritySpec {
    serde_json::from_value(fixture(case, "security.json")).unwrap()
}

/// The Deployment of a case's OSD.
pub(crate) fn deployment(case: &str) -> Deployment {
    serde_json::from_value(fixture(case, "osd-deployment.json")).unwrap()
}

/// The Deployment of a case's OSD after a change.
pub(crate) fn changed(case: &str, change: impl FnOnce(&mut Value)) -> Deployment {
    let mut value = fixture(case, "osd-deployment.json");
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

/// The Deployment of a case's OSD as it would be in another namespace. The name of the cluster stays.
pub(crate) fn deployment_in(case: &str, kube_namespace: &str) -> Value {
    let mut value = fixture(case, "osd-deployment.json");
    move_to(&mut value, kube_namespace);
    value
}

/// Puts an object of the fixtures into another namespace.
pub(crate) fn move_to(value: &mut Value, kube_namespace: &str) {
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
