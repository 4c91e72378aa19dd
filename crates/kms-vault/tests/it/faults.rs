//! Faults that a real server does not produce on demand, from a scripted server over plain HTTP: resets, storms of 429,
//! malformed responses, redirects that the client must not follow.

use std::{sync::Arc, time::Duration};

use crate::common::{empty_responses, kek, key};
use futures_util::StreamExt;
use kms_core::{
    ConnectionDetails, DeleteMode, ErrorKind, Freshness, KeyVersion, KmsProvider, KmsProviderExt,
    ProviderBuilder, PutMode, Retry,
    layer::{self, LayerOptions},
    secret::{SecretData, SecretMap},
};
use kms_testkit::{
    fake::http::{HttpServer, Request, Response, common_habits},
    servers::{Relay, pki::Pki},
    warnings::warnings,
};
use kms_vault::{Vault, VaultBuilder};

const TOKEN: &str = "s.canary-token";

async fn client(url: &str, settings: &[(&str, &str)]) -> Vault {
    let mut secrets = SecretMap::new("the test");
    secrets.insert(SecretData::new("t").with("token", TOKEN.as_bytes().to_vec()));
    let details: ConnectionDetails =
        [("VAULT_ADDR", url), ("VAULT_ALLOW_HTTP", "true"), ("VAULT_BACKEND", "v2")]
            .into_iter()
            .chain(settings.iter().copied())
            .collect();
    VaultBuilder::new().with_details(&details).with_token_secret("t").build(&secrets).await.unwrap()
}

fn quick(vault: Vault) -> Arc<dyn KmsProvider> {
    let mut options = LayerOptions::default();
    options.retry.floor = Duration::from_millis(1);
    options.retry.cap = Duration::from_millis(5);
    layer::standard(Arc::new(vault), &options)
}

fn found(kek: &str, version: u64) -> Response {
    let body = format!(
        r#"{{"data":{{"data":{{"rook-ceph-osd-encryption-key-a":"{kek}"}},"metadata":{{"created_time":"","version":{version}}}}}}}"#
    );
    Response::json(200, body)
}

/// Shows the client by a first response that the mount is v2. Otherwise the client would look before it writes.
async fn shown(vault: Arc<dyn KmsProvider>) -> Arc<dyn KmsProvider> {
    vault.get(&key("a"), Freshness::Any).await.unwrap();
    vault
}

