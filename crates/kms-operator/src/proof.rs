//! The proof that the KEK of today opens the devices of an OSD: when it was last made, and when the next one is due.
//!
//! A rotation ends with that proof, and a verification is nothing else.
//!
//! A Job that fails says one of two things. Either the OSD was seen not to start, since the KEK does not open a device or the
//! header of a device is gone: the proof is refuted until a later one is made. Or nothing could be seen, for example because
//! the KMS was away: the last proof is as good as before.

use jiff::Timestamp;

use crate::{
    api::{ConditionStatus, ConditionType},
    facts::{Facts, OsdFacts},
    job::{Attempt, Cause, History, JobFacts, retry},
    reports::{Failure, Refutation},
};

/// What is known of the proof for one OSD.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proof {
    /// When the KEK was last seen to open every device.
    pub(crate) made: Option<Timestamp>,
    /// When the KEK was last seen not to open a device, and what was seen, if no proof was made since.
    pub(crate) refuted: Option<(Timestamp, Refutation)>,
    /// When the last verification could not be made, and why, if no proof was made since.
    pub(crate) untried: Option<(Timestamp, Option<Failure>)>,
    /// The last verification that failed, if no proof was made since: when, and its number.
    failed: Option<(Timestamp, u32)>,
    /// The Job of a verification that runs.
    pub(crate) active: Option<String>,
    /// Since when a verification is due.
    due: Option<Timestamp>,
    /// When the next verification may begin.
    pub(crate) earliest: Option<Timestamp>,
}

impl Proof {
    /// `rotated` is when the key was last rotated.
    pub(crate) fn of(osd: &OsdFacts, facts: &Facts, rotated: Option<Timestamp>) -> Self {
        let now = facts.now;
        let verifications = osd.jobs.iter().filter(|job| job.attempt.cause.is_verification());
        let history = History::of(verifications.map(JobFacts::told));
        // The Job of the last verification may be gone.
        let recorded = osd.status.verified_at.as_ref().and_then(|at| at.parse().ok());
        let made = history
            .succeeded
            .into_iter()
            .chain(recorded)
            .chain(rotated)
            .max()
            .map(|at: Timestamp| at.min(now));
        let is_newer = |at: &Timestamp| made.is_none_or(|made| made < *at);
        // The pod that has reported it may be gone, and so may its Job: what the status says stays until a proof is made.
        let refuted =
            [refutation(osd), recorded_refutation(osd)].into_iter().flatten().find(|(at, _)| is_newer(at));
        let failed = history.failed().filter(|(at, _)| is_newer(at));
        let untried = failed.filter(|_| refuted.is_none());
        let proof = Self {
            made,
            refuted,
            untried: untried.map(|(at, _)| (at, history.failure())),
            failed,
            active: history.active(),
            ..Self::default()
        };
        let Some((rules, age)) = facts.rules.as_ref().ok().and_then(|rules| Some((rules, rules.proof_age?)))
        else {
            return proof;
        };
        // Rook opens a new OSD with its KEK when it creates it.
        let since = made.or(osd.created).unwrap_or(Timestamp::UNIX_EPOCH);
        let Ok(ends) = since.checked_add(age) else { return proof };
        let ends = proof.refuted.map_or(ends, |(refuted, _)| refuted.min(ends));
        let retry = proof.failed.and_then(retry);
        let from = retry.map_or(ends, |retry| retry.max(ends));
        Self { due: Some(ends).filter(|ends| *ends <= now), earliest: rules.earliest(from, now), ..proof }
    }

    /// The verification that may begin now, but for the limits of the cluster.
    pub(crate) fn attempt(&self, now: Timestamp) -> Option<Attempt> {
        let due = self.due.filter(|_| self.earliest.is_some_and(|at| at <= now))?;
        let number = self.failed.map_or(0, |(_, number)| number).saturating_add(1);
        Some(Attempt { cause: Cause::Verify(due), number })
    }
}

/// When a Job last saw that the OSD does not start, and why: a verification, or a rotation, which looks first.
fn refutation(osd: &OsdFacts) -> Option<(Timestamp, Refutation)> {
    let refutations = osd.jobs.iter().filter_map(|job| Some((job.state.ended()?, job.failure?.refutation?)));
    refutations.max_by_key(|(at, _)| *at)
}

/// When the stored status began to say that the OSD does not start, and why.
fn recorded_refutation(osd: &OsdFacts) -> Option<(Timestamp, Refutation)> {
    let condition = osd.status.conditions.iter().find(|one| one.type_ == ConditionType::Verified)?;
    let refutation = Refutation::ALL.into_iter().find(|one| one.reason() == condition.reason)?;
    let at = condition.last_transition_time.parse().ok()?;
    Some((at, refutation)).filter(|_| condition.status == ConditionStatus::False)
}

#[cfg(test)]
#[path = "../tests/unit/proof.rs"]
mod tests;
