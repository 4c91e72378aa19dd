//! The sources of a CephCluster and its OSDs: files, or Kubernetes.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use kms_core::{Error, Result};
use kms_kube::{CephCluster, CephClusterSpec, ClusterRef};
use kms_rook::{Discovery, InvalidDeployment, JobOptions, Naming, client::RookNamespace, discover};
use kms_source::Manifests;
use tracing::warn;

use crate::{args::Global, kubernetes::Kubernetes, settings::read_manifests};

/// The kind of the object that runs an OSD.
pub(crate) const DEPLOYMENT: &str = "Deployment";

/// A CephCluster, and the source of its OSDs.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) cluster: CephClusterSpec,
    /// The name and namespace of the cluster, if they are known.
    pub(crate) name: Option<ClusterRef>,
    /// The annotations of the cluster.
    pub(crate) annotations: BTreeMap<String, String>,
    osds: Osds,
}

#[derive(Debug)]
enum Osds {
    Files(Discovery),
    Kubernetes(RookNamespace),
}

impl Source {
    /// Reads the documents of `-f`, or the cluster of `--cluster`.
    pub(crate) async fn read(global: &Global) -> Result<Self> {
        match (&global.cluster, global.files.is_empty()) {
            (Some(named), true) => Self::from_kubernetes(global, named).await,
            (None, false) => Self::from_files(global),
            (Some(_), false) => Err(Error::config(
                "the CephCluster and its OSDs are read from files (-f) or from Kubernetes (--cluster): give one of them",
            )),
            (None, true) => Err(Error::config(
                "nothing says which CephCluster is meant: name it with --cluster, or give it and the Deployments of its \
                 OSDs with -f",
            )),
        }
    }

    async fn from_kubernetes(global: &Global, named: &ClusterRef) -> Result<Self> {
        let kubernetes = Kubernetes::new(global, global.timeout);
        let CephCluster { spec: cluster, annotations, .. } = kubernetes.cluster(named).await?;
        let place = kubernetes.rook(&named.kube_namespace).await?;
        Ok(Self { cluster, name: Some(named.clone()), annotations, osds: Osds::Kubernetes(place) })
    }

    fn from_files(global: &Global) -> Result<Self> {
        let mut manifests = read_manifests(global, &[DEPLOYMENT])?;
        let CephCluster { reference: name, spec: cluster, annotations, .. } =
            manifests.take_cluster().ok_or_else(|| {
                Error::config("the files given with -f have no CephCluster and no security block: add one")
            })?;
        let found = discover_in(&mut manifests, name.as_ref());
        Ok(Self { cluster, name, annotations, osds: Osds::Files(found) })
    }

    /// Returns the OSDs. If they came from files, they are moved out of the source.
    pub(crate) async fn osds(&mut self) -> Result<Discovery> {
        match &mut self.osds {
            Osds::Files(found) => Ok(std::mem::take(found)),
            Osds::Kubernetes(place) => place.osds().await,
        }
    }

    /// The options of the CronJobs as they are in Kubernetes; none with files.
    pub(crate) async fn stored_options(&self, naming: Naming) -> Result<JobOptions> {
        match &self.osds {
            Osds::Kubernetes(place) => place.stored_options(naming).await,
            Osds::Files(_) => Ok(JobOptions::default()),
        }
    }

    /// The beginning of a sentence that says what the source has.
    pub(crate) fn place_has(&self) -> String {
        match &self.osds {
            Osds::Files(_) => "the files given with -f have".to_owned(),
            Osds::Kubernetes(place) => format!("the namespace {} has", place.name()),
        }
    }

    /// The namespace in Kubernetes.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the source is files.
    pub(crate) fn place(&self) -> Result<&RookNamespace> {
        match &self.osds {
            Osds::Kubernetes(place) => Ok(place),
            Osds::Files(_) => Err(Error::config(
                "CronJobs are written for the CephCluster in Kubernetes: name it with --cluster instead of -f",
            )),
        }
    }
}

/// Takes the Deployments of OSDs out of documents.
pub(crate) fn discover_in(manifests: &mut Manifests, cluster: Option<&ClusterRef>) -> Discovery {
    let mut deployments = Vec::new();
    let mut faults = Vec::new();
    for (place, read) in manifests.take_objects::<Deployment>(DEPLOYMENT) {
        match read {
            Ok(deployment) if is_elsewhere(&deployment, cluster) => {
                warn!("{place}: this Deployment is in another namespace than the CephCluster");
            }
            Ok(deployment) => deployments.push(deployment),
            Err(error) => faults.push(InvalidDeployment::new(place, None, error)),
        }
    }
    let mut found = discover(&deployments);
    found.faults.append(&mut faults);
    found
}

fn is_elsewhere(deployment: &Deployment, cluster: Option<&ClusterRef>) -> bool {
    match (&deployment.metadata.namespace, cluster) {
        (Some(namespace), Some(cluster)) => *namespace != cluster.kube_namespace,
        _ => false,
    }
}
