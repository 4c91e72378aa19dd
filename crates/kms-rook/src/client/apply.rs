//! Creates, updates and deletes CronJobs so that they match the CephCluster and its OSDs.

use std::collections::BTreeMap;

use k8s_openapi::{api::batch::v1::CronJob, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kms_core::{Error, ErrorKind, Result};
use kms_kube::{Objects, Write};

use super::{LastRotation, RookNamespace};
use crate::{
    cronjob::JobMaker,
    discover::{Discovery, InvalidDeployment},
    names::Naming,
};

/// The options for writing CronJobs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct ApplyOptions {
    /// The API server checks each write and does not apply it.
    pub dry_run: bool,
    /// Takes over fields that another manager has set, for example in a CronJob that Rook has made.
    pub force_conflicts: bool,
}

impl ApplyOptions {
    /// Options that write, and that do not take over fields of other managers.
    pub fn new() -> Self {
        Self::default()
    }

    /// With `true`, the API server checks each write and does not apply it.
    #[must_use]
    pub fn with_dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// With `true`, takes over fields that another manager has set.
    #[must_use]
    pub fn with_force_conflicts(mut self, force_conflicts: bool) -> Self {
        self.force_conflicts = force_conflicts;
        self
    }
}

/// What was done to a CronJob.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Change {
    /// It was created.
    Created,
    /// It was changed.
    Changed,
    /// It already matched its OSD.
    Unchanged,
    /// It was deleted.
    Deleted,
    /// It could not be written or deleted.
    Failed(Error),
}

/// Why a CronJob is deleted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// Its OSD is gone.
    OsdGone,
    /// `keyRotation.enabled` is true, so Rook's names are the right ones, and this CronJob has a name of our own.
    RookRotates,
    /// `keyRotation.enabled` is not true, and this CronJob has a name of Rook's.
    RotationOff,
    /// The user asked for it.
    Requested,
}

impl Reason {
    /// The reason to delete all CronJobs of this naming that do not fit `keyRotation.enabled`.
    pub const fn unwanted(naming: Naming) -> Self {
        match naming {
            Naming::BesideRook => Self::RookRotates,
            Naming::Rook => Self::RotationOff,
        }
    }

    /// The stable name, as in JSON output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OsdGone => "osd-gone",
            Self::RookRotates => "rook-rotates",
            Self::RotationOff => "rotation-off",
            Self::Requested => "requested",
        }
    }
}

/// The result for one CronJob.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// Its name.
    pub cron_job: String,
    /// The number of its OSD.
    pub osd_id: u32,
    /// The name of the OSD's key, unless the OSD is gone.
    pub key: Option<String>,
    /// What was done to it.
    pub change: Change,
    /// Why it was to be deleted. `None` if it is wanted.
    pub reason: Option<Reason>,
    /// The last rotation that the OSD's Deployment records.
    pub last_rotation: Option<LastRotation>,
}

impl Outcome {
    /// The result for a CronJob whose OSD is gone.
    pub fn new(cron_job: impl Into<String>, osd_id: u32, change: Change) -> Self {
        Self { cron_job: cron_job.into(), osd_id, key: None, change, reason: None, last_rotation: None }
    }
}

/// The results for all CronJobs.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// The CronJobs, those of OSDs first.
    pub outcomes: Vec<Outcome>,
    /// The Deployments that could not be parsed; their CronJobs stay as they are.
    pub faults: Vec<InvalidDeployment>,
    /// Whether CronJobs without an OSD are kept, since an invalid Deployment may belong to one of these CronJobs.
    pub prune_held_back: bool,
}

impl Report {
    /// This report, with the outcomes and faults of another one after its own.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        let Self { outcomes, faults, prune_held_back } = other;
        self.outcomes.extend(outcomes);
        self.faults.extend(faults);
        self.prune_held_back |= prune_held_back;
        self
    }

    /// The first error; `None` if nothing failed.
    pub fn first_error(&self) -> Option<&Error> {
        let failed = self.outcomes.iter().find_map(|outcome| match &outcome.change {
            Change::Failed(error) => Some(error),
            _ => None,
        });
        failed.or_else(|| self.faults.first().map(|fault| &fault.error))
    }
}

