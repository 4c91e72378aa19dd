//! The service accounts of a cluster, as the doctor and a migration name them.

use std::fmt;

#[cfg(feature = "k8s-secret")]
use kms_rook::doctor::Right;

/// The account of Rook's operator (rook-behaviour §16).
const OPERATOR: &str = "rook-ceph-system";
/// How many rights a finding names.
#[cfg(feature = "k8s-secret")]
const SHOWN: usize = 5;

/// A service account.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Account {
    pub(super) kube_namespace: String,
    pub(super) name: String,
}

impl Account {
    pub(super) fn new(kube_namespace: &str, name: &str) -> Self {
        Self { kube_namespace: kube_namespace.to_owned(), name: name.to_owned() }
    }

    /// The account of Rook's operator, if it has its default name.
    #[cfg(any(test, feature = "k8s-secret"))]
    pub(super) fn operator_in(kube_namespace: &str) -> Self {
        Self::new(kube_namespace, OPERATOR)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kube_namespace, name } = self;
        write!(f, "ServiceAccount {kube_namespace}/{name}")
    }
}

/// Parses the account of the operator, `NAMESPACE` or `NAMESPACE/ACCOUNT`.
pub(super) fn account_of_operator(text: &str) -> Result<Account, &'static str> {
    let (kube_namespace, name) = text.split_once('/').unwrap_or((text, OPERATOR));
    if kube_namespace.is_empty() || name.is_empty() || name.contains('/') {
        return Err("write it as NAMESPACE/ACCOUNT, such as rook-ceph/rook-ceph-system, or as NAMESPACE");
    }
    Ok(Account::new(kube_namespace, name))
}

/// The first of these rights in words, and how many more there are.
#[cfg(feature = "k8s-secret")]
pub(super) fn in_words(rights: &[Right]) -> String {
    let words: Vec<String> = rights.iter().flat_map(Right::in_words).collect();
    let more = words.len().saturating_sub(SHOWN);
    let shown = words.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_is_a_namespace_with_an_account_or_without() {
        assert_eq!(account_of_operator("rook-ceph"), Ok(Account::operator_in("rook-ceph")));
        assert_eq!(account_of_operator("rook-ceph/own"), Ok(Account::new("rook-ceph", "own")));
        for text in ["", "/a", "a/", "a/b/c"] {
            assert!(account_of_operator(text).is_err(), "{text}");
        }
    }
}
