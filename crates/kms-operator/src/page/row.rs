//! One key, as the page shows it.

use std::fmt;

use jiff::Timestamp;
use kms_page::Tone;

use crate::{
    api::{Condition, ConditionStatus, ConditionType},
    source::time,
    status::NOT_VERIFIED,
    view::{ClusterView, KeyView},
};

/// The state of a key in a word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// It is not as its policy wants it.
    NotReady,
    /// A Job rotates it.
    Rotating,
    /// That is not known.
    Unknown,
    /// It is as its policy wants it.
    Ready,
}

impl State {
    /// All states, the most urgent first.
    pub(super) const ALL: [Self; 4] = [Self::NotReady, Self::Rotating, Self::Unknown, Self::Ready];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::NotReady => "not ready",
            Self::Rotating => "rotating",
            Self::Unknown => "unknown",
            Self::Ready => "ready",
        }
    }

    pub(super) const fn tone(self) -> Tone {
        match self {
            Self::NotReady => Tone::Bad,
            Self::Rotating => Tone::Active,
            Self::Unknown => Tone::Unknown,
            Self::Ready => Tone::Good,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A key.
#[derive(Clone, Debug)]
pub(super) struct Row<'a> {
    pub(super) kube_namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) osd: u32,
    pub(super) node: Option<&'a str>,
    pub(super) provider: Option<&'a str>,
    pub(super) job: Option<&'a str>,
    pub(super) state: State,
    /// The reason of the condition `Ready`, and its message.
    pub(super) reason: &'a str,
    pub(super) message: &'a str,
    pub(super) failed: u32,
    pub(super) rotated: Option<Timestamp>,
    pub(super) verified: Option<Timestamp>,
    pub(super) escrowed: Option<Timestamp>,
    pub(super) next: Option<Timestamp>,
    pub(super) rotating_since: Option<Timestamp>,
    /// The condition `Verified`, if the last verification could not be made.
    pub(super) unverified: Option<&'a Condition>,
}

impl<'a> Row<'a> {
    pub(super) fn of(
        kube_namespace: &'a str,
        cluster: &'a ClusterView,
        name: &'a str,
        key: &'a KeyView,
    ) -> Self {
        let status = &key.status;
        let condition = |wanted: ConditionType| -> Option<&'a Condition> {
            status.conditions.iter().find(|condition| condition.type_ == wanted)
        };
        let (ready, rotating) = (condition(ConditionType::Ready), condition(ConditionType::Rotating));
        let unverified = condition(ConditionType::Verified).filter(|condition| {
            condition.status == ConditionStatus::Unknown && condition.reason != NOT_VERIFIED
        });
        let rotating = rotating.filter(|condition| condition.status == ConditionStatus::True);
        let state = match (rotating, ready.map(|condition| condition.status)) {
            (Some(_), _) => State::Rotating,
            (_, Some(ConditionStatus::False)) => State::NotReady,
            (_, Some(ConditionStatus::True)) => State::Ready,
            _ => State::Unknown,
        };
        Self {
            kube_namespace,
            name,
            osd: key.osd,
            node: status.node.as_deref(),
            provider: status.provider.as_deref().or(cluster.provider.as_deref()),
            job: status.job.as_deref(),
            state,
            reason: ready.map_or("not looked at yet", |condition| condition.reason.as_str()),
            message: ready.map_or("", |condition| condition.message.as_str()),
            failed: status.failed_attempts,
            rotated: time(status.rotated_at.as_ref()),
            verified: time(status.verified_at.as_ref()),
            escrowed: time(status.escrowed_at.as_ref()),
            next: time(status.next_rotation_at.as_ref()),
            unverified,
            rotating_since: rotating.and_then(|condition| condition.last_transition_time.parse().ok()),
        }
    }
}
