//! The Jobs of rotations and verifications: their names, which are what keeps an OSD from being rotated twice, and what they
//! tell.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::Job, core::v1::EnvVar};
use kms_core::{Trace, trace};
use kms_rook::{JobMaker, Osd, ROTATION_LABEL, spread};

use crate::reports::Failure;

/// The annotation of a Job with the time at which the rotation became due, in RFC 3339.
pub(crate) const DUE: &str = "kms.ceph.rook.io/due";
/// The annotation of a Job with the time at which a verification became due, in RFC 3339. It is another one than that of a
/// rotation, so that no version of the operator takes a verification for a rotation.
const VERIFY: &str = "kms.ceph.rook.io/verify-due";
/// The annotation of a Job with the value of `rotate-now` that asked for it.
const ASKED: &str = "kms.ceph.rook.io/asked";
/// The annotation of a Job with its number among those of its kind since the last one that succeeded.
pub(crate) const ATTEMPT: &str = "kms.ceph.rook.io/attempt";

/// The wait after the first failure. Each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(3600);
/// The longest wait after a failure.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Why a rotation or a verification is due.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Cause {
    /// The schedule or the greatest age says so, since this time.
    Due(Timestamp),
    /// A new value of the annotation `rotate-now` asks for it.
    Asked(String),
    /// The proof that the KEK opens the devices is too old since this time. Nothing is changed.
    Verify(Timestamp),
}

impl Cause {
    pub(crate) const fn is_verification(&self) -> bool {
        matches!(self, Self::Verify(_))
    }
}

/// One try of a rotation or a verification.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Attempt {
    pub(crate) cause: Cause,
    /// 1 for the first one of its kind since the last one that succeeded.
    pub(crate) number: u32,
}

impl Attempt {
    /// The name of its Job.
    ///
    /// It depends on nothing but the OSD, what makes the rotation due, and the number. So two replicas that both begin the same
    /// attempt create the same name, and the API server accepts one of them.
    pub(crate) fn job_name(&self, osd: u32) -> String {
        match &self.cause {
            Cause::Due(due) => dated("rotate", osd, *due, self.number),
            Cause::Verify(due) => dated("verify", osd, *due, self.number),
            // A value asks once, so the number is not part of the name.
            Cause::Asked(value) => format!("rook-kms-rotate-{osd}-now-{:016x}", spread(value)),
        }
    }

    /// The Job.
    pub(crate) fn job(&self, maker: &JobMaker<'_>, osd: &Osd) -> Job {
        let mut job = if self.cause.is_verification() { maker.verification(osd) } else { maker.job(osd) };
        let annotations = job.metadata.annotations.get_or_insert_default();
        annotations.insert(ATTEMPT.to_owned(), self.number.to_string());
        match &self.cause {
            Cause::Due(due) => annotations.insert(DUE.to_owned(), due.to_string()),
            Cause::Asked(value) => annotations.insert(ASKED.to_owned(), value.clone()),
            Cause::Verify(due) => annotations.insert(VERIFY.to_owned(), due.to_string()),
        };
        job.metadata.name = Some(self.job_name(osd.id));
        job
    }
}

fn dated(what: &str, osd: u32, due: Timestamp, number: u32) -> String {
    format!("rook-kms-{what}-{osd}-{}-{number}", due.strftime("%Y%m%d%H%M%S"))
}

/// Hands the id of the requests of this reconcile to the program of a Job, whose requests to the KMS then carry it too.
pub(crate) fn traced(mut job: Job) -> Job {
    let pod = job.spec.as_mut().and_then(|spec| spec.template.spec.as_mut());
    if let Some((trace, pod)) = Trace::current().zip(pod) {
        for container in &mut pod.containers {
            container.env.get_or_insert_default().push(EnvVar {
                name: trace::VARIABLE.to_owned(),
                value: Some(trace.header()),
                value_from: None,
            });
        }
    }
    job
}

/// How far a Job is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum JobState {
    /// It has not ended.
    Active,
    /// It succeeded, at this time.
    Succeeded(Timestamp),
    /// It failed, at this time.
    Failed(Timestamp),
}

