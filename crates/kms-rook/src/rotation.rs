//! Tells from the objects of a cluster whether Rook rotates keys itself (rook-behaviour §12.1).
//!
//! Rook's rotation takes no lock that ours sees. If both change the key slots of a device at the same time, one of them
//! can remove the slot that the other relies on, so ours does not begin while Rook's may run (decision 0008).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{
        batch::v1::{CronJob, Job, JobStatus},
        core::v1::{Pod, PodSpec, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kms_core::{Error, ErrorKind, KeyName, Result, Retry};

use crate::{
    container::{PROGRAM, ROTATE_KEY},
    names::{APP, Naming},
};

/// The rotation that Rook itself does in a cluster.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RookRotation {
    enabled: bool,
    /// The CronJobs with Rook's label, by key.
    cron_jobs: BTreeMap<String, Vec<RotationJob>>,
    /// The Jobs and pods of Rook that rotate a key now.
    active: BTreeSet<String>,
}

/// A CronJob with Rook's label.
#[derive(Clone, Debug)]
struct RotationJob {
    name: String,
    /// Whether it runs `kms` in place of Rook's program.
    is_ours: bool,
    is_suspended: bool,
}

impl RookRotation {
    /// The rotation that objects of a namespace show. `enabled` is `security.keyRotation.enabled` of the CephCluster;
    /// the CronJobs are those with Rook's label. Jobs and pods that are not of a rotation are skipped.
    pub fn of(enabled: bool, cron_jobs: &[CronJob], jobs: &[Job], pods: &[Pod]) -> Self {
        let mut found = Self { enabled, ..Self::default() };
        for job in cron_jobs {
            let (CronJob { metadata, spec, .. }, pod) = (job, pod_of(job));
            let Some(key) = key_of(pod) else { continue };
            found.cron_jobs.entry(key.to_owned()).or_default().push(RotationJob {
                name: metadata.name.clone().unwrap_or_default(),
                is_ours: is_ours(pod),
                is_suspended: spec.suspend == Some(true),
            });
        }
        for Job { metadata, spec, status } in jobs {
            let Some(PodTemplateSpec { metadata: of_pod, spec: pod }) =
                spec.as_ref().map(|spec| &spec.template)
            else {
                continue;
            };
            if is_rooks(of_pod.as_ref(), pod.as_ref()) && !has_ended(status.as_ref()) {
                found.active.insert(format!("Job {}", metadata.name.as_deref().unwrap_or_default()));
            }
        }
        // The pods of a Job that was deleted run on for a while.
        for Pod { metadata, spec, status } in pods {
            let phase = status.as_ref().and_then(|status| status.phase.as_deref());
            if is_rooks(Some(metadata), spec.as_ref()) && !matches!(phase, Some("Succeeded" | "Failed")) {
                found.active.insert(format!("pod {}", metadata.name.as_deref().unwrap_or_default()));
            }
        }
        found
    }

    /// Checks that Rook does not rotate these keys, now or soon.
    ///
    /// # Errors
    ///
    /// `Conflict` if a Job of Rook rotates any key of the cluster now. `ConfigInvalid` if the CronJob of a key is Rook's,
    /// or if Rook will make one, since rotation is enabled and there is no CronJob of ours in its place.
    pub fn check(&self, keys: &[&KeyName]) -> Result<()> {
        if !self.active.is_empty() {
            let active: Vec<_> = self.active.iter().map(String::as_str).collect();
            return Err(overridable(
                Error::new(
                    ErrorKind::Conflict,
                    "Rook is rotating keys in this cluster, and two rotations of one device can lose it: wait for the \
                     end of Rook's Jobs",
                )
                // As with a lock that another process holds.
                .retry(Retry::Always)
                .context("running", active.join(", ")),
            ));
        }
        keys.iter().try_for_each(|key| self.check_key(key))
    }

    fn check_key(&self, key: &KeyName) -> Result<()> {
        let jobs = self.cron_jobs.get(key.as_str()).map(Vec::as_slice).unwrap_or_default();
        // Rook starts a CronJob that was suspended again as long as rotation is enabled.
        let rooks = jobs.iter().find(|job| !job.is_ours && (self.enabled || !job.is_suspended));
        let error = match rooks {
            Some(_) if self.enabled => rook_rotates(),
            Some(_) => overridable(Error::config(
                "a CronJob of Rook rotates this key too, although keyRotation.enabled is not true, and two rotations of \
                 one device can lose it: delete the CronJob",
            )),
            None if self.enabled && jobs.is_empty() => rook_rotates(),
            None => return Ok(()),
        };
        let name = rooks.map_or("not made yet", |job| job.name.as_str());
        Err(error.context("key", key.as_str()).context("CronJob", name))
    }
}

/// The error for a cluster whose `security.keyRotation.enabled` is true, if its CronJobs are not known to be ours.
pub fn rook_rotates() -> Error {
    overridable(Error::config(
        "keyRotation.enabled is true, so Rook rotates these keys too, and two rotations of one device can lose it: set it \
         to false, or replace Rook's CronJobs (kms cronjobs apply)",
    ))
}

/// Adds how a user overrides the refusal.
fn overridable(error: Error) -> Error {
    error.context("override", "--even-if-rook-rotates")
}

fn has_ended(status: Option<&JobStatus>) -> bool {
    let conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    let mut ends = conditions.filter(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed"));
    ends.any(|condition| condition.status == "True")
}

/// Whether a pod is one of Rook's rotation.
fn is_rooks(metadata: Option<&ObjectMeta>, pod: Option<&PodSpec>) -> bool {
    let app = metadata.and_then(|metadata| metadata.labels.as_ref()?.get(APP));
    app.is_some_and(|app| app == Naming::Rook.app()) && !is_ours(pod)
}

/// The pod that a CronJob runs.
pub(crate) fn pod_of(job: &CronJob) -> Option<&PodSpec> {
    job.spec.job_template.spec.as_ref()?.template.spec.as_ref()
}

/// Whether a pod runs `kms`. Every CronJob of ours names the program; Rook's rely on the entry point of their image.
pub(crate) fn is_ours(pod: Option<&PodSpec>) -> bool {
    let mut containers = pod.into_iter().flat_map(|pod| &pod.containers);
    containers.any(|container| container.command.iter().flatten().next().is_some_and(|name| name == PROGRAM))
}

/// The key that a pod rotates: the argument after `rotate-key`.
pub(crate) fn key_of(pod: Option<&PodSpec>) -> Option<&str> {
    let args = pod?.containers.first()?.args.as_deref()?;
    let at = args.iter().position(|arg| arg == ROTATE_KEY)?;
    args.get(at + 1).map(String::as_str)
}
