//! Runs the program against an API server of Kubernetes whose responses the test sets.

use std::process::{Command, Stdio};

use kms_testkit::fake::http::{HttpServer, Request, Response};
use serde_json::{Value, json};

/// Must never appear in any output.
const CANARY: &str = "s3cr3t";
/// No server listens there; the port shows which settings were used.
const OF_THE_CLUSTER: &str = "https://127.0.0.1:1";
const OF_THE_POD: &str = "https://127.0.0.1:2";

/// A CephCluster whose KMS is Vault.
fn cluster(change: impl FnOnce(&mut Value)) -> Response {
    let mut cluster = json!({
        "kind": "CephCluster",
        "metadata": {"name": "my", "namespace": "rook-ceph", "uid": "1"},
        "spec": {
            "storage": {"storageClassDeviceSets": [{"name": "set1"}]},
            "security": {"kms": {
                "connectionDetails": {"KMS_PROVIDER": "vault", "VAULT_ADDR": OF_THE_CLUSTER},
                "tokenSecretName": "token",
            }},
        },
    });
    change(&mut cluster);
    Response::json(200, cluster.to_string())
}

fn secret() -> Response {
    // The canary in base64.
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "token"},
        "data": {"token": "czNjcjN0"},
    });
    Response::json(200, secret.to_string())
}

fn refused(code: u16, reason: &str) -> Response {
    let body = json!({"kind": "Status", "status": "Failure", "reason": reason, "code": code});
    Response::json(code, body.to_string())
}

fn is_for(request: &Request, resource: &str) -> bool {
    request.path.contains(&format!("/{resource}/"))
}

/// Exit code, standard output and standard error of `kms` with these arguments.
async fn kms(server: &str, args: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": CANARY}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    });
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kms"));
    command
        .arg("--allow-http")
        .arg("--kubeconfig")
        .arg(path)
        .args(args)
        .env_clear()
        .envs(environment.iter().copied())
        .current_dir(folder.path())
        .stdin(Stdio::null());
    // The server runs on this thread.
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(!format!("{stdout}{stderr}").contains(CANARY), "{stdout}{stderr}");
    (output.status.code().unwrap(), stdout, stderr)
}

/// The environment of a pod that Rook has created.
const POD: [(&str, &str); 5] = [
    ("POD_NAMESPACE", "rook-ceph"),
    ("ROOK_CLUSTER_NAME", "my"),
    ("KMS_PROVIDER", "vault"),
    ("VAULT_ADDR", OF_THE_POD),
    ("VAULT_TOKEN", CANARY),
];

#[tokio::test]
async fn the_ceph_cluster_and_its_secrets_are_asked_for_again() {
    let mut requests = 0;
    let server = HttpServer::start(move |request| {
        requests += 1;
        match requests {
            1 | 3 => Response::status(503),
            4 => Response::too_many_requests(Some("0")),
            _ if is_for(request, "cephclusters") => cluster(|_| ()),
            _ => secret(),
        }
    })
    .await
    .unwrap();
    let args = ["--cluster", "rook-ceph/my", "--timeout", "2s", "check", "--read-only"];
    let (_, stdout, stderr) = kms(&server.url(), &args, &[]).await;
    assert!(stdout.starts_with("ok       settings"), "{stdout}{stderr}");
    let clusters = server.requests().iter().filter(|request| is_for(request, "cephclusters")).count();
    assert_eq!((clusters, server.requests().len()), (2, 5));
    assert!(
        stdout.contains("the KMS is not used: no entry of storageClassDeviceSets is encrypted"),
        "{stdout}"
    );
}

#[tokio::test]
async fn an_unreachable_api_server_is_waited_for_as_long_as_the_timeout_says_and_reported_once() {
    let args = ["-q", "--cluster", "rook-ceph/my", "--timeout", "1s", "list"];
    let (code, _, stderr) = kms("http://127.0.0.1:1", &args, &[]).await;
    assert_eq!(code, 5, "{stderr}");
    assert!(stderr.contains("kubernetes: read CephCluster: ") && stderr.contains("tries: "), "{stderr}");
    assert!(!stderr.contains("tries: 1)") && stderr.lines().count() == 1, "{stderr}");

    let server = HttpServer::scripted([Response::never()]).await.unwrap();
    let (code, _, stderr) = kms(&server.url(), &args, &[]).await;
    assert_eq!(code, 5, "{stderr}");
    assert!(server.requests().len() >= 2, "one try took all the time: {stderr}");
}