impl JobState {
    /// When it ended.
    pub(crate) const fn ended(self) -> Option<Timestamp> {
        match self {
            Self::Active => None,
            Self::Succeeded(at) | Self::Failed(at) => Some(at),
        }
    }
}

/// What the operator knows of one of its Jobs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct JobFacts {
    pub(crate) name: String,
    pub(crate) uid: Option<String>,
    pub(crate) osd: u32,
    pub(crate) attempt: Attempt,
    pub(crate) state: JobState,
    /// Why it failed, as its pod reports it; `None` if that is not known.
    pub(crate) failure: Option<Failure>,
}

impl JobFacts {
    /// Reads a Job; `None` if this operator did not make it.
    pub(crate) fn of(job: &Job) -> Option<Self> {
        let metadata = &job.metadata;
        let osd = metadata.labels.as_ref()?.get(ROTATION_LABEL)?.parse().ok()?;
        let annotation = |name: &str| metadata.annotations.as_ref()?.get(name).map(String::as_str);
        let cause = match (annotation(ASKED), annotation(VERIFY)) {
            (Some(value), _) => Cause::Asked(value.to_owned()),
            (None, Some(due)) => Cause::Verify(due.parse().ok()?),
            (None, None) => Cause::Due(annotation(DUE)?.parse().ok()?),
        };
        let number = annotation(ATTEMPT)?.parse().ok()?;
        Some(Self {
            name: metadata.name.clone()?,
            uid: metadata.uid.clone(),
            osd,
            attempt: Attempt { cause, number },
            state: state(job),
            failure: None,
        })
    }

    /// What it tells a [`History`].
    pub(crate) fn told(&self) -> Told<'_> {
        Told { name: &self.name, number: self.attempt.number, state: self.state, failure: self.failure }
    }
}

/// What a Job tells a [`History`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told<'a> {
    pub(crate) name: &'a str,
    pub(crate) number: u32,
    pub(crate) state: JobState,
    /// Why it failed, as its pod reports it.
    pub(crate) failure: Option<Failure>,
}

/// What the Jobs of one kind tell together.
#[derive(Debug, Default)]
pub(crate) struct History<'a> {
    /// When one of them last succeeded.
    pub(crate) succeeded: Option<Timestamp>,
    /// The one that ended last.
    last: Option<Told<'a>>,
    /// The one that runs.
    active: Option<&'a str>,
}

impl<'a> History<'a> {
    pub(crate) fn of(jobs: impl Iterator<Item = Told<'a>>) -> Self {
        let mut history = Self::default();
        for job in jobs {
            match job.state {
                JobState::Active => history.active = history.active.or(Some(job.name)),
                JobState::Succeeded(at) => history.succeeded = history.succeeded.max(Some(at)),
                JobState::Failed(_) => {}
            }
            let ended = job.state.ended();
            if ended.is_some() && ended >= history.last.and_then(|last| last.state.ended()) {
                history.last = Some(job);
            }
        }
        history
    }

    /// The name of the Job that runs.
    pub(crate) fn active(&self) -> Option<String> {
        self.active.map(str::to_owned)
    }

    /// The name of the Job that ended last: it counts the failures.
    pub(crate) fn last(&self) -> Option<&'a str> {
        self.last.map(|last| last.name)
    }

    /// When the Job that ended last failed, and its number; `None` if it did not fail.
    pub(crate) fn failed(&self) -> Option<(Timestamp, u32)> {
        match self.last? {
            Told { number, state: JobState::Failed(at), .. } => Some((at, number)),
            _ => None,
        }
    }

    /// Why the Job that ended last failed, as its pod reports it.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.last?.failure
    }
}

/// When the next attempt may begin after one of this number has failed at this time.
pub(crate) fn retry((at, number): (Timestamp, u32)) -> Option<Timestamp> {
    at.checked_add(wait(number)).ok()
}

/// The wait after this many failures.
pub(crate) fn wait(failures: u32) -> Duration {
    let doubled =
        2_u32.checked_pow(failures.saturating_sub(1)).and_then(|times| FIRST_WAIT.checked_mul(times));
    doubled.map_or(LONGEST_WAIT, |wait| wait.min(LONGEST_WAIT))
}

