//! Runs the program on a real KMIP server: finds keys by name without Kubernetes, and by the Secrets in which Rook
//! keeps identifiers.
use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_testkit::{
    doctor::{finding, wrong},
    servers::{
        PyKmip,
        kube::{Kube, KubeNamespace},
        pykmip::Flavour,
    },
};
use kms_tests::{Kms, secret};
use serde_json::{Value, json};

const NAME: &str = "set1-data-0x7dwl";
const ID: &str = "rook-ceph-osd-encryption-key-set1-data-0x7dwl";
const TOKEN: &str = "kmip-token";
const MARK: &str = "kms.ceph.rook.io/kmip-unique-identifier";

/// A script for PyKMIP's own client: registers an object without a name, which only its identifier leads to, or counts
/// all objects.
const CLIENT: &str = r#"
import sys
from kmip.core import enums
from kmip.pie.client import ProxyKmipClient
from kmip.pie.objects import SymmetricKey

port, pki, action = sys.argv[1:]
files = {"cert": f"{pki}/client1.crt", "key": f"{pki}/client1.key", "ca": f"{pki}/ca.crt"}
with ProxyKmipClient(hostname="127.0.0.1", port=int(port), ssl_version="PROTOCOL_TLSv1_2", **files) as client:
    if action == "register":
        masks = [enums.CryptographicUsageMask.EXPORT]
        print(client.register(SymmetricKey(enums.CryptographicAlgorithm.AES, 1024, bytes(range(128)), masks)))
    else:
        print(len(client.locate()))
"#;

/// The base64 text of the bytes that the script registers.
const REGISTERED: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0BBQkNERUZHSElKS0xNTk9QUVJTVFVWV1hZWltcXV5fYGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e3x9fn8=";

fn security(server: &PyKmip) -> Value {
    let details = json!({"KMS_PROVIDER": "kmip", "KMIP_ENDPOINT": server.endpoint()});
    json!({"kms": {"tokenSecretName": TOKEN, "connectionDetails": details}})
}

