//! Tests on the double: expired and revoked tokens, throttling, denials, and clock skew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use crate::common::{Setup, kek, key, quick, secret};
use kms_core::{
    DeleteMode, ErrorKind, Freshness, KmsProvider, KmsProviderExt, PutMode, Retry,
    layer::{self, LayerOptions},
};
use kms_testkit::fake::azure::{Action, Azure, CLIENT, CLIENT_SECRET, Host, OBJECT, RequestFault};

async fn planted() -> Azure {
    let double = Azure::start().await.unwrap();
    double.plant(&secret("a"), "YWJj");
    double
}

#[tokio::test]
async fn a_cached_token_that_the_vault_stops_accepting_is_replaced_once() {
    let double = planted().await;
    let provider = Setup::on(&double).build().await;
    provider.get(&key("a"), Freshness::Any).await.unwrap();
    double.forget();
    double.roll_signing_key();
    provider.get(&key("a"), Freshness::Any).await.unwrap();
    let counts = double.counts();
    assert_eq!((counts.issued, counts.keys.requests, counts.challenges), (1, 2, 0));
    // The same for a write, whose body is sent again.
    double.roll_signing_key();
    provider.put(&key("b"), &kek("ZGVm"), PutMode::Overwrite).await.unwrap();
    assert_eq!(double.counts().issued, 2);
    assert!(provider.get(&key("b"), Freshness::Any).await.unwrap().kek.ct_eq(&kek("ZGVm")));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_meet_a_dead_token_get_one_new_one() {
    for sparse in [false, true] {
        let double = planted().await;
        double.switch(|switches| switches.sparse = sparse);
        let provider = std::sync::Arc::new(Setup::on(&double).build().await);
        provider.get(&key("a"), Freshness::Any).await.unwrap();
        double.forget();
        double.roll_signing_key();
        let tasks: Vec<_> = (0..30)
            .map(|_| {
                let provider = std::sync::Arc::clone(&provider);
                tokio::spawn(async move { provider.get(&key("a"), Freshness::Any).await.unwrap() })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let counts = double.counts();
        assert_eq!((counts.issued, counts.challenges), (1, 0));
        assert!(counts.keys.requests <= 60, "each is repeated once at most: {counts:?}");
    }
}

#[tokio::test]
async fn a_token_that_never_works_is_no_reason_for_many_logins() {
    let double = planted().await;
    let provider = quick(Setup::on(&double).build().await);
    // The vault's clock is a day ahead of Entra's. The double simulates this by tokens that expire at once.
    double.switch(|switches| switches.token_seconds = 0);
    for _ in 0..5 {
        let error = provider.get(&key("a"), Freshness::Any).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
        assert!(error.to_string().contains(OBJECT) && error.to_string().contains("clocks"), "{error}");
    }
    assert!(double.counts().issued <= 10, "{:?}", double.counts());
}

#[tokio::test]
async fn the_first_refusal_of_a_vault_keeps_its_words_its_request_id_and_its_tenant() {
    const THEIRS: &str = "55555555-5555-5555-5555-555555555555";
    let double = planted().await;
    double.switch(|switches| switches.vault_tenant = Some(THEIRS));
    let provider = Setup::on(&double).build().await;
    let error = provider.get(&key("a"), Freshness::Any).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    let text = error.to_string();
    for part in ["AKV10032: Invalid issuer.", "request id: ", THEIRS, OBJECT, "AZURE_TENANT_ID"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(double.counts().issued, 1, "a token of the same tenant does not help");
}

#[tokio::test]
async fn a_clock_that_moves_costs_one_token() {
    let double = planted().await;
    let provider = Setup::on(&double).build().await;
    provider.get(&key("a"), Freshness::Any).await.unwrap();
    // The skew is within Entra's tolerance for the assertion, and exceeds the lifetime of the token.
    double.switch(|switches| switches.token_seconds = 200);
    double.roll_signing_key();
    provider.get(&key("a"), Freshness::Any).await.unwrap();
    double.advance(Duration::from_secs(240));
    provider.get(&key("a"), Freshness::Any).await.unwrap();
    assert_eq!(double.counts().issued, 3);
    double.advance(Duration::from_secs(3_600));
    let error = provider.get(&key("a"), Freshness::Any).await.unwrap_err();
    assert!(error.to_string().contains("AADSTS700024") && error.to_string().contains("clock"), "{error}");
    double.back(Duration::from_secs(3_840));
}

#[tokio::test]
async fn throttling_is_waited_out_and_a_denial_is_not_repeated() {
    let double = planted().await;
    let provider = quick(Setup::on(&double).build().await);
    provider.get(&key("a"), Freshness::Any).await.unwrap();
    let reply = |status, retry_after| Action::Reply { status, retry_after, body: "<html>".to_owned() };
    double.fault(RequestFault::new(Host::Keys, reply(429, Some("1"))));
    let start = std::time::Instant::now();
    provider.get(&key("a"), Freshness::Any).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    double.fault(RequestFault::new(Host::Keys, reply(429, None)).times(2));
    provider.get(&key("a"), Freshness::Any).await.unwrap();
    double.forget();
    double.switch(|switches| switches.denied = ["get"].into());
    let error = provider.get(&key("a"), Freshness::Any).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::PermissionDenied, Retry::Never));
    let text = error.to_string();
    assert!(
        text.contains("Key Vault Secrets Officer") && text.contains(OBJECT) && text.contains(CLIENT),
        "{text}"
    );
    assert_eq!(double.counts().keys.requests, 1);
}

#[tokio::test]
async fn a_missing_right_is_named_as_the_service_names_it() {
    let double = planted().await;
    let provider = Setup::on(&double).build().await;
    double.switch(|switches| switches.denied = ["set", "delete", "list"].into());
    let list = futures_util::TryStreamExt::try_collect::<Vec<_>>(provider.list()).await.map(drop);
    for (result, policy, action) in [
        (
            provider.put(&key("b"), &kek("ZGVm"), PutMode::Overwrite).await.map(drop),
            "\"set\"",
            "setSecret/action",
        ),
        (provider.delete(&key("a"), DeleteMode::Soft).await.map(drop), "\"delete\"", "secrets/delete"),
        (list, "\"list\"", "readMetadata/action"),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        let text = error.to_string();
        assert!(text.contains(policy) && text.contains(action) && !text.contains("ZGVm"), "{text}");
    }
}

#[tokio::test]
async fn the_authority_of_a_private_cloud_may_have_a_path() {
    let double = planted().await;
    double.switch(|switches| switches.authority_path = "/adfs");
    for host in [format!("{}/adfs", double.authority()), format!("{}/adfs/", double.authority())] {
        let provider = Setup::on(&double).set("AZURE_AUTHORITY_HOST", &host).build().await;
        provider.get(&key("a"), Freshness::Any).await.unwrap();
    }
}

#[tokio::test]
async fn a_refused_credential_is_named_with_its_setting_and_the_servers_words() {
    let double = planted().await;
    let provider = Setup::on(&double)
        .set("AZURE_CLIENT_SECRET", "wrong-canary")
        .set("AZURE_CREDENTIAL", "client-secret")
        .build()
        .await;
    let error = provider.get(&key("a"), Freshness::Any).await.unwrap_err();
    let text = error.to_string();
    for part in [
        "AADSTS7000215",
        "Invalid client secret provided",
        "client secret of application",
        "AZURE_CLIENT_SECRET",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test]
async fn a_deadline_says_that_entra_was_slow_and_a_probe_keeps_its_steps() {
    let double = planted().await;
    double.fault(RequestFault::new(Host::Tokens, Action::Delay(Duration::from_secs(60))).times(100));
    let provider = Setup::on(&double).build().await;
    let mut options = provider.layer_options(LayerOptions::default()).with_deadline(Duration::from_secs(2));
    options.attempt_timeout = Duration::from_millis(400);
    let provider = layer::standard(std::sync::Arc::new(provider), &options);
    let error = provider.get(&key("a"), Freshness::Any).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let text = error.to_string();
    assert!(text.contains("Entra ID") && text.contains("tries: "), "{text}");
    let probe = provider.probed().await;
    let passed: Vec<_> = probe.passed.iter().map(|(step, _)| *step).collect();
    assert_eq!(passed, ["addresses", "credential", "entra: dns", "entra: tcp", "entra: tls", "entra: tls"]);
    let not_run = vec!["dns", "tcp", "tls", "vault", "rights"];
    assert_eq!((probe.failed.unwrap().0, probe.not_run), ("token", not_run));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_in_a_storm_of_throttling() {
    let double = Azure::start().await.unwrap();
    double.switch(|switches| {
        switches.rate = Some(40);
        switches.retry_after = Some("1");
    });
    let provider = quick(Setup::on(&double).build().await);
    let tasks: Vec<_> = (0..20)
        .map(|number| {
            let provider = std::sync::Arc::clone(&provider);
            tokio::spawn(async move {
                let (name, kek) = (key(&format!("k{number}")), kek(&format!("value-{number}")));
                (provider.put(&name, &kek, PutMode::Create).await, name, kek)
            })
        })
        .collect();
    for task in tasks {
        let (result, name, kek) = task.await.unwrap();
        match result {
            Ok(_) => assert!(provider.get(&name, Freshness::Fresh).await.unwrap().kek.ct_eq(&kek)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::RateLimited, "{error}"),
        }
    }
    assert_eq!(double.counts().issued, 1);
}

#[tokio::test]
async fn entra_in_trouble_is_told_apart_from_a_wrong_credential() {
    let double = planted().await;
    let provider = Setup::on(&double).build().await;
    let reply = |status, retry_after| Action::Reply { status, retry_after, body: "<html>".to_owned() };
    for (status, wait, kind) in [
        (429, Some("7"), ErrorKind::RateLimited),
        (503, None, ErrorKind::Unavailable),
        (404, None, ErrorKind::Protocol),
    ] {
        double.fault(RequestFault::new(Host::Tokens, reply(status, wait)));
        let error = provider.get(&key("a"), Freshness::Any).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        // No write is in doubt.
        assert_ne!(error.retryable(), Retry::IfIdempotent, "{error}");
        assert_eq!(error.wait().map(|wait| wait.as_secs()), wait.map(|_| 7));
    }
    provider.get(&key("a"), Freshness::Any).await.unwrap();
    for (setting, value, number) in [
        ("AZURE_TENANT_ID", "99999999-9999-9999-9999-999999999999", "AADSTS90002"),
        ("AZURE_CLIENT_ID", "99999999-9999-9999-9999-999999999999", "AADSTS700016"),
    ] {
        let error = Setup::on(&double)
            .set(setting, value)
            .build()
            .await
            .get(&key("a"), Freshness::Any)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        assert!(error.to_string().contains(number) && error.to_string().contains(setting), "{error}");
    }
}

#[tokio::test]
async fn a_client_secret_and_a_workload_identity_are_taken_where_they_are_chosen() {
    let double = planted().await;
    let with_secret = Setup::on(&double).set("AZURE_CLIENT_SECRET", CLIENT_SECRET);
    assert!(with_secret.try_build().await.unwrap_err().to_string().contains("AZURE_CREDENTIAL"));
    let provider = with_secret.set("AZURE_CREDENTIAL", "client-secret").build().await;
    provider.get(&key("a"), Freshness::Any).await.unwrap();
    assert!(!format!("{provider:?}").contains(CLIENT_SECRET));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "federated-one\n").unwrap();
    let provider = Setup::on(&double)
        .set("AZURE_CREDENTIAL", "workload-identity")
        .set("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap())
        .build()
        .await;
    double.switch(|switches| switches.federated_token = Some("federated-one".to_owned()));
    provider.get(&key("a"), Freshness::Any).await.unwrap();
    double.switch(|switches| switches.federated_token = Some("federated-two".to_owned()));
    std::fs::write(&file, "federated-two").unwrap();
    double.roll_signing_key();
    provider.get(&key("a"), Freshness::Any).await.unwrap();
}

#[tokio::test]
async fn a_probe_says_who_we_are_and_names_the_step_that_fails() {
    let double = planted().await;
    let probe = Setup::on(&double).build().await.probed().await;
    assert!(probe.failed.is_none(), "{probe:?}");
    let mut steps: Vec<_> = probe.passed.iter().map(|(step, _)| *step).collect();
    steps.dedup();
    let entra = ["entra: dns", "entra: tcp", "entra: tls"];
    let expected =
        [&["addresses", "credential"][..], &entra, &["token", "dns", "tcp", "tls", "vault", "rights"]]
            .concat();
    assert_eq!(steps, expected);
    assert!(probe.passed.iter().any(|(_, found)| found.contains(OBJECT) && found.contains(CLIENT)));
    double.switch(|switches| switches.denied = ["get"].into());
    let probe = Setup::on(&double).build().await.probed().await;
    assert_eq!(probe.failed.unwrap().0, "rights");
    double.switch(|switches| switches.denied = ["list"].into());
    let probe = Setup::on(&double).build().await.probed().await;
    assert!(probe.failed.is_none(), "{probe:?}");
    let [(step, warning)] = probe.warned.as_slice() else { panic!("{probe:?}") };
    assert!(*step == "vault" && warning.contains("may not be listed"), "{warning}");
}