#[tokio::test]
async fn a_pod_has_its_own_settings_when_the_ceph_cluster_or_a_secret_cannot_be_read() {
    for (answer, unreadable) in [
        (refused(403, "Forbidden"), "a Secret that the CephCluster names"),
        (Response::status(503), "a Secret that the CephCluster names"),
    ] {
        let secrets = answer.clone();
        let server = HttpServer::start(move |request| {
            if is_for(request, "cephclusters") { cluster(|_| ()) } else { secrets.clone() }
        })
        .await
        .unwrap();
        let args = ["--timeout", "4s", "key-management", "get", "x", "out"];
        let (code, _, stderr) = kms(&server.url(), &args, &POD).await;
        assert_eq!(code, 5, "{stderr}");
        assert!(stderr.contains(&format!("{unreadable} cannot be read")), "{stderr}");
        assert!(
            stderr.contains(&format!(
                "vault: get: the connection was refused: nothing listens there (server: {OF_THE_POD}"
            )),
            "{stderr}"
        );

        // Without other settings the command fails.
        let (code, _, stderr) = kms(&server.url(), &args, &POD[..2]).await;
        assert!(code != 0 && stderr.contains("kubernetes: read Secret"), "{stderr}");
    }
    let args = ["--timeout", "4s", "key-management", "get", "x", "out"];
    let (_, _, stderr) = kms("http://127.0.0.1:1", &args, &POD).await;
    assert!(stderr.contains("the CephCluster cannot be read") && stderr.contains("vault: get: "), "{stderr}");
    assert_eq!(stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{stderr}");

    // If the CephCluster can be read, its settings take precedence.
    let server =
        HttpServer::start(|request| if is_for(request, "cephclusters") { cluster(|_| ()) } else { secret() })
            .await
            .unwrap();
    let (_, _, stderr) = kms(&server.url(), &args, &POD).await;
    assert!(stderr.contains(OF_THE_CLUSTER) && !stderr.contains("cannot be read"), "{stderr}");
}

#[tokio::test]
async fn to_store_a_key_for_a_cluster_that_is_being_deleted_is_warned_of() {
    for (deleting, warns) in [(json!("2026-01-01T00:00:00Z"), true), (Value::Null, false)] {
        let server = HttpServer::start(move |request| {
            let deleting = deleting.clone();
            if is_for(request, "cephclusters") {
                cluster(|cluster| cluster["metadata"]["deletionTimestamp"] = deleting)
            } else {
                secret()
            }
        })
        .await
        .unwrap();
        let args = ["--cluster", "rook-ceph/my", "--timeout", "2s", "create", "x"];
        let (_, _, stderr) = kms(&server.url(), &args, &[]).await;
        assert_eq!(stderr.contains("the CephCluster is being deleted"), warns, "{stderr}");
    }
}

#[tokio::test]
async fn a_misspelt_block_of_a_cluster_is_not_taken_for_kubernetes_secrets() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 2] = [
        (
            |cluster| {
                let security = cluster["spec"]["security"].take();
                cluster["spec"] = json!({"securty": security});
            },
            "spec.securty is not known; did you mean security?",
        ),
        (
            |cluster| {
                let kms = cluster["spec"]["security"]["kms"].take();
                cluster["spec"]["security"] = json!({"kmss": kms});
            },
            "security.kmss is not known; did you mean kms?",
        ),
    ];
    for (change, problem) in cases {
        let server = HttpServer::start(move |_| cluster(change)).await.unwrap();
        let (code, _, stderr) = kms(&server.url(), &["--cluster", "rook-ceph/my", "create", "x"], &[]).await;
        assert_eq!((code, server.requests().len()), (2, 1), "{stderr}");
        assert!(stderr.contains(problem), "{stderr}");
    }
}

