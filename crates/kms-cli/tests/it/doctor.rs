//! Runs `kms doctor` without a cluster: where the first step fails, and on settings from files.

use std::{collections::BTreeMap, fs, net::TcpListener, process::Command};

use serde_json::{Value, json};

/// The exit code, and the state of each check.
fn doctor(folder: &std::path::Path, args: &[&str]) -> (i32, BTreeMap<String, Value>) {
    let output = Command::new(env!("CARGO_BIN_EXE_kms"))
        .args(["--allow-http", "--quiet", "--timeout", "5s", "-o", "json", "doctor", "--data-dir", "none"])
        .args(args)
        .env_clear()
        .env("HOME", folder)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = document.get("findings").and_then(Value::as_array).unwrap().iter();
    let found = findings.map(|finding| (finding["code"].as_str().unwrap().to_owned(), finding.clone()));
    (output.status.code().unwrap(), found.collect())
}

/// An address where nothing listens.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn an_api_server_that_is_away_is_a_finding_and_everything_else_is_not_checked() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "clusters": [{"name": "c", "cluster": {"server": nowhere()}}],
        "users": [{"name": "u", "user": {"token": "s3cr3t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    });
    fs::write(folder.path().join("kubeconfig"), config.to_string()).unwrap();
    // The name of the CephCluster cannot be looked up either.
    for cluster in ["rook-ceph", "rook-ceph/my"] {
        let (code, found) = doctor(folder.path(), &["--kubeconfig", "kubeconfig", "--cluster", cluster]);
        assert_eq!(code, 1);
        assert_eq!(found["KMS0103"]["state"], "error", "{found:?}");
        assert_eq!(found["KMS0103"]["next"], "kubectl --kubeconfig kubeconfig -n rook-ceph version");
        for (code, finding) in found.iter().filter(|(code, _)| code.as_str() > "KMS0103") {
            assert_eq!(
                (&finding["state"], &finding["because"]),
                (&json!("not-checked"), &json!("KMS0103")),
                "{code}"
            );
        }
        assert!(found.len() > 40, "{}", found.len());
        assert!(!format!("{found:?}").contains("s3cr3t"));
    }
}

#[test]
fn files_have_only_the_checks_that_apply_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let settings = |address: &str| {
        let details = json!({"KMS_PROVIDER": "vault", "VAULT_ADDR": address, "VAULT_BACKEND_PATH": "rook"});
        json!({"security": {"kms": {"connectionDetails": details, "tokenSecretName": "token"}}}).to_string()
    };
    let secret = json!({"kind": "Secret", "metadata": {"name": "token"}, "stringData": {"token": "s3cr3t"}});
    fs::write(folder.path().join("secret.yaml"), secret.to_string()).unwrap();
    let run = |address: &str| {
        fs::write(folder.path().join("cluster.yaml"), settings(address)).unwrap();
        doctor(folder.path(), &["-f", "cluster.yaml", "-f", "secret.yaml"])
    };
    let (code, found) = run(&nowhere());
    assert_eq!((code, &found["KMS0302"]["state"]), (1, &json!("error")), "{found:?}");
    assert_eq!(found["KMS0302"]["next"], "kms -f cluster.yaml -f secret.yaml check --read-only");
    let areas = |found: &BTreeMap<String, Value>| {
        found
            .values()
            .map(|finding| finding["area"].as_str().unwrap().to_owned())
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(
        areas(&found).into_iter().collect::<Vec<_>>(),
        ["clock", "connection", "inventory", "login", "settings"]
    );
    let (code, found) = run("not a url");
    assert_eq!((code, &found["KMS0201"]["state"]), (1, &json!("error")), "{found:?}");
    assert_eq!(found["KMS0801"]["because"], "KMS0201");
}
