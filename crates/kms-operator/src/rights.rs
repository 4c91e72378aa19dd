//! The rights of the operator's account, and no others.

use k8s_openapi::{
    api::{
        core::v1::ServiceAccount,
        rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kms_rook::rule;

use crate::{api::GROUP, lease::LEASE};

/// The group of Roles and ClusterRoles.
const RBAC: &str = "rbac.authorization.k8s.io";

/// An account for the operator and its rights.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Rights {
    /// The account.
    pub account: ServiceAccount,
    /// What it may do with objects that belong to no namespace: to read KeyPolicies and nodes, and to ask whose a
    /// token is and what its owner may do.
    pub cluster_role: ClusterRole,
    /// Gives `cluster_role` to the account.
    pub cluster_binding: ClusterRoleBinding,
    /// What it may do in its own namespace: to hold the Lease.
    pub lease_role: Role,
    /// Gives `lease_role` to the account.
    pub lease_binding: RoleBinding,
    /// What it may do in each namespace that it watches, with the binding.
    pub watched: Vec<(Role, RoleBinding)>,
}

/// The rights of an operator whose account and Lease are in `kube_namespace`, and that watches these namespaces.
///
/// It may read no Secret. But it may create Jobs, and so pods, in the namespaces that it watches: who controls the operator
/// reaches everything that a pod there may mount, as with Rook's own operator.
pub fn rights(account: &str, kube_namespace: &str, watched: &[&str]) -> Rights {
    let subjects = || {
        vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: account.to_owned(),
            namespace: Some(kube_namespace.to_owned()),
            api_group: None,
        }]
    };
    let reference = |kind: &str, name: &str| RoleRef {
        api_group: Some(RBAC.to_owned()),
        kind: kind.to_owned(),
        name: name.to_owned(),
    };
    let role = |name: &str, place: &str, rules: Vec<PolicyRule>| {
        let role = Role { metadata: metadata(name, Some(place)), rules: Some(rules) };
        let binding = RoleBinding {
            metadata: metadata(name, Some(place)),
            role_ref: reference("Role", name),
            subjects: Some(subjects()),
        };
        (role, binding)
    };
    // An account of the same name in another namespace needs a ClusterRole of its own.
    let global = format!("{account}.{kube_namespace}");
    let (lease_role, lease_binding) = role(&format!("{account}-lease"), kube_namespace, of_lease());
    Rights {
        account: ServiceAccount {
            metadata: metadata(account, Some(kube_namespace)),
            ..ServiceAccount::default()
        },
        cluster_role: ClusterRole {
            metadata: metadata(&global, None),
            rules: Some(of_cluster()),
            ..ClusterRole::default()
        },
        cluster_binding: ClusterRoleBinding {
            metadata: metadata(&global, None),
            role_ref: reference("ClusterRole", &global),
            subjects: Some(subjects()),
        },
        lease_role,
        lease_binding,
        watched: watched.iter().map(|place| role(account, place, of_watched())).collect(),
    }
}

fn metadata(name: &str, kube_namespace: Option<&str>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: kube_namespace.map(str::to_owned),
        ..ObjectMeta::default()
    }
}

fn of_cluster() -> Vec<PolicyRule> {
    vec![
        rule(GROUP, "keypolicies", &["list", "watch"], Vec::new()),
        rule("", "nodes", &["list", "watch"], Vec::new()),
        // Whose a token is, and whether its owner may see metrics and page.
        rule("authentication.k8s.io", "tokenreviews", &["create"], Vec::new()),
        rule("authorization.k8s.io", "subjectaccessreviews", &["create"], Vec::new()),
    ]
}

fn of_lease() -> Vec<PolicyRule> {
    // A create names no object.
    vec![
        rule("coordination.k8s.io", "leases", &["create"], Vec::new()),
        rule("coordination.k8s.io", "leases", &["get", "update"], vec![LEASE.to_owned()]),
    ]
}

fn of_watched() -> Vec<PolicyRule> {
    let all = Vec::new;
    vec![
        rule("ceph.rook.io", "cephclusters", &["list", "watch"], all()),
        rule("apps", "deployments", &["get", "list", "watch"], all()),
        rule("", "pods", &["list", "watch"], all()),
        rule("", "persistentvolumeclaims", &["list", "watch"], all()),
        rule("batch", "jobs", &["create", "delete", "list", "watch"], all()),
        rule("batch", "cronjobs", &["delete", "list", "watch"], all()),
        rule(GROUP, "osdkeys", &["create", "delete", "list", "patch", "watch"], all()),
        rule(GROUP, "osdkeys/status", &["patch"], all()),
        rule("events.k8s.io", "events", &["create"], all()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rule_concerns_secrets_and_none_has_a_wildcard() {
        let rights = rights("kms-operator", "kms", &["rook-ceph", "other"]);
        let roles = rights.watched.iter().map(|(role, _)| role).chain([&rights.lease_role]);
        let rules = roles.flat_map(|role| role.rules.iter().flatten());
        let rules: Vec<_> = rules.chain(rights.cluster_role.rules.iter().flatten()).collect();
        assert_eq!(rules.len(), 2 * 9 + 2 + 4);
        for rule in rules {
            let resources = rule.resources.iter().flatten();
            let texts: Vec<_> =
                resources.chain(&rule.verbs).chain(rule.api_groups.iter().flatten()).collect();
            assert!(!texts.iter().any(|text| *text == "*" || text.starts_with("secrets")), "{rule:?}");
        }
        assert_eq!(rights.watched[1].0.metadata.namespace.as_deref(), Some("other"));
        assert_eq!(rights.watched[1].1.subjects.as_ref().unwrap()[0].namespace.as_deref(), Some("kms"));
    }
}