/// The objects of a cluster that use the key `a`, in lists.
fn objects(request: &Request, found: bool) -> Response {
    let items = match (found, request.path.contains("/deployments")) {
        (false, _) => json!([]),
        // Nothing but its labels can be parsed.
        (true, true) => json!([
            {"metadata": {"name": "rook-ceph-osd-7", "labels": {"ceph.rook.io/pvc": "a"}}, "spec": {"replicas": "?"}},
            {"metadata": {"name": "rook-ceph-osd-8", "labels": {"ceph.rook.io/pvc": "ab"}}},
        ]),
        (true, false) => json!([{"metadata": {"name": "a"}}, {"metadata": {"name": "ab"}}]),
    };
    Response::json(200, json!({"metadata": {}, "items": items}).to_string())
}

#[tokio::test]
async fn a_key_that_the_cluster_uses_is_not_deleted() {
    let empty = tempfile::tempdir().unwrap();
    let dir = empty.path().display().to_string();
    for (found, options, code) in [
        (true, vec!["--destroy"], 1),
        (true, vec![], 1),
        // The KMS is asked only if the key is not in use. It is away.
        (false, vec!["--destroy"], 5),
    ] {
        let server = HttpServer::start(move |request| match request.path.as_str() {
            path if path.contains("/cephclusters/") => cluster(|_| ()),
            path if path.contains("/secrets/") => secret(),
            _ => objects(request, found),
        })
        .await
        .unwrap();
        let mut args =
            vec!["--cluster", "rook-ceph/my", "--timeout", "1s", "delete", "a", "--data-dir", &dir];
        args.extend(options);
        let (ended, stdout, stderr) = kms(&server.url(), &args, &[]).await;
        assert_eq!(ended, code, "{stdout}{stderr}");
        let uses = ["Deployment rook-ceph-osd-7", "PersistentVolumeClaim a)", "--in-use"];
        assert_eq!(uses.iter().all(|text| stderr.contains(text)), found, "{stderr}");
        assert!(!stderr.contains("rook-ceph-osd-8") && !stderr.contains("Claim ab"), "{stderr}");
    }
}

#[tokio::test]
async fn a_key_in_use_is_deleted_only_if_that_is_asked_for_and_so_is_one_whose_use_cannot_be_seen() {
    let server = HttpServer::start(|request| match request.path.as_str() {
        path if path.contains("/cephclusters/") => cluster(|_| ()),
        path if path.contains("/secrets/") => secret(),
        _ => refused(403, "Forbidden"),
    })
    .await
    .unwrap();
    for (option, code) in [(None, 4), (Some("--in-use"), 5)] {
        let mut args = vec!["--cluster", "rook-ceph/my", "--timeout", "1s", "delete", "a", "--destroy"];
        args.extend(option);
        let (ended, stdout, stderr) = kms(&server.url(), &args, &[]).await;
        assert_eq!(ended, code, "{stdout}{stderr}");
        assert_eq!(stderr.contains("give --in-use"), option.is_none(), "{stderr}");
    }
}

#[tokio::test]
async fn a_recovery_names_all_devices_that_the_deployment_of_its_osd_has() {
    let deployment = include_str!("../../../kms-rook/tests/fixtures/rook/vault-tls/osd-deployment.json");
    let deployment: Value = serde_json::from_str(deployment).unwrap();
    let key = deployment["metadata"]["labels"]["ceph.rook.io/pvc"].as_str().unwrap().to_owned();
    let server = HttpServer::start(move |request| match request.path.as_str() {
        path if path.contains("/cephclusters/") => cluster(|_| ()),
        path if path.contains("/secrets/") => secret(),
        _ => Response::json(200, json!({"metadata": {}, "items": [&deployment]}).to_string()),
    })
    .await
    .unwrap();
    let start = ["--cluster", "rook-ceph/my", "--timeout", "1s", "recover", &key, "data"];
    for (more, is_left_out) in [(&["--write"][..], true), (&["metadata", "wal", "--write"], false)] {
        let (code, _, stderr) = kms(&server.url(), &[&start, more].concat(), &[]).await;
        // The devices and the KMS are not there.
        assert_ne!(code, 0);
        assert_eq!(stderr.contains("name all of them, in this order"), is_left_out, "{stderr}");
    }
}
