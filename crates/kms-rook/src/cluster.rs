//! The CephCluster, as far as it concerns rotation jobs.

use std::collections::BTreeMap;

use kms_core::SecuritySpec;
use serde::Deserialize;
use serde_json::Value;

/// The entries of `spec.labels` and `spec.annotations` that concern a rotation job; the later one wins.
const ENTRIES: [&str; 2] = ["all", "keyrotation"];

/// A CephCluster.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Cluster {
    /// Its `security` block.
    pub security: SecuritySpec,
    /// The labels that its user wants on rotation jobs.
    pub pod_labels: BTreeMap<String, String>,
    /// The annotations that its user wants on rotation jobs.
    pub pod_annotations: BTreeMap<String, String>,
}

impl Cluster {
    /// A cluster with this `security` block, and nothing else that concerns a job.
    pub fn new(security: SecuritySpec) -> Self {
        Self { security, ..Self::default() }
    }

    /// Adds what other fields of its `spec` say; fields that are not known here stay where they are.
    #[must_use]
    pub fn with_spec(mut self, spec: &BTreeMap<String, Value>) -> Self {
        self.pod_labels = entries(spec.get("labels"));
        self.pod_annotations = entries(spec.get("annotations"));
        self
    }
}

/// The entries of a map of maps that concern us. What is no text is passed over: a pod cannot have it.
fn entries(field: Option<&Value>) -> BTreeMap<String, String> {
    let maps = ENTRIES.iter().filter_map(|name| field?.get(name)?.as_object());
    maps.flatten()
        .filter_map(|(name, value)| Some((name.clone(), String::deserialize(value).ok()?)))
        .collect()
}
