//! Who may see metrics and page, by a real API server.

use std::{fs, sync::Arc};

use kms_kube::{ConnectOptions, connect};
use kms_operator::serve::{Access, Certificate, ClusterReviewer};
use kms_testkit::servers::{Http, Kube, KubeNamespace, Pki, Scratch};
use serde_json::json;

use crate::{fixed::Fixed, served::Served};

/// Lets an account GET some paths.
async fn allow(kube: &Kube, place: &KubeNamespace, account: &str, paths: &[&str]) {
    let name = format!("{}-{account}", place.name());
    let role = json!({"metadata": {"name": name}, "rules": [{"nonResourceURLs": paths, "verbs": ["get"]}]});
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": place.name()}],
    });
    for (resource, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/{resource}");
        kube.call("POST", &path, object).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it operator"]
async fn the_cluster_decides_who_sees_metrics_and_page() {
    let kube = Kube::for_tests().await.unwrap();
    let place = kube.create_namespace("operator").await.unwrap();
    let folder = Scratch::new().unwrap();
    let config = folder.path().join("config");
    // The operator has the rights of system:auth-delegator and no others.
    let reviewer = kube.create_reviewer(&place).await.unwrap();
    kube.write_kubeconfig(&config, place.name(), &reviewer).unwrap();
    let connection = connect(ConnectOptions::new().with_kubeconfig(&config)).await.unwrap();
    let access = Access::Reviewed(Arc::new(ClusterReviewer::new(connection)));
    let served = Served::start(Arc::new(Fixed::new()), access).await;

    let mut tokens = Vec::new();
    for account in ["reader", "scraper", "other"] {
        place.create_service_account(account).await.unwrap();
        tokens.push(place.create_token(account, &[]).await.unwrap());
    }
    allow(&kube, &place, "reader", &["/"]).await;
    allow(&kube, &place, "scraper", &["/metrics"]).await;
    let expired = kube.mint(&place, "reader", -60).await.unwrap();
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");

    for (token, page, metrics) in [
        (&tokens[0], 200, 403),
        (&tokens[1], 403, 200),
        (&tokens[2], 403, 403),
        (&expired, 401, 401),
        (&"nonsense".to_owned(), 401, 401),
    ] {
        let answers = [served.get("/", &bearer(token)).await, served.get("/metrics", &bearer(token)).await];
        let statuses = answers.each_ref().map(|answer| answer.status);
        assert_eq!(statuses, [page, metrics], "{answers:?}");
        for answer in answers.iter().filter(|answer| answer.status != 200) {
            assert!(
                !answer.body.contains(token.as_str()) && !answer.body.contains("set1-data"),
                "{answer:?}"
            );
        }
    }
    let without = served.get("/", "").await;
    assert_eq!(without.status, 401);
    assert!(without.head.contains("www-authenticate: Bearer"), "{}", without.head);
    for probe in ["/livez", "/readyz"] {
        assert_eq!(served.get(probe, "").await.status, 200);
    }

    // An operator that may not ask shows nothing.
    kube.write_kubeconfig(&config, place.name(), &tokens[2]).unwrap();
    let connection = connect(ConnectOptions::new().with_kubeconfig(&config)).await.unwrap();
    let access = Access::Reviewed(Arc::new(ClusterReviewer::new(connection)));
    let served = Served::start(Arc::new(Fixed::new()), access).await;
    assert_eq!(served.get("/", &bearer(&tokens[0])).await.status, 503);
}

#[tokio::test]
#[ignore = "opens connections: cargo xtask it operator"]
async fn a_certificate_that_is_replaced_holds_from_the_next_connection() {
    let (old, new, folder) = (Pki::new().unwrap(), Pki::new().unwrap(), Scratch::new().unwrap());
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let write = |pki: &Pki| {
        fs::write(&certificate, &pki.server.cert).unwrap();
        fs::write(&key, &pki.server.key).unwrap();
    };
    assert!(Certificate::open(&certificate, &key).is_err(), "there are no files");
    write(&old);
    let opened = Certificate::open(&certificate, &key).unwrap();
    let served = Served::start_with(Arc::new(Fixed::new()), Access::Everyone, Some(opened)).await;
    let url = format!("https://{}", served.at);
    let clients = [&old, &new].map(|pki| Http::new(&url, &pki.ca.cert, None).unwrap());
    let trusted = async || {
        let [old, new] = &clients;
        let null = serde_json::Value::Null;
        [old.send("GET", "/livez", &null).await.is_ok(), new.send("GET", "/livez", &null).await.is_ok()]
    };
    assert_eq!(trusted().await, [true, false]);
    // While the files are of no use, the last certificate holds.
    fs::write(&key, "nonsense").unwrap();
    assert_eq!(trusted().await, [true, false]);
    write(&new);
    assert_eq!(trusted().await, [false, true]);
}
