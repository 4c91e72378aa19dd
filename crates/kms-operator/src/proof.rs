//! The proof that the KEK of today opens the devices of an OSD: when it was last made, and when the next one is due.
//!
//! A rotation ends with that proof, and a verification is nothing else.
//!
//! A Job that fails says one of two things. Either the KEK was seen not to open a device: the proof is refuted until a later one
//! is made. Or nothing could be seen, for example because the KMS was away: the last proof is as good as before.

use jiff::Timestamp;

use crate::{
    api::{ConditionStatus, ConditionType},
    facts::{Facts, OsdFacts},
    job::{Attempt, Cause, History, JobFacts, retry},
    reports::Failure,
};

/// The reason of a key whose KEK was seen not to open a device.
pub(crate) const VERIFICATION_FAILED: &str = "VerificationFailed";

/// What is known of the proof for one OSD.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proof {
    /// When the KEK was last seen to open every device.
    pub(crate) made: Option<Timestamp>,
    /// When the KEK was last seen not to open a device, if no proof was made since.
    pub(crate) refuted: Option<Timestamp>,
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
        let refuted = [refutation(osd), recorded_refutation(osd)].into_iter().flatten().find(is_newer);
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
        let ends = proof.refuted.map_or(ends, |refuted| refuted.min(ends));
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

/// When a Job last saw that the KEK does not open a device: a verification, or a rotation, which looks first.
fn refutation(osd: &OsdFacts) -> Option<Timestamp> {
    let refutations = osd.jobs.iter().filter(|job| job.failure.is_some_and(|failure| failure.is_refutation));
    refutations.filter_map(|job| job.state.ended()).max()
}

/// When the stored status began to say that the KEK does not open a device.
fn recorded_refutation(osd: &OsdFacts) -> Option<Timestamp> {
    let condition = osd.status.conditions.iter().find(|one| one.type_ == ConditionType::Verified)?;
    let is_refuted = condition.status == ConditionStatus::False && condition.reason == VERIFICATION_FAILED;
    is_refuted.then(|| condition.last_transition_time.parse().ok()).flatten()
}

#[cfg(test)]
#[path = "../tests/unit/proof.rs"]
mod tests;