/// How far a Job is, by its conditions.
pub(crate) fn state(job: &Job) -> JobState {
    let status = job.status.as_ref();
    let mut conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    let ended = conditions.find(|condition| {
        condition.status == "True" && matches!(condition.type_.as_str(), "Complete" | "Failed")
    });
    let Some(ended) = ended else { return JobState::Active };
    let time = |time: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time| time.0;
    let completed = status.and_then(|status| status.completion_time.as_ref());
    // A condition without a time counts from the creation of the Job, which is earlier: the back-off is shorter then, and no
    // rotation is taken for a later one.
    let at = completed
        .or(ended.last_transition_time.as_ref())
        .or(job.metadata.creation_timestamp.as_ref())
        .map_or(Timestamp::UNIX_EPOCH, time);
    if ended.type_ == "Complete" { JobState::Succeeded(at) } else { JobState::Failed(at) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_name_of_a_job_depends_on_the_osd_the_cause_and_the_number() {
        let due = |due: &str, number| Attempt { cause: Cause::Due(time(due)), number };
        let asked = |value: &str, number| Attempt { cause: Cause::Asked(value.to_owned()), number };
        assert_eq!(due("2026-11-29T11:10:00Z", 2).job_name(3), "rook-kms-rotate-3-20261129111000-2");
        // These names must not change: an update would rotate again.
        assert_eq!(asked("1", 1).job_name(3), "rook-kms-rotate-3-now-af63ac4c296236b0");
        assert_eq!(asked("1", 4).job_name(3), asked("1", 1).job_name(3));
        assert_ne!(asked("2", 1).job_name(3), asked("1", 1).job_name(3));
        let verify = Attempt { cause: Cause::Verify(time("2026-11-29T11:10:00Z")), number: 1 };
        assert_eq!(verify.job_name(3), "rook-kms-verify-3-20261129111000-1");
        let longest = due("2026-11-29T11:10:00Z", u32::MAX).job_name(u32::MAX);
        assert!(longest.len() <= 63, "{longest}");
    }

    #[test]
    fn a_job_tells_what_it_is_for_and_how_far_it_is() {
        let job = |status: serde_json::Value| -> Job {
            serde_json::from_value(json!({
                "metadata": {
                    "name": "rook-kms-rotate-3-20261129111000-2", "uid": "u",
                    "creationTimestamp": "2026-11-29T12:00:00Z",
                    "labels": {ROTATION_LABEL: "3"},
                    "annotations": {DUE: "2026-11-29T11:10:00Z", ATTEMPT: "2"},
                },
                "status": status,
            }))
            .unwrap()
        };
        let condition = |type_: &str| json!({"type": type_, "status": "True", "lastTransitionTime": "2026-11-29T12:05:00Z"});
        for (status, expected) in [
            (json!({"active": 1}), JobState::Active),
            (json!({"conditions": [condition("Suspended")]}), JobState::Active),
            (
                json!({"conditions": [condition("SuccessCriteriaMet"), condition("Complete")],
                       "completionTime": "2026-11-29T12:04:00Z"}),
                JobState::Succeeded(time("2026-11-29T12:04:00Z")),
            ),
            (json!({"conditions": [condition("Failed")]}), JobState::Failed(time("2026-11-29T12:05:00Z"))),
            (
                json!({"conditions": [{"type": "Failed", "status": "True"}]}),
                JobState::Failed(time("2026-11-29T12:00:00Z")),
            ),
        ] {
            let facts = JobFacts::of(&job(status)).unwrap();
            assert_eq!(facts.state, expected);
            assert_eq!(facts.attempt.job_name(facts.osd), facts.name);
        }
        let mut verification = job(json!({}));
        let annotations = verification.metadata.annotations.as_mut().unwrap();
        let due = annotations.remove(DUE).unwrap();
        annotations.insert(VERIFY.to_owned(), due.clone());
        assert_eq!(JobFacts::of(&verification).unwrap().attempt.cause, Cause::Verify(time(&due)));
        let mut other = job(json!({}));
        other.metadata.annotations = None;
        assert_eq!(JobFacts::of(&other), None);
    }
}
