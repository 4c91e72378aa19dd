//! Runs Microsoft's own clients on the double; they and our client use each other's secrets.
//!
//! `KMS_IT_AZURE_PYTHON` is a Python with `azure-keyvault-secrets` 4.12.0 and `azure-identity` 1.27.0, and
//! `KMS_IT_AZURE_NODE_PATH` a folder `node_modules` with `@azure/keyvault-secrets` 4.11.2 and `@azure/identity` 4.13.1.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::common::{Setup, key, quick, secret};
use futures_util::TryStreamExt;
use kms_core::{DeleteMode, ErrorKind, Existing, Freshness, Kek, KmsProvider, PutMode};
use kms_testkit::fake::azure::{Azure, Client};

async fn each_reads_what_the_other_wrote(double: &Azure, client: &Client<'_>) {
    client.done(&["all"]).await.unwrap();
    let provider = quick(Setup::on(double).build().await);
    let (ours, theirs) = (key("ours-0x7dwl"), key("theirs-0x7dwl"));
    let new = || Kek::generate().unwrap();
    let form =
        |name: &str, kek: &Kek| format!(r#"{{"{}":"{}"}}"#, secret(name), kek.expose_secret_text().unwrap());

    // We write, they read: after a create, an update, a delete.
    let first = new();
    let version = provider.put(&ours, &first, PutMode::Create).await.unwrap();
    assert_eq!(client.done(&["read", &secret("ours-0x7dwl")]).await.unwrap(), form("ours-0x7dwl", &first));
    let second = new();
    provider.put(&ours, &second, PutMode::Update(version)).await.unwrap();
    assert_eq!(client.done(&["read", &secret("ours-0x7dwl")]).await.unwrap(), form("ours-0x7dwl", &second));
    assert!(provider.delete(&ours, DeleteMode::Soft).await.unwrap().is_recoverable());
    assert_eq!(client.run(&["read", &secret("ours-0x7dwl")]).await.unwrap().status.code(), Some(3));
    client.done(&["recover", &secret("ours-0x7dwl")]).await.unwrap();
    assert!(provider.get(&ours, Freshness::Fresh).await.unwrap().kek.ct_eq(&second));
    provider.delete(&ours, DeleteMode::Destroy).await.unwrap();

    // They write, we read, compare, rotate, list and delete.
    let third = new();
    let id = client.done(&["write", &secret("theirs-0x7dwl"), &form("theirs-0x7dwl", &third)]).await.unwrap();
    let stored = provider.get(&theirs, Freshness::Any).await.unwrap();
    assert!(stored.kek.ct_eq(&third));
    assert_eq!(stored.version.as_str(), id);
    let error = provider.put(&theirs, &third, PutMode::Create).await.unwrap_err();
    assert_eq!(error.existing(), Some(Existing::Same));
    let names: Vec<_> = provider.list().map_ok(|info| info.name.to_string()).try_collect().await.unwrap();
    assert_eq!(names, ["theirs-0x7dwl"]);
    let fourth = new();
    let version = provider.put(&theirs, &fourth, PutMode::Update(stored.version)).await.unwrap();
    assert_eq!(
        client.done(&["read", &secret("theirs-0x7dwl")]).await.unwrap(),
        form("theirs-0x7dwl", &fourth)
    );
    assert_eq!(provider.retire_superseded(&theirs, &version).await.unwrap(), 1);

    // They delete, and it is gone for us.
    client.done(&["delete", &secret("theirs-0x7dwl")]).await.unwrap();
    assert_eq!(provider.get(&theirs, Freshness::Fresh).await.unwrap_err().kind(), ErrorKind::NotFound);
    client.done(&["purge", &secret("theirs-0x7dwl")]).await.unwrap();
    assert_eq!(double.is_deleted(&secret("theirs-0x7dwl")), None);
}

#[tokio::test]
#[ignore = "needs Microsoft's clients: cargo xtask it azure"]
async fn microsofts_python_client_finds_the_double_honest_and_our_secrets_its_own() {
    let double = Azure::start().await.unwrap();
    each_reads_what_the_other_wrote(&double, &Client::python(&double).unwrap()).await;
}

#[tokio::test]
#[ignore = "needs Microsoft's clients: cargo xtask it azure"]
async fn microsofts_node_client_finds_the_double_honest_and_our_secrets_its_own() {
    let double = Azure::start().await.unwrap();
    each_reads_what_the_other_wrote(&double, &Client::node(&double).unwrap()).await;
}