fn written(version: u64) -> Response {
    Response::json(200, format!(r#"{{"data":{{"created_time":"","version":{version}}}}}"#))
}

#[tokio::test]
async fn a_get_is_repeated_through_every_passing_fault() {
    for fault in [
        Response::reset(),
        Response::close(),
        Response::status(500),
        Response::status(502).body("<html>bad gateway</html>"),
        Response::json(503, r#"{"errors":["Vault is sealed"]}"#),
        Response::status(412),
        Response::too_many_requests(None),
        Response::too_many_requests(Some("0")),
        found("canary", 1).reset_after(20),
        found("canary", 1).close_after(20),
    ] {
        let shown = format!("{fault:?}");
        let server = HttpServer::scripted([fault.clone(), fault, found("QUJD", 1)]).await.unwrap();
        let stored = quick(client(&server.url(), &[]).await).get(&key("a"), Freshness::Any).await.unwrap();
        assert_eq!(stored.kek.expose_secret_text().unwrap(), "QUJD");
        assert_eq!(server.requests().len(), 3, "{shown}");
    }
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_an_error_that_quotes_nothing() {
    for (answer, kind) in [
        (Response::json(200, "canary-kek"), ErrorKind::Protocol),
        (Response::json(200, ""), ErrorKind::Protocol),
        (
            Response::json(200, r#"{"data":{"data":{"rook-ceph-osd-encryption-key-a":"canary-kek"#),
            ErrorKind::Protocol,
        ),
        (
            Response::json(200, r#"{"data":{"data":["canary-kek"],"metadata":{"version":1}}}"#),
            ErrorKind::Protocol,
        ),
        (Response::json(400, r#"{"errors":["failed to decode"]}"#), ErrorKind::Protocol),
        (Response::status(418).body("canary-kek"), ErrorKind::Protocol),
        (Response::status(204), ErrorKind::Protocol),
        (Response::json(200, "").huge(b' ', 64 << 20), ErrorKind::Protocol),
    ] {
        let server = HttpServer::scripted([answer]).await.unwrap();
        let error = quick(client(&server.url(), &[]).await).get(&key("a"), Freshness::Any).await.unwrap_err();
        assert_eq!((error.kind(), error.retryable()), (kind, Retry::Never), "{error:?}");
        assert!(!format!("{error}{error:?}").contains("canary"), "{error:?}");
        assert_eq!(server.requests().len(), 1, "{error}");
    }
}

#[tokio::test]
async fn a_response_without_metadata_makes_no_v1_mount_of_a_v2_mount() {
    let answer = |request: &Request| match request.line().contains("sys/internal/ui/mounts") {
        true => Response::json(200, r#"{"data":{"type":"kv","path":"secret/","options":{"version":"2"}}}"#),
        false => Response::json(200, r#"{"data":{"data":{"rook-ceph-osd-encryption-key-a":"canary-kek"}}}"#),
    };
    for backend in ["v2", "kv-v2"] {
        let server = HttpServer::start(answer).await.unwrap();
        let error = client(&server.url(), &[("VAULT_BACKEND", backend)]).await;
        let error = error.get(&key("a"), Freshness::Any).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        assert!(error.to_string().contains("check the proxies"), "{error}");
    }
    for mode in [PutMode::Create, PutMode::Overwrite] {
        let server = HttpServer::start(answer).await.unwrap();
        let vault = client(&server.url(), &[("VAULT_BACKEND", "kv-v2")]).await;
        assert!(vault.put(&key("a"), &kek("QUJD"), mode).await.is_err());
        assert!(server.requests().iter().all(|request| request.line().starts_with("GET ")));
    }
}

#[tokio::test]
async fn a_delete_by_a_fresh_client_is_a_look_and_a_delete() {
    for (backend, look) in [
        ("v1", Response::json(200, r#"{"data":{"rook-ceph-osd-encryption-key-a":"QUJD"}}"#)),
        (
            "v2",
            Response::json(200, r#"{"data":{"current_version":1,"versions":{"1":{"deletion_time":""}}}}"#),
        ),
    ] {
        let answer = move |request: &Request| match request.line().split_once(' ') {
            Some(("DELETE", _)) => Response::status(204),
            Some((_, path)) if path.contains("/sys/") => Response::status(404),
            _ => look.clone(),
        };
        let server = HttpServer::start(answer).await.unwrap();
        let vault = client(&server.url(), &[("VAULT_BACKEND", backend)]).await;
        vault.delete(&key("a"), DeleteMode::Destroy).await.unwrap();
        let lines: Vec<_> = server.requests().iter().map(|request| request.line().to_owned()).collect();
        let folder = if backend == "v1" { "" } else { "metadata/" };
        let path = format!("/v1/secret/{folder}rook-ceph-osd-encryption-key-a");
        assert_eq!(lines, [format!("GET {path}"), format!("DELETE {path}")], "{backend}");
    }
}

#[tokio::test]
async fn a_create_with_a_lost_answer_is_read_back_and_not_written_again() {
    // The server stored the key and the response was lost: the look finds the key.
    let server =
        HttpServer::scripted([found("first", 1), Response::reset(), found("QUJD", 1)]).await.unwrap();
    let version = shown(quick(client(&server.url(), &[]).await))
        .await
        .put(&key("a"), &kek("QUJD"), PutMode::Create)
        .await
        .unwrap();
    assert_eq!(version, KeyVersion::new("1"));
    let methods: Vec<_> = server.requests().iter().map(|request| request.method.clone()).collect();
    assert_eq!(methods, ["GET", "POST", "GET"]);

    // The server stored nothing: the look finds no key, so the client writes once more.
    let server = HttpServer::scripted([
        found("first", 1),
        Response::reset(),
        Response::json(404, r#"{"errors":[]}"#),
        written(1),
    ])
    .await
    .unwrap();
    shown(quick(client(&server.url(), &[]).await))
        .await
        .put(&key("a"), &kek("QUJD"), PutMode::Create)
        .await
        .unwrap();
    assert_eq!(server.requests().len(), 4);

    // Another client wrote first.
    let server =
        HttpServer::scripted([found("first", 1), Response::reset(), found("other", 1)]).await.unwrap();
    let error = shown(quick(client(&server.url(), &[]).await))
        .await
        .put(&key("a"), &kek("QUJD"), PutMode::Create)
        .await
        .unwrap_err();
    assert_eq!(error.existing(), Some(kms_core::Existing::Different), "{error}");
}

#[tokio::test]
async fn a_storm_of_429_ends_with_the_deadline_and_the_error_is_final() {
    let server = HttpServer::start(|_| Response::too_many_requests(Some("0"))).await.unwrap();
    let mut options = LayerOptions::default();
    options.retry.floor = Duration::from_millis(20);
    options.retry.cap = Duration::from_millis(40);
    options.retry.deadline = Duration::from_millis(300);
    let vault = layer::standard(Arc::new(client(&server.url(), &[]).await), &options);
    let error = vault.get(&key("a"), Freshness::Any).await.unwrap_err();
    // On a loaded machine, the time limit may expire during an attempt.
    assert!(matches!(error.kind(), ErrorKind::RateLimited | ErrorKind::Timeout), "{error}");
    assert_eq!(error.retryable(), Retry::Never);
    // A pause of at least 20 ms each, whatever the server says.
    assert!(server.requests().len() <= 15, "{} requests", server.requests().len());
}

#[tokio::test]
async fn a_redirect_is_followed_once_with_method_body_and_token() {
    let active = HttpServer::scripted([written(1)]).await.unwrap();
    let location = format!("{}/v1/secret/data/rook-ceph-osd-encryption-key-a", active.url());
    let redirect = Response::status(307).header("location", location.clone());
    let standby = HttpServer::scripted([found("first", 1), redirect]).await.unwrap();
    let vault = shown(Arc::new(client(&standby.url(), &[("VAULT_NAMESPACE", "team")]).await)).await;
    vault.put(&key("a"), &kek("QUJD"), PutMode::Create).await.unwrap();
    let (first, second) = (standby.requests().remove(1), active.requests().remove(0));
    assert_eq!((&second.method, &second.path, &second.body), (&first.method, &first.path, &first.body));
    assert_eq!(second.header("x-vault-token"), Some(TOKEN));
    assert_eq!(second.header("x-vault-namespace"), Some("team"));

    let other =
        HttpServer::scripted([Response::status(307).header("location", location.clone())]).await.unwrap();
    let again = format!("{}/v1/secret/data/rook-ceph-osd-encryption-key-a", other.url());
    let loops = HttpServer::scripted([Response::status(307).header("location", again)]).await.unwrap();
    let error = client(&loops.url(), &[]).await.get(&key("a"), Freshness::Any).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Unavailable, Retry::Always), "{error}");

    // The standby may have forwarded the write before: a refusal by the active node does not show whether it took
    // effect.
    let active = HttpServer::scripted([Response::json(
        400,
        r#"{"errors":["check-and-set parameter did not match"]}"#,
    )]);
    let active = active.await.unwrap();
    let there = format!("{}/v1/secret/data/rook-ceph-osd-encryption-key-a", active.url());
    let redirect = Response::status(307).header("location", there);
    let standby = HttpServer::scripted([found("first", 1), redirect]).await.unwrap();
    let vault = shown(Arc::new(client(&standby.url(), &[]).await)).await;
    let error = vault.put(&key("a"), &kek("QUJD"), PutMode::Create).await.unwrap_err();
    assert_eq!(error.retryable(), Retry::IfIdempotent, "{error}");

    let kept = HttpServer::scripted([Response::status(307).header("location", location)]).await.unwrap();
    let vault = client(&kept.url(), &[("VAULT_DISABLE_REDIRECTS", "true")]).await;
    let error = vault.get(&key("a"), Freshness::Any).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");

    for location in ["http://user:canary@127.0.0.1:1/", "::", ""] {
        let server =
            HttpServer::scripted([Response::status(307).header("location", location)]).await.unwrap();
        let error = client(&server.url(), &[]).await.get(&key("a"), Freshness::Any).await.unwrap_err();
        assert!(error.to_string().contains("redirect"), "{location}: {error}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
}

#[tokio::test]
async fn a_redirect_that_is_not_of_a_standby_gets_neither_token_nor_kek() {
    let elsewhere = HttpServer::start(|_| written(1)).await.unwrap();
    let port = elsewhere.address().port();
    let path = "/v1/secret/rook-ceph-osd-encryption-key-a";
    for (status, location) in [
        (307, format!("http://127.0.0.1:{port}/v1/secret/other")),
        (307, format!("http://127.0.0.1:{port}{path}?version=1")),
        (302, format!("http://127.0.0.1:{port}/login")),
        // No certificate says that this host may have the token.
        (307, format!("http://localhost:{port}{path}")),
        // Another method is asked for, or the client may choose.
        (303, format!("http://127.0.0.1:{port}{path}")),
        (300, format!("http://127.0.0.1:{port}{path}")),
    ] {
        let redirect = location.clone();
        let server =
            HttpServer::start(move |_| Response::status(status).header("location", redirect.clone()));
        let server = server.await.unwrap();
        let vault = client(&server.url(), &[("VAULT_BACKEND", "v1")]).await;
        assert!(vault.get(&key("a"), Freshness::Any).await.is_err(), "{status} {location}");
        assert!(vault.put(&key("a"), &kek("canary-canary-kek"), PutMode::Overwrite).await.is_err());
        assert!(vault.delete(&key("a"), DeleteMode::Destroy).await.is_err());
        assert!(server.requests().len() >= 3, "{:?}", server.requests());
        assert!(elsewhere.requests().is_empty(), "{status} {location}");
    }
}

#[tokio::test]
async fn a_local_agent_is_reached_without_the_proxy_of_the_environment() {
    let proxy = HttpServer::start(|_| Response::status(502)).await.unwrap();
    let agent = HttpServer::start(|_| found("QUJD", 1)).await.unwrap();
    let named = format!("http://localhost:{}", agent.address().port());
    for (address, variable) in [(agent.url(), "HTTP_PROXY"), (named, "http_proxy")] {
        let details: ConnectionDetails = [
            ("VAULT_ADDR", address.as_str()),
            ("VAULT_ALLOW_HTTP", "true"),
            ("VAULT_BACKEND", "v2"),
            ("VAULT_AUTH_METHOD", "agent"),
        ]
        .into_iter()
        .collect();
        let vault = VaultBuilder::new()
            .with_details(&details)
            .with_environment([(variable, proxy.url().as_str())])
            .build(&SecretMap::new("none"))
            .await
            .unwrap();
        vault.get(&key("a"), Freshness::Any).await.unwrap();
        assert!(proxy.requests().is_empty(), "{address}: the proxy has read the KEK");
    }
    assert_eq!(agent.requests().len(), 2);
}

#[tokio::test]
async fn a_connection_that_has_carried_a_kek_is_closed_without_another_request() {
    let server = HttpServer::start(|_| found("QUJD", 1)).await.unwrap();
    let relay = Relay::start(server.address()).await.unwrap();
    let vault = client(&format!("http://{}", relay.addr()), &[]).await;
    vault.get(&key("a"), Freshness::Any).await.unwrap();
    // Its buffers hold the KEK, and a rotation waits for minutes now.
    let closed = async {
        while relay.open() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), closed).await.expect("the connection is closed");
}

#[tokio::test]
async fn requests_carry_token_namespace_and_nothing_of_the_environment() {
    let server = HttpServer::scripted([found("QUJD", 1)]).await.unwrap();
    let base = format!("{}/base/", server.url());
    let vault =
        client(&base, &[("VAULT_NAMESPACE", "/team/storage/"), ("VAULT_BACKEND_PATH", "/rook/ver2/")]).await;
    vault.get(&key("a"), Freshness::Any).await.unwrap();
    let request = server.requests().remove(0);
    assert_eq!(request.line(), "GET /base/v1/rook/ver2/data/rook-ceph-osd-encryption-key-a");
    assert_eq!(request.header("x-vault-token"), Some(TOKEN));
    assert_eq!(request.header("x-vault-request"), Some("true"));
    assert_eq!(request.header("x-vault-namespace"), Some("team/storage"));
}

#[tokio::test]
async fn what_the_server_repeats_of_our_request_is_not_shown() {
    let echo = |request: &Request| {
        let said = format!("bad {} with {TOKEN}", request.text().replace('"', "'"));
        Response::json(500, format!(r#"{{"errors":["{said}"]}}"#))
    };
    let server = HttpServer::start(echo).await.unwrap();
    let vault = client(&server.url(), &[("VAULT_BACKEND", "v1")]).await;
    let error = vault.put(&key("a"), &kek("canary-canary-kek"), PutMode::Overwrite).await.unwrap_err();
    let text = format!("{error}{error:?}");
    assert!(text.contains("not shown") && !text.contains("canary"), "{text}");
    let error = vault.get(&key("a"), Freshness::Any).await.unwrap_err();
    assert!(!format!("{error}{error:?}").contains(TOKEN), "{error}");
    let path = r#"{"errors":["no access to secret/rook-ceph-osd-encryption-key-a"]}"#;
    let server = HttpServer::scripted([Response::json(500, path)]).await.unwrap();
    let vault = client(&server.url(), &[("VAULT_BACKEND", "v1")]).await;
    let error = vault.get(&key("a"), Freshness::Any).await.unwrap_err();
    assert!(error.to_string().contains("server said: no access to secret/"), "{error}");
}

#[tokio::test]
async fn a_404_of_another_server_says_nothing_about_keys() {
    let server = HttpServer::start(|_| Response::status(404).body("<html>not found</html>")).await.unwrap();
    for backend in ["v1", "v2"] {
        let vault = client(&server.url(), &[("VAULT_BACKEND", backend)]).await;
        for error in [
            vault.get(&key("a"), Freshness::Any).await.unwrap_err(),
            vault.delete(&key("a"), DeleteMode::Destroy).await.unwrap_err(),
            vault.put(&key("a"), &kek("QUJD"), PutMode::Create).await.unwrap_err(),
            futures_util::TryStreamExt::try_collect::<Vec<_>>(vault.list()).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        }
    }
}

#[tokio::test]
async fn another_server_than_vault_is_called_that_and_a_probe_does_not_send_it_the_token() {
    const STATUS: &str = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401}"#;
    const FORBIDDEN: &str = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"forbidden: User \"system:anonymous\" cannot get path \"/v1/sys/health\"","reason":"Forbidden","details":{},"code":403}"#;
    const PAGE: &str = "<!DOCTYPE html><html><head><title>Blocked by policy</title></head></html>";
    for (response, words) in [
        (Response::json(401, STATUS), "a Kubernetes API server"),
        (Response::json(403, FORBIDDEN), "a Kubernetes API server"),
        (
            Response::status(403).header("content-type", "text/html").body(PAGE),
            "title of the page: Blocked by policy",
        ),
        (
            Response::status(200).header("content-type", "text/html").body(PAGE),
            "title of the page: Blocked by policy",
        ),
        (Response::json(404, r#"{"message":"no Route matched with those values"}"#), "is not Vault"),
        (Response::json(200, "{}"), "is not Vault"),
        // Vault gives the reason of each refusal.
        (Response::status(401), "is not Vault"),
        (Response::status(403), "is not Vault"),
    ] {
        let shown = format!("{response:?}");
        let server = HttpServer::start(move |_| response.clone()).await.unwrap();
        let vault = client(&server.url(), &[]).await;
        let probe = vault.probed().await;
        let (step, error) = probe.failed.unwrap();
        assert_eq!((step, error.kind()), ("server", ErrorKind::Protocol), "{shown}: {error}");
        assert!(error.to_string().contains(words), "{shown}: {error}");
        let sent: Vec<_> = server.requests();
        assert!(sent.iter().all(|request| request.header("x-vault-token").is_none()), "{shown}: {sent:?}");
        // No other operation blames the token either.
        if !shown.contains("Status(404)") {
            let error = vault.get(&key("a"), Freshness::Any).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{shown}: {error}");
        }
    }
}

/// A provider on KV v1 that logs in by AppRole with the secret id `canary`.
async fn by_approle(server: &HttpServer) -> Vault {
    let mut secrets = SecretMap::new("the test");
    secrets.insert(SecretData::new("t").with("secret_id", b"canary".to_vec()));
    let details: ConnectionDetails = [
        ("VAULT_ADDR", server.url().as_str()),
        ("VAULT_ALLOW_HTTP", "true"),
        ("VAULT_BACKEND", "v1"),
        ("VAULT_AUTH_METHOD", "approle"),
        ("VAULT_APPROLE_ROLE_ID", "role"),
    ]
    .into_iter()
    .collect();
    VaultBuilder::new().with_details(&details).with_token_secret("t").build(&secrets).await.unwrap()
}

#[tokio::test]
async fn a_login_that_another_server_answers_does_not_blame_the_credential() {
    const PAGE: &str = "<html><title>Blocked by policy</title></html>";
    for (response, kind, words) in [
        (Response::status(403).body(PAGE), ErrorKind::Protocol, "title of the page: Blocked by policy"),
        (Response::status(400).body(PAGE), ErrorKind::Protocol, "title of the page: Blocked by policy"),
        (Response::status(403), ErrorKind::Protocol, "is not Vault"),
        (Response::json(403, r#"{"message":"denied"}"#), ErrorKind::Protocol, "is not Vault"),
        (
            Response::json(400, r#"{"errors":["invalid secret id"]}"#),
            ErrorKind::Unauthenticated,
            "server said: invalid secret id",
        ),
    ] {
        let shown = format!("{response:?}");
        let server = HttpServer::start(move |_| response.clone()).await.unwrap();
        let vault = by_approle(&server).await;
        let error = vault.get(&key("a"), Freshness::Any).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{shown}: {error}");
        let text = error.to_string();
        assert!(text.contains(words) && text.contains("auth mount: approle"), "{shown}: {text}");
        assert!(!text.contains("canary"), "{shown}: {text}");
    }
}

#[tokio::test]
async fn trouble_of_a_login_does_not_leave_a_write_in_doubt() {
    for response in [
        Response::status(503).body("<html>"),
        Response::json(500, r#"{"errors":["local node not active"]}"#),
        Response::close(),
    ] {
        let shown = format!("{response:?}");
        let server = HttpServer::start(move |_| response.clone()).await.unwrap();
        let vault = by_approle(&server).await;
        let error = vault.put(&key("a"), &kek("QUJD"), PutMode::Overwrite).await.unwrap_err();
        assert_eq!(error.retryable(), Retry::Always, "{shown}: {error}");
        let sent: Vec<_> = server.requests().iter().map(|request| request.path.clone()).collect();
        assert_eq!(sent, ["/v1/auth/approle/login"], "{shown}");
    }
}

#[tokio::test]
async fn a_rate_limit_of_a_gateway_is_no_other_server() {
    for body in ["", r#"{"message":"API rate limit exceeded"}"#] {
        let response = Response::status(429).header("retry-after", "7").body(body);
        let server = HttpServer::start(move |_| response.clone()).await.unwrap();
        let (step, error) = client(&server.url(), &[]).await.probed().await.failed.unwrap();
        assert_eq!((step, error.kind()), ("server", ErrorKind::RateLimited), "{body}: {error}");
        assert_eq!(error.wait(), Some(Duration::from_secs(7)), "{body}");
    }
}

#[tokio::test]
async fn a_connection_lost_in_the_middle_of_a_run_does_not_hint_at_the_client_certificate() {
    let (pki, folder) = (Pki::new().unwrap(), tempfile::tempdir().unwrap());
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let [ca, cert, secret_key] =
        [("ca", &pki.ca.cert), ("cert", &pki.client1.cert), ("key", &pki.client1.key)]
            .map(|(name, text)| file(name, text));
    let settings = [
        ("VAULT_CACERT", ca.as_str()),
        ("VAULT_CLIENT_CERT", cert.as_str()),
        ("VAULT_CLIENT_KEY", secret_key.as_str()),
    ];
    // Each request has a connection of its own, and the server asks for the certificate on each.
    for (answers_first, hints) in [(true, false), (false, true)] {
        let mut first = answers_first;
        let server = HttpServer::start_tls(&pki.server, Some(&pki.ca.cert), move |_| {
            if std::mem::take(&mut first) { found("x", 1).then_close() } else { Response::close() }
        })
        .await
        .unwrap();
        let vault = client(&format!("https://{}", server.address()), &settings).await;
        if answers_first {
            vault.get(&key("a"), Freshness::Any).await.unwrap();
        }
        let error = vault.get(&key("a"), Freshness::Any).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!(error.to_string().contains("client certificate"), hints, "{error}");
    }
}

#[tokio::test]
async fn a_vault_behind_a_proxy_that_hides_its_state_passes_for_one() {
    let server = HttpServer::start(|request| match request.path.as_str() {
        "/v1/sys/health" => Response::status(403).header("content-type", "text/html").body("<html>no</html>"),
        _ => Response::json(403, r#"{"errors":["permission denied"]}"#),
    })
    .await
    .unwrap();
    let probe = client(&server.url(), &[]).await.probed().await;
    let (_, found) = probe.passed.iter().find(|(step, _)| *step == "server").unwrap();
    assert!(found.contains("does not show its state"), "{found}");
    assert_eq!(probe.failed.unwrap().1.kind(), ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn a_destroyed_version_is_not_said_to_be_undeletable() {
    let gone = |destroyed: bool| {
        format!(
            r#"{{"request_id":"r","data":{{"data":null,"metadata":{{"created_time":"2026-11-25T00:00:00Z","custom_metadata":null,"deletion_time":"{}","destroyed":{destroyed},"version":2}}}}}}"#,
            if destroyed { "" } else { "2026-11-26T00:00:00Z" }
        )
    };
    for (destroyed, words) in [(true, "destroyed and cannot be brought back"), (false, "kms undelete")] {
        let body = gone(destroyed);
        let server = HttpServer::start(move |request| match request.path.contains("/data/") {
            true => Response::json(404, body.clone()),
            false => Response::json(200, r#"{"ha_enabled":false}"#),
        })
        .await
        .unwrap();
        let error = client(&server.url(), &[]).await.get(&key("a"), Freshness::Any).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let text = error.to_string();
        assert!(text.contains(words) && text.contains("undelete") != destroyed, "{text}");
    }
}

#[tokio::test]
async fn a_backend_that_disagrees_with_the_mount_works_with_a_warning() {
    const V1: &str = r#"{"data":{"rook-ceph-osd-encryption-key-a":"QUJD"}}"#;
    // What Rook stores on a v1 mount with `kv-v2`.
    const NESTED: &str = r#"{"data":{"data":{"rook-ceph-osd-encryption-key-a":"QUJD"}}}"#;
    for (backend, is_v2, expected) in [
        ("v1", false, None),
        ("kv", false, None),
        ("v2", true, None),
        ("kv-v2", true, None),
        ("v1", true, Some("VAULT_BACKEND says v1, and the mount is KV v2, which counts")),
        ("kv", true, Some("VAULT_BACKEND says v1, and the mount is KV v2, which counts")),
        ("v2", false, Some("VAULT_BACKEND is v2, and the mount is KV v1, which counts")),
        ("kv-v2", false, Some("keys are in its folder data, where Rook keeps them with this setting; leave")),
    ] {
        let version = if is_v2 { "2" } else { "1" };
        let mount =
            format!(r#"{{"data":{{"type":"kv","path":"secret/","options":{{"version":"{version}"}}}}}}"#);
        let server = HttpServer::start(move |request| {
            let path = request.path.split('?').next().unwrap_or_default();
            match path.strip_prefix("/v1/secret/").map(|path| path.strip_prefix("data/").is_some()) {
                Some(true) if is_v2 => found("QUJD", 1),
                Some(true) if backend == "kv-v2" => Response::json(200, NESTED),
                Some(true) => Response::json(404, r#"{"errors":[]}"#),
                Some(false) if is_v2 => {
                    Response::json(404, r#"{"errors":[],"warnings":["Invalid path for a versioned K/V"]}"#)
                }
                Some(false) => Response::json(200, V1),
                None if path.contains("/mounts/") => Response::json(200, mount.clone()),
                None => Response::json(200, r#"{"ha_enabled":false}"#),
            }
        });
        let server = server.await.unwrap();
        let vault = client(&server.url(), &[("VAULT_BACKEND", backend)]).await;
        let (name, case) = (key("a"), format!("{backend} on a mount of version {version}"));
        let (stored, seen) = warnings(vault.get(&name, Freshness::Any)).await;
        assert_eq!(stored.unwrap().kek.expose_secret_text().unwrap(), "QUJD", "{case}");
        let seen: Vec<_> = seen.iter().filter(|warning| warning.contains("VAULT_BACKEND")).collect();
        assert_eq!(seen.len(), usize::from(expected.is_some()), "{case}: {seen:?}");
        assert!(
            seen.iter().zip(expected).all(|(seen, expected)| seen.contains(expected)),
            "{case}: {seen:?}"
        );
    }
}

#[tokio::test]
async fn a_retry_after_that_is_a_date_is_waited_for_by_the_servers_clock() {
    let server = HttpServer::scripted([Response::status(429)
        .header("date", "Sun, 06 Nov 1994 08:49:37 GMT")
        .header("retry-after", "Sun, 06 Nov 1994 08:51:47 GMT")])
    .await
    .unwrap();
    let error = quick(client(&server.url(), &[]).await).get(&key("a"), Freshness::Any).await.unwrap_err();
    assert_eq!((error.kind(), error.wait()), (ErrorKind::RateLimited, Some(Duration::from_secs(130))));
    assert!(error.to_string().contains("the server asks to wait: 130s"), "{error}");
}

#[tokio::test]
async fn a_deadline_names_the_server_that_was_slow() {
    let server = HttpServer::start(|_| Response::never()).await.unwrap();
    let mut options = LayerOptions::default().with_deadline(Duration::from_secs(1));
    options.attempt_timeout = Duration::from_millis(300);
    let vault = layer::standard(Arc::new(client(&server.url(), &[]).await), &options);
    let error = vault.get(&key("a"), Freshness::Any).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains(&format!("{} ", server.url())), "{error}");
    let probe = vault.probed().await;
    assert_eq!(probe.passed.first().map(|(step, _)| *step), Some("authentication"));
    let (step, error) = probe.failed.unwrap();
    assert!(step == "server" && error.to_string().contains(&server.url()), "{step}: {error}");
}

#[tokio::test]
async fn a_response_that_says_nothing_is_no_absence_and_causes_no_write() {
    for backend in ["v1", "v2"] {
        for (habit, response) in common_habits().into_iter().chain(empty_responses(backend)) {
            let server = HttpServer::start(move |_| response.clone()).await.unwrap();
            let vault = client(&server.url(), &[("VAULT_BACKEND", backend)]).await;
            let update = PutMode::Update(KeyVersion::new("1"));
            let results = [
                ("get", vault.get(&key("a"), Freshness::Any).await.map(drop)),
                ("fresh get", vault.get(&key("a"), Freshness::Fresh).await.map(drop)),
                ("create", vault.put(&key("a"), &kek("QUJD"), PutMode::Create).await.map(drop)),
                ("ensure", vault.ensure(&key("a"), kek("QUJD")).await.map(drop)),
                ("update", vault.put(&key("a"), &kek("QUJD"), update).await.map(drop)),
                ("delete", vault.delete(&key("a"), DeleteMode::Destroy).await.map(drop)),
                ("list", futures_util::TryStreamExt::try_collect::<Vec<_>>(vault.list()).await.map(drop)),
            ];
            for (operation, result) in results {
                let error = result.expect_err(operation);
                let expected = matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Unavailable);
                assert!(expected, "{operation} on {backend} after {habit}: {error:?}");
                assert!(!format!("{error}{error:?}").contains("canary"), "{error:?}");
            }
            // With `cas`, the server decides: it writes only if the version that the client knows is current.
            let decides = |request: &Request| {
                request.method == "POST" && request.text().contains(r#""options":{"cas":"#)
            };
            let written = server
                .requests()
                .into_iter()
                .find(|request| !matches!(request.method.as_str(), "GET" | "LIST") && !decides(request));
            assert!(written.is_none(), "{backend} after {habit}: {written:?}");
        }
    }
}

#[tokio::test]
async fn a_change_that_the_server_holds_back_is_not_reported_as_done() {
    let (_, wrapped) = empty_responses("v1").remove(0);
    for (backend, read) in [
        ("v1", Response::json(200, r#"{"data":{"rook-ceph-osd-encryption-key-a":"QUJD"}}"#)),
        ("v2", found("QUJD", 1)),
    ] {
        for response in [wrapped.clone(), Response::status(200), Response::json(200, "{}")] {
            let read = read.clone();
            let server = HttpServer::start(move |request| match request.method.as_str() {
                "GET" => read.clone(),
                _ => response.clone(),
            });
            let server = server.await.unwrap();
            let vault = client(&server.url(), &[("VAULT_BACKEND", backend)]).await;
            vault.get(&key("a"), Freshness::Any).await.unwrap();
            for error in [
                vault.delete(&key("a"), DeleteMode::Destroy).await.unwrap_err(),
                vault.put(&key("a"), &kek("REVG"), PutMode::Overwrite).await.unwrap_err(),
            ] {
                assert_eq!(error.kind(), ErrorKind::Protocol, "{backend}: {error:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_version_that_a_proxy_takes_out_of_the_response_deletes_nothing() {
    // The mount is known to be v2, so that a 204 does not mean that a v1 mount has stored the KEK.
    let server =
        HttpServer::scripted([found("first", 1), Response::status(204), found("QUJD", 2)]).await.unwrap();
    let vault = shown(quick(client(&server.url(), &[]).await)).await;
    let update = PutMode::Update(KeyVersion::new("1"));
    assert_eq!(vault.put(&key("a"), &kek("QUJD"), update).await.unwrap(), KeyVersion::new("2"));
    let methods: Vec<_> = server.requests().iter().map(|request| request.method.clone()).collect();
    assert_eq!(methods, ["GET", "POST", "GET"]);
}

#[tokio::test]
async fn a_refusal_by_a_stale_copy_is_a_change_and_no_wrong_call() {
    let refused =
        || Response::json(400, r#"{"errors":["check-and-set parameter did not match the current version"]}"#);
    let absent = || Response::json(404, r#"{"errors":[]}"#);
    for (mode, read) in [
        (PutMode::Create, absent()),
        (PutMode::Update(KeyVersion::new("1")), found("first", 1)),
        (PutMode::Overwrite, found("first", 1)),
    ] {
        let read = read.clone();
        let mut shown = false;
        let server = HttpServer::start(move |request| match request.method.as_str() {
            "GET" if !std::mem::replace(&mut shown, true) => found("first", 1),
            "GET" => read.clone(),
            _ => refused(),
        });
        let server = server.await.unwrap();
        let vault = client(&server.url(), &[]).await;
        vault.get(&key("a"), Freshness::Any).await.unwrap();
        let error = vault.put(&key("a"), &kek("QUJD"), mode.clone()).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.retryable()),
            (ErrorKind::Conflict, Retry::Always),
            "{mode:?}: {error}"
        );
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("server said: check-and-set"), "{cause}");
    }
}

#[tokio::test]
async fn a_lease_of_any_length_is_taken() {
    for seconds in [0, 1, u64::MAX] {
        let login =
            format!(r#"{{"auth":{{"client_token":"s.t","lease_duration":{seconds},"renewable":true}}}}"#);
        let server = HttpServer::scripted([Response::json(200, login), found("QUJD", 1)]).await.unwrap();
        let details = [
            ("VAULT_ADDR", server.url()),
            ("VAULT_ALLOW_HTTP", "true".to_owned()),
            ("VAULT_BACKEND", "v2".to_owned()),
            ("VAULT_AUTH_METHOD", "approle".to_owned()),
            ("VAULT_APPROLE_ROLE_ID", "r".to_owned()),
            ("VAULT_APPROLE_SECRET_ID", "s".to_owned()),
        ];
        let details: ConnectionDetails = details.into_iter().collect();
        let vault = VaultBuilder::new().with_details(&details).build(&SecretMap::new("none")).await.unwrap();
        vault.get(&key("a"), Freshness::Any).await.unwrap();
    }
}

#[tokio::test]
async fn a_delete_whose_answer_is_lost_has_succeeded_when_the_key_is_gone() {
    let server =
        HttpServer::scripted([found("first", 1), Response::reset(), Response::json(404, r#"{"errors":[]}"#)])
            .await
            .unwrap();
    let vault = shown(quick(client(&server.url(), &[]).await)).await;
    vault.delete(&key("a"), DeleteMode::Destroy).await.unwrap();
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn a_rate_limit_of_our_own_is_kept() {
    let server = HttpServer::start(|_| found("QUJD", 1)).await.unwrap();
    let vault = client(&server.url(), &[("VAULT_RATE_LIMIT", "50:1")]).await;
    let start = std::time::Instant::now();
    for _ in 0..6 {
        vault.get(&key("a"), Freshness::Any).await.unwrap();
    }
    // Five pauses of 20 ms; a slow machine can only make it longer.
    assert!(start.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn an_explicit_proxy_gets_every_request() {
    let proxy = HttpServer::scripted([found("QUJD", 1)]).await.unwrap();
    let vault = client("http://vault.invalid:8200", &[("VAULT_PROXY_ADDR", &proxy.url())]).await;
    vault.get(&key("a"), Freshness::Any).await.unwrap();
    assert!(proxy.requests()[0].path.starts_with("http://vault.invalid:8200/v1/"), "{:?}", proxy.requests());
}

/// Lists a v1 mount with five keys on a server that sends pages of this size, with or without the parameter `after`.
async fn listed(server: &HttpServer) -> (Vec<String>, Option<kms_core::Error>) {
    let vault = client(&server.url(), &[("VAULT_BACKEND", "v1")]).await;
    let (mut names, mut end) = (Vec::new(), None);
    let mut list = vault.list();
    while let Some(item) = list.next().await {
        assert!(end.is_none(), "the list goes on after {end:?}");
        match item {
            Ok(info) => names.push(info.name.to_string()),
            Err(error) => end = Some(error),
        }
    }
    (names, end)
}

#[tokio::test]
async fn a_list_that_a_policy_cuts_is_completed_or_said_to_be_incomplete() {
    const ALL: [&str; 5] = ["a", "b", "c", "d", "e"];
    let id = |name: &str| format!("rook-ceph-osd-encryption-key-{name}");
    let page = move |names: &[&str]| match names {
        [] => Response::json(404, r#"{"errors":[]}"#),
        names => {
            let ids: Vec<_> = names.iter().map(|name| format!("{:?}", id(name))).collect();
            Response::json(200, format!(r#"{{"data":{{"keys":[{}]}}}}"#, ids.join(",")))
        }
    };
    let after = |request: &Request| {
        let last = request.path.split_once("after=")?.1.rsplit_once('-')?.1.to_owned();
        ALL.iter().position(|name| *name == last).map(|at| at + 1)
    };
    // OpenBao with `pagination_limit`.
    for size in [1, 2, 5] {
        let server = HttpServer::start(move |request| {
            let begin = after(request).unwrap_or(0);
            page(&ALL[begin..(begin + size).min(ALL.len())])
        });
        let (names, end) = listed(&server.await.unwrap()).await;
        assert_eq!(names, ALL, "pages of {size}: {end:?}");
        assert!(end.is_none(), "pages of {size}: {end:?}");
    }
    // Vault does not know the parameter, and cuts no list.
    let server = HttpServer::start(move |_| page(&ALL)).await.unwrap();
    let (names, end) = listed(&server).await;
    assert!(names == ALL && end.is_none() && server.requests().len() == 2, "{names:?} {end:?}");
    for next in [
        Response::json(400, r#"{"errors":["unsupported parameter"]}"#),
        Response::json(200, r#"{"data":{}}"#),
        Response::status(200).body("<html>"),
        // The 404 of a proxy is not the end of the list.
        Response::status(404).body("not found\n"),
    ] {
        let shown = format!("{next:?}");
        let server = HttpServer::start(move |request| match after(request) {
            None => page(&ALL[..2]),
            Some(_) => next.clone(),
        });
        let (names, end) = listed(&server.await.unwrap()).await;
        assert_eq!(names, ["a", "b"], "{shown}");
        let error = end.expect("the list is incomplete");
        assert_eq!(
            (error.kind(), error.retryable()),
            (ErrorKind::Incomplete, Retry::Never),
            "{shown}: {error}"
        );
    }
}
