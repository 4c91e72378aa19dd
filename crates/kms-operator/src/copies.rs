//! What the operator keeps of each object that it watches.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobStatus},
        core::v1::{Pod, PodSpec, PodStatus},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kms_core::{Error, config::parse_bool};
use kms_kube::CephCluster;
use kms_rook::{DRILLED_AT, ESCROWED_AT, Found, JobOptions, Osd, client::OsdPod};
use kube::api::DynamicObject;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    api::{GROUP, KeyPolicySpec, OPERATOR, OsdKeySpec, OsdKeyStatus, PAUSED, ROTATE_NOW},
    escrow::EscrowJob,
    job::JobFacts,
};

/// A CephCluster.
#[derive(Clone, Debug)]
pub(crate) struct ClusterCopy {
    /// Whether the rotation of its keys is the operator's.
    pub(crate) is_ours: bool,
    pub(crate) is_paused: bool,
    /// When the last escrow of all its keys was made.
    pub(crate) escrowed: Option<Timestamp>,
    /// When a drill of an escrow last succeeded.
    pub(crate) drilled: Option<Timestamp>,
    /// The cluster with the options of its Jobs, or what is wrong with them.
    pub(crate) settings: Result<(Arc<CephCluster>, JobOptions), String>,
    /// What it was read from. The status is no part of it: Rook changes that every minute.
    version: (Option<i64>, Option<BTreeMap<String, String>>, bool),
}

impl ClusterCopy {
    pub(crate) fn of(object: DynamicObject) -> Self {
        let ObjectMeta { generation, annotations, deletion_timestamp, .. } = &object.metadata;
        let version = (*generation, annotations.clone(), deletion_timestamp.is_some());
        let read = || {
            // The cause may quote a setting, and so a credential in clear.
            let value = serde_json::to_value(&object).and_then(serde_json::from_value);
            let mut cluster: CephCluster = value.map_err(|_cause| {
                "spec.security of the CephCluster has a field of the wrong type: kms check names it"
                    .to_owned()
            })?;
            if let Some(reference) = &mut cluster.reference {
                reference.uid.clone_from(&object.metadata.uid);
            }
            cluster.spec.check_spelling().map_err(|error| in_words(&error))?;
            let options =
                JobOptions::of_annotations(&cluster.annotations).map_err(|error| in_words(&error))?;
            Ok((Arc::new(cluster), options))
        };
        let recorded = |name: &str| annotations.as_ref()?.get(name)?.parse().ok();
        Self {
            is_ours: is_true(&object.metadata, OPERATOR),
            is_paused: is_true(&object.metadata, PAUSED),
            escrowed: recorded(ESCROWED_AT),
            drilled: recorded(DRILLED_AT),
            settings: read(),
            version,
        }
    }
}

impl PartialEq for ClusterCopy {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
    }
}

/// The Deployment of an OSD on a PVC.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Deployed {
    /// An encrypted one, and when its Deployment was created.
    Osd(Arc<Osd>, Option<Timestamp>),
    /// One that could not be parsed: the number of the OSD, if that is known, and what is wrong.
    Invalid(Option<u32>, String),
}

impl Deployed {
    /// `None` if it is not of an encrypted OSD on a PVC.
    pub(crate) fn of(object: DynamicObject) -> Option<Self> {
        let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
        match Found::of_value(&serde_json::to_value(object).ok()?)? {
            Found::Osd(mut osd) => {
                // Rook keeps a whole Deployment in another annotation.
                osd.annotations.retain(|name, _| name.starts_with(GROUP));
                Some(Self::Osd(Arc::from(osd), created))
            }
            Found::Invalid(fault) => Some(Self::Invalid(fault.osd_id, in_words(&fault.error))),
            _ => None,
        }
    }
}

/// An `OsdKey`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeyCopy {
    pub(crate) uid: Option<String>,
    pub(crate) generation: i64,
    /// The UID of the Deployment that owns it.
    pub(crate) owner: Option<String>,
    pub(crate) is_paused: bool,
    pub(crate) asked: Option<String>,
    /// `None` if it is not valid.
    pub(crate) spec: Option<OsdKeySpec>,
    pub(crate) status: OsdKeyStatus,
}

