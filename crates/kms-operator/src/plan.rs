//! Decides from facts: which rotations and verifications are due, which may begin now, and what each `OsdKey` shows. Pure
//! functions.
//!
//! A rotation is due if the key was not rotated since the schedule's last time, or is older than the policy allows. An OSD that
//! was never rotated counts from the creation of its Deployment. Who rotated the key does not matter: a Job of the operator, a
//! CronJob, or a person.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::{
    api::OsdKeyStatus,
    escrow::EscrowPlan,
    facts::{Facts, OsdFacts},
    job::{Attempt, Cause, History, JobFacts},
    outlook::Outlook,
    status,
};

/// What to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// The OSDs, in the order of the facts.
    pub(crate) osds: Vec<OsdPlan>,
    /// The Jobs that guard nothing any more.
    pub(crate) obsolete: Vec<JobFacts>,
    pub(crate) escrow: EscrowPlan,
    /// When the plan changes without an event.
    pub(crate) next: Option<Timestamp>,
}

/// What to do for an OSD.
#[derive(Clone, Debug)]
pub(crate) struct OsdPlan {
    /// What its `OsdKey` shows.
    pub(crate) status: OsdKeyStatus,
    /// Whether the rotation that failed last has reported why.
    pub(crate) is_failure_told: bool,
    /// The rotation or the verification to begin now.
    pub(crate) start: Option<Attempt>,
}

/// Decides.
pub(crate) fn plan(facts: &Facts) -> Plan {
    let outlooks: Vec<Outlook> = facts.osds.iter().map(|osd| Outlook::of(osd, facts)).collect();
    let mut escrow = facts.escrow.plan(facts.now);
    let room = facts.room();
    escrow.start = escrow.start.filter(|_| !facts.is_paused && room > 0);
    let starts = starts(facts, &outlooks, room.saturating_sub(usize::from(escrow.start.is_some())));
    let mut plan = Plan { next: escrow.next.filter(|next| *next > facts.now), ..Plan::default() };
    for ((osd, outlook), start) in facts.osds.iter().zip(&outlooks).zip(starts) {
        let Outlook { earliest, too_old, next_due, proof, .. } = outlook;
        let changes = [earliest, too_old, next_due, &proof.earliest]
            .into_iter()
            .flatten()
            .filter(|time| **time > facts.now);
        plan.next = plan.next.into_iter().chain(changes.copied()).min();
        plan.obsolete.extend(obsolete(osd));
        let status = status::of(osd, outlook, &escrow, facts);
        plan.osds.push(OsdPlan { status, is_failure_told: outlook.is_failure_told, start });
    }
    plan.escrow = escrow;
    plan
}

/// What is to begin now, in the order of the OSDs. Rotations that were asked for go first, then those that are due the longest,
/// then verifications. `room` is how many more the limit of the KMS allows.
fn starts(facts: &Facts, outlooks: &[Outlook], room: usize) -> Vec<Option<Attempt>> {
    let mut starts = vec![None; outlooks.len()];
    let Some(rules) = facts.rules.as_ref().ok().filter(|_| !facts.is_paused) else { return starts };
    let running = || facts.osds.iter().zip(outlooks).filter(|(_, outlook)| outlook.is_busy());
    let mut busy: BTreeSet<Option<&String>> = running().map(|(osd, _)| osd.domain.as_ref()).collect();
    let mut free = rules.max_parallel.saturating_sub(running().count()).min(room);
    let mut candidates: Vec<_> = starts
        .iter_mut()
        .zip(facts.osds.iter().zip(outlooks))
        .filter_map(|(start, (osd, outlook))| {
            let attempt = outlook.attempt(osd, facts)?;
            let (class, due) = match attempt.cause {
                Cause::Asked(_) => (0, None),
                Cause::Due(due) => (1, Some(due)),
                Cause::Verify(due) => (2, Some(due)),
            };
            Some(((class, due, osd.id), osd, start, attempt))
        })
        .collect();
    candidates.sort_by_key(|(order, ..)| *order);
    for (_, osd, start, attempt) in candidates {
        if free > 0 && busy.insert(osd.domain.as_ref()) {
            free -= 1;
            *start = Some(attempt);
        }
    }
    starts
}

/// The ended Jobs of an OSD that guard nothing any more: a Job of the same kind and a later due time has ended, or the status
/// has recorded the value that asked.
fn obsolete(osd: &OsdFacts) -> impl Iterator<Item = JobFacts> {
    [false, true].into_iter().flat_map(move |verification| {
        let due = |job: &JobFacts| match job.attempt.cause {
            Cause::Due(due) | Cause::Verify(due) => Some(due),
            Cause::Asked(_) => None,
        };
        let of_kind =
            move || osd.jobs.iter().filter(move |job| job.attempt.cause.is_verification() == verification);
        let ended = move || of_kind().filter(|job| job.state.ended().is_some());
        let newest = ended().filter_map(due).max();
        let last = History::of(of_kind().map(JobFacts::told)).last();
        ended()
            .filter(move |job| match &job.attempt.cause {
                Cause::Due(due) | Cause::Verify(due) => newest.is_some_and(|newest| *due < newest),
                Cause::Asked(value) => osd.status.rotate_now.as_ref() == Some(value),
            })
            // The last one counts the failures.
            .filter(move |job| Some(job.name.as_str()) != last)
            .cloned()
    })
}

#[cfg(test)]
#[path = "../tests/unit/plan.rs"]
pub(crate) mod tests;
