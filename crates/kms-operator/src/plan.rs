//! Decides from facts: which rotations are due, which may begin now, and what each `OsdKey` shows. Pure functions.
//!
//! A rotation is due if the key was not rotated since the schedule's last time, or is older than the policy allows. An OSD that
//! was never rotated counts from the creation of its Deployment. Who rotated the key does not matter: a Job of the operator, a
//! CronJob, or a person.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::{
    api::OsdKeyStatus,
    facts::{Facts, OsdFacts},
    job::{Attempt, Cause, JobFacts},
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
    /// When the plan changes without an event.
    pub(crate) next: Option<Timestamp>,
}

/// What to do for an OSD.
#[derive(Clone, Debug)]
pub(crate) struct OsdPlan {
    /// What its `OsdKey` shows.
    pub(crate) status: OsdKeyStatus,
    /// The rotation to begin now.
    pub(crate) start: Option<Attempt>,
}

/// Decides.
pub(crate) fn plan(facts: &Facts) -> Plan {
    let outlooks: Vec<Outlook> = facts.osds.iter().map(|osd| Outlook::of(osd, facts)).collect();
    let starts = starts(facts, &outlooks);
    let mut plan = Plan::default();
    for ((osd, outlook), start) in facts.osds.iter().zip(&outlooks).zip(starts) {
        let Outlook { earliest, too_old, next_due, .. } = outlook;
        let changes = [earliest, too_old, next_due].into_iter().flatten().filter(|time| **time > facts.now);
        plan.next = plan.next.into_iter().chain(changes.copied()).min();
        plan.obsolete.extend(obsolete(osd));
        plan.osds.push(OsdPlan { status: status::of(osd, outlook, facts), start });
    }
    plan
}

/// The rotations to begin now, in the order of the OSDs: those that were asked for, then those that are due the longest.
fn starts(facts: &Facts, outlooks: &[Outlook]) -> Vec<Option<Attempt>> {
    let mut starts = vec![None; outlooks.len()];
    let Some(rules) = facts.rules.as_ref().ok().filter(|_| !facts.is_paused) else { return starts };
    let running = || facts.osds.iter().zip(outlooks).filter(|(_, outlook)| outlook.active.is_some());
    let mut busy: BTreeSet<Option<&String>> = running().map(|(osd, _)| osd.domain.as_ref()).collect();
    let mut free = rules.max_parallel.saturating_sub(running().count());
    let mut candidates: Vec<_> = starts
        .iter_mut()
        .zip(facts.osds.iter().zip(outlooks))
        .filter_map(|(start, (osd, outlook))| {
            let attempt = outlook.attempt(osd, facts)?;
            Some(((outlook.asked.is_none(), outlook.due, osd.id), osd, start, attempt))
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

/// The ended Jobs of an OSD that guard nothing any more: a Job of a later due time has ended, or the status has recorded the
/// value that asked.
fn obsolete(osd: &OsdFacts) -> impl Iterator<Item = JobFacts> {
    let due = |job: &JobFacts| match job.attempt.cause {
        Cause::Due(due) => Some(due),
        Cause::Asked(_) => None,
    };
    let ended = || osd.jobs.iter().filter(|job| job.ended().is_some());
    let newest = ended().filter_map(due).max();
    let last = ended().max_by_key(|job| job.ended()).map(|job| job.name.as_str());
    ended()
        .filter(move |job| match &job.attempt.cause {
            Cause::Due(due) => newest.is_some_and(|newest| *due < newest),
            Cause::Asked(value) => osd.status.rotate_now.as_ref() == Some(value),
        })
        // The last one counts the failures.
        .filter(move |job| Some(job.name.as_str()) != last)
        .cloned()
}

#[cfg(test)]
#[path = "../tests/unit/plan.rs"]
mod tests;
