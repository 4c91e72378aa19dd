//! Responses that a test cannot make a real API server send.

use std::time::Duration;

use crate::common::{empty_responses, kek, key};
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use kms_conformance::leak::{self, Canary, Recording};
use kms_core::{
    DeleteMode, ErrorKind, Existing, Freshness, Kek, KeyIndex, KeyVersion, KmsProvider, KmsProviderExt,
    PutMode, Retry, UpdateRight,
};
use kms_k8s_secret::{IdentifierStore, KMIP_ANNOTATION, KubernetesSecret, KubernetesSecretBuilder};
use kms_kube::{ConnectOptions, Connection, Objects, ceph_cluster, ceph_clusters, connect};
use kms_testkit::fake::http::{HttpServer, Response, common_habits};
use serde_json::{Value, json};

async fn connection(server: &HttpServer) -> Connection {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    let config = json!({
        "clusters": [{"name": "c", "cluster": {"server": server.url()}}],
        "users": [{"name": "u", "user": {"token": "canary-token-5Yp0xWq7"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "rook-ceph"}}],
        "current-context": "x",
    });
    std::fs::write(&path, config.to_string()).unwrap();
    connect(ConnectOptions::new().with_kubeconfig(path).with_cleartext_allowed()).await.unwrap()
}

async fn provider(server: &HttpServer) -> KubernetesSecret {
    KubernetesSecretBuilder::new().with_client(connection(server).await).build().await.unwrap()
}

fn secret(pvc: &str, kek: &str, version: &str) -> Value {
    json!({
        "kind": "Secret",
        "metadata": {"name": format!("rook-ceph-osd-encryption-key-{pvc}"), "resourceVersion": version, "uid": "u"},
        "type": "kubernetes.io/rook",
        "data": {"dmcrypt-key": kek},
    })
}

fn ok(body: &Value) -> Response {
    Response::json(200, body.to_string())
}

fn status(code: u16, reason: &str, name: &str) -> Response {
    let details = json!({"name": name, "kind": "secrets"});
    let body =
        json!({"kind": "Status", "status": "Failure", "reason": reason, "code": code, "details": details});
    Response::json(code, body.to_string())
}

