//! The CronJob that rotates the key of one OSD (rook-behaviour §12.1).

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::{
        batch::v1::{CronJob, CronJobSpec, JobSpec, JobTemplateSpec},
        core::v1::{PodSecurityContext, PodSpec, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kms_core::{Capability, Error, ErrorKind, Guarantee, Result};
use kms_dispatch::Provider;
use kms_kube::CephClusterSpec;

use crate::{
    container::{container, volumes},
    env::env,
    names::{APP, CLUSTER_LABEL},
    options::JobOptions,
    osd::Osd,
    placement::beside,
    schedule::Schedule,
    volumes::{Mounted, volumes as kms_volumes},
};

/// How long a run may take, with all its tries and with the wait for a node, in seconds.
///
/// A run whose OSD is on no node waits for one, and while it waits no other one begins (`Forbid`). It ends as failed
/// after this time, where it is seen. A rotation takes seconds, and the ten minutes for which the old key stays valid;
/// to end one early does no harm, since the next run goes on from there.
const RUN_SECONDS: i64 = 3600;

/// The account of OSDs, where their Deployment names none.
const SERVICE_ACCOUNT: &str = "rook-ceph-osd";

/// What the CronJobs of a cluster have in common, checked once.
#[derive(Debug)]
pub struct JobMaker<'a> {
    cluster: &'a CephClusterSpec,
    options: &'a JobOptions,
    schedule: Schedule,
    env: crate::KmsEnv,
    mounted: Option<Mounted>,
}

impl<'a> JobMaker<'a> {
    /// Checks what all CronJobs of a cluster need, before anything is written. What the provider can do is taken to
    /// be what it can do at best.
    ///
    /// # Errors
    ///
    /// `Unsupported` if the provider cannot replace a key: a job would fail at every run (rook-behaviour W16). `ConfigInvalid`
    /// if the `security` block is wrong, or its schedule.
    pub fn new(cluster: &'a CephClusterSpec, options: &'a JobOptions) -> Result<Self> {
        let provider = kms_dispatch::check(&cluster.security, &kms_dispatch::Options::default())?;
        let capability = provider
            .capability()
            .ok_or_else(|| refused(provider, "this version has no provider for them"))?;
        Self::with_capability(cluster, options, capability)
    }

    /// The same for a provider that is known better than by its name, such as one that is connected.
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
        Ok(Self {
            cluster,
            options,
            schedule: Schedule::parse(&cluster.security.key_rotation.schedule)?,
            env: env(&cluster.security)?,
            mounted: kms_volumes(&cluster.security)?,
        })
    }

    /// The settings that are credentials in clear and that no pod gets.
    pub fn withheld(&self) -> &[String] {
        &self.env.withheld
    }

    /// The CronJob of an OSD. The same OSD gives the same CronJob.
    pub fn cron_job(&self, osd: &Osd) -> CronJob {
        let Self { cluster, options, schedule, env, mounted } = self;
        let app = options.naming.app();
        let labels = with(&cluster.job_labels, [(APP, app), (CLUSTER_LABEL, &osd.kube_namespace)]);
        let annotations = &cluster.job_annotations;
        let pod_annotations: BTreeMap<_, _> = annotations
            .iter()
            .chain(&osd.pod.networks)
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let account = options.service_account.clone().or_else(|| osd.pod.service_account_name.clone());
        let pod = PodSpec {
            volumes: Some(volumes(osd, mounted.as_ref())),
            containers: vec![container(app, options, osd, env.vars.clone(), mounted.as_ref())],
            restart_policy: Some("OnFailure".to_owned()),
            dns_policy: osd.pod.dns_policy.clone(),
            service_account_name: Some(account.unwrap_or_else(|| SERVICE_ACCOUNT.to_owned())),
            host_network: osd.pod.host_network,
            // cryptsetup and udev wait for each other by a semaphore.
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
                annotations: some(pod_annotations),
                ..ObjectMeta::default()
            }),
            spec: Some(pod),
        };
        CronJob {
            metadata: ObjectMeta {
                name: Some(options.naming.cron_job(osd.id)),
                namespace: Some(osd.kube_namespace.clone()),
                labels: Some(labels),
                annotations: some(annotations.clone()),
                owner_references: osd.uid.clone().map(|uid| vec![owner(osd, uid)]),
                ..ObjectMeta::default()
            },
            spec: CronJobSpec {
                schedule: schedule.as_str().to_owned(),
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

/// The longest run, which is longer where the wait in it is.
fn run_seconds(grace: Option<Duration>) -> i64 {
    let grace = grace.map_or(0, |grace| i64::try_from(grace.as_secs()).unwrap_or(i64::MAX));
    RUN_SECONDS.saturating_add(grace)
}

/// The Deployment, so that the CronJob goes with it.
fn owner(osd: &Osd, uid: String) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        name: osd.deployment.clone(),
        uid,
        controller: None,
        block_owner_deletion: None,
    }
}

/// The user's labels and ours; by ours the CronJobs are found.
fn with<const N: usize>(
    users: &BTreeMap<String, String>,
    ours: [(&str, &str); N],
) -> BTreeMap<String, String> {
    let mut all = users.clone();
    all.extend(ours.map(|(name, value)| (name.to_owned(), value.to_owned())));
    all
}

fn some(map: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then_some(map)
}
