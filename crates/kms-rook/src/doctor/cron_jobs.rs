//! The rules over the CronJobs that rotate keys.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::{api::batch::v1::CronJob, jiff::Timestamp};
use kms_core::security::KeyRotationSpec;

use super::{
    codes::{AT_ONCE, NO_ROTATION, NOT_DONE, OVERLAP, SCHEDULE, SUSPENDED, TWO_ROTATIONS, UNWANTED},
    commands::Commands,
    diagnosis::{Diagnosis, Finding},
};
use crate::{
    discover::Discovery,
    names::Naming,
    options::JobOptions,
    rotation::{is_ours, key_of, pod_of},
    schedule::Schedule,
};

/// The grace period of a rotation that sets none, as `kms rotate` has it.
const GRACE: Duration = Duration::from_secs(600);
/// How long a rotation takes beside its grace period.
const WORK: Duration = Duration::from_secs(60);
/// More rotations than this in one minute are a load that a KMS may not carry.
const MOST_AT_ONCE: usize = 20;

/// A CronJob, as far as the rules need it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CronJobFacts {
    /// Its name.
    pub name: String,
    /// The naming by whose label it was found.
    pub naming: Naming,
    /// Whether it runs `kms`.
    pub is_ours: bool,
    /// The key that it rotates; `None` if it rotates none.
    pub key: Option<String>,
    /// Whether it is suspended.
    pub is_suspended: bool,
    /// Its schedule.
    pub schedule: String,
    /// How long one run takes, the grace period included.
    pub takes: Duration,
    /// The service account of its pods.
    pub account: String,
    /// When its last run was due.
    pub last_run: Option<Timestamp>,
    /// When a run has last succeeded.
    pub last_success: Option<Timestamp>,
    /// Whether a run is going on.
    pub is_active: bool,
}

impl CronJobFacts {
    /// Reads a CronJob that was found by the label of a naming.
    pub fn of(job: &CronJob, naming: Naming) -> Self {
        let pod = pod_of(job);
        let is_ours = is_ours(pod);
        let status = job.status.as_ref();
        let grace = JobOptions::of_cron_job(job).map(|options| options.grace.unwrap_or(GRACE));
        let account = pod.and_then(|pod| pod.service_account_name.clone());
        Self {
            name: job.metadata.name.clone().unwrap_or_default(),
            naming,
            is_ours,
            key: key_of(pod).map(str::to_owned),
            is_suspended: job.spec.suspend == Some(true),
            schedule: job.spec.schedule.clone(),
            takes: grace.unwrap_or_default() + WORK,
            // The account of a pod that names none.
            account: account.unwrap_or_else(|| "default".to_owned()),
            last_run: status.and_then(|status| Some(status.last_schedule_time.as_ref()?.0)),
            last_success: status.and_then(|status| Some(status.last_successful_time.as_ref()?.0)),
            is_active: status
                .is_some_and(|status| status.active.as_ref().is_some_and(|jobs| !jobs.is_empty())),
        }
    }

    fn object(&self) -> String {
        format!("CronJob {}", self.name)
    }
}

/// Checks the CronJobs: whether each key has one and not two, whether they run, and when. `found` has the OSDs; `None` if
/// they are not known.
pub fn cron_jobs(
    rotation: &KeyRotationSpec,
    jobs: &[CronJobFacts],
    found: Option<&Discovery>,
    commands: &Commands,
    diagnosis: &mut Diagnosis,
) {
    let mut by_key: BTreeMap<&str, Vec<&CronJobFacts>> = BTreeMap::new();
    for job in jobs {
        if let Some(key) = &job.key {
            by_key.entry(key).or_default().push(job);
        }
    }
    let count = format!("{} CronJobs", jobs.len());
    diagnosis.add_all(TWO_ROTATIONS, twice(&by_key, commands), "CronJobs", &count);
    diagnosis.add_all(SUSPENDED, suspended(jobs, commands), "CronJobs", "each may run");
    diagnosis.add_all(OVERLAP, overlapping(jobs, commands), "CronJobs", "each run ends before the next one");
    diagnosis.add_all(AT_ONCE, at_once(jobs, commands), "CronJobs", "the runs are spread");
    diagnosis.add_all(NOT_DONE, not_done(jobs, commands), "CronJobs", "every last run succeeded, or goes on");
    if let Some(found) = found {
        add_by_osd(rotation.enabled, jobs, &by_key, found, commands, diagnosis);
    }
    match Schedule::parse(&rotation.schedule) {
        Ok(schedule) => diagnosis.pass(SCHEDULE, "keyRotation.schedule", schedule.as_str()),
        Err(error) => {
            diagnosis.add(Finding::failed(SCHEDULE, "keyRotation.schedule", error, commands.edit_cluster()));
        }
    }
}

