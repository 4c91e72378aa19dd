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
        let [before, after] = blocks;
        let of = [has_settings(deployment, before, after)?, has_settings(deployment, after, before)?];
        let block = match of {
            [true, false] => Some(0),
            [false, true] => Some(1),
            // The two blocks cannot be told apart by the pod, or the pod has neither.
            _ => None,
        };
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

/// Whether the pod template of an OSD has the settings that Rook makes of a block, and none that it makes of the other
/// block alone.
///
/// The comparison takes the variables with a value of their own: credentials come from Secrets by reference, and Rook adds
/// variables.
fn has_settings(deployment: &Deployment, security: &SecuritySpec, other: &SecuritySpec) -> Result<bool> {
    let pod = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let fetch: Option<&Container> = pod
        .and_then(|pod| pod.init_containers.as_ref())
        .and_then(|containers| containers.iter().find(|container| container.name == FETCH));
    if security.kms.connection_details.is_empty() {
        return Ok(fetch.is_none());
    }
    let Some(fetch) = fetch else { return Ok(false) };
    let (wanted, unwanted) = (env(security)?.vars, env(other)?.vars);
    let found = |name: &str| fetch.env.iter().flatten().find(|var| var.name == name);
    let has = |name: &str, value: &str| found(name).and_then(|var| var.value.as_deref()) == Some(value);
    let has_all = wanted.iter().all(|var| var.value.as_deref().is_none_or(|value| has(&var.name, value)));
    let is_wanted = |name: &str| wanted.iter().any(|var| var.name == name);
    let has_more = unwanted.iter().any(|var| !is_wanted(&var.name) && found(&var.name).is_some());
    Ok(has_all && !has_more)
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

    /// The Deployment of an OSD that reads from a Vault, and its block.
    fn osd() -> (Deployment, Vec<(String, String)>) {
        let deployment = include_str!("../tests/fixtures/rook/vault-tls/osd-deployment.json");
        let security = include_str!("../tests/fixtures/rook/vault-tls/security.json");
        let security: SecuritySpec = serde_json::from_str(security).unwrap();
        let details = security.kms.connection_details.iter();
        let details = details.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        (serde_json::from_str(deployment).unwrap(), details)
    }

    #[test]
    fn an_osd_reads_from_the_block_whose_settings_its_pod_has_and_no_others() {
        let (deployment, details) = osd();
        let own: Vec<(&str, &str)> =
            details.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let reads = |before: &SecuritySpec, after: &SecuritySpec| {
            SwitchedOsd::of(&deployment, [before, after]).unwrap().unwrap().block
        };
        let (ours, secrets) = (block(&own, "token"), block(&[], ""));
        assert_eq!((reads(&ours, &secrets), reads(&secrets, &ours)), (Some(0), Some(1)));
        // A block that lacks a setting of the pod is not that of the pod.
        let fewer: Vec<_> = own.iter().copied().filter(|(name, _)| *name != "VAULT_CLIENT_CERT").collect();
        assert_eq!(reads(&ours, &block(&fewer, "token")), Some(0));
        let moved: Vec<_> = own
            .iter()
            .map(|(name, value)| (*name, if *name == "VAULT_ADDR" { "https://other.example" } else { value }))
            .collect();
        assert_eq!(
            (reads(&ours, &block(&moved, "token")), reads(&block(&moved, "token"), &secrets)),
            (Some(0), None)
        );
        // Two blocks of the same settings cannot be told apart.
        assert_eq!(reads(&ours, &block(&own, "other-token")), None);
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
