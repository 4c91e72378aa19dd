//! A CephCluster that is switched from one KMS to another: the change of its block, and what its OSDs show of it.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Container};
use kms_core::{KeyName, Result, SecuritySpec};

use crate::{env::env, osd::Osd};

/// The label of a Deployment that keeps Rook from changing it.
///
/// Rook lists the Deployments with this label, whatever its value, once when it begins to look after the OSDs, and takes
/// the numbers of the OSDs from their label `ceph-osd-id`; it then passes over these OSDs (Rook,
/// `pkg/operator/ceph/cluster/osd/osd.go`, `Start`, and `update.go`, `updateExistingOSDs`). So a label that is set before
/// the CephCluster changes is in force for the change.
pub const HOLD_LABEL: &str = "ceph.rook.io/do-not-reconcile";
/// The value by which a migration knows its own labels.
pub const HOLD_VALUE: &str = "kms-migrate";

/// The init container that fetches the KEK from a KMS. An OSD whose KEK is in a Kubernetes Secret has none.
const FETCH: &str = "encryption-kms-get-kek";

/// An OSD during a switch.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SwitchedOsd {
    /// Its number.
    pub id: u32,
    /// The name of its key.
    pub name: KeyName,
    /// The name of its Deployment.
    pub deployment: String,
    /// The value of [`HOLD_LABEL`]. `None` without the label.
    pub hold: Option<String>,
    /// Which of the two blocks its pod template has the settings of. `None` for neither.
    pub block: Option<usize>,
    /// Whether all its pods run with its present template, and are ready.
    pub is_running: bool,
}

impl SwitchedOsd {
    /// Reads the Deployment of an OSD; `None` if the OSD is not encrypted. `blocks` are the block before and after.
    ///
    /// # Errors
    ///
    /// As [`Osd::of`], and `ConfigInvalid` if a block does not name a known provider.
    pub fn of(deployment: &Deployment, blocks: [&SecuritySpec; 2]) -> Result<Option<Self>> {
        let Some(osd) = Osd::of(deployment)? else { return Ok(None) };
        let labels = deployment.metadata.labels.as_ref();
        let mut block = None;
        for (number, security) in blocks.into_iter().enumerate() {
            if has_settings(deployment, security)? {
                block = Some(number);
            }
        }
        Ok(Some(Self {
            id: osd.id,
            name: osd.name,
            deployment: osd.deployment,
            hold: labels.and_then(|labels| labels.get(HOLD_LABEL)).cloned(),
            block,
            is_running: is_running(deployment),
        }))
    }
}

/// Whether the pod template of an OSD has the settings that Rook makes of a block.
///
/// The comparison takes the variables with a value of their own: credentials come from Secrets by reference, and Rook adds
/// variables.
fn has_settings(deployment: &Deployment, security: &SecuritySpec) -> Result<bool> {
    let pod = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let fetch: Option<&Container> = pod
        .and_then(|pod| pod.init_containers.as_ref())
        .and_then(|containers| containers.iter().find(|container| container.name == FETCH));
    let wanted = env(security)?.vars;
    if security.kms.connection_details.is_empty() {
        return Ok(fetch.is_none());
    }
    let Some(fetch) = fetch else { return Ok(false) };
    let has = |name: &str, value: &str| {
        let mut vars = fetch.env.iter().flatten();
        vars.any(|var| var.name == name && var.value.as_deref() == Some(value))
    };
    Ok(wanted.iter().all(|var| var.value.as_deref().is_none_or(|value| has(&var.name, value))))
}

/// Whether all pods of a Deployment run with its present template, and are ready. A Deployment without pods does not run.
fn is_running(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let Some(status) = &deployment.status else { return false };
    let count = |number: Option<i32>| number.unwrap_or_default();
    wanted > 0
        && status.observed_generation >= deployment.metadata.generation
        && count(status.updated_replicas) == wanted
        && count(status.replicas) == wanted
        && count(status.ready_replicas) == wanted
}

/// Whether two blocks name the same KMS with the same settings.
pub fn has_same_kms(a: &SecuritySpec, b: &SecuritySpec) -> bool {
    let details = |spec: &SecuritySpec| {
        let all = spec
            .kms
            .connection_details
            .iter()
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        all.filter(|(_, value)| !value.is_empty()).collect::<std::collections::BTreeMap<_, _>>()
    };
    details(a) == details(b) && a.kms.token_secret_name.trim() == b.kms.token_secret_name.trim()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::{DeploymentSpec, DeploymentStatus};
    use kms_core::{ConnectionDetails, KmsSpec};

    use super::*;

    fn block(details: &[(&str, &str)], token: &str) -> SecuritySpec {
        SecuritySpec::new(KmsSpec::new(ConnectionDetails::from_iter(details.iter().copied()), token))
    }

    #[test]
    fn blocks_are_the_same_whatever_their_white_space_and_empty_settings() {
        let a =
            block(&[("KMS_PROVIDER", "vault"), ("VAULT_ADDR", "https://a"), ("VAULT_NAMESPACE", "")], "t");
        assert!(has_same_kms(&a, &block(&[("KMS_PROVIDER", " vault"), ("VAULT_ADDR", "https://a")], "t")));
        for other in [
            block(&[("KMS_PROVIDER", "vault"), ("VAULT_ADDR", "https://b")], "t"),
            block(&[("KMS_PROVIDER", "vault"), ("VAULT_ADDR", "https://a")], "u"),
            block(&[], ""),
        ] {
            assert!(!has_same_kms(&a, &other), "{other:?}");
        }
    }

    #[test]
    fn a_deployment_runs_if_every_pod_is_ready_and_has_the_present_template() {
        let deployment = |replicas, status: DeploymentStatus| {
            let mut deployment = Deployment::default();
            deployment.metadata.generation = Some(2);
            deployment.spec = Some(DeploymentSpec { replicas, ..DeploymentSpec::default() });
            deployment.status = Some(status);
            deployment
        };
        let ready = DeploymentStatus {
            observed_generation: Some(2),
            replicas: Some(1),
            updated_replicas: Some(1),
            ready_replicas: Some(1),
            ..DeploymentStatus::default()
        };
        assert!(
            is_running(&deployment(Some(1), ready.clone())) && is_running(&deployment(None, ready.clone()))
        );
        let with = |change: fn(&mut DeploymentStatus)| {
            let mut status = ready.clone();
            change(&mut status);
            deployment(Some(1), status)
        };
        for (changed, why) in [
            (with(|status| status.observed_generation = Some(1)), "the change was not seen"),
            (with(|status| status.updated_replicas = None), "the pod has the old template"),
            (with(|status| status.replicas = Some(2)), "an old pod is left"),
            (with(|status| status.ready_replicas = None), "the pod is not ready"),
            (deployment(Some(0), ready.clone()), "no pod is wanted"),
        ] {
            assert!(!is_running(&changed), "{why}");
        }
    }
}
