//! The rights that the Role grants.

use crate::common::{CASES, deployment, security};
use kms_rook::{Osd, rbac};

#[test]
fn every_secret_is_named_and_none_may_be_listed() {
    let osds: Vec<Osd> = CASES.iter().map(|case| Osd::of(&deployment(case)).unwrap().unwrap()).collect();
    for case in CASES {
        let rbac = rbac(&security(case), "rook-ceph", "rook-ceph", "rook-kms", &osds, |name| {
            format!("rook-ceph-osd-encryption-key-{name}")
        })
        .unwrap();
        let mut of_settings = Vec::new();
        let mut of_keys = 0;
        for rule in rbac.role.rules.unwrap() {
            assert!(!rule.verbs.iter().any(|verb| verb == "*"), "{rule:?}");
            if rule.resources.unwrap() != ["secrets"] {
                continue;
            }
            let names = rule.resource_names.unwrap();
            match rule.verbs.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                ["get"] => of_settings = names,
                ["get", "update"] => of_keys = names.len(),
                other => panic!("{other:?}"),
            }
        }
        let (settings, keys): (&[&str], _) = match case {
            "default" => (&[], 7),
            "vault-kubernetes" => (&[], 0),
            "vault-token" => (&["rook-vault-token"], 0),
            "vault-tls" => (&["rook-vault-token", "vault-ca", "vault-client", "vault-client-key"], 0),
            "ibm" => (&["ibm-kp-svc-api-key"], 0),
            "kmip" => (&["kmip-credentials"], 7),
            "azure" => (&["azure-cert"], 0),
            _ => unreachable!(),
        };
        assert_eq!(of_settings, settings, "{case}");
        assert_eq!(of_keys, keys, "{case}");
    }
}
