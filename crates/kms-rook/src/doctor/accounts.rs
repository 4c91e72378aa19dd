//! The rights that accounts of a cluster need (rook-behaviour §16), and whether the namespace admits their pods.

use k8s_openapi::api::rbac::v1::PolicyRule;
use kms_core::{KeyName, Result, SecuritySpec};
use kms_dispatch::Provider;

use super::{
    codes::ADMISSION,
    commands::Commands,
    diagnosis::{Diagnosis, Finding},
};
use crate::{
    osd::Osd,
    rbac::{needed, observing, settings_secrets},
};

/// The level of the Pod Security Standards that admits the pods of rotation jobs: they open devices of the host.
const PRIVILEGED: &str = "privileged";

/// A right on objects of a namespace.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub struct Right {
    /// The API group; empty for the core group.
    pub group: String,
    /// The resource.
    pub resource: String,
    /// The verb.
    pub verb: String,
    /// The names of the objects; empty for all objects of the namespace.
    pub names: Vec<String>,
}

impl Right {
    fn new(group: &str, resource: &str, verb: &str) -> Self {
        Self {
            group: group.to_owned(),
            resource: resource.to_owned(),
            verb: verb.to_owned(),
            names: Vec::new(),
        }
    }

    /// The rights that rules give.
    fn of_rules(rules: Vec<PolicyRule>) -> Vec<Self> {
        let mut rights = Vec::new();
        for PolicyRule { api_groups, resources, verbs, resource_names, .. } in rules {
            let names = resource_names.unwrap_or_default();
            for group in api_groups.iter().flatten() {
                for resource in resources.iter().flatten() {
                    let right = |verb| Self { names: names.clone(), ..Self::new(group, resource, verb) };
                    rights.extend(verbs.iter().map(|verb| right(verb)));
                }
            }
        }
        rights
    }

    /// The right in words, for one of its objects or for all.
    pub fn in_words(&self, name: Option<&str>) -> String {
        let Self { group, resource, verb, names: _ } = self;
        let group = if group.is_empty() { String::new() } else { format!(".{group}") };
        let name = name.map(|name| format!("/{name}")).unwrap_or_default();
        format!("{verb} {resource}{group}{name}")
    }
}

/// The rights that an OSD needs to start: to read what names its key, and the key.
///
/// # Errors
///
/// `ConfigInvalid` if the `security` block does not name a known provider.
pub fn boot_rights(
    security: &SecuritySpec,
    cluster: &str,
    osds: &[Osd],
    key_secret: impl Fn(&KeyName) -> String,
) -> Result<Vec<Right>> {
    let rules = needed(security, cluster, osds, key_secret)?;
    Ok(Right::of_rules(rules).into_iter().filter(|right| right.verb == "get").collect())
}

/// The rights that a rotation needs.
///
/// # Errors
///
/// `ConfigInvalid` if the `security` block does not name a known provider.
pub fn rotation_rights(
    security: &SecuritySpec,
    cluster: &str,
    osds: &[Osd],
    key_secret: impl Fn(&KeyName) -> String,
) -> Result<Vec<Right>> {
    Ok(Right::of_rules(needed(security, cluster, osds, key_secret)?))
}

/// The rights by which a rotation looks at the cluster, and notes what it has done.
pub fn status_rights(osds: &[Osd]) -> Vec<Right> {
    Right::of_rules(observing(osds))
}

/// The rights that the operator needs in the namespace of the cluster: for the keys of new OSDs, for the Secrets that the
/// settings name, and for CronJobs if `keyRotation.enabled` is true.
///
/// # Errors
///
/// `ConfigInvalid` if the `security` block does not name a known provider.
pub fn operator_rights(security: &SecuritySpec) -> Result<Vec<Right>> {
    let mut rights = Vec::new();
    match Provider::of(security)? {
        Provider::KubernetesSecret | Provider::Kmip => {
            rights.extend(["get", "create", "update"].map(|verb| Right::new("", "secrets", verb)));
        }
        _ => {
            let names = settings_secrets(security);
            if !names.is_empty() {
                rights.push(Right { names, ..Right::new("", "secrets", "get") });
            }
        }
    }
    if security.key_rotation.enabled {
        let verbs = ["get", "list", "create", "update", "delete"];
        rights.extend(verbs.map(|verb| Right::new("batch", "cronjobs", verb)));
    }
    Ok(rights)
}

/// Checks the level of the Pod Security Standards that the namespace enforces by its label; `None` without the label.
pub fn admission(kube_namespace: &str, level: Option<&str>, commands: &Commands, diagnosis: &mut Diagnosis) {
    let object = format!("Namespace {kube_namespace}");
    match level {
        Some(level) if level != PRIVILEGED => diagnosis.add(Finding::new(
            ADMISSION,
            object,
            format!(
                "it enforces the Pod Security Standard {level:?}, which does not admit the pods of the CronJobs: set its \
                 label pod-security.kubernetes.io/enforce to {PRIVILEGED}"
            ),
            commands.kubectl(&format!(
                "label namespace {kube_namespace} --overwrite pod-security.kubernetes.io/enforce={PRIVILEGED}"
            )),
        )),
        Some(level) => diagnosis.pass(ADMISSION, object, format!("enforces {level}")),
        None => diagnosis.pass(ADMISSION, object, "enforces no level by its label"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_is_one_verb_on_one_resource() {
        let rule = PolicyRule {
            api_groups: Some(vec!["apps".to_owned()]),
            resources: Some(vec!["deployments".to_owned()]),
            verbs: vec!["list".to_owned(), "patch".to_owned()],
            resource_names: Some(vec!["a".to_owned()]),
            ..PolicyRule::default()
        };
        let words: Vec<_> =
            Right::of_rules(vec![rule]).iter().map(|right| right.in_words(Some("a"))).collect();
        assert_eq!(words, ["list deployments.apps/a", "patch deployments.apps/a"]);
        assert_eq!(Right::new("", "secrets", "get").in_words(None), "get secrets");
    }

    #[test]
    fn the_operator_writes_secrets_only_if_keys_are_in_them() {
        let of = |value| operator_rights(&serde_json::from_value::<SecuritySpec>(value).unwrap()).unwrap();
        let verbs = |rights: Vec<Right>| rights.iter().map(|right| right.in_words(None)).collect::<Vec<_>>();
        assert_eq!(verbs(of(serde_json::json!({}))), ["get secrets", "create secrets", "update secrets"]);
        let vault = of(serde_json::json!({
            "kms": {"connectionDetails": {"KMS_PROVIDER": "vault", "VAULT_CACERT": "ca"}, "tokenSecretName": "token"},
            "keyRotation": {"enabled": true},
        }));
        assert_eq!(vault.first().unwrap().names, ["ca", "token"]);
        assert_eq!(verbs(vault)[1..3], ["get cronjobs.batch", "list cronjobs.batch"]);
    }
}
