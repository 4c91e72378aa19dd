//! Tests of tokens, request counts, storms, lost responses and malformed responses.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::common::{Setup, kek, key, quick};
use kms_core::{
    DeleteMode, Error, ErrorKind, Freshness, KmsProvider, KmsProviderExt, PutMode, Retry,
    layer::{self, LayerOptions},
};
use kms_testkit::fake::ibmkp::{Action, Host, IbmKp, Key, Rate, RequestFault};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

async fn with_key() -> IbmKp {
    let double = IbmKp::start().await.unwrap();
    double.plant(Key::rook("pvc-1", "QUJD"));
    double
}

fn html(status: u16, retry_after: Option<&'static str>) -> Action {
    Action::Reply { status, retry_after, body: "<html>canary-kek</html>".to_owned() }
}

async fn error_of(provider: &dyn KmsProvider) -> Error {
    provider.get(&key("pvc-1"), Freshness::Any).await.unwrap_err()
}

#[tokio::test]
async fn a_thousand_gets_are_one_token_one_handshake_each_and_a_request_each() {
    let double = with_key().await;
    let provider = quick(Setup::on(&double).build().await);
    for _ in 0..1000 {
        provider.get(&key("pvc-1"), Freshness::Any).await.unwrap();
    }
    let counts = double.counts();
    assert_eq!((counts.tokens.requests, counts.tokens.handshakes), (1, 1));
    assert_eq!((counts.keys.requests, counts.keys.handshakes), (1000, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_share_one_token_and_a_slow_one_too() {
    let double = with_key().await;
    double.fault(RequestFault::new(Host::Tokens, Action::Delay(Duration::from_millis(100))));
    let provider = quick(Setup::on(&double).build().await);
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let provider = Arc::clone(&provider);
            tokio::spawn(async move { provider.get(&key("pvc-1"), Freshness::Any).await.map(drop) })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!((double.counts().tokens.requests, double.counts().keys.requests), (1, 50));
}

#[tokio::test]
async fn a_token_that_dies_early_is_replaced_once_and_the_request_repeated_once() {
    let double = with_key().await;
    let provider = Setup::on(&double).build().await;
    provider.get(&key("pvc-1"), Freshness::Any).await.unwrap();
    for die in [IbmKp::revoke_tokens, |double: &IbmKp| double.advance(Duration::from_secs(3600))] {
        die(&double);
        double.forget();
        provider.get(&key("pvc-1"), Freshness::Any).await.unwrap();
        assert_eq!((double.counts().tokens.requests, double.counts().keys.requests), (1, 2));
    }
    // A write is repeated too: the 401 says that nothing was done.
    double.revoke_tokens();
    provider.put(&key("pvc-2"), &kek("QUJD"), PutMode::Create).await.unwrap();
    assert_eq!(double.keys().len(), 2);
}

#[tokio::test]
async fn a_wrong_instance_is_explained_and_makes_no_storm_of_logins() {
    let double = with_key().await;
    let setup = Setup::on(&double).set("IBM_KP_SERVICE_INSTANCE_ID", "44444444-3333-3333-3333-333333333333");
    let provider = quick(setup.build().await);
    for _ in 0..20 {
        let error = error_of(provider.as_ref()).await;
        assert_eq!((error.kind(), error.retryable()), (ErrorKind::PermissionDenied, Retry::Never));
        let text = error.to_string();
        for word in ["instance id is wrong", "another region", "IBM_KP_BASE_URL", "correlation id: "] {
            assert!(text.contains(word), "{text}");
        }
    }
    assert_eq!((double.counts().tokens.requests, double.counts().keys.requests), (1, 20));
    let probe = provider.probed().await;
    assert_eq!(probe.failed.unwrap().0, "instance");
    assert_eq!(probe.not_run, ["rights"]);
}

#[tokio::test]
async fn iam_says_no_with_its_code_and_request_id() {
    let double = with_key().await;
    let provider = Setup::on(&double).api_key("canary-api-key").build().await;
    let error = error_of(&provider).await;
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Unauthenticated, Retry::Never));
    let text = error.to_string();
    assert!(text.contains("code: BXNIM0415E") && text.contains("request id: "), "{text}");
    assert!(!format!("{error:?}{provider:?}").contains("canary"), "{error:?}");
    assert_eq!(provider.probed().await.failed.unwrap().0, "iam");

    let wrong = format!("{}/wrong/path", double.iam_url());
    let error = error_of(&Setup::on(&double).set("IBM_KP_TOKEN_URL", &wrong).build().await).await;
    assert!(error.to_string().contains("get a token from IAM"), "{error}");
}

#[tokio::test]
async fn iam_has_a_time_limit_of_its_own() {
    let double = with_key().await;
    let provider = Setup::on(&double).build().await;
    double.fault(RequestFault::new(Host::Tokens, Action::Delay(Duration::from_secs(3600))));
    tokio::time::pause();
    let error = error_of(&provider).await;
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Timeout, Retry::Always), "{error}");
    assert!(error.to_string().starts_with("get a token from IAM: IAM did not answer within 10s"), "{error}");
}

