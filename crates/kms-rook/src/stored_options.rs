//! Reads the options that a stored CronJob was made with.

use k8s_openapi::api::{batch::v1::CronJob, core::v1::EnvVar};
use kms_core::config::parse_duration;
use kms_dispatch::Provider;

use crate::{
    container::{DESTROY_SUPERSEDED, GRACE},
    cronjob::{SERVICE_ACCOUNT, keeps_objects},
    options::JobOptions,
    rotation::{is_ours, pod_of},
};

impl JobOptions {
    /// The options that a CronJob was made with, as far as they are not the defaults; `None` if `kms` did not make it.
    ///
    /// The names are not among them: the CronJobs are found by these.
    pub fn of_cron_job(job: &CronJob) -> Option<Self> {
        let pod = pod_of(job)?;
        let container = pod.containers.first().filter(|_| is_ours(Some(pod)))?;
        let args = container.args.as_deref().unwrap_or_default();
        let grace = args.iter().skip_while(|arg| *arg != GRACE).nth(1);
        let destroys = args.iter().any(|arg| arg == DESTROY_SUPERSEDED);
        // The default is that of the provider which the CronJob was made for, not of the present one.
        let is_provider = |var: &&EnvVar| matches!(var.name.as_str(), "KMS_PROVIDER" | "KMIP_KMS_PROVIDER");
        let provider = container.env.iter().flatten().find(is_provider);
        let name = provider.and_then(|var| var.value.as_deref()).unwrap_or_default();
        let provider = Provider::ALL.into_iter().find(|provider| provider.as_str() == name);
        Some(Self {
            image: container.image.clone(),
            service_account: pod.service_account_name.clone().filter(|name| name != SERVICE_ACCOUNT),
            grace: grace.and_then(|grace| parse_duration(grace).ok()),
            destroy_superseded: (destroys != provider.is_some_and(keeps_objects)).then_some(destroys),
            ..Self::default()
        })
    }
}
