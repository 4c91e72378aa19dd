//! Runs the program on a real API server: keys in Secrets, a CephCluster and Secrets read from the API, and kms in
//! place of Rook in a pod.
use kms_testkit::servers::{
    kube::{Kube, KubeNamespace},
    openbao::{OpenBao, OpenBaoConfig},
};
use kms_tests::{Kms, vault_security};
use serde_json::{Value, json};

const NAME: &str = "set1-data-0x7dwl";
const ID: &str = "rook-ceph-osd-encryption-key-set1-data-0x7dwl";
const CLUSTERS: &str = "/apis/ceph.rook.io/v1/namespaces";

/// A namespace with the service account of Rook's pods, and the rights that Rook grants it (rook-behaviour §16).
async fn cluster() -> (Kube, KubeNamespace, String) {
    let kube = Kube::for_tests().await.unwrap();
    let place = kube.create_namespace("rook-ceph").await.unwrap();
    place.create_service_account("rook-ceph-osd").await.unwrap();
    let rules = json!([
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "update"]},
        {"apiGroups": ["ceph.rook.io"], "resources": ["cephclusters"], "verbs": ["get", "list"]},
    ]);
    place.grant("rook-ceph-osd", &rules).await.unwrap();
    let token = place.create_token("rook-ceph-osd", &[]).await.unwrap();
    (kube, place, token)
}

async fn ceph_cluster(kube: &Kube, place: &KubeNamespace, spec: Value) -> Value {
    let body = json!({"apiVersion": "ceph.rook.io/v1", "kind": "CephCluster", "metadata": {"name": "rook-ceph"},
                      "spec": spec});
    kube.call("POST", &format!("{CLUSTERS}/{}/cephclusters", place.name()), body).await.unwrap()
}

