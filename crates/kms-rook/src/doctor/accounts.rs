//! The rights that accounts of a cluster need (rook-behaviour §16), and whether the namespace admits their pods.

use std::collections::BTreeMap;

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

    /// The right in words, for each of its objects or for all.
    pub fn in_words(&self) -> Vec<String> {
        let Self { group, resource, verb, names } = self;
        let group = if group.is_empty() { String::new() } else { format!(".{group}") };
        let all = format!("{verb} {resource}{group}");
        if names.is_empty() { vec![all] } else { names.iter().map(|name| format!("{all}/{name}")).collect() }
    }
}

/// The commands that give a service account of `kube_namespace` these rights in the namespace of the commands: one Role and
/// one RoleBinding for each resource.
pub fn grant(rights: &[Right], kube_namespace: &str, account: &str, commands: &Commands) -> String {
    let mut rules: BTreeMap<(&str, &str, &[String]), Vec<&str>> = BTreeMap::new();
    for Right { group, resource, verb, names } in rights {
        rules.entry((group, resource, names)).or_default().push(verb);
    }
    let mut lines = Vec::new();
    for (number, ((group, resource, names), verbs)) in (1..).zip(rules) {
        let role = format!("kms-{account}-{number}");
        let resource = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let names: String = names.iter().map(|name| format!(" --resource-name={name}")).collect();
        let verbs = verbs.join(",");
        lines.push(
            commands.kubectl(&format!("create role {role} --verb={verbs} --resource={resource}{names}")),
        );
        lines.push(commands.kubectl(&format!(
            "create rolebinding {role} --role={role} --serviceaccount={kube_namespace}:{account}"
        )));
    }
    lines.join(" && ")
}

/// How the accounts of a cluster log in to the KMS (rook-behaviour §1.5).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum KmsLogin {
    /// An agent beside each pod logs in.
    ByAgent,
    /// Each pod logs in with the token of its own service account.
    ByOwnAccount,
    /// Keys are in Kubernetes Secrets: the rights in Kubernetes are all.
    Kubernetes,
    /// All use the same credentials, which the settings name.
    Shared,
}

impl KmsLogin {
    /// The login that a `security` block asks for.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the `security` block does not name a known provider.
    pub fn of(security: &SecuritySpec) -> Result<Self> {
        let details = &security.kms.connection_details;
        let setting = |name| details.get(name).map(str::trim).filter(|value| !value.is_empty());
        Ok(match Provider::of(security)? {
            Provider::KubernetesSecret => Self::Kubernetes,
            Provider::Vault
                if setting("VAULT_TOKEN").is_none() && security.kms.token_secret_name.trim().is_empty() =>
            {
                match setting("VAULT_AUTH_METHOD") {
                    Some("agent") => Self::ByAgent,
                    Some("kubernetes") => Self::ByOwnAccount,
                    _ => Self::Shared,
                }
            }
            _ => Self::Shared,
        })
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
        let rights = Right::of_rules(vec![rule]);
        let words: Vec<_> = rights.iter().flat_map(Right::in_words).collect();
        assert_eq!(words, ["list deployments.apps/a", "patch deployments.apps/a"]);
        let all = Right::new("", "secrets", "get");
        assert_eq!(all.in_words(), ["get secrets"]);
        let commands = Commands::new("kms", "kubectl -n rook-ceph", "my");
        let rights = [rights, vec![all]].concat();
        assert_eq!(
            grant(&rights, "rook", "a", &commands).split(" && ").collect::<Vec<_>>(),
            [
                "kubectl -n rook-ceph create role kms-a-1 --verb=get --resource=secrets",
                "kubectl -n rook-ceph create rolebinding kms-a-1 --role=kms-a-1 --serviceaccount=rook:a",
                "kubectl -n rook-ceph create role kms-a-2 --verb=list,patch --resource=deployments.apps --resource-name=a",
                "kubectl -n rook-ceph create rolebinding kms-a-2 --role=kms-a-2 --serviceaccount=rook:a",
            ]
        );
    }

    #[test]
    fn accounts_log_in_by_themselves_only_without_shared_credentials() {
        let of = |details: &[(&str, &str)], token: &str| {
            let details = kms_core::ConnectionDetails::from_iter(details.iter().copied());
            KmsLogin::of(&SecuritySpec::new(kms_core::KmsSpec::new(details, token))).unwrap()
        };
        let vault = ("KMS_PROVIDER", "vault");
        let kubernetes = ("VAULT_AUTH_METHOD", " kubernetes ");
        assert_eq!(of(&[], ""), KmsLogin::Kubernetes);
        assert_eq!(of(&[vault, kubernetes], ""), KmsLogin::ByOwnAccount);
        assert_eq!(of(&[vault, ("VAULT_AUTH_METHOD", "agent")], ""), KmsLogin::ByAgent);
        assert_eq!(of(&[vault, kubernetes], "token"), KmsLogin::Shared);
        assert_eq!(of(&[vault, kubernetes, ("VAULT_TOKEN", "a")], ""), KmsLogin::Shared);
        assert_eq!(of(&[("KMS_PROVIDER", "kmip"), kubernetes], ""), KmsLogin::Shared);
    }

    #[test]
    fn the_operator_writes_secrets_only_if_keys_are_in_them() {
        let of = |value| operator_rights(&serde_json::from_value::<SecuritySpec>(value).unwrap()).unwrap();
        let verbs = |rights: Vec<Right>| rights.iter().flat_map(Right::in_words).collect::<Vec<_>>();
        assert_eq!(verbs(of(serde_json::json!({}))), ["get secrets", "create secrets", "update secrets"]);
        let vault = of(serde_json::json!({
            "kms": {"connectionDetails": {"KMS_PROVIDER": "vault", "VAULT_CACERT": "ca"}, "tokenSecretName": "token"},
            "keyRotation": {"enabled": true},
        }));
        assert_eq!(verbs(vault)[..3], ["get secrets/ca", "get secrets/token", "get cronjobs.batch"]);
    }
}
