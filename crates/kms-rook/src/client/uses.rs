//! Finds the objects of a cluster that use a key, and the nodes of its OSDs.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{PersistentVolumeClaim, Pod},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kms_core::{KeyName, Result};
use kms_kube::Objects;

use super::{RookNamespace, encrypted_osds};
use crate::names::{APP, OSD_APP, OSD_ID_LABEL, PVC_LABEL};

impl RookNamespace {
    /// Finds the Deployments and PVCs that use a key, each as its kind and name. Empty if there are none.
    ///
    /// A key belongs to an OSD by the name of the OSD's data PVC. So a Deployment counts by its label alone, even if the
    /// rest of it cannot be parsed.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the account may not list Deployments or PVCs; otherwise errors of the connection.
    pub async fn uses(&self, key: &KeyName) -> Result<Vec<String>> {
        let deployments: Objects<Deployment> = self.objects()?;
        let deployments = deployments.metadata(&encrypted_osds()).await?;
        let claims = self.claims().await?;
        // No selector names the key, since a long name cannot be a label.
        let of_key = |deployment: &ObjectMeta| {
            let label = deployment.labels.as_ref().and_then(|labels| labels.get(PVC_LABEL));
            label.is_some_and(|label| label == key.as_str())
        };
        let deployments = deployments.into_iter().filter(of_key).filter_map(|deployment| deployment.name);
        let claims = claims.into_iter().filter(|name| name == key.as_str());
        Ok(deployments
            .map(|name| format!("Deployment {name}"))
            .chain(claims.map(|name| format!("PersistentVolumeClaim {name}")))
            .collect())
    }

    /// The names of all PVCs.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the account may not list PVCs; otherwise errors of the connection.
    pub async fn claims(&self) -> Result<BTreeSet<String>> {
        let claims: Objects<PersistentVolumeClaim> = self.objects()?;
        Ok(claims.metadata("").await?.into_iter().filter_map(|claim| claim.name).collect())
    }

    /// The node of each OSD whose pod has one, by the number of the OSD.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the account may not list pods; otherwise errors of the connection.
    pub async fn nodes(&self) -> Result<BTreeMap<u32, String>> {
        let pods: Objects<Pod> = self.objects()?;
        let labels = format!("{APP}={OSD_APP}");
        let pods: Vec<Pod> = pods.list(&labels).await?;
        Ok(nodes_of(pods.iter().filter_map(OsdPod::of)))
    }
}

/// What a pod of an OSD says about its node.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct OsdPod {
    /// The number of the OSD.
    pub osd: u32,
    /// The node.
    pub node: String,
    /// Whether the pod runs.
    pub is_running: bool,
}

impl OsdPod {
    /// Reads a pod; `None` if it is not of an OSD, or has no node.
    pub fn of(pod: &Pod) -> Option<Self> {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        Some(Self {
            osd: pod.metadata.labels.as_ref()?.get(OSD_ID_LABEL)?.parse().ok()?,
            node: pod.spec.as_ref()?.node_name.clone()?,
            is_running: phase == Some("Running"),
        })
    }
}

/// The node of each OSD among these pods, by the number of the OSD. A pod that runs counts before one that has ended.
pub fn nodes_of(pods: impl IntoIterator<Item = OsdPod>) -> BTreeMap<u32, String> {
    let (running, others): (Vec<_>, Vec<_>) = pods.into_iter().partition(|pod| pod.is_running);
    others.into_iter().chain(running).map(|pod| (pod.osd, pod.node)).collect()
}
