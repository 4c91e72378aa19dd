//! Starts, uses and stops each real server: every other live test depends on these.

use std::time::{Duration, Instant};

use anyhow::Result;
use kms_testkit::servers::{Http, Identity, Kube, OpenBao, OpenBaoConfig, Raft, openbao::TokenSpec, process};
use serde_json::{Value, json};

#[tokio::test]
#[ignore = "needs OpenBao: cargo xtask it vault"]
async fn openbao_initialises_itself_and_counts_requests_and_connections() -> Result<()> {
    let bao = OpenBao::start(OpenBaoConfig::default()).await?;
    println!("OpenBao ready after {:?}", bao.took());
    let relay = bao.relay().await?;
    let rook = bao.admin().with_token(&bao.admin().rook_token().await?)?;
    // A client of its own, so that its connections are counted from the first one.
    let http =
        Http::new(relay.url(), &bao.pki().ca.cert, None)?.with_header("x-vault-token", rook.token())?;
    let mut requests = bao.requests()?;
    http.send("POST", "/v1/rook/a", &json!({"a": "1"})).await?.ok()?;
    for _ in 0..100 {
        assert_eq!(http.send("GET", "/v1/rook/a", &Value::Null).await?.text("/data/a")?, "1");
    }
    assert_eq!(relay.accepted(), 1);
    assert_eq!(requests.table()?[&("read".to_owned(), "rook/a".to_owned())], 100);
    assert_eq!(requests.count("")?, 101);
    requests.forget()?;
    rook.call("POST", "rookv2/data/a", json!({"data": {"a": "2"}, "options": {"cas": 0}})).await?;
    assert_eq!(rook.request("GET", "rookv2/data/a", Value::Null).await?.text("/data/data/a")?, "2");
    assert_eq!(rook.request("GET", "sys/policies/acl", Value::Null).await?.status, 403);
    assert_eq!(requests.count("rookv2/")?, 2);
    assert!(requests.all()?.iter().any(|request| request.refused));
    Ok(())
}

#[tokio::test]
#[ignore = "needs OpenBao: cargo xtask it vault"]
async fn openbao_administrator_sets_up_what_tests_need() -> Result<()> {
    let bao = OpenBao::start(OpenBaoConfig::default()).await?;
    let admin = bao.admin();
    let settings = json!({"token_policies": "rook", "token_ttl": "10m"});
    let (role_id, secret_id) = admin.enable_approle("approle", "rook", settings).await?;
    let login = json!({"role_id": role_id, "secret_id": secret_id});
    admin.request("POST", "auth/approle/login", login).await?.text("/auth/client_token")?;

    admin.enable_cert("cert", "osd", &bao.pki().ca.cert, "client1").await?;
    let login = |identity: &Identity| Http::new(bao.url(), &bao.pki().ca.cert, Some(identity));
    let reply =
        login(&bao.pki().client1)?.send("POST", "/v1/auth/cert/login", &json!({"name": "osd"})).await?;
    reply.text("/auth/client_token")?;
    let reply =
        login(&bao.pki().client2)?.send("POST", "/v1/auth/cert/login", &json!({"name": "osd"})).await?;
    assert_eq!(reply.status, 400);

    let inside = admin.create_namespace("ns1").await?;
    inside.call("POST", "rook/a", json!({"a": "1"})).await?;
    assert_eq!(admin.request("GET", "ns1/rook/a", Value::Null).await?.text("/data/a")?, "1");
    assert_eq!(admin.request("GET", "rook/a", Value::Null).await?.status, 404);

    let spec =
        TokenSpec { ttl: "1m", explicit_max_ttl: Some("1m"), renewable: false, ..TokenSpec::default() };
    let token = admin.create_token(spec).await?;
    let ours = admin.with_token(&token)?;
    assert_eq!(ours.request("POST", "auth/token/renew-self", json!({})).await?.status, 400);
    admin.revoke(&token).await?;
    assert_eq!(ours.request("GET", "rook/a", Value::Null).await?.status, 403);

    admin.limit_rate("few", "rook/", 2.0, "1s").await?;
    admin.rate_limit_headers(true).await?;
    let mut limited = None;
    for _ in 0..10 {
        let reply = admin.request("GET", "rook/a", Value::Null).await?;
        if reply.status == 429 {
            limited = reply.header("retry-after").map(str::to_owned);
            break;
        }
    }
    assert_eq!(limited.as_deref(), Some("0"));
    admin.lift_rate_limit("few").await?;
    Ok(())
}

