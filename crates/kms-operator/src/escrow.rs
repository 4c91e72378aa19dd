//! Escrows that the operator begins: when one is due, and what is known of the last ones.
//!
//! An escrow is a Job that saves all keys of a cluster. It touches no device, so it waits neither for a window nor for the Jobs of
//! OSDs. Its name has the time at which it became due and its number, as that of a rotation: two replicas that both begin it
//! create the same name.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kms_core::{Error, Result};
use kms_kube::CephCluster;
use kms_rook::{EscrowTarget, JobOptions, Schedule, escrow_job};

use crate::{
    api::Escrow,
    clock::whole_seconds,
    job::{ATTEMPT, DUE, History, JobState, Told, retry, state},
    window::Recurrence,
};

/// What a policy says about escrows.
#[derive(Clone, Debug)]
pub(crate) struct EscrowRules {
    times: Recurrence,
    target: EscrowTarget,
}

impl EscrowRules {
    /// # Errors
    ///
    /// `ConfigInvalid` if the schedule is not valid or something is missing.
    pub(crate) fn of(escrow: &Escrow) -> Result<Self> {
        let Escrow { recipients, schedule, claim, service_account } = escrow;
        if recipients.is_empty()
            || recipients.iter().any(|one| !one.starts_with("age1") || one.contains(char::is_whitespace))
        {
            return Err(Error::config("escrow.recipients needs recipients of age, such as age1…"));
        }
        if claim.is_empty() {
            return Err(Error::config("escrow.claim needs the name of a PersistentVolumeClaim"));
        }
        let invalid = |cause| Error::config("escrow.schedule is not a cron schedule").source(cause);
        let schedule = Schedule::parse(schedule).map_err(invalid)?;
        let target = EscrowTarget::new(claim, recipients.clone());
        Ok(Self {
            times: Recurrence::in_utc(&schedule)?,
            target: match service_account {
                Some(name) => target.with_service_account(name),
                None => target,
            },
        })
    }
}

/// One try of an escrow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct EscrowAttempt {
    /// Since when the escrow is due.
    pub(crate) due: Timestamp,
    /// 1 for the first one since the last escrow.
    pub(crate) number: u32,
}

impl EscrowAttempt {
    /// The name of its Job, and of the folder with its archives.
    pub(crate) fn job_name(self) -> String {
        format!("rook-kms-escrow-{}-{}", self.due.strftime("%Y%m%d%H%M%S"), self.number)
    }

    /// The Job.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the options name no image.
    pub(crate) fn job(self, cluster: &CephCluster, options: &JobOptions, rules: &EscrowRules) -> Result<Job> {
        let mut job = escrow_job(cluster, options, &rules.target, &self.job_name())?;
        let annotations = job.metadata.annotations.get_or_insert_default();
        annotations.insert(ATTEMPT.to_owned(), self.number.to_string());
        annotations.insert(DUE.to_owned(), self.due.to_string());
        Ok(job)
    }
}

/// What the operator knows of a Job of an escrow.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct EscrowJob {
    pub(crate) name: String,
    pub(crate) uid: Option<String>,
    pub(crate) attempt: EscrowAttempt,
    pub(crate) state: JobState,
}

impl EscrowJob {
    /// Reads a Job; `None` if this operator did not make it.
    pub(crate) fn of(job: &Job) -> Option<Self> {
        let annotation = |name: &str| job.metadata.annotations.as_ref()?.get(name).map(String::as_str);
        let due = annotation(DUE)?.parse().ok()?;
        let number = annotation(ATTEMPT)?.parse().ok()?;
        Some(Self {
            name: job.metadata.name.clone()?,
            uid: job.metadata.uid.clone(),
            attempt: EscrowAttempt { due, number },
            state: state(job),
        })
    }

    fn told(&self) -> Told<'_> {
        Told { name: &self.name, number: self.attempt.number, state: self.state, failure: None }
    }
}

/// What is known of the escrows of a cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct EscrowFacts {
    /// What the policy says; `None` if it says nothing.
    pub(crate) rules: Option<Result<EscrowRules, String>>,
    /// When the last escrow of all keys was made, as the CephCluster records it.
    pub(crate) made: Option<Timestamp>,
    /// When a drill last succeeded, as the CephCluster records it.
    pub(crate) drilled: Option<Timestamp>,
    /// The Jobs of escrows.
    pub(crate) jobs: Vec<EscrowJob>,
}

/// What to do about the escrows of a cluster.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct EscrowPlan {
    /// The escrow to begin now, but for pauses.
    pub(crate) start: Option<EscrowAttempt>,
    /// The Job that runs.
    pub(crate) active: Option<String>,
    /// The Jobs that guard nothing any more.
    pub(crate) obsolete: Vec<EscrowJob>,
    /// The escrows that failed since the last one, and when the last of them did.
    pub(crate) failed: Option<(Timestamp, u32)>,
    /// Why no escrow can be made.
    pub(crate) invalid: Option<String>,
    /// When the next escrow may begin.
    pub(crate) next: Option<Timestamp>,
}

impl EscrowFacts {
    /// Decides.
    pub(crate) fn plan(&self, now: Timestamp) -> EscrowPlan {
        let Self { rules, made, drilled: _, jobs } = self;
        let history = History::of(jobs.iter().map(EscrowJob::told));
        // The host that has recorded the time may be ahead of the API server.
        let made = (*made).into_iter().chain(history.succeeded).max().map(|at| at.min(now));
        let failed = history.failed().filter(|(at, _)| made.is_none_or(|made| made < *at));
        let ended = || jobs.iter().filter(|job| job.state.ended().is_some());
        let newest = ended().map(|job| job.attempt.due).max();
        let is_obsolete =
            |job: &&EscrowJob| Some(job.attempt.due) < newest && history.last() != Some(&*job.name);
        let plan = EscrowPlan {
            active: history.active(),
            obsolete: ended().filter(is_obsolete).cloned().collect(),
            failed,
            ..EscrowPlan::default()
        };
        let rules = match rules {
            None => return plan,
            Some(Err(why)) => return EscrowPlan { invalid: Some(why.clone()), ..plan },
            Some(Ok(rules)) => rules,
        };
        let due = rules.times.last(now).filter(|due| made.is_none_or(|made| made < *due));
        let Some(due) = due else { return EscrowPlan { next: rules.times.next(now), ..plan } };
        let retry = failed.and_then(retry);
        let from = retry.map_or(due, |retry| retry.max(due));
        let number = failed.map_or(0, |(_, number)| number).saturating_add(1);
        let may_begin = from <= now && plan.active.is_none();
        EscrowPlan { start: may_begin.then_some(EscrowAttempt { due, number }), next: Some(from), ..plan }
    }
}

impl EscrowPlan {
    /// Why there is no escrow that should be there.
    pub(crate) fn problem(&self) -> Option<String> {
        match (&self.invalid, self.failed) {
            (Some(why), _) => Some(format!("no escrow can be made: {why}")),
            (None, Some((at, number))) => {
                let at = whole_seconds(at);
                Some(format!(
                    "the escrow of {at} has failed, the last of {number} attempts: see the log of its Job"
                ))
            }
            (None, None) => None,
        }
    }
}

#[cfg(test)]
#[path = "../tests/unit/escrow.rs"]
mod tests;
