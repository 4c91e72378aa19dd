//! The CronJob that rotates the key of one OSD (rook-behaviour §12.1).

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::{
        batch::v1::{CronJob, CronJobSpec, Job, JobSpec, JobTemplateSpec},
        core::v1::{PodSecurityContext, PodSpec, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kms_core::{Capability, Error, ErrorKind, Guarantee, Result};
use kms_dispatch::Provider;
use kms_kube::CephClusterSpec;

use crate::{
    container::{REPORT_FILE, TERMINATION_LOG, Task, container, volumes},
    env::{env, plain},
    names::{APP, CLUSTER_LABEL, ROTATION_LABEL},
    networks::{ANNOTATION, selection},
    options::{JobOptions, no_image},
    osd::Osd,
    placement::beside,
    schedule::Schedule,
    volumes::{Mounted, volumes as kms_volumes},
};

/// The longest time of a run in seconds, with all its tries and the wait for a node, but without the grace period.
///
/// A run whose OSD is on no node waits for one, and while it waits no other run begins (`Forbid`). After this time
/// Kubernetes marks it as failed, which monitoring sees. A rotation takes some seconds and the grace period. Ending a run
/// early does no harm, since the next run continues from there.
const RUN_SECONDS: i64 = 3600;

/// The service account of an OSD whose Deployment names no account.
pub(crate) const SERVICE_ACCOUNT: &str = "rook-ceph-osd";

/// Makes the CronJobs of a cluster, from settings that are checked once.
#[derive(Debug)]
pub struct JobMaker<'a> {
    cluster: &'a CephClusterSpec,
    options: &'a JobOptions,
    schedule: Schedule,
    env: crate::KmsEnv,
    mounted: Option<Mounted>,
    destroy_superseded: bool,
}

impl<'a> JobMaker<'a> {
    /// Checks the settings that all CronJobs of a cluster share, before the first CronJob is written. Without a connection
    /// the best case of the provider's capability counts.
    ///
    /// # Errors
    ///
    /// `Unsupported` if the provider cannot replace a key: a job would fail at every run (rook-behaviour W16).
    /// `ConfigInvalid` if the `security` block or its schedule is wrong, or if the options name no image.
    pub fn new(cluster: &'a CephClusterSpec, options: &'a JobOptions) -> Result<Self> {
        let provider = kms_dispatch::check(&cluster.security, &kms_dispatch::Options::default())?;
        let capability = provider
            .capability()
            .ok_or_else(|| refused(provider, "this version has no provider for them"))?;
        Self::with_capability(cluster, options, capability)
    }

    /// Like [`new`](Self::new), for a provider whose capability is known, for example from its connection.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_capability(
        cluster: &'a CephClusterSpec,
        options: &'a JobOptions,
        capability: Capability,
    ) -> Result<Self> {
        let provider = kms_dispatch::check(&cluster.security, &kms_dispatch::Options::default())?;
        if capability.update == Guarantee::Unsupported {
            return Err(refused(provider, "it cannot replace a key"));
        }
        let maker = Self {
            cluster,
            options,
            schedule: Schedule::parse(&cluster.security.key_rotation.schedule)?,
            env: env(&cluster.security)?,
            mounted: kms_volumes(&cluster.security)?,
            destroy_superseded: options.destroy_superseded.unwrap_or_else(|| keeps_objects(provider)),
        };
        let has_image = options.image.as_deref().is_some_and(|image| !image.is_empty());
        if has_image { Ok(maker) } else { Err(no_image()) }
    }

    /// The settings that hold credentials in clear text. No pod gets them.
    pub fn withheld(&self) -> &[String] {
        &self.env.withheld
    }

    /// A Job that rotates the key of an OSD once, and that Kubernetes does not try again. It has the label
    /// [`ROTATION_LABEL`]; the caller adds the name.
    pub fn job(&self, osd: &Osd) -> Job {
        Self::once(self.cron_job(osd), osd)
    }

    /// A Job that tries the KEK of an OSD on its devices once and changes nothing, with the pod of [`job`](Self::job). The
    /// caller adds the name.
    pub fn verification(&self, osd: &Osd) -> Job {
        Self::once(self.cron_job_of(osd, Task::Verify), osd)
    }

    /// The Job of a CronJob, as one that Kubernetes does not try again.
    fn once(job: CronJob, osd: &Osd) -> Job {
        let CronJob { metadata, spec, .. } = job;
        let mut spec = spec.job_template.spec.unwrap_or_default();
        spec.backoff_limit = Some(0);
        if let Some(pod) = &mut spec.template.spec {
            // The kubelet would start the container again before the Job counts as failed.
            pod.restart_policy = Some("Never".to_owned());
            // The operator reads the message of the pod.
            for container in &mut pod.containers {
                container.env.get_or_insert_default().push(plain(REPORT_FILE, TERMINATION_LOG));
            }
        }
        let mut metadata = ObjectMeta { name: None, ..metadata };
        metadata.labels.get_or_insert_default().insert(ROTATION_LABEL.to_owned(), osd.id.to_string());
        Job { metadata, spec: Some(spec), status: None }
    }

    /// The CronJob of an OSD. The result depends on the OSD, the cluster and the options only.
    pub fn cron_job(&self, osd: &Osd) -> CronJob {
        self.cron_job_of(osd, Task::Rotate { destroy_superseded: self.destroy_superseded })
    }

    fn cron_job_of(&self, osd: &Osd, task: Task) -> CronJob {
        let Self { cluster, options, schedule, env, mounted, .. } = self;
        let app = options.naming.app();
        let labels = with(&cluster.job_labels, [(APP, app), (CLUSTER_LABEL, &osd.kube_namespace)]);
        let networks = cluster.public_network.as_deref();
        let networks = networks.map(|selector| (ANNOTATION, selection(selector, &osd.kube_namespace)));
        let annotations =
            with(&cluster.job_annotations, networks.as_ref().map(|(name, value)| (*name, value.as_str())));
        let account = options.service_account.clone().or_else(|| osd.pod.service_account_name.clone());
        let pod = PodSpec {
            volumes: Some(volumes(osd, mounted.as_ref())),
            containers: vec![container(
                app,
                options,
                cluster.image_pull_policy.as_deref(),
                osd,
                env.vars.clone(),
                mounted.as_ref(),
                task,
            )],
            restart_policy: Some("OnFailure".to_owned()),
            dns_policy: osd.pod.dns_policy.clone(),
            service_account_name: Some(account.unwrap_or_else(|| SERVICE_ACCOUNT.to_owned())),
            host_network: osd.pod.host_network,
            // cryptsetup and udev synchronise by a semaphore of the host.
            host_ipc: Some(true),
            security_context: Some(PodSecurityContext::default()),
            affinity: Some(beside(osd)),
            tolerations: osd.pod.tolerations.clone(),
            priority_class_name: osd.pod.priority_class_name.clone(),
            scheduler_name: osd.pod.scheduler_name.clone(),
            ..PodSpec::default()
        };
        let template = PodTemplateSpec {
            metadata: Some(ObjectMeta {
                name: Some(app.to_owned()),
                labels: Some(labels.clone()),
                annotations: some(annotations.clone()),
                ..ObjectMeta::default()
            }),
            spec: Some(pod),
        };
        CronJob {
            metadata: ObjectMeta {
                name: Some(options.naming.cron_job(osd.id)),
                namespace: Some(osd.kube_namespace.clone()),
                labels: Some(labels),
                annotations: some(annotations),
                owner_references: osd.owner().map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: CronJobSpec {
                schedule: schedule.of_osd(&osd.name),
                concurrency_policy: Some("Forbid".to_owned()),
                job_template: JobTemplateSpec {
                    metadata: Some(ObjectMeta::default()),
                    spec: Some(JobSpec {
                        active_deadline_seconds: Some(run_seconds(options.grace)),
                        template,
                        ..JobSpec::default()
                    }),
                },
                ..CronJobSpec::default()
            },
            status: None,
        }
    }
}

/// The error for a provider whose keys cannot be rotated (field-reports UP-62).
fn refused(provider: Provider, reason: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("keys in {provider} cannot be rotated: {reason}; set keyRotation.enabled to false"),
    )
}

/// Whether the provider keeps each KEK as an object of its own. Nothing but the jobs removes the superseded ones there:
/// Rook deletes only the object that it knows.
pub(crate) fn keeps_objects(provider: Provider) -> bool {
    matches!(provider, Provider::IbmKeyProtect | Provider::Kmip)
}

/// The longest time of a run in seconds: a longer grace period makes it longer.
fn run_seconds(grace: Option<Duration>) -> i64 {
    let grace = grace.map_or(0, |grace| i64::try_from(grace.as_secs()).unwrap_or(i64::MAX));
    RUN_SECONDS.saturating_add(grace)
}

/// The user's labels or annotations, and ours. Ours win, as in Rook; the CronJobs are found by their labels.
fn with<'a>(
    users: &BTreeMap<String, String>,
    ours: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> BTreeMap<String, String> {
    let mut all = users.clone();
    all.extend(ours.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
    all
}

fn some(map: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then_some(map)
}
