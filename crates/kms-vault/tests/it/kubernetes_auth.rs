//! Logins with the token of a service account, reviewed by a real API server.

use crate::common::{Setup, kek, key};
use kms_core::{ErrorKind, Freshness, KmsProvider, KmsProviderExt, PutMode};
use kms_testkit::servers::{
    kube::{Kube, KubeNamespace},
    openbao::{OpenBao, OpenBaoConfig},
};
use serde_json::json;

struct Cluster {
    kube: Kube,
    place: KubeNamespace,
    server: OpenBao,
    folder: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let kube = Kube::for_tests().await.unwrap();
        let place = kube.create_namespace("rook-ceph").await.unwrap();
        for account in ["rook-ceph-osd", "default"] {
            place.create_service_account(account).await.unwrap();
        }
        let reviewer = kube.create_reviewer(&place).await.unwrap();
        let server = OpenBao::start(OpenBaoConfig::default()).await.unwrap();
        let admin = server.admin();
        admin.enable_kubernetes("kubernetes", kube.url(), kube.ca(), &reviewer).await.unwrap();
        let extra = json!({"ttl": "20m"});
        admin
            .kubernetes_role("kubernetes", "rook-ceph", &["rook-ceph-osd"], place.name(), extra)
            .await
            .unwrap();
        let extra = json!({"audience": "vault"});
        admin
            .kubernetes_role("kubernetes", "audience", &["rook-ceph-osd"], place.name(), extra)
            .await
            .unwrap();
        Self { kube, place, server, folder: tempfile::tempdir().unwrap() }
    }

    async fn jwt(&self, account: &str, audience: Option<&str>) -> String {
        let mut spec = json!({"spec": {"expirationSeconds": 3600}});
        if let Some(audience) = audience {
            spec["spec"]["audiences"] = json!([audience]);
        }
        let path = self.place.path(&format!("serviceaccounts/{account}/token"));
        let answer = self.place.call("POST", &path, spec).await.unwrap();
        answer["status"]["token"].as_str().unwrap().to_owned()
    }

    fn write_token(&self, jwt: &str) -> String {
        let path = self.folder.path().join("token");
        std::fs::write(&path, jwt).unwrap();
        path.display().to_string()
    }

    async fn setup(&self, role: &str) -> Setup<'_> {
        Setup::on(&self.server)
            .await
            .mount("rookv2")
            .set("VAULT_AUTH_METHOD", "kubernetes")
            .set("VAULT_AUTH_KUBERNETES_ROLE", role)
            .set("VAULT_AUTH_KUBERNETES_TOKEN_PATH", &self.write_token(""))
    }
}

#[tokio::test]
#[ignore = "needs a Vault server and a Kubernetes API server: cargo xtask it vault"]
async fn a_service_account_logs_in_once_and_its_token_is_read_anew() {
    let cluster = Cluster::start().await;
    let vault = cluster.setup("rook-ceph").await.build().await;
    let error = vault.get(&key("a"), Freshness::Any).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "an empty file is being replaced: {error}");
    cluster.write_token(&format!("{}\n", cluster.jwt("rook-ceph-osd", None).await));
    let requests = cluster.server.requests().unwrap();
    vault.put(&key("a"), &kek("QUJD"), PutMode::Create).await.unwrap();
    for _ in 0..100 {
        vault.get(&key("a"), Freshness::Any).await.unwrap();
    }
    assert_eq!(requests.logins().unwrap(), 1);

    // The next login reads the file again: it now holds the token of an account that the role does not bind.
    cluster.write_token(&cluster.jwt("default", None).await);
    let revoke = json!({});
    cluster.server.admin().call("PUT", "sys/leases/revoke-prefix/auth/kubernetes", revoke).await.unwrap();
    let error = vault.get(&key("a"), Freshness::Any).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    cluster.write_token(&cluster.jwt("rook-ceph-osd", None).await);
    vault.get(&key("a"), Freshness::Any).await.unwrap();
    assert!(cluster.kube.url().starts_with("https://"));
}

#[tokio::test]
#[ignore = "needs a Vault server and a Kubernetes API server: cargo xtask it vault"]
async fn a_refused_login_says_who_we_are_and_what_was_asked_for() {
    let cluster = Cluster::start().await;
    for (role, account, audience, lifetime) in [
        ("rook-ceph", "default", None, None),
        ("nosuch", "rook-ceph-osd", None, None),
        ("audience", "rook-ceph-osd", None, None),
        ("rook-ceph", "rook-ceph-osd", None, Some(-100)),
    ] {
        let jwt = match lifetime {
            Some(seconds) => cluster.kube.mint(&cluster.place, account, seconds).await.unwrap(),
            None => cluster.jwt(account, audience).await,
        };
        let setup = cluster.setup(role).await;
        cluster.write_token(&jwt);
        let requests = cluster.server.requests().unwrap();
        let error = setup.build().await.get(&key("a"), Freshness::Any).await.unwrap_err();
        let text = format!("{error}");
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{text}");
        let identity = format!("system:serviceaccount:{}:{account}", cluster.place.name());
        for part in [role, "auth mount: kubernetes", identity.as_str(), "audience", "server said"] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        assert!(!format!("{error:?}").contains(&jwt));
        assert_eq!(requests.logins().unwrap(), 1, "one try");
    }
    let setup = cluster.setup("audience").await;
    cluster.write_token(&cluster.jwt("rook-ceph-osd", Some("vault")).await);
    let probe = setup.build().await.probed().await;
    assert!(probe.failed.is_none(), "{probe:?}");
    assert!(format!("{probe:?}").contains("audience vault"), "{probe:?}");
}