impl KeyCopy {
    pub(crate) fn of(mut object: DynamicObject) -> Self {
        let (spec, status) = (field(&mut object, "spec"), field(&mut object, "status"));
        let ObjectMeta { uid, generation, owner_references, annotations, .. } = &object.metadata;
        let owner = owner_references.iter().flatten().next().map(|owner| owner.uid.clone());
        Self {
            uid: uid.clone(),
            generation: generation.unwrap_or_default(),
            owner,
            is_paused: is_true(&object.metadata, PAUSED),
            asked: annotations.as_ref().and_then(|all| all.get(ROTATE_NOW).cloned()),
            spec,
            status: status.unwrap_or_default(),
        }
    }
}

/// Reads a KeyPolicy; a spec that is not valid counts as one that pauses everything.
pub(crate) fn policy(mut object: DynamicObject) -> KeyPolicySpec {
    field(&mut object, "spec").unwrap_or_else(|| KeyPolicySpec { paused: true, ..KeyPolicySpec::default() })
}

/// Reads a Job of the operator, without its pod template.
pub(crate) fn job(mut object: DynamicObject) -> Option<JobFacts> {
    let status: Option<JobStatus> = field(&mut object, "status");
    JobFacts::of(&Job { metadata: object.metadata, spec: None, status })
}

/// Reads a Job of an escrow, without its pod template.
pub(crate) fn escrow(mut object: DynamicObject) -> Option<EscrowJob> {
    let status: Option<JobStatus> = field(&mut object, "status");
    EscrowJob::of(&Job { metadata: object.metadata, spec: None, status })
}

/// Reads what a pod of an OSD says about its node.
pub(crate) fn pod(mut object: DynamicObject) -> Option<OsdPod> {
    let text = |of: &str| object.data.pointer(of).and_then(Value::as_str).map(str::to_owned);
    let (node_name, phase) = (text("/spec/nodeName"), text("/status/phase"));
    object.metadata.managed_fields = None;
    OsdPod::of(&Pod {
        metadata: object.metadata,
        spec: Some(PodSpec { node_name, ..PodSpec::default() }),
        status: Some(PodStatus { phase, ..PodStatus::default() }),
    })
}

/// Takes a field out of an object; `None` if it is absent or not valid.
fn field<T: DeserializeOwned>(object: &mut DynamicObject, name: &str) -> Option<T> {
    serde_json::from_value(object.data.get_mut(name)?.take()).ok()
}

fn is_true(metadata: &ObjectMeta, annotation: &str) -> bool {
    let value = metadata.annotations.as_ref().and_then(|all| all.get(annotation));
    value.is_some_and(|value| parse_bool(value.trim()).unwrap_or(false))
}

/// An error with its causes.
pub(crate) fn in_words(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster(object: Value) -> ClusterCopy {
        ClusterCopy::of(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_cluster_that_is_not_valid_is_no_other_and_its_settings_are_not_quoted() {
        let of = |spec: Value| {
            cluster(json!({
                "metadata": {"name": "a", "annotations": {OPERATOR: "true", PAUSED: " True "}}, "spec": spec,
            }))
        };
        let good = of(json!({"security": {"keyRotation": {"enabled": false}}}));
        assert!(good.is_ours && good.is_paused && good.settings.is_ok());
        let bad = of(json!({"security": {"kms": {"connectionDetails": "canary"}}}));
        assert!(bad.is_ours && !format!("{bad:?}").contains("canary"), "{bad:?}");
        assert!(bad.settings.is_err());
        let option = cluster(json!({
            "metadata": {"name": "a", "annotations": {"kms.ceph.rook.io/rotation-grace": "long"}},
        }));
        assert!(!option.is_ours && option.settings.unwrap_err().contains("rotation-grace"));
    }

    #[test]
    fn the_status_of_a_cluster_is_no_change_of_it() {
        let of = |generation: i64, phase: &str| {
            cluster(json!({"metadata": {"name": "a", "generation": generation}, "status": {"phase": phase}}))
        };
        assert!(of(1, "Ready") == of(1, "Progressing") && of(1, "Ready") != of(2, "Ready"));
    }

    #[test]
    fn a_key_and_a_policy_that_are_not_valid_are_the_safe_ones() {
        let key = KeyCopy::of(
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": 1, "status": 2})).unwrap(),
        );
        assert_eq!((key.spec, key.status), (None, OsdKeyStatus::default()));
        let paused = |spec: Value| {
            policy(serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap()).paused
        };
        assert!(paused(json!({"maxParallel": "many"})) && !paused(json!({"maxParallel": 2})));
    }
}
