//! Runs the shared suite on a real OpenBao: KV v1 and v2, with a second client, in a namespace, with client
//! certificates.

use std::sync::Arc;

use kms_conformance::{Options, Subject, run};
use kms_core::{KmsProvider, layer};
use kms_testkit::{
    fake::http::Forwarder,
    figures,
    servers::openbao::{OpenBao, OpenBaoConfig},
};

use crate::common::{Setup, empty_responses};

/// Adds a client behind a proxy that responds in the server's place. The proxy ends when it is dropped.
async fn misled(subject: Subject, setup: &Setup<'_>, version: &str) -> (Forwarder, Subject) {
    let forwarder = setup.forwarder().await;
    let interferer = forwarder.interferer();
    let version = version.trim_start_matches("kv-");
    empty_responses(version).into_iter().for_each(|(habit, response)| interferer.add(habit, response));
    if version == "v1" {
        // With a 204, KV v1 itself confirms a write. `faults.rs` has it as the response to a read.
        interferer.remove("a 204");
    }
    ["/v1/sys/", "/v1/auth/"].into_iter().for_each(|path| interferer.spare(path));
    let setup = setup.clone().no_client().unset("VAULT_CACERT").set("VAULT_ALLOW_HTTP", "true");
    let setup = setup.address(&forwarder.url()).set("VAULT_BACKEND", version);
    let subject = subject.with_misled(Arc::new(setup.build().await), interferer);
    (forwarder, subject)
}

async fn suite(setup: Setup<'_>, version: &str) {
    let options = layer::LayerOptions::default();
    let wrap = |vault| -> Arc<dyn KmsProvider> { layer::standard(Arc::new(vault), &options) };
    let subject = Subject::new(wrap(setup.build().await))
        .with_second(wrap(setup.build().await))
        .with_denied(Arc::new(setup.clone().token("s.wrong-canary-token").build().await))
        .with_unreachable(Arc::new(setup.clone().address("https://127.0.0.1:9").build().await));
    let (_forwarder, subject) = misled(subject, &setup, version).await;
    let options = Options::default().with_server_version(version).with_secret("token", &setup.token);
    figures::passed(&run(&subject, &options).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn the_suite_passes_on_kv_v1() {
    let server = OpenBao::start(OpenBaoConfig::default()).await.unwrap();
    suite(Setup::on(&server).await.mount("rook"), "kv-v1").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn the_suite_passes_on_kv_v2() {
    let server = OpenBao::start(OpenBaoConfig::default()).await.unwrap();
    suite(Setup::on(&server).await.mount("rookv2"), "kv-v2").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn the_suite_passes_on_a_v2_mount_that_demands_check_and_set() {
    let server = OpenBao::start(OpenBaoConfig::default()).await.unwrap();
    let demand = serde_json::json!({"cas_required": true});
    server.admin().call("POST", "rookv2/config", demand).await.unwrap();
    suite(Setup::on(&server).await.mount("rookv2"), "kv-v2").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn the_suite_passes_in_a_namespace_with_client_certificates() {
    let server = OpenBao::start(OpenBaoConfig::mutual_tls()).await.unwrap();
    let team = server.admin().create_namespace("team").await.unwrap();
    team.mount_kv("kv/ver2", 2).await.unwrap();
    team.put_policy(
        "rook",
        r#"path "kv/ver2/*" { capabilities = ["create", "read", "update", "delete", "list"] }"#,
    )
    .await
    .unwrap();
    let token = team.rook_token().await.unwrap();
    let setup = Setup::on(&server).await.token(&token).mount("kv/ver2").set("VAULT_NAMESPACE", "/team/");
    suite(setup, "kv-v2").await;
}
