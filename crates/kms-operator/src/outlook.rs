//! What concerns one OSD: since when its key is due, and when the next rotation may begin, before the limits of its cluster.

use jiff::Timestamp;

use crate::{
    facts::{Facts, OsdFacts},
    job::{Attempt, Cause, History, JobFacts, retry},
    proof::Proof,
    window::Recurrence,
};

/// What concerns one OSD, before the limits of the cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outlook {
    /// When the key was last rotated.
    pub(crate) rotated: Option<Timestamp>,
    /// The rotations that failed since.
    pub(crate) failures: u32,
    /// Whether the last of them has reported why.
    pub(crate) is_failure_told: bool,
    /// The Job of a rotation that runs.
    pub(crate) active: Option<String>,
    /// Since when a rotation is due.
    pub(crate) due: Option<Timestamp>,
    /// When the next rotation may begin.
    pub(crate) earliest: Option<Timestamp>,
    /// When the key is older than the policy allows.
    pub(crate) too_old: Option<Timestamp>,
    /// The value of `rotate-now` that waits.
    pub(crate) asked: Option<String>,
    /// The value of `rotate-now` that was acted upon.
    pub(crate) answered: Option<String>,
    /// When the schedule makes the next rotation due.
    pub(crate) next_due: Option<Timestamp>,
    /// The proof that the KEK opens the devices.
    pub(crate) proof: Proof,
}

impl Outlook {
    pub(crate) fn of(osd: &OsdFacts, facts: &Facts) -> Self {
        let now = facts.now;
        let recorded = osd.last.as_ref().and_then(|last| last.rotated_at.as_deref()?.parse().ok());
        let rotations = osd.jobs.iter().filter(|job| !job.attempt.cause.is_verification());
        let history = History::of(rotations.map(JobFacts::told));
        // The time that a node has recorded may be ahead of the API server's.
        let rotated = recorded.into_iter().chain(history.succeeded).max().map(|at: Timestamp| at.min(now));
        let failed = history.failed().filter(|(at, _)| rotated.is_none_or(|rotated| rotated < *at));
        let answered = |value: &String| {
            osd.status.rotate_now.as_ref() == Some(value)
                || osd.jobs.iter().any(|job| job.attempt.cause == Cause::Asked(value.clone()))
        };
        let was_answered = osd.asked.clone().filter(answered);
        let outlook = Self {
            rotated,
            failures: failed.map_or(0, |(_, number)| number),
            is_failure_told: history.failure().is_some(),
            active: history.active(),
            asked: osd.asked.clone().filter(|value| !value.is_empty() && !answered(value)),
            answered: was_answered.or_else(|| osd.status.rotate_now.clone()),
            proof: Proof::of(osd, facts, rotated),
            ..Self::default()
        };
        let Ok(rules) = &facts.rules else { return outlook };
        let Ok(recurrence) = Recurrence::of_osd(&rules.schedule, &osd.key) else { return outlook };
        let since = rotated.or(osd.created).unwrap_or(Timestamp::UNIX_EPOCH);
        let too_old = rules.max_age.and_then(|age| since.checked_add(age).ok());
        let passed = recurrence.last(now).filter(|passed| since < *passed);
        let due = passed.or_else(|| too_old.filter(|at| *at <= now));
        let next_due = recurrence.next(now).into_iter().chain(too_old.filter(|at| *at > now)).min();
        let retry = failed.and_then(retry);
        let from = match due {
            Some(due) => retry.map_or(due, |retry| retry.max(due)),
            None => next_due.unwrap_or(Timestamp::MAX),
        };
        Self { due, next_due, too_old, earliest: rules.earliest(from, now), ..outlook }
    }

    /// Whether a Job works on the key now.
    pub(crate) const fn is_busy(&self) -> bool {
        self.active.is_some() || self.proof.active.is_some()
    }

    /// The attempt that may begin now, but for the limits of the cluster: a rotation, which is a verification too, before a
    /// verification.
    pub(crate) fn attempt(&self, osd: &OsdFacts, facts: &Facts) -> Option<Attempt> {
        if self.is_busy() || osd.is_paused || osd.domain.is_none() || osd.lost_claim.is_some() {
            return None;
        }
        let cause = match (&self.asked, self.due) {
            (Some(value), _) => Cause::Asked(value.clone()),
            (None, Some(due)) if self.earliest.is_some_and(|at| at <= facts.now) => Cause::Due(due),
            _ => return self.proof.attempt(facts.now),
        };
        Some(Attempt { cause, number: self.failures.saturating_add(1) })
    }
}
