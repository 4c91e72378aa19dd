//! Reads OSDs from a cluster, and writes CronJobs and the results of rotations there.

mod apply;
mod escrow;
mod events;
mod status;
mod switch;
mod uses;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        authorization::v1::ResourceAttributes,
        batch::v1::{CronJob, Job},
        core::v1::{Pod, Secret, ServiceAccount},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kms_core::{Error, KeyName, Result, SecretString, layer::RetryPolicy};
use kms_kube::{Connection, Objects, account_token, pod_security, retry, service_account_may};
use serde::Deserialize;
use serde_json::Value;

pub use self::{
    apply::{ApplyOptions, Change, Outcome, Reason, Report, apply, prune},
    escrow::ClusterRecord,
    events::{KeyEvent, announce, ceph_cluster, deployment},
    status::{LastRotation, RotationStatus, record},
    switch::SwitchableCluster,
    uses::{OsdPod, nodes_of},
};
use crate::{
    discover::{Discovery, Found, InvalidDeployment, Search},
    doctor::{CronJobFacts, Right},
    names::{APP, CLUSTER_LABEL, Naming, OSD_APP, OSD_ID_LABEL, PVC_LABEL, ROTATION_LABEL},
    options::JobOptions,
    rotation::RookRotation,
};

/// How many rights are asked for at a time.
const REVIEWS_PARALLEL: usize = 8;

/// The namespace of a CephCluster, with its OSDs and their CronJobs.
#[derive(Clone, Debug)]
pub struct RookNamespace {
    connection: Connection,
    kube_namespace: String,
    policy: RetryPolicy,
}

impl RookNamespace {
    /// A namespace, over a connection that others may share. Sends nothing.
    pub fn new(connection: Connection, kube_namespace: impl Into<String>) -> Self {
        Self { connection, kube_namespace: kube_namespace.into(), policy: RetryPolicy::default() }
    }