#[tokio::test]
async fn trouble_of_iam_does_not_leave_a_write_in_doubt() {
    for action in [Action::LoseRequest, Action::LoseAnswer, html(503, None), html(429, Some("0"))] {
        let double = with_key().await;
        double.fault(RequestFault::new(Host::Tokens, action.clone()));
        let provider = Setup::on(&double).build().await;
        let error = provider.put(&key("pvc-2"), &kek("QUJD"), PutMode::Create).await.unwrap_err();
        assert_eq!(error.retryable(), Retry::Always, "{action:?}: {error}");
        assert_eq!(double.counts().keys.requests, 0);
        provider.put(&key("pvc-2"), &kek("QUJD"), PutMode::Create).await.unwrap();
    }
}

#[tokio::test]
async fn a_get_is_repeated_through_every_passing_fault() {
    for action in [
        Action::LoseRequest,
        Action::LoseAnswer,
        Action::DoneBut(500),
        html(502, None),
        html(503, Some("0")),
        html(429, None),
        html(429, Some("0")),
    ] {
        let double = with_key().await;
        double.fault(RequestFault::new(Host::Keys, action.clone()).times(2));
        let provider = quick(Setup::on(&double).build().await);
        let stored = provider.get(&key("pvc-1"), Freshness::Any).await.unwrap();
        assert_eq!(stored.kek.expose_secret_text().unwrap(), "QUJD");
        assert_eq!(double.counts().keys.requests, 3, "{action:?}");
    }
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_an_error_that_quotes_nothing() {
    for (action, kind) in [
        (html(200, None), ErrorKind::Protocol),
        (html(400, None), ErrorKind::Protocol),
        (html(418, None), ErrorKind::Protocol),
        (html(204, None), ErrorKind::Protocol),
        // A proxy's 404 must not look like a missing key, or a caller creates a new one.
        (html(404, None), ErrorKind::Protocol),
        (html(302, None), ErrorKind::Protocol),
        // Only the service itself speaks of rights, and of what it does not support.
        (html(403, None), ErrorKind::Protocol),
        (html(501, None), ErrorKind::Protocol),
        (Action::EMPTY_RESOURCES, ErrorKind::Protocol),
        (Action::NO_RESOURCES, ErrorKind::Protocol),
    ] {
        let double = with_key().await;
        double.fault(RequestFault::new(Host::Keys, action.clone()).times(usize::MAX));
        let provider = quick(Setup::on(&double).build().await);
        let error = error_of(provider.as_ref()).await;
        assert_eq!((error.kind(), error.retryable()), (kind, Retry::Never), "{action:?}: {error}");
        let shown = format!("{error}{error:?}");
        assert!(shown.contains("correlation id") && !shown.contains("canary"), "{shown}");
        assert_eq!(double.counts().keys.requests, 1, "{error}");
        // The other operations get the same responses, and must not panic.
        let _ = provider.put(&key("pvc-1"), &kek("REVG"), PutMode::Overwrite).await;
        let _ = provider.delete(&key("pvc-1"), DeleteMode::Destroy).await;
        let _ = provider.probed().await;
        let _ = futures_util::TryStreamExt::try_collect::<Vec<_>>(provider.list()).await;
    }
}

/// A 404 that Key Protect sends, with these reasons.
fn not_found(reasons: &str) -> Action {
    let body = format!(r#"{{"resources":[{{"errorMsg":"Not Found","reasons":[{reasons}]}}]}}"#);
    Action::Reply { status: 404, retry_after: None, body }
}

#[tokio::test]
async fn a_key_is_absent_only_if_key_protect_says_so_and_nothing_is_written_otherwise() {
    for (action, path) in [
        (html(404, None), "/keys/pvc-1"),
        (html(410, None), "/keys/pvc-1"),
        (not_found(""), "/keys/pvc-1"),
        (not_found(r#"{"code":"KEY_RING_NOT_FOUND_ERR"}"#), "/keys/pvc-1"),
        (Action::Edit(|body| *body = serde_json::Value::Null), "/keys/pvc-1"),
        (Action::Edit(|body| *body = serde_json::json!([])), "/keys/pvc-1"),
        (Action::Edit(|body| *body = serde_json::json!({})), "/keys?"),
        (Action::Edit(|body| *body = serde_json::Value::Null), "/keys?"),
        (Action::NO_RESOURCES, "/keys?"),
    ] {
        for aliases in [vec!["pvc-1".to_owned()], Vec::new()] {
            let double = IbmKp::start().await.unwrap();
            double.plant(Key { aliases, ..Key::rook("pvc-1", "QUJD") });
            double.fault(RequestFault::new(Host::Keys, action.clone()).at(path).times(usize::MAX));
            let provider = quick(Setup::on(&double).build().await);
            let what = format!("{action:?} {path}");
            let create = provider.put(&key("pvc-1"), &kek("REVG"), PutMode::Create).await.unwrap_err();
            let read = provider.get(&key("pvc-1"), Freshness::Any).await;
            let ensured = provider.ensure(&key("pvc-1"), kek("REVG")).await;
            for error in [Some(create), read.err(), ensured.err()].into_iter().flatten() {
                let kinds = [ErrorKind::NotFound, ErrorKind::AlreadyExists];
                assert!(!kinds.contains(&error.kind()), "{what}: {error}");
            }
            let keys = double.keys();
            assert!(keys.len() == 1 && keys[0].payload == "QUJD", "{what}: {keys:?}");
        }
    }
}

#[tokio::test]
async fn a_create_with_a_lost_answer_is_looked_up_and_not_written_again() {
    for action in [Action::LoseAnswer, Action::DoneBut(504), Action::EMPTY_RESOURCES, Action::NO_RESOURCES] {
        let double = IbmKp::start().await.unwrap();
        double.fault(RequestFault::new(Host::Keys, action.clone()).of("POST"));
        let provider = quick(Setup::on(&double).build().await);
        let version = provider.put(&key("pvc-1"), &kek("QUJD"), PutMode::Create).await.unwrap();
        assert_eq!(double.keys().len(), 1, "{action:?}");
        assert_eq!(double.keys()[0].id, version.as_str());
        let posts = double.lines().iter().filter(|line| line.starts_with("POST")).count();
        assert_eq!(posts, 1, "{action:?}");
    }
    // The service stored nothing: the look finds no key, so the client writes once more.
    let double = IbmKp::start().await.unwrap();
    double.fault(RequestFault::new(Host::Keys, Action::LoseRequest).of("POST"));
    let provider = quick(Setup::on(&double).build().await);
    provider.put(&key("pvc-1"), &kek("QUJD"), PutMode::Create).await.unwrap();
    assert_eq!(double.keys().len(), 1);

    // Without the layers the error says that the outcome is unknown.
    let double = IbmKp::start().await.unwrap();
    double.fault(RequestFault::new(Host::Keys, Action::LoseAnswer).of("POST"));
    let provider = Setup::on(&double).build().await;
    let error = provider.put(&key("pvc-1"), &kek("QUJD"), PutMode::Create).await.unwrap_err();
    assert_eq!(error.retryable(), Retry::IfIdempotent, "{error}");
    assert_eq!(double.keys().len(), 1);
}

#[tokio::test]
async fn a_delete_whose_answer_is_lost_has_succeeded_when_the_key_is_gone() {
    for (action, path) in
        [(Action::LoseAnswer, "force"), (Action::LoseAnswer, "aliases"), (Action::LoseRequest, "force")]
    {
        let double = with_key().await;
        double.fault(RequestFault::new(Host::Keys, action.clone()).of("DELETE").at(path));
        let provider = quick(Setup::on(&double).build().await);
        let deleted = provider.delete(&key("pvc-1"), DeleteMode::Destroy).await.unwrap();
        assert!(deleted.is_recoverable(), "{action:?} {path}");
        assert_eq!(double.keys()[0].state, 5);
    }
}

#[tokio::test]
async fn storms_of_429_end_when_the_tries_are_used_up_and_the_hint_is_honoured() {
    for (host, retry_after) in
        [(Host::Keys, None), (Host::Keys, Some("0")), (Host::Tokens, None), (Host::Tokens, Some("0"))]
    {
        let double = with_key().await;
        double.fault(RequestFault::new(host, html(429, retry_after)).times(usize::MAX));
        let mut options = LayerOptions::default();
        options.retry.floor = Duration::from_millis(50);
        options.retry.cap = Duration::from_millis(100);
        options.retry.attempts = 8;
        let provider = layer::standard(Arc::new(Setup::on(&double).build().await), &options);
        let error = error_of(provider.as_ref()).await;
        assert_eq!((error.kind(), error.retryable()), (ErrorKind::RateLimited, Retry::Never), "{error}");
        let counts = double.counts();
        let requests = counts.tokens.requests.max(counts.keys.requests);
        assert_eq!(requests, 8);
    }

    let double = with_key().await;
    double.fault(RequestFault::new(Host::Keys, html(429, Some("1"))));
    let start = Instant::now();
    quick(Setup::on(&double).build().await).get(&key("pvc-1"), Freshness::Any).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(double.counts().keys.requests, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_get_through_a_rate_limit() {
    let double = with_key().await;
    double.switch(|switches| switches.rate = Some(Rate { per_second: 20, retry_after: Some("1") }));
    let provider = quick(Setup::on(&double).build().await);
    let tasks: Vec<_> = (0..40)
        .map(|_| {
            let provider = Arc::clone(&provider);
            tokio::spawn(async move { provider.get(&key("pvc-1"), Freshness::Any).await.map(drop) })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert!(double.counts().keys.requests <= 120, "{:?}", double.counts());
}

#[tokio::test]
async fn the_ca_is_asked_of_both_hosts() {
    let double = with_key().await;
    let error = error_of(&Setup::on(&double).set("IBM_KP_CACERT", "bad-ca").build().await).await;
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{error}");
    assert!(error.to_string().contains("IBM_KP_CACERT holds \"CN=Bad CA,O=test\""), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.crt");
    std::fs::write(&file, double.ca()).unwrap();
    let provider = Setup::on(&double).set("IBM_KP_CACERT", file.to_str().unwrap()).build().await;
    provider.get(&key("pvc-1"), Freshness::Any).await.unwrap();
}

/// A proxy that records every requested host, and connects to that port of this machine.
async fn proxy() -> (String, Arc<std::sync::Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let targets = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&targets);
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut client = BufReader::new(client);
                let (mut target, mut line) = (String::new(), String::new());
                while client.read_line(&mut line).await.unwrap() > 2 {
                    if let Some(rest) = line.strip_prefix("CONNECT ") {
                        rest.split(' ').next().unwrap().clone_into(&mut target);
                    }
                    line.clear();
                }
                seen.lock().unwrap().push(target.clone());
                let port: u16 = target.rsplit_once(':').unwrap().1.parse().unwrap();
                let mut server = TcpStream::connect(("localhost", port)).await.unwrap();
                client.get_mut().write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, targets)
}

#[tokio::test]
async fn the_proxy_of_the_environment_leads_to_both_hosts() {
    let double = with_key().await;
    let (address, targets) = proxy().await;
    // A request for `localhost` would not go to a proxy. The certificate is for these names too.
    let [iam, base] = [(double.iam_url(), "iam"), (double.base_url(), "kp")]
        .map(|(url, host)| url.replace("localhost", &format!("{host}.vault.test")));
    let setup = || {
        let setup = Setup::on(&double).environment("HTTPS_PROXY", &address);
        setup.set("IBM_KP_TOKEN_URL", &format!("{iam}/identity/token")).set("IBM_KP_BASE_URL", &base)
    };
    setup().build().await.get(&key("pvc-1"), Freshness::Any).await.unwrap();
    assert_eq!(*targets.lock().unwrap(), [&iam, &base].map(|url| url.replace("https://", "")));

    let excluded = setup().environment("NO_PROXY", "kp.vault.test,iam.vault.test").build().await;
    // The names exist for the proxy only, so a request that avoids it fails.
    let error = excluded.get(&key("pvc-1"), Freshness::Any).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let local = Setup::on(&double).environment("HTTPS_PROXY", &address).build().await;
    local.get(&key("pvc-1"), Freshness::Any).await.unwrap();
    assert_eq!(targets.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn every_error_of_a_read_has_the_correlation_id_of_its_request() {
    let double = with_key().await;
    double.plant(Key { extractable: false, ..Key::rook("root-key", "QUJD") });
    let provider = Setup::on(&double).build().await;
    for name in ["absent", "root-key"] {
        double.forget();
        let error = provider.get(&key(name), Freshness::Any).await.unwrap_err().to_string();
        let requests = double.requests();
        let request = requests.iter().find(|request| request.path == format!("/api/v2/keys/{name}"));
        let id = request.unwrap().header("correlation-id").unwrap();
        assert!(error.contains(id), "{error}");
    }
}

#[tokio::test]
async fn a_probe_reads_no_key_and_changes_nothing() {
    let double = with_key().await;
    let probe = Setup::on(&double).cluster("rook-ceph/a").build().await.probed().await;
    assert!(probe.failed.is_none(), "{probe:?}");
    let mut steps: Vec<_> = probe.passed.iter().map(|(step, _)| *step).collect();
    steps.dedup();
    let to_iam = ["settings", "iam: dns", "iam: tcp", "iam: tls", "iam"];
    assert_eq!(steps, [&to_iam[..], &["dns", "tcp", "tls", "instance", "rights"]].concat());
    assert!(
        double.lines().iter().all(|line| line.starts_with("GET") && !line.contains("/pvc-1")),
        "{:?}",
        double.lines()
    );
}
