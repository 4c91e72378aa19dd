//! Runs `kms doctor` without a cluster: where the first step fails, and on settings from files.

use std::{collections::BTreeSet, fs, net::TcpListener, path::Path, process::Command};

use kms_testkit::doctor::{Finding, because, finding, found, wrong};
use serde_json::{Value, json};

/// The exit code and the report.
fn doctor(folder: &Path, args: &[&str]) -> (i32, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_kms"))
        .args(["--allow-http", "--quiet", "--timeout", "5s", "-o", "json", "doctor", "--data-dir", "none"])
        .args(args)
        .env_clear()
        .env("HOME", folder)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
}

/// Checks that the checks of a report, from the one of this finding on, are this finding, and not checked because of it.
fn expect_nothing_behind(report: &Value, expected: &Finding) {
    let found = found(report);
    let (first, behind) = found.split_first().unwrap();
    assert_eq!(first, expected);
    let codes: Vec<_> = behind.iter().map(|finding| finding.code.as_str()).collect();
    assert_eq!(behind, because(&expected.code, &codes));
    let states = report["findings"].as_array().unwrap().iter();
    let good = states.filter(|finding| finding["state"] == "ok").count();
    assert!(codes.len() > 40 && good < 5, "{report}");
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
    let next = "kubectl --kubeconfig kubeconfig -n rook-ceph version";
    // The name of the CephCluster cannot be looked up either.
    for cluster in ["rook-ceph", "rook-ceph/my"] {
        let (code, report) = doctor(folder.path(), &["--kubeconfig", "kubeconfig", "--cluster", cluster]);
        assert_eq!(code, 1);
        expect_nothing_behind(&report, &finding("KMS0103", "error", "API server", next));
        assert!(!report.to_string().contains("s3cr3t"));
    }
    fs::write(folder.path().join("kubeconfig"), "clusters: s3cr3t").unwrap();
    let (code, report) = doctor(folder.path(), &["--kubeconfig", "kubeconfig", "--cluster", "rook-ceph/my"]);
    assert_eq!(code, 1);
    expect_nothing_behind(&report, &finding("KMS0101", "error", "API server", next));
    assert!(!report.to_string().contains("s3cr3t"));
}

#[test]
fn without_settings_the_next_command_names_a_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let (code, report) = doctor(folder.path(), &[]);
    assert_eq!(code, 1);
    let next = "kms doctor --cluster NAMESPACE";
    assert_eq!(wrong(&report), [finding("KMS0201", "error", "the environment", next)]);
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
    let (code, report) = run(&nowhere());
    let check = "kms -f cluster.yaml -f secret.yaml check --read-only";
    assert_eq!((code, wrong(&report)), (1, vec![finding("KMS0302", "error", "vault", check)]));
    let findings = report["findings"].as_array().unwrap().iter();
    let areas: BTreeSet<_> = findings.map(|finding| finding["area"].as_str().unwrap()).collect();
    assert_eq!(areas, ["clock", "connection", "inventory", "login", "settings"].into());
    let (code, report) = run("not a url");
    assert_eq!((code, wrong(&report)), (1, vec![finding("KMS0201", "error", "vault", check)]));
    let listed = because("KMS0201", &["KMS0801"]);
    assert!(found(&report).contains(&listed[0]), "{report}");
}