fn credentials(server: &PyKmip) -> [(&'static str, &str); 3] {
    let pki = server.pki();
    [("CA_CERT", &pki.ca.cert), ("CLIENT_CERT", &pki.client1.cert), ("CLIENT_KEY", &pki.client1.key)]
}

/// The program with all documents from files, and without Kubernetes.
fn from_files(server: &PyKmip) -> Kms {
    let cluster = json!({
        "apiVersion": "ceph.rook.io/v1", "kind": "CephCluster",
        "metadata": {"name": "rook-ceph", "namespace": "rook-ceph"},
        "spec": {"security": security(server)},
    });
    Kms::new()
        .document("cluster.yaml", &cluster.to_string())
        .document("token.yaml", &secret(TOKEN, &credentials(server)))
}

/// A namespace with the CephCluster and its credentials, and the program with `--cluster`.
async fn from_kubernetes(server: &PyKmip) -> (Kube, KubeNamespace, Kms, String) {
    let kube = Kube::for_tests().await.unwrap();
    let place = kube.create_namespace("rook-ceph").await.unwrap();
    let cluster = json!({"apiVersion": "ceph.rook.io/v1", "kind": "CephCluster", "metadata": {"name": "rook-ceph"},
                         "spec": {"security": security(server)}});
    let path = format!("/apis/ceph.rook.io/v1/namespaces/{}/cephclusters", place.name());
    let cluster = kube.call("POST", &path, cluster).await.unwrap();
    let uid = cluster["metadata"]["uid"].as_str().unwrap().to_owned();
    let token = json!({"metadata": {"name": TOKEN},
                       "stringData": credentials(server).into_iter().collect::<BTreeMap<_, _>>()});
    place.call("POST", &place.path("secrets"), token).await.unwrap();
    let kms = Kms::new();
    kube.write_kubeconfig(&kms.folder().join("kubeconfig"), place.name(), "admintoken").unwrap();
    let which = format!("{}/rook-ceph", place.name());
    (kube, place, kms.global(&["--kubeconfig", "kubeconfig", "--cluster", &which]), uid)
}

async fn secret_of_key(place: &KubeNamespace) -> Value {
    place.call("GET", &place.path(&format!("secrets/{ID}")), Value::Null).await.unwrap()
}

async fn objects(server: &PyKmip) -> usize {
    server.client(CLIENT, &["count"]).await.unwrap().trim().parse().unwrap()
}

fn unsealed(value: &Value) -> String {
    String::from_utf8(STANDARD.decode(value.as_str().unwrap()).unwrap()).unwrap()
}

#[tokio::test]
#[ignore = "needs a KMIP server: cargo xtask it kmip"]
async fn without_kubernetes_keys_are_found_by_their_names() {
    let server = PyKmip::start(Flavour::Tls13).await.unwrap();
    let kms = from_files(&server);
    let checked = kms.run(&["check"]).want(0).stdout;
    assert!(checked.contains("1.4"), "{checked}");
    let _ = kms.run(&["get", NAME]).want(3);
    let _ = kms.run(&["create", NAME]).want(0);
    let kek = kms.run(&["get", NAME]).want(0).stdout;
    assert_eq!(kek.len(), 172);
    // Another program, which has no local state, finds the same key and creates no second one.
    let other = from_files(&server);
    assert_eq!(other.run(&["get", NAME]).want(0).stdout, kek);
    let _ = other.run(&["create", NAME, "--if-absent"]).want(0);
    assert_eq!(objects(&server).await, 1);
    let listed = kms.run(&["list"]).want(0).stdout;
    assert!(listed.contains(NAME) && !listed.contains(&kek), "{listed}");
    // KMIP stores bytes, so kms rejects a text that is not base64.
    let ran = kms.run_with(&["put", "plain", "--from", "-"], "no base64!");
    assert!(ran.code == 2 && ran.stderr.contains("base64"), "{}: {}", ran.code, ran.stderr);
    assert!(kms.run(&["delete", NAME]).want(2).stderr.contains("--destroy"), "KMIP cannot undo it");
    let _ = kms.run(&["delete", NAME, "--destroy"]).want(0);
    let _ = kms.run(&["get", NAME]).want(3);
    assert_eq!(objects(&server).await, 0);
}

#[tokio::test]
#[ignore = "needs a KMIP server and a Kubernetes API server: cargo xtask it kmip"]
async fn the_identifier_is_in_the_secret_as_rook_keeps_it() {
    let server = PyKmip::start(Flavour::Tls13).await.unwrap();
    let (_kube, place, kms, uid) = from_kubernetes(&server).await;
    let _ = kms.run(&["check"]).want(0);
    let _ = kms.run(&["create", NAME]).want(0);
    let kek = kms.run(&["get", NAME]).want(0).stdout;
    assert_eq!(kek.len(), 172);

    let written = secret_of_key(&place).await;
    let identifier = unsealed(&written["data"]["dmcrypt-key"]);
    assert_eq!(written["type"], "kubernetes.io/rook");
    assert_eq!(written["metadata"]["labels"], json!({"pvc_name": NAME}));
    assert_eq!(written["data"].as_object().unwrap().keys().collect::<Vec<_>>(), ["dmcrypt-key"]);
    assert_eq!(written["metadata"]["annotations"][MARK], identifier.as_str());
    assert_eq!(
        written["metadata"]["ownerReferences"],
        json!([{"apiVersion": "ceph.rook.io/v1", "kind": "CephCluster", "name": "rook-ceph", "uid": uid,
                "controller": true, "blockOwnerDeletion": true}])
    );
    assert!(!identifier.is_empty() && identifier.len() < 64, "{identifier}");
    let listed = kms.run(&["-o", "json", "list"]).want(0).json();
    assert_eq!(listed["keys"][0]["name"], NAME);
    assert_eq!(listed["keys"][0]["version"], identifier.as_str());

    // A replaced KEK is another object, and the Secret names that object.
    let _ = kms.run_with(&["put", NAME, "--from", "-", "--replace"], REGISTERED).want(0);
    assert_eq!(kms.run(&["get", NAME]).want(0).stdout, REGISTERED);
    let replaced = secret_of_key(&place).await;
    let second = unsealed(&replaced["data"]["dmcrypt-key"]);
    assert_ne!(second, identifier);
    assert_eq!(replaced["metadata"]["annotations"][MARK], second.as_str());
    assert_eq!(replaced["metadata"]["ownerReferences"], written["metadata"]["ownerReferences"]);

    // If the Secret is lost, kms finds the key by its name, and the next create rewrites the Secret.
    place.call("DELETE", &place.path(&format!("secrets/{ID}")), Value::Null).await.unwrap();
    assert_eq!(kms.run(&["get", NAME]).want(0).stdout, REGISTERED);
    assert!(kms.run(&["list"]).want(0).stdout.contains(NAME));
    let _ = kms.run(&["create", NAME, "--if-absent"]).want(0);
    let _ = kms.run(&["create", NAME]).want(1);
    assert_eq!(unsealed(&secret_of_key(&place).await["data"]["dmcrypt-key"]), second);
    assert_eq!(kms.run(&["get", NAME]).want(0).stdout, REGISTERED);

    // Nothing is left of a deleted key, neither on the KMIP server nor in Kubernetes.
    let _ = kms.run(&["delete", NAME, "--destroy"]).want(0);
    let _ = kms.run(&["get", NAME]).want(3);
    assert_eq!(objects(&server).await, 0);
    let secrets = place.call("GET", &place.path("secrets"), Value::Null).await.unwrap();
    let names: BTreeSet<_> =
        secrets["items"].as_array().unwrap().iter().map(|one| one["metadata"]["name"].to_string()).collect();
    assert!(!names.contains(&format!("{ID:?}")), "{names:?}");
}

#[tokio::test]
#[ignore = "needs a KMIP server and a Kubernetes API server: cargo xtask it kmip"]
async fn what_rook_wrote_is_read_and_a_kek_in_its_place_is_left_alone() {
    let server = PyKmip::start(Flavour::Tls13).await.unwrap();
    let (_kube, place, kms, _) = from_kubernetes(&server).await;
    let identifier = server.client(CLIENT, &["register"]).await.unwrap().trim().to_owned();
    let rooks = |text: &str| {
        json!({"metadata": {"name": ID, "labels": {"pvc_name": NAME}}, "type": "kubernetes.io/rook",
               "stringData": {"dmcrypt-key": text}})
    };
    // Rook's objects have no name: only the Secret leads to them.
    place.call("POST", &place.path("secrets"), rooks(&identifier)).await.unwrap();
    assert_eq!(kms.run(&["get", NAME]).want(0).stdout, REGISTERED);
    let ran = kms.run(&["create", NAME]);
    assert!(ran.code != 0 && ran.stderr.contains("exists"), "{}", ran.text());
    assert_eq!(kms.run(&["get", NAME]).want(0).stdout, REGISTERED);
    // An update replaces it by an object of kms.
    let kek = kms.run(&["create", "other"]).want(0);
    assert!(!kek.text().contains(REGISTERED));
    let other = kms.run(&["get", "other"]).want(0).stdout;
    let _ = kms.run_with(&["put", NAME, "--from", "-", "--replace"], &other).want(0);
    assert_eq!(kms.run(&["get", NAME]).want(0).stdout, other);
    let written = secret_of_key(&place).await;
    assert_eq!(written["metadata"]["annotations"][MARK], unsealed(&written["data"]["dmcrypt-key"]).as_str());
    let _ = kms.run(&["delete", NAME, "--destroy"]).want(0);
    let _ = kms.run(&["delete", "other", "--destroy"]).want(0);

    // A KEK that was stored before the cluster used KMIP (rook-behaviour W3).
    place.call("POST", &place.path("secrets"), rooks(&other)).await.unwrap();
    let before = secret_of_key(&place).await;
    let count = objects(&server).await;
    for args in [&["get", NAME][..], &["create", NAME], &["delete", NAME, "--destroy"]] {
        let ran = kms.run(args);
        assert_ne!(ran.code, 0, "{args:?}");
        assert!(ran.stderr.contains("holds a KEK"), "{args:?}: {}", ran.stderr);
        assert!(!ran.text().contains(&other), "{args:?}");
    }
    let ran = kms.run_with(&["put", NAME, "--from", "-", "--replace"], REGISTERED);
    assert!(ran.code != 0 && ran.stderr.contains("holds a KEK"), "{}", ran.stderr);
    assert_eq!(secret_of_key(&place).await, before);
    assert_eq!(objects(&server).await, count);
    assert!(!server.last_words().contains(&other));
}

#[tokio::test]
#[ignore = "needs a KMIP server and a Kubernetes API server: cargo xtask it kmip"]
async fn it_stands_in_for_rook_in_the_init_container_of_an_osd() {
    let server = PyKmip::start(Flavour::Stock).await.unwrap();
    let (_kube, place, kms, _) = from_kubernetes(&server).await;
    let _ = kms.run(&["create", NAME]).want(0);
    let kek = kms.run(&["get", NAME]).want(0).stdout;
    let config = kms.folder().join("kubeconfig").display().to_string();
    let pod = Kms::new()
        .env("POD_NAMESPACE", place.name())
        .env("ROOK_CLUSTER_NAME", "rook-ceph")
        .env("KUBECONFIG", &config)
        .env("KMIP_KMS_PROVIDER", "kmip")
        .env("KMIP_KMIP_ENDPOINT", &server.endpoint());
    let _ = pod.run(&["key-management", "get", NAME, "luks_key"]).want(0);
    assert_eq!(std::fs::read_to_string(pod.folder().join("luks_key")).unwrap(), kek);

    // TLS 1.2 has no post-quantum key exchange. The doctor says so, and complains only if the user asks for it.
    let check = "kms -f cluster.yaml -f token.yaml check --read-only";
    let recorded = finding("KMS0306", "warning", "kmip", check);
    for (option, code, expected) in [(&[][..], 0, vec![]), (&["--post-quantum"], 1, vec![recorded])] {
        let line = [&["-o", "json", "doctor", "--fail-on", "warning"], option].concat();
        let report = from_files(&server).run(&line).want(code).json();
        assert_eq!(report["key_exchanges"][0]["post_quantum"], false, "{report}");
        assert_eq!(wrong(&report), expected);
    }
}
