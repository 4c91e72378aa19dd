//! What people see of a running operator: metrics and page with the rights of the cluster, Events, and its log.

use std::path::PathBuf;

use jiff::Timestamp;
use kms_testkit::servers::{
    self, Http, Pki, Scratch, port,
    process::{Launch, Process},
};
use kms_tests::operator::{Scene, osd_of};
use serde_json::{Value, json};

/// Lets a new account GET the paths of the operator, and returns its token.
async fn reader(scene: &Scene) -> String {
    let (kube, place) = (&scene.cluster.kube, &scene.cluster.place);
    let name = format!("{}-reader", place.name());
    place.create_service_account("reader").await.unwrap();
    let role = json!({
        "metadata": {"name": name},
        "rules": [{"nonResourceURLs": ["/", "/metrics"], "verbs": ["get"]}],
    });
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": place.name()}],
    });
    for (resource, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
        kube.call("POST", &format!("/apis/rbac.authorization.k8s.io/v1/{resource}"), object).await.unwrap();
    }
    place.create_token("reader", &[]).await.unwrap()
}

/// The operator as a program, with its own account, and a client of its server without a token.
async fn start(scene: &Scene, folder: &Scratch) -> (Process, Http) {
    let kms: PathBuf = servers::setting(servers::KMS).unwrap();
    let listen = format!("127.0.0.1:{}", port::free().unwrap());
    let config = scene.cluster.kubeconfig(&scene.token);
    let process = Launch::new("operator", kms, folder.path())
        .args(["-v", "--log-format", "json", "--kubeconfig", &config, "operator", "--lease-duration", "3s"])
        .args(["--watch-namespace", scene.cluster.place.name(), "--listen", &listen])
        .start()
        .unwrap();
    let client = Http::new(format!("http://{listen}"), &Pki::new().unwrap().ca.cert, None).unwrap();
    scene
        .until("the operator to be ready", async || {
            let answer = client.send("GET", "/readyz", &Value::Null).await;
            Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
        })
        .await;
    (process, client)
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it operator"]
async fn a_failed_rotation_is_seen_in_metrics_on_the_page_as_events_and_in_the_log() {
    let scene = Scene::new(&[(0, "a", "z1")]).await;
    let (token, folder) = (reader(&scene).await, Scratch::new().unwrap());
    let (process, client) = start(&scene, &folder).await;
    assert_eq!(client.send("GET", "/metrics", &Value::Null).await.unwrap().status, 401);
    let client = client.with_header("authorization", &format!("Bearer {token}")).unwrap();
    let place = scene.cluster.place.name();
    let labels = format!(r#"namespace="{place}",cluster="rook-ceph",osd="0",key="set1-data-0""#);
    let until = async |line: String| {
        scene
            .until(&line, async || {
                let scrape = client.send("GET", "/metrics", &Value::Null).await?;
                let text = scrape.body.as_str().unwrap_or_default();
                Ok(text.lines().any(|found| found == line).then_some(()))
            })
            .await;
    };
    until("kms_operator_leader 1".to_owned()).await;
    until(format!(r#"kms_key_condition{{{labels},condition="Rotating",reason="JobRuns"}} 1"#)).await;
    let (name, job) = scene.active_jobs().await.pop_first().unwrap();
    assert_eq!(osd_of(&job), 0);
    scene.end_job(&name, Timestamp::now(), false).await;
    until(format!("kms_key_failed_attempts{{{labels}}} 1")).await;
    until(format!(r#"kms_key_condition{{{labels},condition="Ready",reason="RotationFailed"}} 0"#)).await;

    // The pod of the Job has told what it sent to the KMS.
    let report = r#"{"requests":[{"provider":"vault","operation":"get","outcome":"timeout","count":3}]}"#;
    scene.add_job_pod(&name, &job, Timestamp::now(), &format!("it failed\n{report}\n")).await;
    let tried = r#"provider="vault",operation="get",outcome="timeout""#;
    until(format!(r#"kms_requests_total{{namespace="{place}",{tried}}} 3"#)).await;
    // So has that of an escrow.
    let escrow = json!({"metadata": {"uid": "u"}, "spec": {"template": {"metadata": {"labels": {"app": "rook-kms-escrow"}}}}});
    let life = r#""token":{"provider":"vault","expires":"2030-01-01T00:00:00Z","renewable":false}"#;
    let report =
        report.replace("get", "list").replace("timeout", "done").replacen('{', &format!("{{{life},"), 1);
    scene.add_job_pod("rook-kms-escrow-1", &escrow, Timestamp::now(), &report).await;
    let tried = r#"provider="vault",operation="list",outcome="done""#;
    until(format!(r#"kms_requests_total{{namespace="{place}",{tried}}} 3"#)).await;
    let of_token = r#"cluster="rook-ceph",provider="vault",renewable="false""#;
    until(format!(r#"kms_token_expires_timestamp_seconds{{namespace="{place}",{of_token}}} 1893456000"#))
        .await;

    let page = client.send("GET", "/", &Value::Null).await.unwrap();
    assert_eq!(page.status, 200);
    let page = page.body.as_str().unwrap().to_owned();
    assert!(page.contains("RotationFailed</span>: a rotation has failed"), "{page}");

    scene
        .until("the Event of the failure", async || {
            Ok(scene.events().await.contains(&"KeyRotationFailed".to_owned()).then_some(()))
        })
        .await;
    assert_eq!(scene.events().await, ["KeyRotationFailed", "KeyRotationStarted"], "each once");

    let log = process.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let begins = lines.iter().find(|line| line.to_string().contains("a rotation begins")).unwrap();
    let field = |name: &str| begins.get(name).or_else(|| begins["fields"].get(name)).cloned();
    assert_eq!((field("namespace"), field("osd")), (Some(json!(place)), Some(json!(0))), "{begins}");
    assert!(!log.contains(&token) && !log.contains(&scene.token));
}
