//! Microsoft's own clients on the double, and they and we on each other's secrets.
//!
//! `KMS_IT_AZURE_PYTHON` is a Python with `azure-keyvault-secrets` 4.12.0 and `azure-identity` 1.27.0, and
//! `KMS_IT_AZURE_NODE_PATH` a folder `node_modules` with `@azure/keyvault-secrets` 4.11.2 and `@azure/identity` 4.13.1.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{path::PathBuf, process::Output};

use common::{Setup, key, quick, secret};
use futures_util::TryStreamExt;
use kms_core::{DeleteMode, ErrorKind, Existing, Freshness, Kek, KmsProvider, PutMode, provider::Deleted};
use kms_testkit::{
    fake::azure::{Azure, CLIENT, TENANT},
    servers::setting,
};
use tempfile::TempDir;
use tokio::process::Command;

/// One of Microsoft's clients.
struct Client<'a> {
    double: &'a Azure,
    program: PathBuf,
    script: PathBuf,
    node_path: Option<PathBuf>,
    folder: TempDir,
}

impl<'a> Client<'a> {
    fn new(double: &'a Azure, program: PathBuf, script: &str, node_path: Option<PathBuf>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.crt"), double.ca()).unwrap();
        std::fs::write(folder.path().join("sp.pem"), double.service_principal()).unwrap();
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients/azure").join(script);
        Self { double, program, script, node_path, folder }
    }

    fn python(double: &'a Azure) -> Self {
        Self::new(double, setting("KMS_IT_AZURE_PYTHON").unwrap(), "client.py", None)
    }

    fn node(double: &'a Azure) -> Self {
        Self::new(double, "node".into(), "client.js", Some(setting("KMS_IT_AZURE_NODE_PATH").unwrap()))
    }

    async fn run(&self, args: &[&str]) -> Output {
        let ca = self.folder.path().join("ca.crt");
        Command::new(&self.program)
            .arg(&self.script)
            .args(args)
            .env("AZ_VAULT", self.double.vault_url())
            .env("AZ_AUTHORITY", self.double.authority())
            .env("AZ_TENANT", TENANT)
            .env("AZ_CLIENT", CLIENT)
            .env("AZ_CERT", self.folder.path().join("sp.pem"))
            .env("AZ_CA", &ca)
            .env("NODE_EXTRA_CA_CERTS", &ca)
            .envs(self.node_path.iter().map(|path| ("NODE_PATH", path)))
            .env_remove("HTTPS_PROXY")
            .env_remove("https_proxy")
            .output()
            .await
            .unwrap()
    }

    /// What the client prints when it succeeds.
    async fn done(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let asked: Vec<_> = self.double.requests().into_iter().rev().take(3).map(|one| one.line()).collect();
        assert!(output.status.success(), "{args:?}: {words}, last asked: {asked:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

async fn each_reads_what_the_other_wrote(double: &Azure, client: &Client<'_>) {
    client.done(&["all"]).await;
    let provider = quick(Setup::on(double).build().await);
    let (ours, theirs) = (key("ours-0x7dwl"), key("theirs-0x7dwl"));
    let new = || Kek::generate().unwrap();
    let form = |name: &str, kek: &Kek| format!(r#"{{"{}":"{}"}}"#, secret(name), kek.expose_secret());

    // We write, they read: after a create, an update, a delete.
    let first = new();
    let version = provider.put(&ours, &first, PutMode::Create).await.unwrap();
    assert_eq!(client.done(&["read", &secret("ours-0x7dwl")]).await, form("ours-0x7dwl", &first));
    let second = new();
    provider.put(&ours, &second, PutMode::Update(version)).await.unwrap();
    assert_eq!(client.done(&["read", &secret("ours-0x7dwl")]).await, form("ours-0x7dwl", &second));
    assert_eq!(provider.delete(&ours, DeleteMode::Soft).await.unwrap(), Deleted::Recoverable);
    assert_eq!(client.run(&["read", &secret("ours-0x7dwl")]).await.status.code(), Some(3));
    client.done(&["recover", &secret("ours-0x7dwl")]).await;
    assert!(provider.get(&ours, Freshness::Fresh).await.unwrap().kek.ct_eq(&second));
    provider.delete(&ours, DeleteMode::Destroy).await.unwrap();

    // They write, we read, compare, rotate, list and delete.
    let third = new();
    let id = client.done(&["write", &secret("theirs-0x7dwl"), &form("theirs-0x7dwl", &third)]).await;
    let stored = provider.get(&theirs, Freshness::Any).await.unwrap();
    assert!(stored.kek.ct_eq(&third));
    assert_eq!(stored.version.as_str(), id);
    let error = provider.put(&theirs, &third, PutMode::Create).await.unwrap_err();
    assert_eq!(error.existing(), Some(Existing::Same));
    let names: Vec<_> = provider.list().map_ok(|info| info.name.to_string()).try_collect().await.unwrap();
    assert_eq!(names, ["theirs-0x7dwl"]);
    let fourth = new();
    let version = provider.put(&theirs, &fourth, PutMode::Update(stored.version)).await.unwrap();
    assert_eq!(client.done(&["read", &secret("theirs-0x7dwl")]).await, form("theirs-0x7dwl", &fourth));
    assert_eq!(provider.retire_superseded(&theirs, &version).await.unwrap(), 1);

    // They delete, and it is gone for us.
    client.done(&["delete", &secret("theirs-0x7dwl")]).await;
    assert_eq!(provider.get(&theirs, Freshness::Fresh).await.unwrap_err().kind(), ErrorKind::NotFound);
    client.done(&["purge", &secret("theirs-0x7dwl")]).await;
    assert_eq!(double.is_deleted(&secret("theirs-0x7dwl")), None);
}

#[tokio::test]
#[ignore = "needs Microsoft's clients: cargo xtask it azure"]
async fn microsofts_python_client_finds_the_double_honest_and_our_secrets_its_own() {
    let double = Azure::start().await.unwrap();
    each_reads_what_the_other_wrote(&double, &Client::python(&double)).await;
}

#[tokio::test]
#[ignore = "needs Microsoft's clients: cargo xtask it azure"]
async fn microsofts_node_client_finds_the_double_honest_and_our_secrets_its_own() {
    let double = Azure::start().await.unwrap();
    each_reads_what_the_other_wrote(&double, &Client::node(&double)).await;
}