/// The rules that join CronJobs and OSDs.
fn add_by_osd(
    enabled: bool,
    jobs: &[CronJobFacts],
    by_key: &BTreeMap<&str, Vec<&CronJobFacts>>,
    found: &Discovery,
    commands: &Commands,
    diagnosis: &mut Diagnosis,
) {
    let wanted = Naming::wanted(enabled);
    // Beside Rook a cluster rotates if it has any CronJob of ours.
    let rotates = enabled || jobs.iter().any(|job| job.naming == wanted);
    if rotates {
        let without = found.osds.iter().filter(|osd| !by_key.contains_key(osd.name.as_str())).map(|osd| {
            let object = format!("{} (OSD {})", osd.name, osd.id);
            Finding::new(NO_ROTATION, object, "no CronJob rotates this key", commands.apply_cron_jobs())
        });
        diagnosis.add_all(NO_ROTATION, without, "OSDs", "a CronJob rotates each key");
    } else {
        diagnosis.pass(NO_ROTATION, "OSDs", "keyRotation.enabled is not true");
    }
    // A CronJob whose OSD is gone looks like one whose Deployment cannot be understood.
    if !found.faults.is_empty() {
        return;
    }
    let known: BTreeSet<&str> = found.osds.iter().map(|osd| osd.name.as_str()).collect();
    let is_twice = |job: &&CronJobFacts| {
        job.key.as_ref().and_then(|key| by_key.get(key.as_str())).is_some_and(|jobs| jobs.len() > 1)
    };
    // What two CronJobs rotate is an error of its own.
    let unwanted = jobs.iter().filter(|job| !is_twice(job)).filter_map(|job| {
        let why = match &job.key {
            _ if job.naming != wanted && enabled => {
                "keyRotation.enabled is true, so Rook rotates this key under another name"
            }
            _ if job.naming != wanted => "keyRotation.enabled is not true, so Rook deletes it",
            Some(key) if !known.contains(key.as_str()) => "no OSD has its key",
            _ => return None,
        };
        let prune = commands.kms("cronjobs prune --dry-run");
        Some(Finding::new(UNWANTED, job.object(), why, prune))
    });
    diagnosis.add_all(UNWANTED, unwanted, "CronJobs", "each has an OSD");
}

fn twice(by_key: &BTreeMap<&str, Vec<&CronJobFacts>>, commands: &Commands) -> Vec<Finding> {
    let twice = by_key.iter().filter(|(_, jobs)| jobs.len() > 1).map(|(key, jobs)| {
        let names: Vec<_> = jobs
            .iter()
            .map(|job| format!("{} ({})", job.name, if job.is_ours { "kms" } else { "Rook" }))
            .collect();
        Finding::new(
            TWO_ROTATIONS,
            format!("key {key}"),
            format!("{} rotate it, and two rotations of one device can lose it", names.join(" and ")),
            commands.apply_cron_jobs(),
        )
    });
    twice.collect()
}

