//! A cluster by hand: keys in every state, for tests of what people see.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use jiff::{SignedDuration, Timestamp};
use kms_operator::{
    ClusterView, KeyView, ReplicaState, Source, TokenView,
    api::{Condition, ConditionStatus, ConditionType, OsdKeyStatus, Window},
};

/// The number of OSDs, and of the nodes that they are on.
pub(crate) const OSDS: u32 = 42;
/// The number of nodes.
pub(crate) const NODES: u32 = 9;

/// The time of the cluster.
pub(crate) fn now() -> Timestamp {
    "2026-11-30T12:00:00Z".parse().unwrap()
}

/// A value of a type that gets more fields: the default one, changed.
fn made<T: Default>(change: impl FnOnce(&mut T)) -> T {
    let mut value = T::default();
    change(&mut value);
    value
}

/// A key: 1 is rotated now, 3 failed twice, 4 is overdue, 5 was not looked at yet, 6 is rotated by
/// Rook, 7 waits for its turn; others are ready.
pub(crate) fn key(osd: u32) -> KeyView {
    let mut key = made::<KeyView>(|key| (key.osd, key.deployment) = (osd, format!("rook-ceph-osd-{osd}")));
    if osd == 5 {
        return key;
    }
    let (ready, reason, message, failed) = match osd {
        3 => (ConditionStatus::False, "RotationFailed", "2 rotations have failed", 2),
        4 => (
            ConditionStatus::False,
            "TooOld",
            "the key is older than the policy allows since 2026-11-28T12:00:00Z",
            0,
        ),
        6 => (ConditionStatus::False, "RookRotates", "keyRotation.enabled of the CephCluster is true", 0),
        7 => (ConditionStatus::True, "Due", "a rotation is due since 2026-11-20T00:00:00Z, and waits", 0),
        _ => (ConditionStatus::True, "UpToDate", "the key is as its policy wants it", 0),
    };
    let is_rotating = if osd == 1 { ConditionStatus::True } else { ConditionStatus::False };
    let condition = |type_, status, reason: &str, message: &str| Condition {
        type_,
        status,
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: "2026-11-30T11:50:00Z".to_owned(),
        observed_generation: 1,
    };
    let days = |days: i64| Some((now() + SignedDuration::from_hours(24 * days)).to_string());
    let next = if osd == 4 { -2 } else { i64::from(osd % 35) + 1 };
    key.status = OsdKeyStatus {
        provider: Some("vault".to_owned()),
        node: Some(format!("storage-{}.rack-{}.example.net", osd % NODES, osd % 3)),
        key_version: Some(u64::from(osd) + 1),
        rotated_at: if osd == 3 {
            Some("2026-11-01T00:00:00Z".to_owned())
        } else {
            days(-7 * i64::from(osd))
        },
        verified_at: days(-1),
        escrowed_at: osd.is_multiple_of(2).then(|| days(-2)).flatten(),
        next_rotation_at: (osd != 1).then(|| days(next)).flatten(),
        failed_attempts: failed,
        rotate_now: None,
        job: (osd == 1).then(|| "kms-rotate-osd-1".to_owned()),
        conditions: vec![
            condition(ConditionType::Ready, ready, reason, message),
            condition(ConditionType::Rotating, is_rotating, "Job", "whether a Job rotates the key"),
            condition(ConditionType::Verified, ConditionStatus::True, "Verified", "by the last rotation"),
            condition(ConditionType::Escrowed, ConditionStatus::Unknown, "Unknown", "no escrow is known"),
        ],
    };
    key
}

/// A source whose parts a test sets.
#[derive(Debug)]
pub(crate) struct Fixed(Mutex<Parts>);

/// The parts of a source.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The clusters, by namespace.
    pub(crate) clusters: BTreeMap<String, ClusterView>,
    /// The replica.
    pub(crate) state: ReplicaState,
}

impl Parts {
    /// The one cluster.
    pub(crate) fn cluster(&mut self) -> &mut ClusterView {
        self.clusters.get_mut("rook-ceph").unwrap()
    }

    /// The key of an OSD.
    pub(crate) fn key(&mut self, osd: u32) -> &mut KeyView {
        self.cluster().keys.values_mut().find(|key| key.osd == osd).unwrap()
    }
}

impl Fixed {
    /// A leader with keys in every state, and with the OSD 99, whose Deployment cannot be understood.
    pub(crate) fn new() -> Self {
        let cluster = made::<ClusterView>(|cluster| {
            cluster.name = "rook-ceph".to_owned();
            cluster.provider = Some("vault".to_owned());
            cluster.policy = Some("default".to_owned());
            cluster.schedule = Some("@monthly".to_owned());
            cluster.window = Some(Window {
                opens: "0 2 * * 6".to_owned(),
                duration: "4h".to_owned(),
                time_zone: Some("Europe/Berlin".to_owned()),
            });
            cluster.escrow.made = Some(now() - SignedDuration::from_hours(48));
            cluster.escrow.drilled = Some(now() - SignedDuration::from_hours(72));
            cluster.token = Some(made::<TokenView>(|token| {
                token.provider = "vault".to_owned();
                token.expires = Some(now() + SignedDuration::from_hours(24 * 30));
            }));
            cluster.keys = (0..OSDS).map(|osd| (format!("set1-data-{osd}abcde"), key(osd))).collect();
            cluster.faults = [("rook-ceph-osd-99".to_owned(), "it has no PVC".to_owned())].into();
        });
        Self(Mutex::new(Parts {
            clusters: [("rook-ceph".to_owned(), cluster)].into(),
            state: ReplicaState {
                is_leader: true,
                holder: Some("kms-operator-0".to_owned()),
                ..ReplicaState::default()
            },
        }))
    }

    /// The parts, to be changed.
    pub(crate) fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap()
    }
}

impl Source for Fixed {
    fn clusters(&self) -> Arc<BTreeMap<String, ClusterView>> {
        Arc::new(self.parts().clusters.clone())
    }

    fn state(&self) -> ReplicaState {
        self.parts().state.clone()
    }

    fn now(&self) -> Option<Timestamp> {
        Some(now())
    }
}