/// Creates or updates the CronJob of every encrypted OSD, and deletes the CronJobs whose OSD is gone.
///
/// A CronJob that fails does not block the others. Repeating the call is harmless: it changes only CronJobs that do not
/// match their OSD. `seen` receives how many OSDs have their CronJob, and how many OSDs there are.
///
/// # Errors
///
/// If OSDs or CronJobs cannot be listed, or if the API server is unavailable or rejects the credentials.
pub async fn apply(
    place: &RookNamespace,
    maker: &JobMaker<'_>,
    naming: Naming,
    options: ApplyOptions,
    seen: &(dyn Fn(usize, usize) + Send + Sync),
) -> Result<Report> {
    let Discovery { osds, faults, .. } = place.osds().await?;
    let existing = place.cron_jobs(naming).await?;
    let mut existing: BTreeMap<_, _> =
        existing.into_iter().filter_map(|job| Some((naming.osd_of(job.name.as_deref()?)?, job))).collect();
    let objects: Objects<CronJob> = place.objects()?;
    let mut write = Write::default();
    write.dry_run = options.dry_run;
    write.force = options.force_conflicts;
    let mut report = Report { faults, ..Report::default() };
    let all = osds.len();
    for osd in osds {
        let job = maker.cron_job(&osd);
        let name = naming.cron_job(osd.id);
        let stored = place.retry("apply", || objects.apply(&name, &job, write)).await;
        let change = match (stored, existing.remove(&osd.id)) {
            (Ok(_), None) => Change::Created,
            (Ok(after), Some(before)) if is_same(&before, &after) => Change::Unchanged,
            (Ok(_), Some(_)) => Change::Changed,
            (Err(error), _) => Change::Failed(passed_over(error)?),
        };
        let last_rotation = LastRotation::of(&osd.annotations);
        let key = Some(osd.name.to_string());
        let outcome = Outcome::new(name, osd.id, change);
        report.outcomes.push(Outcome { key, last_rotation, ..outcome });
        seen(report.outcomes.len(), all);
    }
    // Keep a CronJob whose OSD may belong to a Deployment that could not be parsed.
    existing.retain(|id, _| !report.faults.iter().any(|fault| fault.osd_id == Some(*id)));
    report.prune_held_back = !existing.is_empty() && report.faults.iter().any(|fault| fault.osd_id.is_none());
    if !report.prune_held_back {
        delete(place, existing.into_values(), naming, Reason::OsdGone, options, &mut report).await?;
    }
    Ok(report)
}

/// Deletes the CronJobs whose OSD is gone, or all of them if there is another reason.
///
/// # Errors
///
/// As [`apply`].
pub async fn prune(
    place: &RookNamespace,
    naming: Naming,
    reason: Reason,
    options: ApplyOptions,
) -> Result<Report> {
    let mut report = Report::default();
    let mut jobs = place.cron_jobs(naming).await?;
    if reason == Reason::OsdGone {
        let Discovery { osds, faults, .. } = place.osds().await?;
        let known = |id: u32| {
            osds.iter().any(|osd| osd.id == id) || faults.iter().any(|fault| fault.osd_id == Some(id))
        };
        jobs.retain(|job| !naming.osd_of(job.name.as_deref().unwrap_or_default()).is_some_and(known));
        report.prune_held_back = !jobs.is_empty() && faults.iter().any(|fault| fault.osd_id.is_none());
        report.faults = faults;
    }
    if !report.prune_held_back {
        delete(place, jobs.into_iter(), naming, reason, options, &mut report).await?;
    }
    Ok(report)
}

async fn delete(
    place: &RookNamespace,
    jobs: impl Iterator<Item = ObjectMeta>,
    naming: Naming,
    reason: Reason,
    options: ApplyOptions,
    report: &mut Report,
) -> Result<()> {
    let objects: Objects<CronJob> = place.objects()?;
    for job in jobs {
        let Some(name) = job.name else { continue };
        // A user may have put our label on another CronJob.
        let Some(osd_id) = naming.osd_of(&name) else { continue };
        let uid = &job.uid;
        let sent = place.retry("delete", || objects.delete(&name, uid.clone(), options.dry_run)).await;
        let change = match sent {
            Ok(()) => Change::Deleted,
            Err(error) => Change::Failed(passed_over(error)?),
        };
        report.outcomes.push(Outcome { reason: Some(reason), ..Outcome::new(name, osd_id, change) });
    }
    Ok(())
}

/// Returns an error about a single CronJob as a value, so that the others are still written. An error that every further
/// request would meet too ends the run.
fn passed_over(error: Error) -> Result<Error> {
    match error.kind() {
        ErrorKind::RateLimited | ErrorKind::Timeout | ErrorKind::Unauthenticated | ErrorKind::Unavailable => {
            Err(error)
        }
        _ => Ok(error),
    }
}

/// Whether two states of a CronJob have the same spec, labels, annotations and owners. The API server counts the changes of
/// the spec. The managers of the fields and the status do not count.
fn is_same(before: &ObjectMeta, after: &ObjectMeta) -> bool {
    let compared = |meta: &ObjectMeta| {
        let ObjectMeta { generation, labels, annotations, owner_references, .. } = meta.clone();
        (generation, labels, annotations, owner_references)
    };
    before.generation.is_some() && compared(before) == compared(after)
}
