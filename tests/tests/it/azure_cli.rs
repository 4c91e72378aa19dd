//! Runs the program on the double of Entra ID and Key Vault, as a user does: layout, exit codes, secrets that it must
//! not print, and Microsoft's own clients on the same keys.
use kms_conformance::leak::Canary;
use kms_testkit::{
    fake::azure::{Azure, CLIENT_SECRET, Client, OBJECT},
    servers::kube::Kube,
};
use kms_tests::{Kms, secret};
use serde_json::{Value, json};

const NAME: &str = "set1-data-0x7dwl";
const ID: &str = "rook-ceph-osd-encryption-key-set1-data-0x7dwl";

fn security(double: &Azure, settings: &[(&str, &str)]) -> Value {
    let mut details: serde_json::Map<String, Value> =
        double.details().into_iter().map(|(name, value)| (name, Value::String(value))).collect();
    let own = [("AZURE_CERT_SECRET_NAME", "azure-cert"), ("AZURE_CACERT", "azure-ca")];
    for (name, value) in own.iter().chain(settings) {
        details.insert((*name).to_owned(), json!(value));
    }
    json!({"kms": {"connectionDetails": details}})
}

fn kms_with(double: &Azure, settings: &[(&str, &str)], certificate: &str) -> Kms {
    let cluster = json!({
        "apiVersion": "ceph.rook.io/v1", "kind": "CephCluster",
        "metadata": {"name": "rook-ceph", "namespace": "rook-ceph"},
        "spec": {"security": security(double, settings)},
    });
    Kms::new()
        .document("cluster.yaml", &cluster.to_string())
        .document("certificate.yaml", &secret("azure-cert", &[("CLIENT_CERT", certificate)]))
        .document("ca.yaml", &secret("azure-ca", &[("cert", double.ca())]))
}

fn kms(double: &Azure, settings: &[(&str, &str)]) -> Kms {
    kms_with(double, settings, double.service_principal())
}

