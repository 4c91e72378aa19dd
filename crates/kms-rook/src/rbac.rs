//! The rights of rotation jobs, and no others (rook-behaviour W26, field-reports UP-83).

use k8s_openapi::{
    api::{
        core::v1::ServiceAccount,
        rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kms_core::{KeyName, Result, SecuritySpec};
use kms_dispatch::Provider;

use crate::osd::Osd;

/// The settings whose values are names of Secrets.
const NAMES_OF_SECRETS: [&str; 6] = [
    "AZURE_CACERT",
    "AZURE_CERT_SECRET_NAME",
    "IBM_KP_CACERT",
    "VAULT_CACERT",
    "VAULT_CLIENT_CERT",
    "VAULT_CLIENT_KEY",
];

/// An account for rotation jobs and its rights.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Rbac {
    /// The account.
    pub account: ServiceAccount,
    /// The rights.
    pub role: Role,
    /// Gives the rights to the account.
    pub binding: RoleBinding,
}

/// The rights of the rotation jobs of a cluster: to read the CephCluster and the Secrets that it names; to read and
/// replace the Secrets of the keys of these OSDs, if keys or their identifiers are in Secrets; to see the devices of an
/// OSD, and whether Rook rotates too; to record a rotation at its OSD.
///
/// `key_secret` returns the name of the Secret of a key; `kms_k8s_secret::secret_name` returns the name that Rook uses.
///
/// The Role names every Secret, so that a job may not read any other. Rook lets each OSD read and change all Secrets of
/// the namespace. When OSDs are added, make the Role again.
///
/// # Errors
///
/// `ConfigInvalid` if the `security` block does not name a known provider.
pub fn rbac(
    security: &SecuritySpec,
    kube_namespace: &str,
    cluster: &str,
    account: &str,
    osds: &[Osd],
    key_secret: impl Fn(&KeyName) -> String,
) -> Result<Rbac> {
    let mut rules = needed(security, cluster, osds, key_secret)?;
    rules.extend(observing(osds));
    let metadata = || ObjectMeta {
        name: Some(account.to_owned()),
        namespace: Some(kube_namespace.to_owned()),
        ..ObjectMeta::default()
    };
    Ok(Rbac {
        account: ServiceAccount { metadata: metadata(), ..ServiceAccount::default() },
        role: Role { metadata: metadata(), rules: Some(rules) },
        binding: RoleBinding {
            metadata: metadata(),
            role_ref: RoleRef {
                api_group: Some("rbac.authorization.k8s.io".to_owned()),
                kind: "Role".to_owned(),
                name: account.to_owned(),
            },
            subjects: Some(vec![Subject {
                kind: "ServiceAccount".to_owned(),
                name: account.to_owned(),
                namespace: Some(kube_namespace.to_owned()),
                api_group: None,
            }]),
        },
    })
}

/// The rules without which a rotation fails: to read the CephCluster and the Secrets that it names, and to read and replace
/// the Secrets of keys.
pub(crate) fn needed(
    security: &SecuritySpec,
    cluster: &str,
    osds: &[Osd],
    key_secret: impl Fn(&KeyName) -> String,
) -> Result<Vec<PolicyRule>> {
    let provider = Provider::of(security)?;
    let settings = match provider {
        Provider::KubernetesSecret => Vec::new(),
        _ => settings_secrets(security),
    };
    let keys: Vec<String> = match provider {
        Provider::KubernetesSecret | Provider::Kmip => osds.iter().map(|osd| key_secret(&osd.name)).collect(),
        _ => Vec::new(),
    };
    let mut rules = vec![rule("ceph.rook.io", "cephclusters", &["get"], vec![cluster.to_owned()])];
    if !settings.is_empty() {
        rules.push(rule("", "secrets", &["get"], settings));
    }
    if !keys.is_empty() {
        rules.push(rule("", "secrets", &["get", "update"], keys));
    }
    Ok(rules)
}

/// The rules without which a rotation works as well, and warns: to see the devices of an OSD, and whether Rook rotates too;
/// to record the rotation.
pub(crate) fn observing(osds: &[Osd]) -> Vec<PolicyRule> {
    // A list cannot be limited to names.
    let mut rules = vec![rule("apps", "deployments", &["list"], Vec::new())];
    // Whether Rook rotates too.
    rules.push(rule("batch", "cronjobs", &["list"], Vec::new()));
    rules.push(rule("batch", "jobs", &["list"], Vec::new()));
    rules.push(rule("", "pods", &["list"], Vec::new()));
    let deployments: Vec<String> = osds.iter().map(|osd| osd.deployment.clone()).collect();
    if !deployments.is_empty() {
        rules.push(rule("apps", "deployments", &["patch"], deployments));
    }
    rules.push(rule("events.k8s.io", "events", &["create"], Vec::new()));
    rules
}

/// The names of the Secrets that the settings name.
pub fn settings_secrets(security: &SecuritySpec) -> Vec<String> {
    let mut names: Vec<String> = NAMES_OF_SECRETS
        .iter()
        .filter_map(|setting| security.kms.connection_details.get(setting))
        .chain([security.kms.token_secret_name.as_str()])
        .map(str::trim)
        // Outside of a CephCluster the value of a setting may be the path of a file.
        .filter(|name| !name.is_empty() && !name.contains('/'))
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The right to use verbs on a resource, or on its objects of these names.
pub fn rule(group: &str, resource: &str, verbs: &[&str], names: Vec<String>) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        resource_names: (!names.is_empty()).then_some(names),
        non_resource_urls: None,
    }
}
