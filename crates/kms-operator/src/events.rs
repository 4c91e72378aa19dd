//! What the Events at the Deployments of OSDs tell: changes of state, each once.
//!
//! A rotation that has ended has one Event. `kms` creates it, since it knows most: versions and fingerprints of the KEK, or why
//! it failed. The operator creates one in its place only if the rotation failed and its pod reports nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kms_kube::ClusterRef;
use kms_rook::{
    Osd,
    client::{KeyEvent, RookNamespace, announce, ceph_cluster, deployment},
};
use tracing::warn;

use crate::{
    api::{Condition, ConditionStatus, ConditionType, OsdKeyStatus},
    plan::OsdPlan,
};

/// Creates the Events of a namespace.
#[derive(Debug)]
pub(crate) struct Announcer {
    /// The name of this replica.
    instance: String,
    /// The last status of each key for which Events were created. A watch may show it only later, and no Event is created
    /// twice meanwhile.
    last: BTreeMap<String, OsdKeyStatus>,
    /// The last failure of an escrow for which an Event was created.
    escrow_failed: Option<Timestamp>,
}

impl Announcer {
    pub(crate) const fn new(instance: String) -> Self {
        Self { instance, last: BTreeMap::new(), escrow_failed: None }
    }

    /// Creates the Events of a change of a key, which is stored already. One that cannot be created is logged and not tried
    /// again: the status says the same.
    pub(crate) async fn announce(
        &mut self,
        place: &RookNamespace,
        osd: &Osd,
        stored: Option<&OsdKeyStatus>,
        plan: &OsdPlan,
    ) {
        let OsdPlan { status: new, is_failure_told, start: _ } = plan;
        let last = self.last.insert(osd.name.to_string(), new.clone());
        let happened = match last.as_ref().or(stored) {
            Some(old) => events(old, new, *is_failure_told),
            None => events(&OsdKeyStatus::default(), new, *is_failure_told),
        };
        if happened.is_empty() {
            return;
        }
        let of_osd = ObjectMeta {
            name: Some(osd.deployment.clone()),
            namespace: Some(place.name().to_owned()),
            uid: osd.uid.clone(),
            ..ObjectMeta::default()
        };
        for event in happened {
            if let Err(error) = announce(place, &deployment(&of_osd), &self.instance, &event, None).await {
                let reason = event.reason;
                warn!(
                    namespace = place.name(),
                    osd = osd.id,
                    reason,
                    "an Event could not be created: {error}"
                );
            }
        }
    }

    /// Creates the Event of an escrow that has failed at this time. It has that time in its name, so it is created once.
    pub(crate) async fn escrow_failed(
        &mut self,
        place: &RookNamespace,
        cluster: &ClusterRef,
        at: Timestamp,
        why: String,
    ) {
        if self.escrow_failed.replace(at) == Some(at) {
            return;
        }
        let about = ceph_cluster(&ObjectMeta {
            name: Some(cluster.name.clone()),
            namespace: Some(place.name().to_owned()),
            uid: cluster.uid.clone(),
            ..ObjectMeta::default()
        });
        let event = KeyEvent::warning("EscrowFailed", why);
        if let Err(error) = announce(place, &about, &self.instance, &event, Some(at)).await {
            warn!(namespace = place.name(), reason = event.reason, "an Event could not be created: {error}");
        }
    }

    /// Forgets everything: another replica creates the Events from now on.
    pub(crate) fn forget(&mut self) {
        self.last.clear();
    }
}

/// The reasons of `Ready` that keep a rotation from beginning until a person changes something.
const BLOCKED: [&str; 4] = ["Invalid", "NoClaim", "NoNode", "RookRotates"];
/// The reason of `Ready` of a key that is older than its policy allows.
const TOO_OLD: &str = "TooOld";

/// The events of a change from one status to the next one. Without a change of state there is none: times that move and
/// messages that change are no events. `is_told` says whether the rotation that failed last has reported that itself, so that it
/// needs no further Event.
pub fn events(old: &OsdKeyStatus, new: &OsdKeyStatus, is_told: bool) -> Vec<KeyEvent> {
    let mut events = Vec::new();
    let (before, now) = (ready(old), ready(new));
    let message = now.map_or("", |ready| ready.message.as_str());
    if let Some(job) = new.job.as_ref().filter(|job| old.job.as_ref() != Some(job)) {
        events.push(KeyEvent::normal("KeyRotationStarted", format!("the Job {job} rotates the key")));
    }
    if new.failed_attempts > old.failed_attempts && !is_told {
        let note = format!("failed attempts in a row: {}; {message}", new.failed_attempts);
        events.push(KeyEvent::warning("KeyRotationFailed", note));
    }
    let verified = |status: &OsdKeyStatus| of_type(status, ConditionType::Verified).map(|now| now.status);
    if let Some(now) = of_type(new, ConditionType::Verified).filter(|now| Some(now.status) != verified(old)) {
        match (now.status, verified(old)) {
            (ConditionStatus::False, _) => {
                events.push(KeyEvent::warning("KeyVerificationFailed", &now.message));
            }
            (ConditionStatus::True, Some(ConditionStatus::False)) => {
                events.push(KeyEvent::normal("KeyVerified", &now.message));
            }
            _ => {}
        }
    }
    // A reason that stays is an old state, whatever its message says.
    if let Some(ready) = now.filter(|now| {
        now.status == ConditionStatus::False && before.is_none_or(|before| before.reason != now.reason)
    }) {
        if BLOCKED.contains(&ready.reason.as_str()) {
            events.push(KeyEvent::warning("KeyRotationBlocked", format!("{}: {message}", ready.reason)));
        } else if ready.reason == TOO_OLD {
            events.push(KeyEvent::warning("KeyOverdue", message));
        }
    }
    events
}