fn suspended(jobs: &[CronJobFacts], commands: &Commands) -> Vec<Finding> {
    let suspended = jobs.iter().filter(|job| job.is_suspended).map(|job| {
        let resume = format!("patch cronjob {} --patch '{{\"spec\": {{\"suspend\": false}}}}'", job.name);
        Finding::new(
            SUSPENDED,
            job.object(),
            "it is suspended, so it rotates no key",
            commands.kubectl(&resume),
        )
    });
    suspended.collect()
}

/// The schedules by which a run begins before the last one can have ended, each once.
fn overlapping(jobs: &[CronJobFacts], commands: &Commands) -> Vec<Finding> {
    let mut by_schedule: BTreeMap<(&str, Duration), usize> = BTreeMap::new();
    for job in jobs.iter().filter(|job| !job.is_suspended) {
        *by_schedule.entry((&job.schedule, job.takes)).or_default() += 1;
    }
    let short = by_schedule.into_iter().filter_map(|((schedule, takes), count)| {
        let gap = Schedule::parse(schedule).ok()?.shortest_gap()?;
        (gap < takes).then(|| {
            Finding::new(
                OVERLAP,
                format!("schedule {schedule}"),
                format!(
                    "{count} CronJobs run every {}, and a run takes {}, so that runs are left out",
                    minutes(gap),
                    minutes(takes)
                ),
                commands.edit_cluster(),
            )
        })
    });
    short.collect()
}

/// The schedules by which many runs begin in one minute.
fn at_once(jobs: &[CronJobFacts], commands: &Commands) -> Vec<Finding> {
    let mut by_schedule: BTreeMap<&str, usize> = BTreeMap::new();
    for job in jobs.iter().filter(|job| !job.is_suspended) {
        *by_schedule.entry(&job.schedule).or_default() += 1;
    }
    let many = by_schedule.into_iter().filter(|(_, count)| *count > MOST_AT_ONCE).map(|(schedule, count)| {
        Finding::new(
            AT_ONCE,
            format!("schedule {schedule}"),
            format!(
                "{count} CronJobs begin in the same minute; kms spreads those of a named schedule such as @weekly over \
                 the day"
            ),
            commands.apply_cron_jobs(),
        )
    });
    many.collect()
}

fn not_done(jobs: &[CronJobFacts], commands: &Commands) -> Vec<Finding> {
    let is_open = |job: &&CronJobFacts| {
        let run = job.last_run.filter(|_| !job.is_active && !job.is_suspended);
        run.is_some_and(|run| job.last_success.is_none_or(|success| success < run))
    };
    let failed = jobs.iter().filter(is_open).map(|job| {
        let run = job.last_run.map(|time| time.to_string()).unwrap_or_default();
        let success = job.last_success.map_or_else(
            || "no run has ever succeeded".to_owned(),
            |time| format!("a run has last succeeded at {time}"),
        );
        Finding::new(
            NOT_DONE,
            job.object(),
            format!("the run of {run} did not succeed; {success}"),
            commands.kubectl(&format!("describe cronjob {}", job.name)),
        )
    });
    failed.collect()
}