fn rooks_form(kek: &str) -> String {
    format!(r#"{{"{ID}":"{kek}"}}"#)
}

/// The current value of the secret.
fn stored(double: &Azure) -> String {
    double.versions(ID).pop().unwrap().value
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the program: cargo xtask it azure"]
async fn the_main_job_works_and_keeps_rooks_layout() {
    let double = Azure::start().await.unwrap();
    let kms = kms(&double, &[]);
    let checked = kms.run(&["check"]).want(0).stdout;
    for part in ["thumbprint", OBJECT, "canary: delete"] {
        assert!(checked.contains(part), "{part:?} is not in {checked}");
    }
    let _ = kms.run(&["get", NAME]).want(3);
    let created = kms.run(&["create", NAME]).want(0);
    let kek = kms.run(&["get", NAME]).want(0).stdout;
    assert_eq!((kek.len(), stored(&double)), (172, rooks_form(&kek)));
    assert!(!created.text().contains(&kek[..16]), "create prints no key");

    let refused = kms.run(&["create", NAME]).want(1);
    assert!(refused.stderr.contains("the key exists"), "{}", refused.stderr);
    let _ = kms.run(&["create", NAME, "--if-absent"]).want(0);
    assert_eq!(kms.run(&["get", NAME]).want(0).stdout, kek, "--if-absent changed nothing");
    let _ = kms.run_with(&["put", NAME, "--from", "-"], "another-key").want(1);
    let _ = kms.run_with(&["put", NAME, "--from", "-", "--replace"], "another-key").want(0);
    assert_eq!(kms.run(&["get", NAME]).want(0).stdout, "another-key");
    assert_eq!(stored(&double), rooks_form("another-key"));

    let _ = kms.run(&["create", "my.set_Data"]).want(0);
    let listed = kms.run(&["-o", "json", "list"]).want(0).json();
    let mut names: Vec<_> = listed["keys"].as_array().unwrap().iter().map(|key| &key["name"]).collect();
    names.sort_by_key(|name| name.to_string());
    assert_eq!(names, ["my.set_Data", NAME], "no canary of the check is left");

    // After a soft delete the key is recoverable, and a create recovers it.
    let deleted = kms.run(&["-o", "json", "delete", NAME]).want(0).json();
    assert_eq!(deleted["outcome"], "recoverable");
    assert!(deleted["recoverable_until"].is_string(), "the vault says when it purges the key: {deleted}");
    let _ = kms.run(&["get", NAME]).want(3);
    let _ = kms.run(&["undelete", NAME]).want(0);
    assert_eq!(kms.run(&["get", NAME]).want(0).stdout, "another-key", "it is back");
    let _ = kms.run(&["delete", NAME, "--soft"]).want(0);
    let _ = kms.run(&["get", NAME]).want(3);
    let in_the_way = kms.run(&["create", NAME]).want(1);
    assert!(in_the_way.stderr.contains("AZURE_SOFT_DELETED"), "{}", in_the_way.stderr);
    assert_eq!(kms.run(&["get", NAME]).want(0).stdout, "another-key", "nothing is lost");

    let deleted = kms.run(&["-o", "json", "delete", NAME, "--destroy"]).want(0).json();
    assert_eq!((&deleted["outcome"], &deleted["undo"]), (&json!("destroyed"), &Value::Null));
    assert_eq!(double.is_deleted(ID), None);
    let _ = kms.run(&["undelete", NAME]).want(3);
    let _ = kms.run(&["delete", NAME, "--destroy"]).want(3);
    let _ = kms.run(&["delete", NAME, "--destroy", "--ignore-not-found"]).want(0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Microsoft's clients: cargo xtask it azure"]
async fn microsofts_clients_read_what_the_program_wrote_and_the_reverse() {
    let double = Azure::start().await.unwrap();
    let kms = kms(&double, &[]);
    for client in [Client::python(&double).unwrap(), Client::node(&double).unwrap()] {
        let _ = kms.run(&["create", NAME]).want(0);
        let kek = kms.run(&["get", NAME]).want(0).stdout;
        assert_eq!(client.done(&["read", ID]).await.unwrap(), rooks_form(&kek));
        client.done(&["write", ID, &rooks_form("YWJjZA==")]).await.unwrap();
        assert_eq!(kms.run(&["get", NAME]).want(0).stdout, "YWJjZA==");
        // A raw value, which the library that Rook uses accepts too.
        client.done(&["write", ID, "ZWZnaA=="]).await.unwrap();
        assert_eq!(kms.run(&["get", NAME]).want(0).stdout, "ZWZnaA==");
        let _ = kms.run(&["delete", NAME, "--destroy"]).want(0);
        assert_eq!(client.run(&["read", ID]).await.unwrap().status.code(), Some(3));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the program: cargo xtask it azure"]
async fn exit_codes_tell_what_to_do() {
    let double = Azure::start().await.unwrap();
    let ran =
        kms(&double, &[("AZURE_VAULT_URI", "x"), ("AZURE_ENVIRONMENT", "Moon")]).run(&["get", NAME]).want(2);
    for part in ["did you mean AZURE_VAULT_URL?", "AzureUSGovernment"] {
        assert!(ran.stderr.contains(part), "{part:?} is not in {}", ran.stderr);
    }
    let ran = kms(&double, &[("AZURE_CLIENT_ID", "99999999-9999-9999-9999-999999999999")]);
    let ran = ran.run(&["get", NAME]).want(4);
    assert!(ran.stderr.contains("AADSTS700016"), "{}", ran.stderr);
    double.switch(|switches| switches.denied = ["get"].into());
    let ran = kms(&double, &[]).run(&["get", NAME]).want(4);
    assert!(ran.stderr.contains("Key Vault Secrets") && ran.stderr.contains(OBJECT), "{}", ran.stderr);
    let away = kms(&double, &[("AZURE_VAULT_URL", "https://127.0.0.1:9")]);
    let ran = away.run(&["--timeout", "1s", "get", NAME]).want(5);
    assert!(ran.stderr.contains("refused"), "{}", ran.stderr);
    let expired = include_str!("../../../crates/kms-azure/tests/certificates/expired.pem");
    let key = include_str!("../../../crates/kms-azure/tests/certificates/key.pem");
    let ran = kms_with(&double, &[], &[key, expired].concat()).run(&["get", NAME]).want(2);
    assert!(ran.stderr.contains("has expired"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the program: cargo xtask it azure"]
async fn a_check_names_the_step_that_fails() {
    let double = Azure::start().await.unwrap();
    for (settings, code, said) in [
        (vec![("AZURE_AUTHORITY_HOST", "https://127.0.0.1:9")], 5, "refused"),
        (vec![("AZURE_VAULT_URL", "https://nosuch.invalid")], 5, "could not be resolved"),
        (vec![("AZURE_TENANT_ID", "99999999-9999-9999-9999-999999999999")], 4, "AADSTS90002"),
    ] {
        let ran = kms(&double, &settings).run(&["--timeout", "2s", "check"]).want(code);
        assert!(ran.text().contains(said), "{said:?} is not in {}", ran.text());
    }
    double.switch(|switches| switches.denied = ["set"].into());
    let ran = kms(&double, &[]).run(&["check"]).want(4);
    let failed = ran.stdout.lines().find(|line| line.starts_with("FAILED")).unwrap();
    assert!(failed.contains("canary: store") && failed.contains("Secrets Officer"), "{}", ran.stdout);
    let _ = kms(&double, &[]).run(&["check", "--read-only"]).want(0);
    // Without the right to delete no test key is stored, which would stay.
    double.switch(|switches| switches.denied = ["delete"].into());
    let ran = kms(&double, &[]).run(&["check"]).want(4);
    assert!(ran.stdout.contains("no test key was stored"), "{}", ran.stdout);
    assert_eq!(kms(&double, &[]).run(&["-o", "json", "list"]).want(0).json()["keys"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the program: cargo xtask it azure"]
async fn nothing_secret_is_printed_at_any_level_on_any_path() {
    let double = Azure::start().await.unwrap();
    let kek = "canary-kek-Zm9vYmFyYmF6cXV4cXV1eGNvcmdl";
    let private: String = double.service_principal().lines().skip(2).take(2).collect();
    let canaries = [
        Canary::new("KEK", kek),
        Canary::new("private key", &private),
        Canary::new("client secret", CLIENT_SECRET),
    ];
    let with_secret = [("AZURE_CREDENTIAL", "client-secret"), ("AZURE_CLIENT_SECRET", CLIENT_SECRET)];
    for format in ["text", "json"] {
        let traced = |settings: &[(&str, &str)], more: &[&str]| {
            kms(&double, settings).env("RUST_LOG", "trace").global(&["-o", format]).global(more)
        };
        let good = traced(&[], &[]);
        let by_secret = traced(&with_secret, &[]);
        let away = traced(&[("AZURE_VAULT_URL", "https://127.0.0.1:9")], &["--timeout", "300ms"]);
        let stranger = traced(&[("AZURE_CLIENT_ID", "99999999-9999-9999-9999-999999999999")], &[]);
        let printed = [
            good.run_with(&["put", NAME, "--from", "-"], kek).want(0).text(),
            good.run_with(&["put", NAME, "--from", "-"], kek).want(1).text(),
            by_secret.run_with(&["put", NAME, "--from", "-", "--replace"], kek).want(0).text(),
            good.run(&["get", NAME, "KEY"]).want(0).text(),
            by_secret.run(&["get", NAME]).want(0).stderr,
            good.run(&["create", NAME]).want(1).text(),
            good.run(&["create", NAME, "--if-absent"]).want(0).text(),
            good.run(&["list"]).want(0).text(),
            good.run(&["check"]).want(0).text(),
            by_secret.run(&["check"]).want(0).text(),
            stranger.run(&["get", NAME]).want(4).text(),
            stranger.run(&["check"]).want(4).text(),
            stranger.run_with(&["put", NAME, "--from", "-"], kek).want(4).text(),
            away.run_with(&["put", NAME, "--from", "-"], kek).want(5).text(),
            good.run(&["delete", NAME, "--destroy"]).want(0).text(),
        ];
        assert!(printed.iter().any(|text| text.contains("TRACE") || text.contains("DEBUG")), "it does log");
        let tokens: Vec<String> = double
            .requests()
            .iter()
            .filter_map(|request| request.header("authorization")?.strip_prefix("Bearer ").map(str::to_owned))
            .collect();
        assert!(!tokens.is_empty());
        // The first part of every token is the same, and not secret.
        let tokens = tokens.iter().filter_map(|token| token.split_once('.')).map(|(_, rest)| rest);
        let tokens: Vec<Canary> = tokens.map(|token| Canary::new("access token", token)).collect();
        for text in printed {
            for canary in canaries.iter().chain(&tokens) {
                assert_eq!(canary.found_in(&text), None, "{text}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Kubernetes API server: cargo xtask it azure"]
async fn it_stands_in_for_rook_in_the_init_container_of_an_osd() {
    let double = Azure::start().await.unwrap();
    double.plant(ID, &rooks_form("QUJD"));
    let kube = Kube::for_tests().await.unwrap();
    let place = kube.create_namespace("rook-ceph").await.unwrap();
    for (name, key, text) in
        [("azure-cert", "CLIENT_CERT", double.service_principal()), ("azure-ca", "cert", double.ca())]
    {
        let secret = json!({"metadata": {"name": name}, "stringData": {key: text}});
        place.call("POST", &place.path("secrets"), secret).await.unwrap();
    }
    let mut pod = Kms::new();
    let config = pod.folder().join("kubeconfig");
    kube.write_kubeconfig(&config, place.name(), "admintoken").unwrap();
    pod = pod
        .env("POD_NAMESPACE", place.name())
        .env("ROOK_CLUSTER_NAME", "rook-ceph")
        .env("KUBECONFIG", &config.display().to_string())
        // The path that Rook's environment contains does not exist in this pod.
        .env("AZURE_CLIENT_CERT_PATH", "/tmp/cert.pem123");
    let details = &security(&double, &[])["kms"]["connectionDetails"];
    for (name, value) in details.as_object().unwrap() {
        let value = value.as_str().unwrap();
        // In an environment, the value is the path of a CA file.
        if name == "AZURE_CACERT" {
            let file = pod.file("ca.crt", double.ca()).display().to_string();
            pod = pod.env(name, &file);
        } else {
            pod = pod.env(name, value);
        }
    }
    let _ = pod.run(&["key-management", "get", NAME, "luks_key"]).want(0);
    assert_eq!(std::fs::read_to_string(pod.folder().join("luks_key")).unwrap(), "QUJD");
}
