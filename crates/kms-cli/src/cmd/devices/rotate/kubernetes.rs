//! Notes the result of a rotation at the OSD's Deployment, by hand or by a job.

use async_trait::async_trait;
use kms_core::Result;
use kms_rook::client::{RookNamespace, RotationStatus, record};
use tokio::sync::OnceCell;

use super::{
    document::headline,
    sink::{Ended, ResultSink},
};
use crate::{args::Global, invocation::Invocation, kubernetes::Kubernetes, output::chain};

/// The places for the results of rotations: the Deployments of the OSDs, if their namespace is known.
pub(crate) fn at_deployments(invocation: &Invocation<'_>) -> Vec<Box<dyn ResultSink>> {
    let Invocation { global, environment, .. } = invocation;
    let named = global.cluster.as_ref().map(|cluster| cluster.kube_namespace.as_str());
    let found = named.or_else(|| environment.get("POD_NAMESPACE").filter(|_| global.files.is_empty()));
    found.map(|namespace| Box::new(AtDeployment::new(global, namespace)) as _).into_iter().collect()
}

/// Writes annotations and an Event at the Deployment of the OSD. It connects when the first rotation has ended.
#[derive(Debug)]
struct AtDeployment {
    kubernetes: Kubernetes,
    kube_namespace: String,
    place: OnceCell<RookNamespace>,
}

impl AtDeployment {
    /// Notes results at the Deployments of a namespace.
    fn new(global: &Global, kube_namespace: impl Into<String>) -> Self {
        let kubernetes = Kubernetes::new(global, global.timeout);
        Self { kubernetes, kube_namespace: kube_namespace.into(), place: OnceCell::new() }
    }

    async fn place(&self) -> Result<&RookNamespace> {
        self.place.get_or_try_init(|| self.kubernetes.rook(&self.kube_namespace)).await
    }
}

#[async_trait]
impl ResultSink for AtDeployment {
    async fn ended(&mut self, ended: &Ended<'_>) -> Result<()> {
        let status = match ended.result {
            Ok(report) => {
                let status = RotationStatus::new(report.outcome.as_str(), headline(report));
                match report.stored {
                    Some(stored) => status.with_rotation(stored, report.generation),
                    None => status,
                }
            }
            Err(error) => RotationStatus::new("failed", chain(error)).with_failure(),
        };
        record(self.place().await?, ended.name, &status).await
    }
}
