//! Records the last rotation of an OSD's key at its Deployment. The record holds no key material.

use std::{collections::BTreeMap, time::SystemTime};

use k8s_openapi::{api::apps::v1::Deployment, jiff::Timestamp};
use kms_core::{Error, ErrorKind, KeyName, Result};
use kms_kube::Objects;
use serde_json::json;

use super::{
    RookNamespace,
    events::{KeyEvent, announce, deployment as of_deployment},
};
use crate::names::{APP, OSD_APP, PVC_LABEL};

/// When the KEK was last replaced, in RFC 3339.
const ROTATED_AT: &str = "kms.ceph.rook.io/key-rotated-at";
/// The number of KEKs that the key has had, if the KMS counts them.
const GENERATION: &str = "kms.ceph.rook.io/key-generation";
/// The outcome of the last run.
const OUTCOME: &str = "kms.ceph.rook.io/key-rotation-outcome";

/// The outcome of a rotation.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct RotationStatus {
    /// When the new KEK was stored; `None` if no new KEK was stored.
    pub rotated_at: Option<SystemTime>,
    /// The number of KEKs that this key has had, if known.
    pub generation: Option<u64>,
    /// One word: `rotated`, `pending`, `finished`, `failed` …
    pub outcome: String,
    /// A sentence for people. It must not contain secrets.
    pub message: String,
    /// Whether an operator has to look into it.
    pub failed: bool,
}

impl RotationStatus {
    /// A rotation with this outcome that did not fail.
    pub fn new(outcome: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            rotated_at: None,
            generation: None,
            outcome: outcome.into(),
            message: message.into(),
            failed: false,
        }
    }

    /// Sets when the new KEK was stored, and its number.
    #[must_use]
    pub fn with_rotation(mut self, rotated_at: SystemTime, generation: Option<u64>) -> Self {
        self.rotated_at = Some(rotated_at);
        self.generation = generation;
        self
    }

    /// Marks the rotation as failed.
    #[must_use]
    pub fn with_failure(mut self) -> Self {
        self.failed = true;
        self
    }
}

/// The last rotation that an OSD's Deployment records.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct LastRotation {
    /// When its KEK was last replaced, in RFC 3339.
    pub rotated_at: Option<String>,
    /// The number of KEKs that its key has had.
    pub generation: Option<u64>,
    /// The outcome of the last run.
    pub outcome: Option<String>,
}

impl LastRotation {
    /// Reads the annotations of an OSD's Deployment; `None` if they record no rotation.
    pub fn of(annotations: &BTreeMap<String, String>) -> Option<Self> {
        let text = |name: &str| annotations.get(name).cloned();
        let found = Self {
            rotated_at: text(ROTATED_AT),
            generation: text(GENERATION).and_then(|number| number.parse().ok()),
            outcome: text(OUTCOME),
        };
        let says_something =
            found.rotated_at.is_some() || found.generation.is_some() || found.outcome.is_some();
        says_something.then_some(found)
    }
}

/// Records the outcome of a rotation in annotations of the OSD's Deployment, and in an Event about the Deployment.
///
/// The call changes the metadata of the Deployment and not its pod template, so no OSD restarts. If the rotation stored
/// no KEK, the record keeps the time and the number of the last rotation that stored a KEK.
///
/// The rotation has ended before this call: a caller reports an error of the call, and does not treat the rotation as
/// failed.
///
/// # Errors
///
/// The first error; the Event is sent even if the annotations could not be written. `NotFound` if no Deployment has this
/// key's OSD; `PermissionDenied` if the account may not list or patch Deployments, or create Events.
pub async fn record(place: &RookNamespace, name: &KeyName, status: &RotationStatus) -> Result<()> {
    let objects: Objects<Deployment> = place.objects()?;
    let labels = format!("{APP}={OSD_APP},{PVC_LABEL}={name}");
    let found: Vec<Deployment> = objects.list(&labels).await?;
    let deployment = match found.as_slice() {
        [deployment] => &deployment.metadata,
        [] => {
            return Err(Error::new(ErrorKind::NotFound, "no Deployment has an OSD with this key")
                .operation("record a rotation")
                .context("key", name.as_str()));
        }
        several => {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("{} Deployments have an OSD with this key", several.len()),
            )
            .operation("record a rotation")
            .context("key", name.as_str()));
        }
    };
    let deployment_name = deployment.name.as_deref().unwrap_or_default();
    let change = json!({"metadata": {"annotations": annotations(status)}});
    let annotated = place.retry("change", || objects.merge(deployment_name, &change)).await;
    let event = if status.failed {
        KeyEvent::warning("KeyRotationFailed", &status.message)
    } else {
        KeyEvent::normal("KeyRotation", &status.message)
    };
    let announced = announce(place, &of_deployment(deployment), "kms", &event, None).await;
    annotated.and(announced)
}

fn annotations(status: &RotationStatus) -> BTreeMap<&'static str, String> {
    let mut all = BTreeMap::from([(OUTCOME, status.outcome.clone())]);
    let time = status.rotated_at.and_then(|time| Timestamp::try_from(time).ok());
    if let Some(time) = time.and_then(|time| Timestamp::from_second(time.as_second()).ok()) {
        all.insert(ROTATED_AT, time.to_string());
    }
    if let Some(generation) = status.generation {
        all.insert(GENERATION, generation.to_string());
    }
    all
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_recorded_rotation_is_read_back() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_500);
        let status = RotationStatus::new("rotated", "done").with_rotation(time, Some(7));
        let recorded =
            annotations(&status).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let read = LastRotation::of(&recorded).unwrap();
        assert_eq!(read.rotated_at.as_deref(), Some("1970-01-01T00:16:40Z"));
        assert_eq!((read.generation, read.outcome.as_deref()), (Some(7), Some("rotated")));
        assert_eq!(LastRotation::of(&BTreeMap::new()), None);
        // A failure keeps the record of the last success.
        assert_eq!(annotations(&RotationStatus::new("failed", "x").with_failure()).len(), 1);
    }
}