#[tokio::test]
async fn requests_are_those_of_the_documentation() {
    let server = HttpServer::scripted([
        ok(&secret("a", "eA==", "7")),
        ok(&secret("a", "eA==", "8")),
        ok(&secret("a", "eA==", "7")),
        ok(&json!({"kind": "Status", "status": "Success"})),
    ])
    .await
    .unwrap();
    let provider = provider(&server).await;
    provider.put(&key("a"), &kek("eA=="), PutMode::Update(KeyVersion::new("7"))).await.unwrap();
    provider.delete(&key("a"), DeleteMode::Destroy).await.unwrap();
    let requests = server.requests();
    let lines: Vec<_> =
        requests.iter().map(|request| format!("{} {}", request.method, request.path)).collect();
    let path = "/api/v1/namespaces/rook-ceph/secrets/rook-ceph-osd-encryption-key-a";
    assert_eq!(
        lines,
        [
            format!("GET {path}"),
            format!("PUT {path}?&fieldManager=rook-kms"),
            format!("GET {path}"),
            format!("DELETE {path}?"),
        ]
    );
    let put: Value = serde_json::from_slice(&requests[1].body).unwrap();
    assert_eq!((&put["metadata"]["resourceVersion"], &put["metadata"]["uid"]), (&json!("7"), &json!("u")));
    assert_eq!(put["data"], json!({"dmcrypt-key": "ZUE9PQ=="}));
    let delete: Value = serde_json::from_slice(&requests[3].body).unwrap();
    assert_eq!(delete["preconditions"], json!({"uid": "u"}));
    for request in &requests {
        assert_eq!(request.header("authorization"), Some("Bearer canary-token-5Yp0xWq7"));
        assert!(request.header("user-agent").unwrap().starts_with("rook-kms/"));
    }
    // They share a connection, which is closed two seconds after the last one (decision 0004).
    assert!(requests.iter().all(|request| request.header("connection").is_none()));
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn nothing_is_repeated_and_the_wait_is_handed_on() {
    for (answer, kind, retry, wait) in [
        (Response::too_many_requests(Some("7")), ErrorKind::RateLimited, Retry::Always, Some(7)),
        (Response::status(503), ErrorKind::Unavailable, Retry::IfIdempotent, None),
        (Response::status(504), ErrorKind::Timeout, Retry::IfIdempotent, None),
    ] {
        let server = HttpServer::scripted([answer]).await.unwrap();
        let error = provider(&server).await.put(&key("a"), &kek("eA=="), PutMode::Create).await.unwrap_err();
        assert_eq!((error.kind(), error.retryable()), (kind, retry), "{error}");
        assert_eq!(error.wait(), wait.map(Duration::from_secs));
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_broken_answer_is_worth_another_look() {
    let whole = secret("a", "eA==", "7").to_string();
    for (answer, kind) in [
        (Response::reset(), ErrorKind::Unavailable),
        (Response::close(), ErrorKind::Unavailable),
        (Response::json(200, whole.clone()).promising(9999).close_after(20), ErrorKind::Unavailable),
        (Response::json(200, &whole.as_bytes()[..40]), ErrorKind::Protocol),
        (Response::json(200, "[1]"), ErrorKind::Protocol),
        (Response::json(200, "<html>"), ErrorKind::Protocol),
        (Response::json(200, "{\"metadata\":{}}"), ErrorKind::Protocol),
        (Response::status(200).huge(b' ', 40 * 1024 * 1024), ErrorKind::Protocol),
    ] {
        let shown = format!("{answer:?}");
        let server = HttpServer::scripted([answer]).await.unwrap();
        let error = provider(&server).await.put(&key("a"), &kek("eA=="), PutMode::Create).await.unwrap_err();
        assert_eq!((error.kind(), error.retryable()), (kind, Retry::IfIdempotent), "{shown}: {error}");
    }
}

#[tokio::test]
async fn a_response_that_says_nothing_is_no_absence_and_causes_no_write() {
    for (habit, response) in common_habits().into_iter().chain(empty_responses()) {
        let server = HttpServer::start(move |_| response.clone()).await.unwrap();
        let provider = provider(&server).await;
        let update = PutMode::Update(KeyVersion::new("1"));
        let results = [
            ("get", provider.get(&key("a"), Freshness::Any).await.map(drop)),
            ("ensure", provider.ensure(&key("a"), kek("eA==")).await.map(drop)),
            ("update", provider.put(&key("a"), &kek("eA=="), update).await.map(drop)),
            ("overwrite", provider.put(&key("a"), &kek("eA=="), PutMode::Overwrite).await.map(drop)),
            ("delete", provider.delete(&key("a"), DeleteMode::Destroy).await.map(drop)),
            ("list", provider.list().try_collect::<Vec<_>>().await.map(drop)),
        ];
        let lines: Vec<_> = server.requests().into_iter().map(|request| request.method).collect();
        assert_eq!(lines, ["GET"; 6], "after {habit}");
        // The API server itself refuses to create a Secret that exists.
        let created = provider.put(&key("a"), &kek("eA=="), PutMode::Create).await.map(drop);
        for (operation, result) in results.into_iter().chain([("create", created)]) {
            let error = result.expect_err(operation);
            let expected = matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Unavailable);
            assert!(expected, "{operation} after {habit}: {error:?}");
        }
        let index = IdentifierStore::new(connection(&server).await, "rook-ceph").unwrap();
        index.get(&key("a")).await.unwrap_err();
        index.list().await.unwrap_err();
    }
}

#[tokio::test]
async fn nothing_of_an_answer_is_shown() {
    let recording = Recording::start().unwrap();
    let kek = Kek::generate().unwrap();
    let text = kek.expose_secret_text().unwrap();
    let bodies = [
        json!({"metadata": {}, "data": [text]}).to_string(),
        json!({"metadata": text}).to_string(),
        json!({"metadata": {}, "data": {"dmcrypt-key": text}, "type": {"a": text}}).to_string(),
        json!({"metadata": {}, "data": {"dmcrypt-key": format!("{text}!")}}).to_string(),
        format!("{text} is no JSON"),
        secret("a", text, "7").to_string(),
        json!({"kind": "Status", "code": 403, "reason": "Forbidden", "message": text}).to_string(),
        json!({"kind": "Status", "code": 422, "reason": "Invalid", "message": text}).to_string(),
    ];
    let mut shown = String::new();
    for body in bodies {
        for code in [200, 400, 403, 404, 409, 422, 500] {
            let server = HttpServer::scripted([Response::json(code, body.clone())]).await.unwrap();
            let provider = provider(&server).await;
            for result in [
                provider.get(&key("a"), Freshness::Any).await.map(drop),
                provider.put(&key("a"), &kek, PutMode::Create).await.map(drop),
                provider.put(&key("a"), &kek, PutMode::Overwrite).await.map(drop),
                provider.list().try_next().await.map(drop),
            ] {
                shown += &result.map_or_else(|error| leak::shown_error(&error), |()| String::new());
            }
            shown += &leak::shown(&provider.probed().await);
        }
    }
    for canary in [Canary::new("the KEK", text), Canary::new("the token", "canary-token-5Yp0xWq7")] {
        assert_eq!(canary.found_in(&shown), None);
        assert_eq!(canary.found_in(&recording.text()), None);
    }
}

#[tokio::test]
async fn a_list_that_expired_starts_anew_and_repeats_nothing() {
    let page = |names: &[&str], next: &str| {
        let items: Vec<_> = names
            .iter()
            .map(|name| json!({"metadata": {"name": format!("rook-ceph-osd-encryption-key-{name}")}}))
            .collect();
        ok(&json!({"metadata": {"continue": next}, "items": items}))
    };
    let server = HttpServer::scripted([
        page(&["a", "b"], "next=1"),
        status(410, "Expired", ""),
        page(&["a", "b", "c"], "next=2"),
        // A token for the next page does not mean that the page holds anything.
        page(&["d"], "next=3"),
        ok(&json!({"metadata": {}, "items": null})),
    ])
    .await
    .unwrap();
    let names: Vec<_> =
        provider(&server).await.list().map(|info| info.unwrap().name.to_string()).collect().await;
    assert_eq!(names, ["a", "b", "c", "d"]);
    let paths: Vec<_> = server.requests().into_iter().map(|request| request.path).collect();
    let first = "/api/v1/namespaces/rook-ceph/secrets?&fieldSelector=type%3Dkubernetes.io%2Frook&labelSelector=pvc_name&limit=200";
    assert_eq!(paths[0], first);
    assert_eq!(paths[1], format!("{first}&continue=next%3D1"));
    assert_eq!(paths[2], first);

    let server = HttpServer::scripted([status(410, "Expired", "")]).await.unwrap();
    let provider = provider(&server).await;
    let mut list = provider.list();
    assert_eq!(list.next().await.unwrap().unwrap_err().kind(), ErrorKind::Incomplete);
    assert!(list.next().await.is_none());
}

#[tokio::test]
async fn a_list_that_is_cut_ends_with_its_keys_and_an_error() {
    let page = |names: &[&str], metadata: Value| {
        let items: Vec<_> = names
            .iter()
            .map(|name| json!({"metadata": {"name": format!("rook-ceph-osd-encryption-key-{name}")}}))
            .collect();
        ok(&json!({"metadata": metadata, "items": items}))
    };
    for answers in [
        // More remains, and nothing says where.
        vec![page(&["a"], json!({"remainingItemCount": 2}))],
        // The same token again: a proxy sends the same page again and again.
        vec![page(&["a"], json!({"continue": "next"})), page(&["a"], json!({"continue": "next"}))],
        // The token expires again after the list has started again.
        vec![
            page(&["a"], json!({"continue": "next"})),
            status(410, "Expired", ""),
            page(&["a"], json!({"continue": "next"})),
            status(410, "Expired", ""),
        ],
    ] {
        let shown = format!("{answers:?}");
        let server = HttpServer::scripted(answers.clone()).await.unwrap();
        let items: Vec<_> = provider(&server).await.list().collect().await;
        let [Ok(info), Err(error)] = items.as_slice() else { panic!("{shown}: {items:?}") };
        assert_eq!(info.name.as_str(), "a");
        assert_eq!((error.kind(), error.retryable()), (ErrorKind::Incomplete, Retry::Never), "{shown}");

        // A caller that must not miss an object gets none.
        let server = HttpServer::scripted(answers.clone()).await.unwrap();
        let store = IdentifierStore::new(connection(&server).await, "rook-ceph").unwrap();
        assert_eq!(store.list().await.unwrap_err().kind(), ErrorKind::Incomplete, "{shown}");
        let server = HttpServer::scripted(answers).await.unwrap();
        let objects = Objects::<Deployment>::new(connection(&server).await, "rook-ceph").unwrap();
        let error = objects.list::<Value>("app=rook-ceph-osd").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incomplete, "{shown}: {error}");
    }
}

#[tokio::test]
async fn a_list_of_objects_that_expired_starts_again_once() {
    let page = |names: &[&str], next: &str| {
        let items: Vec<_> = names.iter().map(|name| json!({"metadata": {"name": name}})).collect();
        ok(&json!({"metadata": {"continue": next}, "items": items}))
    };
    let answers =
        [page(&["old"], "next"), status(410, "Expired", ""), page(&["a"], "next"), page(&["b"], "")];
    let server = HttpServer::scripted(answers).await.unwrap();
    let objects = Objects::<Deployment>::new(connection(&server).await, "rook-ceph").unwrap();
    let found: Vec<Value> = objects.list("app=rook-ceph-osd").await.unwrap();
    let names: Vec<_> = found.iter().map(|object| object["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["a", "b"]);
    // A page of the list in place of all of it.
    let server = HttpServer::scripted([page(&["one"], "next")]).await.unwrap();
    let error = ceph_clusters(connection(&server).await, "rook-ceph").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incomplete, "{error}");
}

#[tokio::test]
async fn a_page_that_fails_is_read_again_without_the_pages_before_it() {
    let page = |name: &str, next: &str| {
        ok(&json!({"metadata": {"continue": next}, "items": [{"metadata": {"name": name}}]}))
    };
    let busy = || status(503, "ServiceUnavailable", "");
    let answers =
        [page("a", "one"), busy(), page("b", "two"), busy(), busy(), page("c", "three"), page("d", "")];
    let sent = answers.len();
    let server = HttpServer::scripted(answers).await.unwrap();
    let objects = Objects::<Deployment>::new(connection(&server).await, "rook-ceph").unwrap();
    let found: Vec<Value> = objects.list("app=rook-ceph-osd").await.unwrap();
    let names: Vec<_> = found.iter().map(|object| object["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    assert_eq!(server.requests().len(), sent);
}

#[tokio::test]
async fn a_list_of_identifiers_that_expired_holds_the_last_round_only() {
    let page = |entries: &[(&str, &str)], next: &str| {
        let items: Vec<_> = entries
            .iter()
            .map(|(name, id)| {
                let annotations = json!({KMIP_ANNOTATION: id});
                let name = format!("rook-ceph-osd-encryption-key-{name}");
                json!({"metadata": {"name": name, "resourceVersion": "1", "annotations": annotations}})
            })
            .collect();
        ok(&json!({"metadata": {"continue": next}, "items": items}))
    };
    let server = HttpServer::scripted([
        page(&[("a", "old"), ("gone", "x")], "next"),
        status(410, "Expired", ""),
        page(&[("a", "new")], "next"),
        page(&[("b", "y")], ""),
    ])
    .await
    .unwrap();
    let store = IdentifierStore::new(connection(&server).await, "rook-ceph").unwrap();
    let listed = store.list().await.unwrap();
    let listed: Vec<_> = listed.iter().map(|(name, entry)| (name.as_str(), entry.uid.as_str())).collect();
    assert_eq!(listed, [("a", "new"), ("b", "y")]);
}

#[tokio::test]
async fn an_overwrite_that_always_loses_ends() {
    let server = HttpServer::start(|request| match request.method.as_str() {
        "GET" => ok(&secret("a", "eA==", "7")),
        _ => status(409, "Conflict", "rook-ceph-osd-encryption-key-a"),
    })
    .await
    .unwrap();
    let error = provider(&server).await.put(&key("a"), &kek("eA=="), PutMode::Overwrite).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Conflict, Retry::Always));
    assert_eq!(server.requests().len(), 16);
}

#[tokio::test]
async fn a_key_that_exists_and_cannot_be_read_is_unknown() {
    let name = "rook-ceph-osd-encryption-key-a";
    let server = HttpServer::scripted([status(409, "AlreadyExists", name), status(403, "Forbidden", name)])
        .await
        .unwrap();
    let error = provider(&server).await.put(&key("a"), &kek("eA=="), PutMode::Create).await.unwrap_err();
    assert_eq!((error.kind(), error.existing()), (ErrorKind::AlreadyExists, Some(Existing::Unknown)));
}

#[tokio::test]
async fn a_refused_token_names_a_wrong_clock_of_this_host() {
    let refused = || status(401, "Unauthorized", "");
    for (response, is_wrong) in
        [(refused().header("date", "Sun, 06 Nov 1994 08:49:37 GMT"), true), (refused(), false)]
    {
        let server = HttpServer::scripted([response]).await.unwrap();
        let error = provider(&server).await.get(&key("a"), Freshness::Any).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
        let text = error.to_string();
        assert_eq!(text.contains(" s ahead of the API server's"), is_wrong, "{text}");
    }
}

#[tokio::test]
async fn without_rooks_definitions_there_is_no_ceph_cluster() {
    let server = HttpServer::scripted([Response::status(404).body("404 page not found\n")]).await.unwrap();
    let error = ceph_cluster(connection(&server).await, "rook-ceph", "rook-ceph").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("install Rook's custom resource definitions"), "{error}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let server = HttpServer::scripted([Response::status(302).header("location", "http://127.0.0.1:1/")])
        .await
        .unwrap();
    let error = provider(&server).await.get(&key("a"), Freshness::Any).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert_eq!(server.requests().len(), 1);
}

const MARK: &str = "kms.ceph.rook.io/kmip-unique-identifier";
const WRITE: &str = "kms.ceph.rook.io/kmip-write";

#[tokio::test]
async fn an_identifier_is_written_in_the_version_that_was_read_and_never_as_it_was() {
    // A Secret of Rook has no annotation.
    let server = HttpServer::scripted([
        ok(&secret("a", "MQ==", "7")),
        ok(&secret("a", "MQ==", "7")),
        ok(&secret("a", "MQ==", "8")),
        ok(&secret("a", "MQ==", "8")),
        ok(&secret("a", "MQ==", "9")),
        ok(&secret("a", "MQ==", "9")),
        ok(&json!({"kind": "Status", "status": "Success"})),
    ])
    .await
    .unwrap();
    let store = IdentifierStore::new(connection(&server).await, "rook-ceph").unwrap();
    let read = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((read.uid.as_str(), read.version.as_str()), ("1", "7"));
    assert!(!format!("{read:?}").contains("\"1\""));
    let version = store.swap(&key("a"), "7", "1").await.unwrap();
    assert_eq!(store.swap(&key("a"), &version, "1").await.unwrap(), "9");
    store.delete(&key("a"), "9").await.unwrap();
    let requests = server.requests();
    let body = |at: usize| serde_json::from_slice::<Value>(&requests[at].body).unwrap();
    let (first, second) = (body(2), body(4));
    for (put, version) in [(&first, "7"), (&second, "8")] {
        assert_eq!(put["metadata"]["resourceVersion"], version);
        assert_eq!(put["metadata"]["annotations"][MARK], "1");
        assert_eq!(put["data"], json!({"dmcrypt-key": "MQ=="}));
    }
    assert_ne!(first["metadata"]["annotations"][WRITE], second["metadata"]["annotations"][WRITE]);
    assert_eq!(body(6)["preconditions"], json!({"uid": "u", "resourceVersion": "9"}));
}

#[tokio::test]
async fn an_identifier_that_has_changed_is_left_alone() {
    let id = "rook-ceph-osd-encryption-key-a";
    let mut foreign = secret("a", "MQ==", "7");
    foreign["type"] = json!("Opaque");
    for (answers, expected) in [
        (vec![ok(&secret("a", "MQ==", "8"))], ErrorKind::Conflict),
        (vec![status(404, "NotFound", id)], ErrorKind::NotFound),
        (vec![ok(&secret("a", "MQ==", "7")), status(409, "Conflict", id)], ErrorKind::Conflict),
        (vec![ok(&secret("a", "MQ==", "7")), status(404, "NotFound", id)], ErrorKind::NotFound),
        (vec![ok(&foreign)], ErrorKind::Protocol),
    ] {
        let server = HttpServer::scripted(answers.clone()).await.unwrap();
        let store = IdentifierStore::new(connection(&server).await, "rook-ceph").unwrap();
        assert_eq!(store.swap(&key("a"), "7", "2").await.unwrap_err().kind(), expected);
        let server = HttpServer::scripted(answers).await.unwrap();
        let store = IdentifierStore::new(connection(&server).await, "rook-ceph").unwrap();
        assert_eq!(store.delete(&key("a"), "7").await.unwrap_err().kind(), expected);
    }
    let server = HttpServer::scripted([status(409, "AlreadyExists", id), status(404, "NotFound", id)]).await;
    let server = server.unwrap();
    let store = IdentifierStore::new(connection(&server).await, "rook-ceph").unwrap();
    assert_eq!(store.create(&key("a"), "1").await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert!(store.get(&key("a")).await.unwrap().is_none());
}

/// An access review does not know of `immutable: true`, nor of a Secret of another type.
#[tokio::test]
async fn a_secret_that_cannot_change_is_denied_before_a_rotation_writes() {
    let mut frozen = secret("a", "eA==", "7");
    frozen["immutable"] = json!(true);
    let mut foreign = secret("b", "eA==", "7");
    foreign["type"] = json!("Opaque");
    let review = json!({"metadata": {}, "spec": {}, "status": {"allowed": true}});
    for (secret, expected) in [
        (frozen, UpdateRight::Denied),
        (foreign, UpdateRight::Denied),
        (secret("a", "eA==", "7"), UpdateRight::Granted),
    ] {
        let name = secret["metadata"]["name"].as_str().unwrap().rsplit_once('-').unwrap().1.to_owned();
        let server = HttpServer::scripted([ok(&review), ok(&secret)]).await.unwrap();
        let rights = provider(&server).await.may_update(&[key(&name)]).await.unwrap();
        assert_eq!(rights, [expected], "{secret}");
    }
}
