//! A cluster by hand: keys in every state, for tests of what people see.

use std::sync::{Arc, Mutex, MutexGuard};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kms_operator::{
    DeploymentRef, ReplicaState, Source,
    api::{
        Condition, ConditionStatus, ConditionType, KeyPolicy, KeyPolicySpec, OsdKey, OsdKeySpec,
        OsdKeyStatus, Window,
    },
};

/// The number of OSDs, and of the nodes that they are on.
pub(crate) const OSDS: u32 = 42;
/// The number of nodes.
pub(crate) const NODES: u32 = 9;

/// The time of the cluster.
pub(crate) fn now() -> Timestamp {
    "2026-11-30T12:00:00Z".parse().unwrap()
}

/// A key: 1 is rotated now, 3 failed twice, 4 is overdue, 5 was not looked at yet, 6 is rotated by
/// Rook, 7 waits for its turn; others are ready.
pub(crate) fn key(osd: u32) -> OsdKey {
    let name = format!("set1-data-{osd}abcde");
    let deployment = format!("rook-ceph-osd-{osd}");
    let mut key = OsdKey::new(&name, OsdKeySpec { osd, cluster: "rook-ceph".to_owned(), deployment });
    key.metadata.namespace = Some("rook-ceph".to_owned());
    if osd == 5 {
        return key;
    }
    let (ready, reason, message, failed) = match osd {
        3 => (ConditionStatus::False, "RotationFailed", "the Job ended with exit code 1", 2),
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
    key.status = Some(OsdKeyStatus {
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
    });
    key
}

/// A source whose parts a test sets.
#[derive(Debug)]
pub(crate) struct Fixed(Mutex<Parts>);

/// The parts of a source.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The keys.
    pub(crate) keys: Vec<Arc<OsdKey>>,
    /// The Deployments of OSDs.
    pub(crate) deployments: Vec<DeploymentRef>,
    /// The replica.
    pub(crate) state: ReplicaState,
    /// The policies.
    pub(crate) policies: Vec<Arc<KeyPolicy>>,
    /// The time.
    pub(crate) now: Timestamp,
}

impl Default for Fixed {
    fn default() -> Self {
        Self::new()
    }
}

impl Fixed {
    /// A leader with keys in every state, and with the OSD 99, which has no object.
    pub(crate) fn new() -> Self {
        let window = Window {
            opens: "0 2 * * 6".to_owned(),
            duration: "4h".to_owned(),
            time_zone: Some("Europe/Berlin".to_owned()),
        };
        let spec = KeyPolicySpec {
            schedule: Some("@monthly".to_owned()),
            window: Some(window),
            max_age: Some("2160h".to_owned()),
            max_parallel: Some(2),
            ..KeyPolicySpec::default()
        };
        let deployment = |osd| DeploymentRef {
            kube_namespace: "rook-ceph".to_owned(),
            name: format!("rook-ceph-osd-{osd}"),
        };
        Self(Mutex::new(Parts {
            keys: (0..OSDS).map(|osd| Arc::new(key(osd))).collect(),
            deployments: (0..OSDS).chain([99]).map(deployment).collect(),
            state: ReplicaState {
                is_leader: true,
                leader: Some("kms-operator-0".to_owned()),
                ..ReplicaState::default()
            },
            policies: vec![Arc::new(KeyPolicy::new("default", spec))],
            now: now(),
        }))
    }

    /// The parts, to be changed.
    pub(crate) fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap()
    }
}

impl Source for Fixed {
    fn keys(&self) -> Vec<Arc<OsdKey>> {
        self.parts().keys.clone()
    }

    fn policies(&self) -> Vec<Arc<KeyPolicy>> {
        self.parts().policies.clone()
    }

    fn deployments(&self) -> Vec<DeploymentRef> {
        self.parts().deployments.clone()
    }

    fn state(&self) -> ReplicaState {
        self.parts().state.clone()
    }

    fn now(&self) -> Timestamp {
        self.parts().now
    }
}
