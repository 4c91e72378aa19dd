//! Events about the Deployments of OSDs and about CephClusters (`events.k8s.io/v1`).

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kms_core::{ErrorKind, Result};
use kms_kube::{FIELD_MANAGER, Objects};

use super::RookNamespace;

/// The longest note of an Event, in bytes.
const MAX_NOTE: usize = 1024;
/// The kind of a CephCluster.
const CEPH_CLUSTER: &str = "CephCluster";

/// Something that has happened to the key of an OSD, or to the keys of a cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct KeyEvent {
    /// Why, in one word, such as `KeyRotationFailed`.
    pub reason: &'static str,
    /// A sentence for people. It must not contain secrets. What is longer than an Event allows is cut off.
    pub note: String,
    /// Whether an operator has to look into it.
    pub is_warning: bool,
}

impl KeyEvent {
    /// An event that needs no attention.
    pub fn normal(reason: &'static str, note: impl Into<String>) -> Self {
        Self { reason, note: note.into(), is_warning: false }
    }

    /// An event that a person has to look into.
    pub fn warning(reason: &'static str, note: impl Into<String>) -> Self {
        Self { is_warning: true, ..Self::normal(reason, note) }
    }
}

/// A Deployment, for an Event about it.
pub fn deployment(metadata: &ObjectMeta) -> ObjectReference {
    about("apps/v1", "Deployment", metadata)
}

/// A CephCluster, for an Event about it.
pub fn ceph_cluster(metadata: &ObjectMeta) -> ObjectReference {
    about("ceph.rook.io/v1", CEPH_CLUSTER, metadata)
}

fn about(api_version: &str, kind: &str, metadata: &ObjectMeta) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// Creates an Event about an object. `instance` names the program or the pod that reports it. `at` is when it happened; `None` for
/// now. Two calls about the same object and time create one Event.
///
/// # Errors
///
/// `PermissionDenied` if the account may not create Events; otherwise errors of the connection.
pub async fn announce(
    place: &RookNamespace,
    about: &ObjectReference,
    instance: &str,
    event: &KeyEvent,
    at: Option<Timestamp>,
) -> Result<()> {
    let event = object(about, instance, event, at.unwrap_or_else(Timestamp::now));
    let name = event.metadata.name.as_deref().unwrap_or_default();
    let events: Objects<Event> = place.objects()?;
    match place.retry("create", || events.create(name, &event)).await {
        // An earlier try whose response was lost may have created it.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn object(regarding: &ObjectReference, instance: &str, event: &KeyEvent, now: Timestamp) -> Event {
    let KeyEvent { reason, note, is_warning } = event;
    let about = regarding.name.as_deref().unwrap_or_default();
    let action = if regarding.kind.as_deref() == Some(CEPH_CLUSTER) { "SaveKeys" } else { "RotateKey" };
    let note: String =
        note.char_indices().take_while(|(at, c)| at + c.len_utf8() <= MAX_NOTE).map(|(_, c)| c).collect();
    Event {
        // The form of the names that the components of Kubernetes give their Events.
        metadata: ObjectMeta {
            name: Some(format!("{about}.{:x}", now.as_nanosecond())),
            namespace: regarding.namespace.clone(),
            ..ObjectMeta::default()
        },
        action: Some(action.to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(note),
        reason: Some((*reason).to_owned()),
        regarding: Some(regarding.clone()),
        reporting_controller: Some(FIELD_MANAGER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        type_: Some(if *is_warning { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_a_name_and_a_note_that_fit() {
        let deployment =
            deployment(&ObjectMeta { name: Some("rook-ceph-osd-1".to_owned()), ..ObjectMeta::default() });
        let event = KeyEvent::warning("KeyRotationFailed", "\u{e4}".repeat(2000));
        let event = object(&deployment, "kms", &event, Timestamp::UNIX_EPOCH);
        assert_eq!(event.note.unwrap().len(), MAX_NOTE);
        assert_eq!(event.metadata.name.as_deref(), Some("rook-ceph-osd-1.0"));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
    }
}