fn ready(status: &OsdKeyStatus) -> Option<&Condition> {
    of_type(status, ConditionType::Ready)
}

fn of_type(status: &OsdKeyStatus, type_: ConditionType) -> Option<&Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A status, and the reasons of the events from one to the next.
    fn status(reason: &str, change: impl FnOnce(&mut OsdKeyStatus)) -> OsdKeyStatus {
        let holds = matches!(reason, "UpToDate" | "Due" | "Rotating");
        let mut status = OsdKeyStatus {
            rotated_at: Some("2026-11-01T00:00:00Z".to_owned()),
            conditions: vec![Condition {
                type_: ConditionType::Ready,
                status: if holds { ConditionStatus::True } else { ConditionStatus::False },
                reason: reason.to_owned(),
                message: "because".to_owned(),
                last_transition_time: "2026-11-01T00:00:00Z".to_owned(),
                observed_generation: 1,
            }],
            ..OsdKeyStatus::default()
        };
        change(&mut status);
        status
    }

    fn reasons(old: &OsdKeyStatus, new: &OsdKeyStatus) -> Vec<(&'static str, bool)> {
        events(old, new, false).into_iter().map(|event| (event.reason, event.is_warning)).collect()
    }

    #[test]
    fn each_change_of_state_is_one_event_and_no_change_is_none() {
        let well = status("UpToDate", |_| ());
        let running = status("Rotating", |status| status.job = Some("job-1".to_owned()));
        let done = status("UpToDate", |status| status.rotated_at = Some("2026-11-30T00:00:00Z".to_owned()));
        let failed = |count| status("RotationFailed", |status| status.failed_attempts = count);
        let all = [
            (&well, &running, vec![("KeyRotationStarted", false)]),
            (&running, &done, vec![]),
            (&running, &failed(1), vec![("KeyRotationFailed", true)]),
            (&failed(1), &failed(2), vec![("KeyRotationFailed", true)]),
            (&failed(2), &well, vec![]),
            (&well, &status("TooOld", |_| ()), vec![("KeyOverdue", true)]),
            (&well, &status("RookRotates", |_| ()), vec![("KeyRotationBlocked", true)]),
            (&well, &status("Invalid", |_| ()), vec![("KeyRotationBlocked", true)]),
            (&well, &status("Paused", |_| ()), vec![]),
            (&well, &status("Due", |_| ()), vec![]),
        ];
        for (old, new, expected) in all {
            assert_eq!(reasons(old, new), expected, "{new:?}");
            let mut later = new.clone();
            later.conditions[0].message = "because of another time".to_owned();
            assert_eq!(reasons(new, &later), [], "{new:?}");
        }
    }

    #[test]
    fn a_failure_that_the_rotation_has_reported_itself_is_no_further_event() {
        let running = status("Rotating", |status| status.job = Some("job-1".to_owned()));
        let failed = status("RotationFailed", |status| status.failed_attempts = 1);
        assert_eq!(events(&running, &failed, true), []);
        assert_eq!(events(&running, &failed, false).len(), 1);
    }

    #[test]
    fn a_key_that_is_seen_for_the_first_time_tells_its_state() {
        let first = OsdKeyStatus::default();
        assert_eq!(reasons(&first, &status("UpToDate", |_| ())), []);
        assert_eq!(reasons(&first, &status("TooOld", |_| ())), [("KeyOverdue", true)]);
    }

    #[test]
    fn a_verification_that_fails_is_one_event_and_so_is_the_next_proof() {
        let verified = |verified: ConditionStatus| {
            status("UpToDate", |status| {
                let ready = status.conditions[0].clone();
                status.conditions.push(Condition {
                    type_: ConditionType::Verified,
                    status: verified,
                    ..ready
                });
            })
        };
        let [holds, fails, unknown] =
            [ConditionStatus::True, ConditionStatus::False, ConditionStatus::Unknown].map(verified);
        assert_eq!(reasons(&holds, &fails), [("KeyVerificationFailed", true)]);
        assert_eq!(reasons(&fails, &holds), [("KeyVerified", false)]);
        assert_eq!(reasons(&OsdKeyStatus::default(), &fails), [("KeyVerificationFailed", true)]);
        for (old, new) in [(&fails, &fails), (&unknown, &holds), (&holds, &holds)] {
            assert_eq!(reasons(old, new), []);
        }
    }

    #[test]
    fn an_event_says_why() {
        let failed = status("RotationFailed", |status| status.failed_attempts = 3);
        let events = events(&status("UpToDate", |_| ()), &failed, false);
        assert_eq!(events[0].note, "failed attempts in a row: 3; because");
    }
}