/// A duration of whole minutes, in words.
fn minutes(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        code::Code,
        codes::ALL,
        diagnosis::{Cause, State},
    };

    fn job(id: u32, naming: Naming, key: &str) -> CronJobFacts {
        CronJobFacts {
            name: naming.cron_job(id),
            naming,
            is_ours: naming == Naming::BesideRook,
            key: Some(key.to_owned()),
            is_suspended: false,
            schedule: "0 3 * * 0".to_owned(),
            takes: GRACE + WORK,
            account: "rook-ceph-osd".to_owned(),
            last_run: None,
            last_success: None,
            is_active: false,
        }
    }

    /// The findings, with their objects.
    fn found(enabled: bool, schedule: &str, jobs: &[CronJobFacts]) -> Vec<(Code, String)> {
        let rotation = serde_json::json!({"enabled": enabled, "schedule": schedule});
        let rotation: KeyRotationSpec = serde_json::from_value(rotation).unwrap();
        let mut diagnosis = Diagnosis::new();
        let commands = Commands::new("kms", "kubectl", "rook-ceph");
        // No OSD is known, so every CronJob with a key is left over.
        cron_jobs(&rotation, jobs, None, &commands, &mut diagnosis);
        let entries = diagnosis.settle(ALL, &[]).into_iter().filter(|entry| entry.state != State::Ok);
        entries.map(|entry| (entry.code, entry.object.unwrap_or_default())).collect()
    }

    #[test]
    fn jobs_of_both_for_one_key_are_an_error_even_if_one_is_suspended() {
        let both = [job(0, Naming::Rook, "a"), job(0, Naming::BesideRook, "a"), job(1, Naming::Rook, "b")];
        assert_eq!(found(true, "", &both), [(TWO_ROTATIONS, "key a".to_owned())]);
        assert!(found(true, "", &both[1..]).is_empty());
    }

    #[test]
    fn a_job_that_is_suspended_or_whose_last_run_failed_is_named() {
        let time = |text: &str| Some(text.parse().unwrap());
        let mut one = job(0, Naming::Rook, "a");
        one.is_suspended = true;
        let named = |code| vec![(code, "CronJob rook-ceph-osd-key-rotation-0".to_owned())];
        assert_eq!(found(true, "", std::slice::from_ref(&one)), named(SUSPENDED));
        one.is_suspended = false;
        one.last_run = time("2026-11-29T03:00:00Z");
        assert_eq!(found(true, "", std::slice::from_ref(&one)), named(NOT_DONE));
        one.is_active = true;
        assert!(found(true, "", std::slice::from_ref(&one)).is_empty());
        one.is_active = false;
        one.last_success = time("2026-11-22T03:10:00Z");
        assert_eq!(found(true, "", std::slice::from_ref(&one)), named(NOT_DONE));
        one.last_success = time("2026-11-29T03:10:00Z");
        assert!(found(true, "", &[one]).is_empty());
    }

    #[test]
    fn schedules_that_are_too_close_or_the_same_for_many_are_named_once() {
        let with = |schedule: &str, count: u32| -> Vec<CronJobFacts> {
            let named =
                |id| CronJobFacts { schedule: schedule.to_owned(), ..job(id, Naming::Rook, &id.to_string()) };
            (0..count).map(named).collect()
        };
        let is = |code, schedule: &str| vec![(code, format!("schedule {schedule}"))];
        assert_eq!(found(true, "", &with("*/10 * * * *", 2)), is(OVERLAP, "*/10 * * * *"));
        assert!(found(true, "", &with("*/15 * * * *", 2)).is_empty());
        assert_eq!(found(true, "", &with("0 3 * * 0", 21)), is(AT_ONCE, "0 3 * * 0"));
        assert!(found(true, "", &with("0 3 * * 0", 20)).is_empty());
        assert_eq!(found(true, "weekly", &[]), [(SCHEDULE, "keyRotation.schedule".to_owned())]);
    }

    #[test]
    fn a_finding_says_when_a_run_has_last_succeeded() {
        let mut one = job(0, Naming::Rook, "a");
        one.last_run = Some("2026-11-29T03:00:00Z".parse().unwrap());
        let text = |job: &CronJobFacts| match not_done(
            std::slice::from_ref(job),
            &Commands::new("kms", "kubectl -n rook-ceph", "rook-ceph"),
        )
        .pop()
        {
            Some(Finding { cause: Cause::Said(text), next, .. }) => (text, next),
            other => panic!("{other:?}"),
        };
        let (said, next) = text(&one);
        assert!(said.ends_with("no run has ever succeeded"), "{said}");
        assert_eq!(next, "kubectl -n rook-ceph describe cronjob rook-ceph-osd-key-rotation-0");
        one.last_success = Some("2026-11-22T03:10:00Z".parse().unwrap());
        assert!(text(&one).0.ends_with("2026-11-22T03:10:00Z"));
    }
}
