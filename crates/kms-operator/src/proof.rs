//! The proof that the KEK of today opens the devices of an OSD: when it was last made, and when the next one is due.
//!
//! A rotation ends with that proof, and a verification is nothing else. A verification that fails is no older proof.

use jiff::Timestamp;

use crate::{
    api::{ConditionStatus, ConditionType},
    facts::{Facts, OsdFacts},
    job::{Attempt, Cause, History, JobFacts, retry},
};

/// The reason of a key whose last verification has failed.
pub(crate) const VERIFICATION_FAILED: &str = "VerificationFailed";

/// What is known of the proof for one OSD.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proof {
    /// When the KEK was last seen to open every device.
    pub(crate) made: Option<Timestamp>,
    /// The last verification that failed, if none has succeeded since: when, and its number.
    pub(crate) failed: Option<(Timestamp, u32)>,
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
        let failed = match history.last() {
            Some(_) => history.failed(),
            // A failure stays one until a proof is made, also if a person has deleted its Job.
            None => recorded_failure(osd).map(|at| (at, 0)),
        };
        let proof = Self {
            made,
            failed: failed.filter(|(at, _)| made.is_none_or(|made| made < *at)),
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

/// When the stored status began to say that a verification has failed.
fn recorded_failure(osd: &OsdFacts) -> Option<Timestamp> {
    let condition = osd.status.conditions.iter().find(|one| one.type_ == ConditionType::Verified)?;
    let is_failure = condition.status == ConditionStatus::False && condition.reason == VERIFICATION_FAILED;
    is_failure.then(|| condition.last_transition_time.parse().ok()).flatten()
}

#[cfg(test)]
#[path = "../tests/unit/proof.rs"]
mod tests;