fn kms(kube: &Kube, place: &KubeNamespace, token: &str) -> Kms {
    let kms = Kms::new();
    let config = kms.folder().join("kubeconfig");
    kube.write_kubeconfig(&config, place.name(), token).unwrap();
    kms.global(&["--kubeconfig", "kubeconfig"])
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn keys_are_kept_in_secrets_as_rook_keeps_them() {
    let (kube, place, _) = cluster().await;
    let owner = ceph_cluster(&kube, &place, json!({"mon": {"count": 3}})).await;
    let uid = owner["metadata"]["uid"].as_str().unwrap();
    let which = format!("{}/rook-ceph", place.name());
    let admin = kms(&kube, &place, "admintoken").global(&["--cluster", &which]);
    let _ = admin.run(&["check"]).want(0);
    let empty = admin.run(&["list"]).want(0);
    let looked_at = format!("(namespace {}, API server {}) has none", place.name(), kube.url());
    assert!(empty.stderr.contains(&looked_at), "{}", empty.stderr);
    let _ = admin.run(&["create", NAME]).want(0);
    let secret = place.call("GET", &place.path(&format!("secrets/{ID}")), Value::Null).await.unwrap();
    assert_eq!(secret["type"], "kubernetes.io/rook");
    assert_eq!(secret["metadata"]["labels"], json!({"pvc_name": NAME}));
    assert_eq!(
        secret["metadata"]["ownerReferences"],
        json!([{"apiVersion": "ceph.rook.io/v1", "kind": "CephCluster", "name": "rook-ceph", "uid": uid,
                "controller": true, "blockOwnerDeletion": true}])
    );
    assert_eq!(secret["data"].as_object().unwrap().keys().collect::<Vec<_>>(), ["dmcrypt-key"]);
    assert_eq!(admin.run(&["get", NAME]).want(0).stdout.len(), 172);

    // kms reads the Secrets that Rook wrote.
    let rooks = json!({"metadata": {"name": "rook-ceph-osd-encryption-key-rooks", "labels": {"pvc_name": "rooks"}},
                       "type": "kubernetes.io/rook", "stringData": {"dmcrypt-key": "QUJD"}});
    place.call("POST", &place.path("secrets"), rooks).await.unwrap();
    assert_eq!(admin.run(&["get", "rooks"]).want(0).stdout, "QUJD");
    let listed = admin.run(&["list"]).want(0).stdout;
    assert!(listed.contains(NAME) && listed.contains("rooks") && !listed.contains("QUJD"), "{listed}");

    // A name that is too long for a label works from end to end.
    let long = "l".repeat(200);
    let _ = admin.run(&["create", &long]).want(0);
    assert_eq!(admin.run(&["get", &long]).want(0).stdout.len(), 172);
    assert!(admin.run(&["list"]).want(0).stdout.contains(&long));
    for name in [NAME, "rooks", &long] {
        assert!(
            admin.run(&["delete", name]).want(2).stderr.contains("--destroy"),
            "a Secret cannot come back"
        );
        let _ = admin.run(&["delete", name, "--destroy"]).want(0);
        let _ = admin.run(&["get", name]).want(3);
    }
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn the_account_of_an_osd_reads_its_key_and_learns_what_it_may_not() {
    let (kube, place, token) = cluster().await;
    ceph_cluster(&kube, &place, json!({"mon": {"count": 3}})).await;
    let which = format!("{}/rook-ceph", place.name());
    let rooks = json!({"metadata": {"name": ID, "labels": {"pvc_name": NAME}}, "type": "kubernetes.io/rook",
                       "stringData": {"dmcrypt-key": "QUJD"}});
    place.call("POST", &place.path("secrets"), rooks).await.unwrap();
    let osd = kms(&kube, &place, &token).global(&["--cluster", &which]);
    assert_eq!(osd.run(&["get", NAME]).want(0).stdout, "QUJD");
    for (args, verb) in [
        (vec!["list"], "list"),
        (vec!["create", "x"], "create"),
        (vec!["delete", NAME, "--destroy", "--in-use"], "delete"),
    ] {
        let ran = osd.run(&args).want(4);
        assert!(ran.stderr.contains(verb) && ran.stderr.contains("secrets"), "{}", ran.stderr);
        assert!(!ran.text().contains(&token));
    }
    let ran = kms(&kube, &place, "wrong-token").global(&["--cluster", &which]).run(&["get", NAME]).want(4);
    assert!(!ran.text().contains("wrong-token"));
}

#[tokio::test]
#[ignore = "needs a Vault server and a Kubernetes API server: cargo xtask it k8s-secret"]
async fn it_stands_in_for_rook_in_the_init_container_of_an_osd() {
    let (kube, place, kube_token) = cluster().await;
    let server = OpenBao::start(OpenBaoConfig::default()).await.unwrap();
    let token = server.admin().rook_token().await.unwrap();
    server.admin().call("PUT", &format!("rook/{ID}"), json!({ID: "QUJD"})).await.unwrap();
    let document: Value = serde_json::from_str(&vault_security(&[
        ("VAULT_ADDR", server.url()),
        ("VAULT_BACKEND_PATH", "rook"),
        ("VAULT_SECRET_ENGINE", "kv"),
        ("VAULT_CACERT", "vault-ca"),
    ]))
    .unwrap();
    ceph_cluster(&kube, &place, document["spec"].clone()).await;
    for (name, entry, value) in
        [("vault-token", "token", &token), ("vault-ca", "cert", &server.pki().ca.cert)]
    {
        let secret = json!({"metadata": {"name": name}, "stringData": {entry: format!("{value}\n")}});
        place.call("POST", &place.path("secrets"), secret).await.unwrap();
    }
    let which = format!("{}/rook-ceph", place.name());
    let by_name = kms(&kube, &place, &kube_token).global(&["--cluster", &which]);
    assert_eq!(by_name.run(&["get", NAME]).want(0).stdout, "QUJD");

    // Rook's arguments and environment (rook-behaviour §11, appendix B); here a kubeconfig leads to the API.
    let config = by_name.folder().join("kubeconfig").display().to_string();
    let pod = Kms::new()
        .env("POD_NAMESPACE", place.name())
        .env("ROOK_CLUSTER_NAME", "rook-ceph")
        .env("KUBECONFIG", &config);
    for _ in 0..2 {
        let _ = pod.run(&["key-management", "get", NAME, "luks_key"]).want(0);
        assert_eq!(std::fs::read_to_string(pod.folder().join("luks_key")).unwrap(), "QUJD");
    }
    let ran = pod.run(&["key-management", "get", "nosuch", "other"]).want(3);
    assert!(!pod.folder().join("other").exists(), "{}", ran.stderr);
    let looked =
        format!("looked in: HashiCorp Vault, OpenBao (VAULT_ADDR {}, VAULT_BACKEND_PATH rook)", server.url());
    assert!(ran.stderr.contains(&looked), "{}", ran.stderr);

    // While the API is away, the environment that Rook has set suffices.
    let ca = pod.file("vault.ca", &server.pki().ca.cert).display().to_string();
    let alone = Kms::new()
        .env("POD_NAMESPACE", place.name())
        .env("ROOK_CLUSTER_NAME", "rook-ceph")
        .env("KMS_PROVIDER", "vault")
        .env("VAULT_ADDR", server.url())
        .env("VAULT_BACKEND_PATH", "rook")
        .env("VAULT_CACERT", &ca)
        .env("VAULT_TOKEN", &token);
    let _ = alone.run(&["key-management", "get", NAME, "luks_key"]).want(0);
    assert_eq!(std::fs::read_to_string(alone.folder().join("luks_key")).unwrap(), "QUJD");
}
