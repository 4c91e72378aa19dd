//! Gives to `kms -f` what kubectl prints of objects in a real API server.
use kms_tests::{
    Kms,
    rook::{ADMIN, Cluster, fixture},
};
use serde_json::Value;

/// The forms in which people save objects.
const EXPORTS: [&str; 7] = [
    "get deployments -o yaml",
    "get deployments -o json",
    "get deployments -o yaml --show-managed-fields",
    "get deployments -o json --show-managed-fields",
    "get cephclusters,deployments,secrets,configmaps,cronjobs,namespaces -o yaml --show-managed-fields",
    "get all,cephclusters -o json",
    "get deployments -o yaml -l ceph-osd-id",
];

/// Values that YAML 1.1, YAML 1.2 or JSON could read as something else than a text.
const ODD_VALUES: [&str; 18] = [
    "0o14",
    "014",
    "0x1F",
    "0b11",
    "1_000",
    "1e3",
    "1:30",
    ".inf",
    "~",
    "null",
    "yes",
    "n",
    "true",
    "=",
    "<<",
    "2026-11-30",
    "- a: b",
    "#x",
];

async fn cluster() -> Cluster {
    let cluster = Cluster::new(fixture("vault-tls", "security.json")).await;
    for osd in ["vault-token", "vault-kubernetes", "vault-tls"] {
        cluster.add_osd(osd).await;
    }
    for (at, odd) in ODD_VALUES.iter().enumerate() {
        cluster.kubectl(&format!("annotate deployment rook-ceph-osd-1 example.com/odd-{at}='{odd}'"));
    }
    // Other managers, the subresources, and the annotation with the last configuration.
    cluster.kubectl("scale deployment rook-ceph-osd-2 --replicas 0");
    cluster.kubectl("set image deployment/rook-ceph-osd-3 osd=example.com/ceph:v20");
    cluster.kubectl(
        "set resources deployment/rook-ceph-osd-3 -c osd --limits cpu=2,memory=4.5Gi --requests cpu=1500m",
    );
    cluster.kubectl(
        "patch deployment rook-ceph-osd-1 --subresource status --type merge -p '{\"status\": {\"replicas\": 1, \
         \"conditions\": [{\"type\": \"Available\", \"status\": \"True\", \"lastTransitionTime\": \
         \"2026-11-30T01:02:03Z\", \"lastUpdateTime\": null}]}}'",
    );
    cluster.kubectl("create secret generic rook-vault-token --from-literal=token=x --dry-run=client -o yaml | kubectl apply -f -");
    cluster.kubectl("create configmap rook-ceph-pdbstatemap --from-literal=a=1");
    cluster
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server and kubectl: cargo xtask it rook"]
async fn objects_are_read_as_kubectl_prints_them() {
    let cluster = cluster().await;
    let asked = cluster.kms(ADMIN).run(&["-o", "json", "cronjobs", "render"]).want(0).json();
    assert_eq!(asked["items"].as_array().unwrap().len(), 3);
    let ceph_cluster = cluster.kubectl("get cephcluster rook-ceph -o yaml --show-managed-fields");
    for export in EXPORTS {
        let kms = Kms::new().document("export.yaml", &cluster.kubectl(export));
        let kms = if export.contains("cephclusters") { kms } else { kms.document("c.yaml", &ceph_cluster) };
        let read = kms.run(&["-o", "json", "cronjobs", "render"]).want(0);
        assert_eq!(read.json(), asked, "{export}");
        assert_eq!(read.stderr, "", "{export}");
        let env = kms.run(&["-o", "json", "render", "env"]).want(0).json();
        assert_eq!(env["env"], fixture("vault-tls", "env.json"), "{export}");
    }
}

/// The Secrets of an export are found, by a command that works on keys.
#[tokio::test]
#[ignore = "needs a Kubernetes API server and kubectl: cargo xtask it rook"]
async fn settings_and_secrets_are_read_as_kubectl_prints_them() {
    let security = serde_json::json!({"kms": {
        "connectionDetails": {"KMS_PROVIDER": "vault", "VAULT_ADDR": "https://127.0.0.1:1"},
        "tokenSecretName": "rook-vault-token",
    }});
    let cluster = Cluster::new(security).await;
    cluster.kubectl("create secret generic rook-vault-token --from-literal=token=s.x");
    cluster.kubectl("create secret generic empty");
    for form in ["yaml", "json"] {
        let export =
            cluster.kubectl(&format!("get cephclusters,secrets,events -o {form} --show-managed-fields"));
        let kms = Kms::new().document("export.yaml", &export);
        for command in [&["get", "a"][..], &["list"], &["create", "a"], &["delete", "a"], &["check"]] {
            let ran = kms.run(&[&["--timeout", "1s", "-o", "json"], command].concat());
            assert_eq!(ran.code, 5, "{command:?}: {}", ran.text());
            let settings: Option<Value> = serde_json::from_str(&ran.stdout).ok();
            assert!(settings.is_none() || ran.stdout.contains("\"ok\""), "{command:?}: {}", ran.stdout);
        }
    }
}