#[tokio::test]
#[ignore = "needs OpenBao: cargo xtask it vault"]
async fn openbao_with_client_certificates_is_sealed_and_unsealed() -> Result<()> {
    let bao = OpenBao::start(OpenBaoConfig::mutual_tls()).await?;
    println!("OpenBao with client certificates ready after {:?}", bao.took());
    let admin = bao.admin();
    admin.call("POST", "rook/a", json!({"a": "1"})).await?;
    bao.seal().await?;
    assert_eq!(admin.request("GET", "rook/a", Value::Null).await?.status, 503);
    bao.unseal().await?;
    assert_eq!(admin.request("GET", "rook/a", Value::Null).await?.text("/data/a")?, "1");
    for identity in
        [None, Some(&bao.pki().bad_client), Some(&bao.pki().expired_client), Some(&bao.pki().server)]
    {
        let http = Http::new(bao.url(), &bao.pki().ca.cert, identity)?;
        assert!(http.send("GET", "/v1/sys/health", &Value::Null).await.is_err());
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs OpenBao: cargo xtask it vault"]
async fn openbao_shows_the_configured_certificate() -> Result<()> {
    for certificate in ["chained-server", "bad-server"] {
        let config = OpenBaoConfig { certificate, tls_max: Some("tls12"), ..OpenBaoConfig::default() };
        let bao = OpenBao::start(config).await?;
        let trusted = Http::new(bao.url(), &bao.pki().ca.cert, None)?;
        let reply = trusted.send("GET", "/v1/sys/health", &Value::Null).await;
        assert_eq!(reply.is_ok(), certificate == "chained-server");
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs OpenBao: cargo xtask it vault"]
async fn openbao_comes_back_empty_on_its_port_and_is_gone_when_dropped() -> Result<()> {
    let mut bao = OpenBao::start(OpenBaoConfig::default()).await?;
    let (port, token) = (bao.port(), bao.admin().rook_token().await?);
    bao.restart().await?;
    assert_eq!(bao.port(), port);
    assert_eq!(bao.admin().with_token(&token)?.request("GET", "rook/a", Value::Null).await?.status, 403);
    let (pid, folder) = (bao.pid(), bao.folder().to_owned());
    drop(bao);
    assert_eq!(process::start_time(pid), None);
    assert!(!folder.exists());
    Ok(())
}

#[tokio::test]
#[ignore = "needs OpenBao: cargo xtask it vault"]
async fn raft_gets_a_new_leader_when_its_leader_steps_down_or_is_killed() -> Result<()> {
    let mut raft = Raft::start().await?;
    println!("three voters after {:?}", raft.took());
    let standby = raft.standby().await?;
    raft.admin(standby).call("POST", "rook/a", json!({"a": "1"})).await?;

    let begin = Instant::now();
    raft.step_down().await?;
    println!("another leader {:?} after the step-down", begin.elapsed());

    let begin = Instant::now();
    let killed = raft.kill_leader().await?;
    let leader = raft.leader().await?;
    println!("another leader {:?} after the kill", begin.elapsed());
    assert_ne!(leader, killed);
    let admin = raft.admin(leader);
    assert_eq!(admin.request("GET", "rook/a", Value::Null).await?.text("/data/a")?, "1");
    admin.call("POST", "rook/b", json!({"b": "1"})).await?;
    raft.revive(killed).await?;
    assert_eq!(raft.admin(killed).request("PUT", "rook/c", json!({"c": "1"})).await?.status, 204);
    Ok(())
}

#[tokio::test]
#[ignore = "needs kube-apiserver: cargo xtask it kube"]
async fn kube_has_namespaces_accounts_rights_tokens_and_ceph_clusters() -> Result<()> {
    let kube = Kube::for_tests().await?;
    println!("API server ready after {:?}", kube.took());
    let place = kube.create_namespace("harness").await?;
    place.create_secret("s1", &[("dmcrypt-key", "QUJD")]).await?;
    let osd = kube.client(&place.create_osd_account().await?)?;
    let reply = osd.send("GET", &place.path("secrets/s1"), &Value::Null).await?;
    assert_eq!(reply.text("/data/dmcrypt-key")?, "UVVKRA==");
    assert_eq!(osd.send("GET", &place.path("secrets"), &Value::Null).await?.status, 403);

    let security = json!({"keyRotation": {}, "kms": {"connectionDetails": {"KMS_PROVIDER": "vault"}}});
    assert!(!place.create_ceph_cluster("rook-ceph", security).await?.is_empty());
    let wrong = json!({"kms": {"connectionDetails": {"VAULT_SKIP_VERIFY": true}}});
    assert!(place.create_ceph_cluster("wrong", wrong).await.is_err());
    Ok(())
}

#[tokio::test]
#[ignore = "needs OpenBao and kube-apiserver: cargo xtask it vault"]
async fn openbao_takes_tokens_of_service_accounts() -> Result<()> {
    let (kube, bao) = (Kube::for_tests().await?, OpenBao::start(OpenBaoConfig::default()).await?);
    let place = kube.create_namespace("vault").await?;
    let reviewer = kube.create_reviewer(&place).await?;
    place.create_service_account("rook-ceph-osd").await?;
    let admin = bao.admin();
    admin.enable_kubernetes("kubernetes", kube.url(), kube.ca(), &reviewer).await?;
    admin.kubernetes_role("kubernetes", "rook-ceph", &["rook-ceph-osd"], place.name(), json!({})).await?;
    let login = async |jwt: String| {
        let body = json!({"role": "rook-ceph", "jwt": jwt});
        anyhow::Ok(admin.request("POST", "auth/kubernetes/login", body).await?.status)
    };
    assert_eq!(login(place.create_token("rook-ceph-osd", &[]).await?).await?, 200);
    assert_eq!(login(kube.mint(&place, "rook-ceph-osd", 60).await?).await?, 200);
    assert_eq!(login(kube.mint(&place, "rook-ceph-osd", -100).await?).await?, 403);
    place.create_service_account("other").await?;
    assert_eq!(login(place.create_token("other", &[]).await?).await?, 403);
    Ok(())
}

#[tokio::test]
#[ignore = "needs OpenBao: cargo xtask it vault"]
async fn a_request_whose_reply_is_lost_was_carried_out() -> Result<()> {
    let bao = OpenBao::start(OpenBaoConfig::default()).await?;
    let relay = bao.relay().await?;
    let through = Http::new(relay.url(), &bao.pki().ca.cert, None)?
        .with_header("x-vault-token", bao.admin().token())?;
    through.send("GET", "/v1/sys/health", &Value::Null).await?.ok()?;
    relay.lose_next_reply();
    assert!(through.send("POST", "/v1/rook/a", &json!({"a": "1"})).await.is_err());
    assert_eq!(bao.admin().request("GET", "rook/a", Value::Null).await?.text("/data/a")?, "1");
    relay.freeze(true);
    let asked = through.send("GET", "/v1/rook/a", &Value::Null);
    assert!(tokio::time::timeout(Duration::from_millis(300), asked).await.is_err());
    Ok(())
}
