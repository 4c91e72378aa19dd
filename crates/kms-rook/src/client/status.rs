//! Records the last rotation of an OSD's key at its Deployment. The record holds no key material.

use std::{collections::BTreeMap, time::SystemTime};

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kms_core::{Error, ErrorKind, KeyName, Result};
use kms_kube::{FIELD_MANAGER, Objects};
use serde_json::json;

use super::RookNamespace;
use crate::names::{APP, OSD_APP, PVC_LABEL};

/// When the KEK was last replaced, in RFC 3339.
const ROTATED_AT: &str = "kms.ceph.rook.io/key-rotated-at";
/// The number of KEKs that the key has had, if the KMS counts them.
const GENERATION: &str = "kms.ceph.rook.io/key-generation";
/// The outcome of the last run.
const OUTCOME: &str = "kms.ceph.rook.io/key-rotation-outcome";

/// The longest note of an Event, in bytes.
const MAX_NOTE: usize = 1024;

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
    let event = event(deployment, status, Timestamp::now());
    let event_name = event.metadata.name.as_deref().unwrap_or_default();
    let events: Objects<Event> = place.objects()?;
    let created = place.retry("create", || events.create(event_name, &event)).await;
    // An earlier try whose response was lost may have created it.
    let created = match created {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    annotated.and(created)
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

fn event(deployment: &ObjectMeta, status: &RotationStatus, now: Timestamp) -> Event {
    let ObjectMeta { name, namespace, uid, .. } = deployment;
    let about = name.as_deref().unwrap_or_default();
    let note: String = status
        .message
        .char_indices()
        .take_while(|(at, c)| at + c.len_utf8() <= MAX_NOTE)
        .map(|(_, c)| c)
        .collect();
    Event {
        // The form of the names that the components of Kubernetes give their Events.
        metadata: ObjectMeta {
            name: Some(format!("{about}.{:x}", now.as_nanosecond())),
            namespace: namespace.clone(),
            ..ObjectMeta::default()
        },
        action: Some("RotateKey".to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(note),
        reason: Some(if status.failed { "KeyRotationFailed" } else { "KeyRotation" }.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("apps/v1".to_owned()),
            kind: Some("Deployment".to_owned()),
            name: name.clone(),
            namespace: namespace.clone(),
            uid: uid.clone(),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(FIELD_MANAGER.to_owned()),
        reporting_instance: Some("kms".to_owned()),
        type_: Some(if status.failed { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    }
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

    #[test]
    fn an_event_has_a_name_and_a_note_that_fit() {
        let deployment = ObjectMeta { name: Some("rook-ceph-osd-1".to_owned()), ..ObjectMeta::default() };
        let status = RotationStatus::new("failed", "\u{e4}".repeat(2000)).with_failure();
        let event = event(&deployment, &status, Timestamp::UNIX_EPOCH);
        assert_eq!(event.note.unwrap().len(), MAX_NOTE);
        assert_eq!(event.metadata.name.as_deref(), Some("rook-ceph-osd-1.0"));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
    }
}
