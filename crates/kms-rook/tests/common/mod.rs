//! What Rook's own operator has printed for seven `security` blocks; see `fixtures/rook/README.md`.

#![allow(dead_code, reason = "each test program uses a part of it")]

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

/// The same after a change.
pub(crate) fn changed(case: &str, change: impl FnOnce(&mut Value)) -> Deployment {
    let mut value = fixture(case, "osd-deployment.json");
    change(&mut value);
    serde_json::from_value(value).unwrap()
}