    /// Retries requests by this policy.
    #[must_use]
    pub fn with_policy(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Another namespace, over the same connection.
    #[must_use]
    pub fn in_namespace(&self, kube_namespace: impl Into<String>) -> Self {
        Self { kube_namespace: kube_namespace.into(), ..self.clone() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.kube_namespace
    }

    /// Finds the OSDs on PVCs.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the account may not list Deployments; otherwise errors of the connection. A Deployment that
    /// cannot be parsed is one of the faults in the result.
    pub async fn osds(&self) -> Result<Discovery> {
        self.discover(&encrypted_osds()).await
    }

    /// Finds the OSD with this key, as [`osds`](Self::osds) does.
    ///
    /// # Errors
    ///
    /// As [`osds`](Self::osds).
    pub async fn osds_with_key(&self, name: &KeyName) -> Result<Discovery> {
        self.discover(&format!("{}={name}", encrypted_osds())).await
    }

    async fn discover(&self, labels: &str) -> Result<Discovery> {
        let objects: Objects<Deployment> = self.objects()?;
        let search = objects
            .fold(labels, Search::default, |search, found: Value| search.extend(Found::of_value(&found)));
        Ok(search.await?.finish())
    }

    /// Looks whether Rook itself rotates keys. `enabled` is `security.keyRotation.enabled` of the CephCluster.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the account may not list CronJobs, Jobs or pods; otherwise errors of the connection.
    pub async fn rook_rotation(&self, enabled: bool) -> Result<RookRotation> {
        let cron_jobs: Objects<CronJob> = self.objects()?;
        let cron_jobs: Vec<CronJob> = cron_jobs.list(&self.labels_of(Naming::Rook)).await?;
        let (jobs, pods): (Objects<Job>, Objects<Pod>) = (self.objects()?, self.objects()?);
        // Rook gives its Jobs no label, only their pods.
        let jobs: Vec<Job> = jobs.list(&format!("!{ROTATION_LABEL}")).await?;
        let labels = format!("{APP}={}", Naming::Rook.app());
        let pods: Vec<Pod> = pods.list(&labels).await?;
        Ok(RookRotation::of(enabled, &cron_jobs, &jobs, &pods))
    }

    /// The CronJobs that rotate keys, those of Rook and ours.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the account may not list CronJobs; otherwise errors of the connection.
    pub async fn rotations(&self) -> Result<Vec<CronJobFacts>> {
        let objects: Objects<CronJob> = self.objects()?;
        let mut found = Vec::new();
        for naming in [Naming::Rook, Naming::BesideRook] {
            let labels = self.labels_of(naming);
            let read = objects.fold(&labels, Vec::new, |found, job: CronJob| {
                found.push(CronJobFacts::of(&job, naming));
            });
            found.extend(read.await?);
        }
        Ok(found)
    }

    /// Whether a service account exists.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the account of the connection may not read it; otherwise errors of the connection.
    pub async fn has_service_account(&self, name: &str) -> Result<bool> {
        let objects: Objects<ServiceAccount> = self.objects()?;
        self.retry("read", || objects.exists(name)).await
    }

    /// Whether a Secret exists.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the account of the connection may not read it; otherwise errors of the connection.
    pub async fn has_secret(&self, name: &str) -> Result<bool> {
        let objects: Objects<Secret> = self.objects()?;
        self.retry("read", || objects.exists(name)).await
    }

    /// Creates a token of a service account of `kube_namespace`, valid for ten minutes. Nothing is stored.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the account of the connection may not create it; `NotFound` if the service account is absent;
    /// otherwise errors of the connection.
    pub async fn account_token(&self, kube_namespace: &str, account: &str) -> Result<SecretString> {
        let create = || async { Ok(account_token(&self.connection, kube_namespace, account).await?) };
        self.retry("create a token", create).await
    }

    /// The rights that a service account lacks, with the names for which it lacks them. It belongs to `kube_namespace`, or to
    /// this namespace.
    ///
    /// The API server is asked once for all objects of a resource, and if that is denied, once for each name.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the account of the connection may not ask; otherwise errors of the connection.
    pub async fn lacks(&self, kube_namespace: &str, account: &str, rights: &[Right]) -> Result<Vec<Right>> {
        let mut lacking = Vec::new();
        for right in rights {
            if self.grants(kube_namespace, account, right, None).await? {
                continue;
            }
            let asked = stream::iter(&right.names).map(|name| async move {
                let granted = self.grants(kube_namespace, account, right, Some(name)).await?;
                Ok::<_, Error>((!granted).then(|| name.clone()))
            });
            let asked: Vec<_> = asked.buffered(REVIEWS_PARALLEL).try_collect().await?;
            let names: Vec<_> = asked.into_iter().flatten().collect();
            if right.names.is_empty() || !names.is_empty() {
                lacking.push(Right { names, ..right.clone() });
            }
        }
        Ok(lacking)
    }

    async fn grants(
        &self,
        kube_namespace: &str,
        account: &str,
        right: &Right,
        name: Option<&str>,
    ) -> Result<bool> {
        let ask = || async {
            let what = ResourceAttributes {
                namespace: Some(self.kube_namespace.clone()),
                group: Some(right.group.clone()),
                resource: Some(right.resource.clone()),
                verb: Some(right.verb.clone()),
                name: name.map(str::to_owned),
                ..ResourceAttributes::default()
            };
            Ok(service_account_may(&self.connection, kube_namespace, account, what).await?)
        };
        self.retry("review access", ask).await
    }

    /// The level of the Pod Security Standards that the namespace enforces by its label; `None` without the label.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the account may not read the namespace; otherwise errors of the connection.
    pub async fn pod_security(&self) -> Result<Option<String>> {
        let read = || async { Ok(pod_security(&self.connection, &self.kube_namespace).await?) };
        self.retry("read the namespace", read).await
    }

    /// The options of the stored CronJobs of this naming, as far as they are not the defaults. If the CronJobs differ, those
    /// of the OSD with the lowest number count: that one is written first.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the account may not list CronJobs; otherwise errors of the connection.
    pub async fn stored_options(&self, naming: Naming) -> Result<JobOptions> {
        let objects: Objects<CronJob> = self.objects()?;
        let add = |first: &mut Option<(u32, JobOptions)>, job: CronJob| {
            let id = job.metadata.name.as_deref().and_then(|name| naming.osd_of(name));
            let Some(id) = id.filter(|id| first.as_ref().is_none_or(|(known, _)| id < known)) else { return };
            if let Some(options) = JobOptions::of_cron_job(&job) {
                *first = Some((id, options));
            }
        };
        let first = objects.fold(&self.labels_of(naming), || None, add).await?;
        Ok(first.map(|(_, options)| options).unwrap_or_default())
    }

    /// The metadata of the stored CronJobs with the labels of a naming.
    async fn cron_jobs(&self, naming: Naming) -> Result<Vec<ObjectMeta>> {
        let objects: Objects<CronJob> = self.objects()?;
        objects.metadata(&self.labels_of(naming)).await
    }

    /// The label selector of the CronJobs of a naming.
    fn labels_of(&self, naming: Naming) -> String {
        format!("{APP}={},{CLUSTER_LABEL}={}", naming.app(), self.kube_namespace)
    }

    fn objects<K>(&self) -> Result<Objects<K>>
    where
        K: k8s_openapi::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Ok(Objects::new(self.connection.clone(), &self.kube_namespace)?.with_policy(self.policy))
    }

    async fn retry<T, F>(&self, operation: &'static str, request: impl Fn() -> F + Send + Sync) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
        T: Send,
    {
        retry(&self.policy, operation, request).await
    }
}

/// The label selector of the Deployments of OSDs on PVCs, and of their pods. A value for its last label may follow.
pub fn encrypted_osds() -> String {
    format!("{APP}={OSD_APP},{PVC_LABEL}")
}

impl Found {
    /// What a Deployment is; `None` if it is not of an OSD on a PVC. An object that is not a valid Deployment is a fault of
    /// its own, so that it does not block the others (rook-behaviour W20).
    pub fn of_value(found: &Value) -> Option<Self> {
        match Deployment::deserialize(found) {
            Ok(deployment) => Self::of(&deployment),
            Err(cause) => {
                let text = |pointer: &str| found.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
                let name = text("/metadata/name");
                // A Deployment holds no secrets, so the message may quote it.
                let error = Error::config("the Deployment cannot be parsed")
                    .operation("read the Deployment of an OSD")
                    .context("deployment", name)
                    .source(cause);
                let labels = found.pointer("/metadata/labels");
                let id = labels.and_then(|labels| labels.get(OSD_ID_LABEL)?.as_str()?.parse().ok());
                Some(Self::Invalid(InvalidDeployment::new(name, id, error)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_unparsable_deployment_is_a_fault_with_the_number_of_its_osd() {
        let broken = json!({
            "metadata": {"name": "rook-ceph-osd-7", "labels": {"ceph-osd-id": "7"}},
            "spec": {"replicas": "one"},
        });
        let mut search = Search::default();
        search.extend(Found::of_value(&broken));
        let found = search.finish();
        let [fault] = found.faults.as_slice() else { panic!("{found:?}") };
        assert_eq!((fault.deployment.as_str(), fault.osd_id), ("rook-ceph-osd-7", Some(7)));
    }
}
