//! Tests on a real OpenBao: request counts, expired and revoked tokens, sealed servers, rate limits, TLS, and Rook's
//! exact layout.

use std::{sync::Arc, time::Duration};

use crate::common::{Setup, kek, key};
use kms_core::{
    DeleteMode, ErrorKind, Existing, Freshness, HistoryMode, Kek, KeyVersion, KmsProvider, KmsProviderExt,
    ProviderBuilder, PutMode, Retry, UpdateRight, layer,
};
use kms_testkit::servers::openbao::{OpenBao, OpenBaoConfig, TokenSpec};
use kms_vault::VaultBuilder;
use serde_json::{Value, json};

const ID: &str = "rook-ceph-osd-encryption-key-set1-data-0x7dwl";
const NAME: &str = "set1-data-0x7dwl";

async fn server() -> OpenBao {
    OpenBao::start(OpenBaoConfig::default()).await.unwrap()
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn keys_in_rooks_layout_are_read_and_ours_have_it() {
    let server = server().await;
    let admin = server.admin();
    for (mount, path, write) in [
        ("rook", format!("rook/{ID}"), json!({ID: "QUJD"})),
        ("rookv2", format!("rookv2/data/{ID}"), json!({"data": {ID: "QUJD"}})),
    ] {
        let vault = Setup::on(&server).await.mount(mount).build().await;
        admin.call("PUT", &path, write).await.unwrap();
        let stored = vault.get(&key(NAME), Freshness::Any).await.unwrap();
        assert_eq!(stored.kek.expose_secret_text().unwrap(), "QUJD");

        vault.put(&key(NAME), &kek("REVG"), PutMode::Update(stored.version)).await.unwrap();
        let found = admin.call("GET", &path, Value::Null).await.unwrap();
        let data = if mount == "rook" { &found["data"] } else { &found["data"]["data"] };
        assert_eq!(data, &json!({ID: "REVG"}));

        vault.delete(&key(NAME), DeleteMode::Destroy).await.unwrap();
        let gone = if mount == "rook" { path } else { format!("rookv2/metadata/{ID}") };
        assert_eq!(admin.request("GET", &gone, Value::Null).await.unwrap().status, 404);
    }
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn each_operation_is_one_request_and_a_hundred_gets_are_one_connection() {
    let server = server().await;
    let relay = server.relay().await.unwrap();
    for (mount, data, creates) in
        [("rook", format!("rook/{ID}"), 2), ("rookv2", format!("rookv2/data/{ID}"), 1)]
    {
        let before = relay.accepted();
        let vault = Setup::on(&server).await.address(&relay.url()).mount(mount).build().await;
        let mut requests = server.requests().unwrap();
        vault.put(&key(NAME), &kek("QUJD"), PutMode::Create).await.unwrap();
        assert_eq!(requests.count(&data).unwrap(), creates);
        assert_eq!(requests.count("sys/").unwrap(), 1, "one look at the mount: {:?}", requests.table());
        requests.forget().unwrap();
        for _ in 0..100 {
            vault.get(&key(NAME), Freshness::Any).await.unwrap();
        }
        assert_eq!(requests.all().unwrap().len(), 100);
        requests.forget().unwrap();
        vault.delete(&key(NAME), DeleteMode::Destroy).await.unwrap();
        assert_eq!(requests.all().unwrap().len(), 1);
        assert_eq!(relay.accepted() - before, 1);
    }
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn a_given_version_spares_the_look_at_the_mount() {
    let server = server().await;
    for (spelling, mount) in [("kv", "rook"), ("v1", "rook"), ("kv-v2", "rookv2"), ("v2", "rookv2")] {
        let vault = Setup::on(&server).await.mount(mount).set("VAULT_BACKEND", spelling).build().await;
        let requests = server.requests().unwrap();
        vault.put(&key(spelling), &kek("QUJD"), PutMode::Create).await.unwrap();
        // If only the setting says that the mount is v2, the client checks before the first write that it overwrites
        // nothing: as Rook does, by a look at the mount unless the setting is kv-v2.
        assert_eq!(requests.all().unwrap().len(), 2, "{spelling}: {:?}", requests.table());
        vault.get(&key(spelling), Freshness::Any).await.unwrap();
        vault.put(&key(spelling), &kek("REVG"), PutMode::Overwrite).await.unwrap();
        vault.delete(&key(spelling), DeleteMode::Destroy).await.unwrap();
        assert_eq!(requests.all().unwrap().len(), 5, "{spelling}: {:?}", requests.table());
        let looks = if spelling == "v2" { 1 } else { 0 };
        assert_eq!(requests.count("sys/").unwrap(), looks, "{spelling}");
    }
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn a_version_that_disagrees_with_the_mount_finds_rooks_keys_and_puts_ours_where_rook_looks() {
    let server = server().await;
    let admin = server.admin();
    // The setting, the mount, and the place where Rook's client reads and writes with them (rook-behaviour §4.4).
    for (spelling, mount, nested, folder, shown) in [
        ("v1", "rookv2", true, "rookv2/data", "rookv2/, KV v2"),
        ("kv", "rookv2", true, "rookv2/data", "rookv2/, KV v2"),
        ("nonsense", "rookv2", true, "rookv2/data", "rookv2/, KV v2"),
        ("v2", "rook", false, "rook", "rook/, KV v1"),
        ("nonsense", "rook", false, "rook", "rook/, KV v1"),
        ("kv-v2", "rook", true, "rook/data", "rook/data/, KV v1"),
    ] {
        let fresh =
            async || Setup::on(&server).await.mount(mount).set("VAULT_BACKEND", spelling).build().await;
        let case = format!("{spelling} on {mount}");
        let theirs = |text: &str| match nested {
            true => json!({"data": {ID: text}}),
            false => json!({ID: text}),
        };
        let path = format!("{folder}/{ID}");
        let stored = async || {
            let found = admin.call("GET", &path, Value::Null).await.unwrap();
            let data = if nested { &found["data"]["data"] } else { &found["data"] };
            assert_eq!(data.as_object().unwrap().len(), 1, "{case}");
            data[ID].as_str().unwrap().to_owned()
        };
        // A key of Rook.
        admin.call("PUT", &path, theirs("QUJD")).await.unwrap();
        let found = fresh().await.get(&key(NAME), Freshness::Any).await.unwrap();
        assert_eq!(found.kek.expose_secret_text().unwrap(), "QUJD", "{case}");
        let error = fresh().await.put(&key(NAME), &kek("REVG"), PutMode::Create).await.unwrap_err();
        assert_eq!(error.existing(), Some(Existing::Different), "{case}: {error}");
        let listed: Vec<_> = futures_util::TryStreamExt::try_collect(fresh().await.list()).await.unwrap();
        assert_eq!(listed.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), [NAME], "{case}");
        assert_eq!(
            fresh().await.history(&key(NAME), HistoryMode::ReadOnly).await.unwrap().len(),
            1,
            "{case}"
        );
        let mode = PutMode::Update(found.version);
        fresh().await.put(&key(NAME), &kek("REVG"), mode).await.unwrap();
        assert_eq!(stored().await, "REVG", "{case}");
        fresh().await.delete(&key(NAME), DeleteMode::Destroy).await.unwrap();
        assert_eq!(admin.request("GET", &path, Value::Null).await.unwrap().status, 404, "{case}");
        let error = fresh().await.delete(&key(NAME), DeleteMode::Destroy).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{case}: {error}");
        let error = fresh().await.get(&key(NAME), Freshness::Fresh).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{case}: {error}");
        // Keys of ours.
        for (mode, text) in [(PutMode::Create, "R0hJ"), (PutMode::Overwrite, "SktM")] {
            fresh().await.put(&key(NAME), &kek(text), mode).await.unwrap();
            assert_eq!(stored().await, text, "{case}");
        }
        let probe = fresh().await.probed().await;
        assert!(probe.failed.is_none(), "{case}: {probe:?}");
        let found = probe.passed.iter().find(|(step, _)| *step == "mount").unwrap();
        assert!(found.1.starts_with(shown), "{case}: {found:?}");
        fresh().await.delete(&key(NAME), DeleteMode::Destroy).await.unwrap();
        let empty: Vec<_> = futures_util::TryStreamExt::try_collect(fresh().await.list()).await.unwrap();
        assert!(empty.is_empty(), "{case}");
        // Nothing is left in another place.
        for other in ["rook/", "rook/data/", "rookv2/metadata/"] {
            let left = admin.request("LIST", other, Value::Null).await.unwrap();
            assert_eq!(left.status, 404, "{case}: {other}");
        }
    }
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn a_list_is_whole_under_a_policy_that_limits_its_pages() {
    let server = server().await;
    let policy = r#"
        path "rook/" { capabilities = ["list"] pagination_limit = 2 }
        path "rookv2/metadata/" { capabilities = ["list"] pagination_limit = 2 }
        path "rookv2/metadata/*" { capabilities = ["read"] }"#;
    server.admin().put_policy("pages", policy).await.unwrap();
    let spec = TokenSpec { policies: &["pages"], ..TokenSpec::default() };
    let token = server.admin().create_token(spec).await.unwrap();
    for mount in ["rook", "rookv2"] {
        let writer = Setup::on(&server).await.mount(mount).build().await;
        for name in ["a", "b", "c", "d", "e"] {
            writer.put(&key(name), &kek("QUJD"), PutMode::Create).await.unwrap();
        }
        let reader = Setup::on(&server).await.token(&token).mount(mount);
        let reader = reader.set("VAULT_BACKEND", if mount == "rook" { "v1" } else { "v2" }).build().await;
        let listed: Vec<_> = futures_util::TryStreamExt::try_collect(reader.list()).await.unwrap();
        let mut names: Vec<_> = listed.iter().map(|info| info.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "b", "c", "d", "e"], "{mount}");
    }
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn a_right_to_delete_is_enough_to_delete() {
    let server = server().await;
    let admin = server.admin();
    let policy = r#"
        path "rook/*" { capabilities = ["delete"] }
        path "rookv2/metadata/*" { capabilities = ["delete"] }
        path "auth/token/lookup-self" { capabilities = ["deny"] }"#;
    admin.put_policy("deleter", policy).await.unwrap();
    let spec = TokenSpec { policies: &["deleter"], ..TokenSpec::default() };
    let token = admin.create_token(spec).await.unwrap();
    for (mount, path, write) in [
        ("rook", format!("rook/{ID}"), json!({ID: "QUJD"})),
        ("rookv2", format!("rookv2/data/{ID}"), json!({"data": {ID: "QUJD"}})),
    ] {
        for spelling in ["", if mount == "rook" { "kv" } else { "kv-v2" }] {
            admin.call("PUT", &path, write.clone()).await.unwrap();
            let setup = Setup::on(&server).await.token(&token).mount(mount).set("VAULT_BACKEND", spelling);
            setup.build().await.delete(&key(NAME), DeleteMode::Destroy).await.unwrap();
            let gone = admin.request("GET", &path, Value::Null).await.unwrap().status;
            assert_eq!(gone, 404, "{mount} {spelling}");
        }
    }
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn mounts_that_are_missing_or_no_kv_are_told_apart() {
    let server = server().await;
    server.admin().call("POST", "sys/mounts/pki", json!({"type": "pki"})).await.unwrap();
    let policy = r#"path "*" { capabilities = ["read", "list", "create", "update"] }"#;
    server.admin().put_policy("wide", policy).await.unwrap();
    let spec = TokenSpec { policies: &["wide"], ..TokenSpec::default() };
    let token = server.admin().create_token(spec).await.unwrap();
    for (mount, why) in [
        ("pki", "not a KV secrets engine; set it to the path of one"),
        ("nosuch", "no mount at VAULT_BACKEND_PATH; set it to the path of a KV mount, or enable"),
        ("rookv2/data/", "set VAULT_BACKEND_PATH: rookv2"),
        ("rook/folder", "set VAULT_BACKEND_PATH: rook"),
    ] {
        let setup = Setup::on(&server).await.token(&token).mount(mount);
        let error = setup.build().await.get(&key(NAME), Freshness::Any).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{error}");
        assert!(error.to_string().contains(why), "{error}");
        // A check of the settings alone finds it too, whatever they say about the version.
        for backend in ["", "v1", "v2"] {
            let probe = setup.clone().set("VAULT_BACKEND", backend).build().await.probed().await;
            let (step, error) = probe.failed.expect(mount);
            assert!(step == "mount" && error.to_string().contains(why), "{backend:?}: {step}: {error}");
        }
    }
    let vault = Setup::on(&server).await.mount("rook").set("VAULT_NAMESPACE", "nosuch").build().await;
    let error = vault.get(&key(NAME), Freshness::Any).await.unwrap_err();
    assert!(error.to_string().contains("VAULT_NAMESPACE"), "{error}");
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn the_version_is_found_without_the_right_to_list_mounts() {
    let server = server().await;
    let policy = r#"path "rookv2/data/*" { capabilities = ["create", "read", "update"] }"#;
    server.admin().put_policy("least", policy).await.unwrap();
    let spec = TokenSpec { policies: &["least"], ..TokenSpec::default() };
    let token = server.admin().create_token(spec).await.unwrap();
    let vault = Setup::on(&server).await.token(&token).mount("rookv2").build().await;
    vault.put(&key(NAME), &kek("QUJD"), PutMode::Create).await.unwrap();
    let other = Setup::on(&server).await.token(&token).mount("rook").build().await;
    let error = other.get(&key(NAME), Freshness::Any).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    for advice in ["to do: check VAULT_BACKEND_PATH", "set VAULT_BACKEND to v1 or v2"] {
        assert!(error.to_string().contains(advice), "{error}");
    }
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn a_denied_right_and_a_dead_token_are_told_apart() {
    let server = server().await;
    let policy = r#"path "rookv2/data/*" { capabilities = ["read"] }"#;
    server.admin().put_policy("reader", policy).await.unwrap();
    let spec = TokenSpec { policies: &["reader"], ..TokenSpec::default() };
    let token = server.admin().create_token(spec).await.unwrap();
    let vault = Setup::on(&server).await.token(&token).mount("rookv2").build().await;
    let error = vault.put(&key(NAME), &kek("canary-kek"), PutMode::Create).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let text = error.to_string();
    assert!(text.contains("the token is valid") && text.contains("reader") && text.contains(ID), "{text}");
    assert!(text.contains("needed capability: create"), "{text}");
    assert!(!text.contains("canary") && !text.contains(&token), "{text}");

    server.admin().revoke(&token).await.unwrap();
    let error = vault.get(&key(NAME), Freshness::Any).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Unauthenticated, Retry::Never));
    for part in ["revoked or expired", "set a valid token (tokenSecretName or VAULT_TOKEN)"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn fifty_callers_with_a_revoked_token_cause_one_login() {
    let server = server().await;
    let settings = json!({"token_policies": "rook", "token_ttl": "10m"});
    let (role_id, secret_id) = server.admin().enable_approle("approle", "r", settings).await.unwrap();
    let vault = Setup::on(&server)
        .await
        .mount("rookv2")
        .set("VAULT_AUTH_METHOD", "approle")
        .set("VAULT_APPROLE_ROLE_ID", &role_id)
        .set("VAULT_APPROLE_SECRET_ID", &secret_id)
        .build()
        .await;
    let vault = Arc::new(vault);
    let mut requests = server.requests().unwrap();
    vault.put(&key(NAME), &kek("QUJD"), PutMode::Create).await.unwrap();
    assert_eq!(requests.logins().unwrap(), 1);
    // Revoke all tokens of the method at once, as an operator would do after an incident.
    server.admin().call("PUT", "sys/leases/revoke-prefix/auth/approle", json!({})).await.unwrap();
    requests.forget().unwrap();
    let calls = (0..50).map(|_| {
        let vault = Arc::clone(&vault);
        tokio::spawn(async move { vault.get(&key(NAME), Freshness::Any).await.map(|_| ()) })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().unwrap();
    }
    assert_eq!(requests.logins().unwrap(), 1, "{:?}", requests.table());
    assert_eq!(requests.count("auth/token/lookup-self").unwrap(), 1);
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn a_token_is_renewed_while_that_helps_and_then_made_anew() {
    let server = server().await;
    let settings = json!({"token_policies": "rook", "token_ttl": "60s", "token_max_ttl": "150s"});
    let (role_id, secret_id) = server.admin().enable_approle("approle", "r", settings).await.unwrap();
    let vault = Setup::on(&server)
        .await
        .mount("rook")
        .set("VAULT_AUTH_METHOD", "approle")
        .set("VAULT_APPROLE_ROLE_ID", &role_id)
        .set("VAULT_APPROLE_SECRET_ID", &secret_id)
        .build()
        .await;
    let requests = server.requests().unwrap();
    vault.put(&key(NAME), &kek("QUJD"), PutMode::Create).await.unwrap();
    // Our clock jumps and the server's does not. To the server the token is always new, so this test shows only when
    // the client decides to renew.
    for _ in 0..30 {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(10)).await;
        tokio::time::resume();
        vault.get(&key(NAME), Freshness::Any).await.unwrap();
    }
    let renewals = requests.count("auth/token/renew-self").unwrap();
    assert!(renewals >= 5, "renewed {renewals} times");
    assert!(requests.logins().unwrap() <= 3, "{:?}", requests.table());
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn a_token_from_a_secret_is_looked_up_at_once_if_that_is_asked_for_and_once() {
    let server = server().await;
    let setup = Setup::on(&server).await.mount("rookv2").set("VAULT_BACKEND", "v2").look_up_token();
    let vault = setup.build().await;
    let requests = server.requests().unwrap();
    vault.put(&key(NAME), &kek("QUJD"), PutMode::Create).await.unwrap();
    let _stored = vault.get(&key(NAME), Freshness::Any).await.unwrap();
    assert_eq!(requests.count("auth/token/lookup-self").unwrap(), 1);
    // A token that may not look itself up works all the same.
    let admin = server.admin();
    let policy = r#"
        path "rookv2/data/*" { capabilities = ["read"] }
        path "auth/token/lookup-self" { capabilities = ["deny"] }"#;
    admin.put_policy("reader", policy).await.unwrap();
    let spec = TokenSpec { policies: &["reader"], ..TokenSpec::default() };
    let vault = setup.token(&admin.create_token(spec).await.unwrap()).build().await;
    let _stored = vault.get(&key(NAME), Freshness::Any).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn a_token_from_a_secret_is_looked_up_and_renewed_when_it_has_been_used_for_a_while() {
    let server = server().await;
    let vault = Setup::on(&server).await.mount("rook").build().await;
    let requests = server.requests().unwrap();
    vault.put(&key(NAME), &kek("QUJD"), PutMode::Create).await.unwrap();
    assert_eq!(requests.count("auth/").unwrap(), 0, "nothing is asked at first");
    for seconds in [61, 3000] {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
        vault.get(&key(NAME), Freshness::Any).await.unwrap();
    }
    assert_eq!(requests.count("auth/token/lookup-self").unwrap(), 1);
    assert_eq!(requests.count("auth/token/renew-self").unwrap(), 1);
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn approle_and_certificates_log_in_and_wrong_ones_are_explained() {
    let server = OpenBao::start(OpenBaoConfig::mutual_tls()).await.unwrap();
    let admin = server.admin();
    let settings = json!({"token_policies": "rook"});
    let (role_id, _) = admin.enable_approle("corp-approle", "r", settings).await.unwrap();
    admin.enable_cert("cert", "c1", &server.pki().ca.cert, "client1").await.unwrap();
    let certificate = Setup::on(&server).await.mount("rook").set("VAULT_AUTH_METHOD", "cert");
    let named = certificate.clone().set("VAULT_AUTH_CERT_NAME", "c1").build().await;
    named.put(&key(NAME), &kek("QUJD"), PutMode::Create).await.unwrap();
    let other = certificate.client("client2").build().await;
    let error = other.get(&key(NAME), Freshness::Any).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    let wrong = Setup::on(&server)
        .await
        .mount("rook")
        .set("VAULT_AUTH_METHOD", "approle")
        .set("VAULT_AUTH_MOUNT_PATH", "/corp-approle/")
        .set("VAULT_APPROLE_ROLE_ID", &role_id)
        .set("VAULT_APPROLE_SECRET_ID", "canary-secret-id")
        .build()
        .await;
    let error = wrong.get(&key(NAME), Freshness::Any).await.unwrap_err();
    let text = format!("{error}{error:?}");
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{text}");
    assert!(text.contains("corp-approle") && text.contains(&role_id) && !text.contains("canary"), "{text}");
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn login_and_data_may_be_in_different_namespaces() {
    let server = server().await;
    let team = server.admin().create_namespace("team").await.unwrap();
    team.mount_kv("kv/ver2", 2).await.unwrap();
    let policy = r#"path "team/kv/ver2/*" { capabilities = ["create", "read", "update", "delete", "list"] }"#;
    server.admin().put_policy("team", policy).await.unwrap();
    let settings = json!({"token_policies": "team"});
    let (role_id, secret_id) = server.admin().enable_approle("approle", "r", settings).await.unwrap();
    let setup = Setup::on(&server)
        .await
        .mount("kv/ver2")
        .set("VAULT_NAMESPACE", "team")
        .set("VAULT_AUTH_METHOD", "approle")
        .set("VAULT_APPROLE_ROLE_ID", &role_id)
        .set("VAULT_APPROLE_SECRET_ID", &secret_id);
    let error = setup.build().await.get(&key(NAME), Freshness::Any).await.unwrap_err();
    assert_eq!(error.failed_operation(), Some("log in"), "{error}");
    // The root namespace has no name that a header could carry, so it is named by a sub-namespace's parent.
    let vault = setup.set("VAULT_AUTH_NAMESPACE", "root").build().await;
    vault.put(&key(NAME), &kek("QUJD"), PutMode::Create).await.unwrap();
    let found = server.admin().call("GET", &format!("team/kv/ver2/data/{ID}"), Value::Null).await.unwrap();
    assert_eq!(found["data"]["data"][ID], "QUJD", "the path prefix of Rook reaches the same object");
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn a_sealed_server_is_called_sealed_and_works_again_when_it_is_unsealed() {
    let server = OpenBao::start(OpenBaoConfig::mutual_tls()).await.unwrap();
    let vault: Arc<dyn KmsProvider> = Arc::new(Setup::on(&server).await.mount("rook").build().await);
    vault.put(&key(NAME), &kek("QUJD"), PutMode::Create).await.unwrap();
    server.seal().await.unwrap();
    let error = vault.get(&key(NAME), Freshness::Any).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Unavailable, Retry::Always), "{error}");
    assert!(error.to_string().contains("sealed"), "{error}");
    let probe = vault.probed().await;
    let (step, error) = probe.failed.unwrap();
    assert_eq!(step, "server");
    assert!(error.to_string().contains("sealed"), "{error}");
    assert_eq!(probe.not_run, ["login", "mount", "rights"]);

    let patient = layer::standard(Arc::clone(&vault), &layer::LayerOptions::default());
    let get = tokio::spawn(async move { patient.get(&key(NAME), Freshness::Any).await });
    server.unseal().await.unwrap();
    assert_eq!(get.await.unwrap().unwrap().kek.expose_secret_text().unwrap(), "QUJD");
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn a_rate_limit_is_waited_for_even_if_it_says_zero() {
    let server = server().await;
    server.admin().rate_limit_headers(true).await.unwrap();
    let setup = Setup::on(&server).await.mount("rook").set("VAULT_BACKEND", "v1");
    let vault: Arc<dyn KmsProvider> = Arc::new(setup.build().await);
    vault.put(&key(NAME), &kek("QUJD"), PutMode::Create).await.unwrap();
    server.admin().limit_rate("q1", "rook/", 2.0, "1s").await.unwrap();
    let mut limited = None;
    for _ in 0..10 {
        if let Err(error) = vault.get(&key(NAME), Freshness::Any).await {
            limited = Some(error);
            break;
        }
    }
    let error = limited.expect("ten gets at once are over the limit of two a second");
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::RateLimited, Retry::Always));
    assert_eq!(error.wait(), Some(Duration::ZERO));
    let patient = layer::standard(vault, &layer::LayerOptions::default());
    for _ in 0..4 {
        patient.get(&key(NAME), Freshness::Any).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn deleted_names_are_created_again_and_superseded_versions_destroyed() {
    let server = server().await;
    let vault = Setup::on(&server).await.mount("rookv2").build().await;
    let name = key(NAME);
    vault.put(&name, &kek("one"), PutMode::Create).await.unwrap();
    vault.delete(&name, DeleteMode::Soft).await.unwrap();
    let error = vault.get(&name, Freshness::Any).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("undelete"), "{error}");
    assert_eq!(vault.put(&name, &kek("two"), PutMode::Create).await.unwrap(), KeyVersion::new("2"));
    let current = vault.put(&name, &kek("three"), PutMode::Update(KeyVersion::new("2"))).await.unwrap();
    assert_eq!(vault.retire_superseded(&name, &current).await.unwrap(), 2);
    assert_eq!(vault.retire_superseded(&name, &current).await.unwrap(), 0);
    let metadata = server.admin().call("GET", &format!("rookv2/metadata/{ID}"), Value::Null).await.unwrap();
    assert_eq!(metadata["data"]["versions"]["2"]["destroyed"], true);
    assert_eq!(vault.get(&name, Freshness::Any).await.unwrap().kek.expose_secret_text().unwrap(), "three");
    vault.delete(&name, DeleteMode::Destroy).await.unwrap();
    let gone = server.admin().request("GET", &format!("rookv2/metadata/{ID}"), Value::Null).await.unwrap();
    assert_eq!(gone.status, 404);
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn what_others_keep_in_the_mount_is_not_ours() {
    let server = server().await;
    for (mount, path, body) in [
        ("rook", "rook/other", json!({"a": 1})),
        ("rookv2", "rookv2/data/other", json!({"data": {"a": 1}})),
        ("rook", "rook/rook-ceph-osd-encryption-key-folder/x", json!({"a": 1})),
        (
            "rook",
            "rook/rook-ceph-osd-encryption-key-broken",
            json!({"rook-ceph-osd-encryption-key-broken": 17}),
        ),
    ] {
        server.admin().call("POST", path, body).await.unwrap();
        let vault = Setup::on(&server).await.mount(mount).build().await;
        let listed: Vec<_> = futures_util::TryStreamExt::try_collect(vault.list()).await.unwrap();
        let listed: Vec<_> = listed.iter().map(|info: &kms_core::KeyInfo| info.name.as_str()).collect();
        assert!(listed.iter().all(|name| *name == "broken"), "{path}: {listed:?}");
    }
    let vault = Setup::on(&server).await.mount("rook").build().await;
    let error = vault.get(&key("broken"), Freshness::Any).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    let error = vault.put(&key("broken"), &kek("QUJD"), PutMode::Create).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.existing()),
        (ErrorKind::AlreadyExists, Some(Existing::Unknown)),
        "{error}"
    );
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn each_failure_of_tls_has_its_own_error() {
    for tls_max in [None, Some("tls12")] {
        let config = OpenBaoConfig { tls_max, ..OpenBaoConfig::mutual_tls() };
        let server = OpenBao::start(config).await.unwrap();
        let good = Setup::on(&server).await.mount("rook");
        good.build().await.put(&key(NAME), &kek("QUJD"), PutMode::Create).await.unwrap();
        for setup in [
            good.clone().no_client(),
            good.clone().client("bad-client"),
            good.clone().client("expired-client"),
        ] {
            let error = setup.build().await.get(&key(NAME), Freshness::Any).await.unwrap_err();
            // On TLS 1.3 the connection is often closed before the client reads the alert.
            assert!(
                error.kind() == ErrorKind::Unauthenticated
                    || error.to_string().contains("client certificate"),
                "{tls_max:?}: {error:?}"
            );
        }
        let wrong_ca = good.clone().set("VAULT_CACERT", "bad-ca").build().await;
        let error = wrong_ca.get(&key(NAME), Freshness::Any).await.unwrap_err();
        assert_eq!((error.kind(), error.retryable()), (ErrorKind::ConfigInvalid, Retry::Never));
        assert!(error.to_string().contains("it is not among ours: VAULT_CACERT holds"), "{error}");

        let named = good.clone().set("VAULT_TLS_SERVER_NAME", "v1.vault.test").build().await;
        named.get(&key(NAME), Freshness::Any).await.unwrap();
        let misnamed = good.clone().set("VAULT_TLS_SERVER_NAME", "other.example").build().await;
        let error = misnamed.get(&key(NAME), Freshness::Any).await.unwrap_err();
        assert!(error.to_string().contains("it is for other names"), "{error}");

        let skipped =
            good.clone().set("VAULT_CACERT", "bad-ca").set("VAULT_SKIP_VERIFY", "true").build().await;
        skipped.get(&key(NAME), Freshness::Any).await.unwrap();

        let plain = server.url().replace("https://", "http://");
        let plain = good.clone().address(&plain).set("VAULT_ALLOW_HTTP", "true").build().await;
        let error = plain.get(&key(NAME), Freshness::Any).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Unavailable), "{error:?}");
    }
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn lost_connections_and_lost_answers_lose_no_key_and_double_none() {
    let server = server().await;
    let relay = server.relay().await.unwrap();
    let vault = Setup::on(&server).await.address(&relay.url()).mount("rookv2").build().await;
    let vault = layer::standard(Arc::new(vault), &layer::LayerOptions::default());
    vault.get(&key("none"), Freshness::Any).await.unwrap_err();
    for round in 0..20 {
        let name = key(&format!("lost-{round}"));
        relay.lose_next_reply();
        let version = vault.put(&name, &kek("QUJD"), PutMode::Create).await.unwrap();
        assert_eq!(version, KeyVersion::new("1"), "stored once");
        relay.lose_next_reply();
        let second = vault.put(&name, &kek("REVG"), PutMode::Update(version)).await.unwrap();
        assert_eq!(second, KeyVersion::new("2"), "updated once");
        relay.cut();
        assert_eq!(vault.get(&name, Freshness::Any).await.unwrap().kek.expose_secret_text().unwrap(), "REVG");
        relay.lose_next_reply();
        vault.delete(&name, DeleteMode::Destroy).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn a_server_that_stays_silent_is_given_up_within_the_deadline() {
    let server = server().await;
    let relay = server.relay().await.unwrap();
    let setup = Setup::on(&server).await.address(&relay.url()).mount("rook");
    let vault = setup.set("VAULT_CLIENT_TIMEOUT", "300ms").set("VAULT_MAX_RETRIES", "2").build().await;
    let options = VaultBuilder::layer_options(&vault, layer::LayerOptions::default());
    let vault = layer::standard(Arc::new(vault), &options);
    vault.put(&key(NAME), &kek("QUJD"), PutMode::Create).await.unwrap();
    relay.freeze(true);
    let start = std::time::Instant::now();
    let error = vault.get(&key(NAME), Freshness::Any).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Timeout, Retry::Never), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(10));
    relay.freeze(false);
    relay.cut();
    vault.get(&key(NAME), Freshness::Any).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn keys_that_will_be_deleted_some_day_are_there_until_then() {
    let server = server().await;
    server.admin().call("POST", "rookv2/config", json!({"delete_version_after": "720h"})).await.unwrap();
    let vault = Setup::on(&server).await.mount("rookv2").build().await;
    vault.put(&key(NAME), &kek("QUJD"), PutMode::Create).await.unwrap();
    let listed: Vec<kms_core::KeyInfo> = futures_util::TryStreamExt::try_collect(vault.list()).await.unwrap();
    assert_eq!(listed.len(), 1);
    let other = Setup::on(&server).await.mount("rookv2").build().await;
    other.delete(&key(NAME), DeleteMode::Soft).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn an_empty_value_is_a_free_place_and_a_line_break_is_part_of_the_passphrase() {
    let server = server().await;
    for (mount, path, wrap) in
        [("rook", format!("rook/{ID}"), false), ("rookv2", format!("rookv2/data/{ID}"), true)]
    {
        let body = |value: &str| if wrap { json!({"data": {ID: value}}) } else { json!({ID: value}) };
        let vault = Setup::on(&server).await.mount(mount).build().await;
        server.admin().call("PUT", &path, body("")).await.unwrap();
        let error = vault.get(&key(NAME), Freshness::Any).await.unwrap_err();
        assert!(error.to_string().contains("empty"), "{error}");
        vault.put(&key(NAME), &kek("QUJD"), PutMode::Create).await.unwrap();
        server.admin().call("PUT", &path, body("QUJD\n")).await.unwrap();
        assert_eq!(
            vault.get(&key(NAME), Freshness::Any).await.unwrap().kek.expose_secret_text().unwrap(),
            "QUJD\n"
        );
    }
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn a_token_without_the_default_policy_works_and_passes_a_probe() {
    let server = server().await;
    let spec = json!({"policies": ["rook"], "no_default_policy": true});
    let made = server.admin().call("POST", "auth/token/create", spec).await.unwrap();
    let token = made["auth"]["client_token"].as_str().unwrap();
    let vault = Setup::on(&server).await.token(token).mount("rookv2").build().await;
    let probe = vault.probed().await;
    assert!(probe.failed.is_none(), "{probe:?}");
    assert_eq!(vault.may_update(&[key(NAME)]).await.unwrap(), [UpdateRight::Unknown]);
    vault.put(&key(NAME), &kek("QUJD"), PutMode::Create).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn a_policy_that_only_reads_passes_a_probe_which_says_what_is_missing() {
    let server = server().await;
    server.admin().put_policy("reader", r#"path "rookv2/data/*" { capabilities = ["read"] }"#).await.unwrap();
    let spec = TokenSpec { policies: &["reader"], ..TokenSpec::default() };
    let token = server.admin().create_token(spec).await.unwrap();
    let probe = Setup::on(&server).await.token(&token).mount("rookv2").build().await.probed().await;
    assert!(probe.failed.is_none(), "{probe:?}");
    let warnings: Vec<_> = probe.warned.iter().filter(|(step, _)| *step == "rights").collect();
    assert!(format!("{warnings:?}").contains("create, update on rookv2/data/"), "{probe:?}");
    assert!(probe.cannot_destroy, "{probe:?}");
    // A token that ends within a week and cannot be renewed.
    let spec = TokenSpec {
        policies: &["reader", "default"],
        ttl: "47h30m",
        renewable: false,
        ..TokenSpec::default()
    };
    let token = server.admin().create_token(spec).await.unwrap();
    let probe = Setup::on(&server).await.token(&token).mount("rookv2").build().await.probed().await;
    assert!(
        probe
            .warned
            .iter()
            .any(|(step, text)| *step == "login" && text.contains("ends in 47 h and cannot be renewed")),
        "{probe:?}"
    );
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn the_right_to_update_is_known_key_by_key_before_anything_is_written() {
    let server = server().await;
    let names = [key("mine"), key("theirs")];
    let ids = names.each_ref().map(|name| format!("rook-ceph-osd-encryption-key-{name}"));
    for (mount, prefix) in [("rook", "rook/"), ("rookv2", "rookv2/data/")] {
        let policy = format!(
            r#"path "{prefix}{}" {{ capabilities = ["read", "update"] }} path "{prefix}{}" {{ capabilities = ["read"] }}"#,
            ids[0], ids[1]
        );
        server.admin().put_policy(mount, &policy).await.unwrap();
        let spec = TokenSpec { policies: &[mount], ..TokenSpec::default() };
        let token = server.admin().create_token(spec).await.unwrap();
        // Also with a setting that disagrees with the mount.
        for backend in ["", "v1", "v2"] {
            let setup = Setup::on(&server).await.token(&token).mount(mount).set("VAULT_BACKEND", backend);
            let rights = setup.build().await.may_update(&names).await.unwrap();
            assert_eq!(rights, [UpdateRight::Granted, UpdateRight::Denied], "{backend:?} on {mount}");
        }
    }
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn a_probe_shows_what_it_found_and_what_is_missing() {
    let server = server().await;
    let vault = Setup::on(&server).await.mount("rookv2").build().await;
    let probe = vault.probed().await;
    assert!(probe.failed.is_none() && !probe.cannot_destroy, "{probe:?}");
    let text = format!("{probe:?}");
    for found in
        ["token", "version 2.7.2, active", "rook", "rookv2/, KV v2", "create, read, update, delete, list"]
    {
        assert!(text.contains(found), "{found:?} is not in {text}");
    }
    let none = TokenSpec { policies: &["default"], ..TokenSpec::default() };
    let token = server.admin().create_token(none).await.unwrap();
    let poor = Setup::on(&server).await.token(&token).mount("rookv2").build().await;
    let (step, error) = poor.probed().await.failed.unwrap();
    assert_eq!((step, error.kind()), ("mount", ErrorKind::PermissionDenied), "{error}");
    let wrong = Setup::on(&server).await.token("s.wrong-canary").mount("rookv2").build().await;
    let (step, error) = wrong.probed().await.failed.unwrap();
    assert_eq!((step, error.kind()), ("login", ErrorKind::Unauthenticated), "{error}");
    let away = Setup::on(&server).await.address("https://127.0.0.1:9").build().await;
    let (step, error) = away.probed().await.failed.unwrap();
    assert_eq!((step, error.kind()), ("tcp", ErrorKind::Unavailable), "{error}");
    let unknown = Setup::on(&server).await.address("https://vault.invalid:8200").build().await;
    let (step, error) = unknown.probed().await.failed.unwrap();
    assert!(step == "dns" && error.to_string().contains("could not be resolved"), "{step}: {error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn fifty_racers_on_two_clients_get_the_same_kek() {
    let server = server().await;
    let setup = Setup::on(&server).await.mount("rookv2");
    let clients = [Arc::new(setup.build().await), Arc::new(setup.build().await)];
    let racers: Vec<_> = (0..50)
        .map(|number| {
            let vault = Arc::clone(&clients[number % 2]);
            tokio::spawn(async move { vault.ensure(&key(NAME), Kek::generate().unwrap()).await.unwrap() })
        })
        .collect();
    let mut created = 0;
    let mut fingerprints = std::collections::BTreeSet::new();
    for racer in racers {
        let ensured = racer.await.unwrap();
        created += usize::from(ensured.created);
        fingerprints.insert(ensured.stored.kek.fingerprint());
    }
    assert_eq!((created, fingerprints.len()), (1, 1));
}
