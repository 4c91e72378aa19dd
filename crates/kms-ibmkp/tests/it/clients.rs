//! Runs IBM's own clients on the double; they and our client use each other's keys.
//!
//! `KMS_IT_IBM_PYTHON` is a Python with `keyprotect` 3.0.1, `KMS_IT_IBM_NODE_PATH` a folder `node_modules` with
//! `@ibm-cloud/ibm-key-protect` 0.1.2, and `KMS_IT_IBM_GO` the program built from `tests/clients/ibmkp/go`.

use std::{path::PathBuf, process::Output};

use crate::common::{Setup, key, quick};
use futures_util::TryStreamExt;
use kms_core::{DeleteMode, ErrorKind, Existing, Freshness, Kek, KmsProvider, PutMode};
use kms_testkit::{
    fake::ibmkp::{API_KEY, Destroyed, INSTANCE, IbmKp},
    servers::setting,
};
use tempfile::TempDir;
use tokio::process::Command;

/// One of IBM's clients.
struct Client<'a> {
    double: &'a IbmKp,
    program: PathBuf,
    script: Option<PathBuf>,
    environment: Vec<(&'static str, PathBuf)>,
    // Keeps the CA's file while the client is in use.
    _folder: TempDir,
}

impl<'a> Client<'a> {
    fn new(double: &'a IbmKp, program: PathBuf, script: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.crt");
        std::fs::write(&ca, double.ca()).unwrap();
        let scripts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients/ibmkp");
        let environment =
            ["KP_CA", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"].map(|name| (name, ca.clone())).to_vec();
        Self { double, program, script: script.map(|name| scripts.join(name)), environment, _folder: folder }
    }

    fn python(double: &'a IbmKp) -> Self {
        Self::new(double, setting("KMS_IT_IBM_PYTHON").unwrap(), Some("client.py"))
    }

    fn node(double: &'a IbmKp) -> Self {
        let mut client = Self::new(double, "node".into(), Some("client.js"));
        client.environment.push(("NODE_PATH", setting("KMS_IT_IBM_NODE_PATH").unwrap()));
        client
    }

    fn go(double: &'a IbmKp) -> Self {
        Self::new(double, setting("KMS_IT_IBM_GO").unwrap(), None)
    }

    async fn run(&self, args: &[&str]) -> Output {
        Command::new(&self.program)
            .args(&self.script)
            .args(args)
            .env("KP_IAM", self.double.iam_url())
            .env("KP_TOKEN_URL", self.double.token_url())
            .env("KP_BASE", self.double.base_url())
            .env("KP_INSTANCE", INSTANCE)
            .env("KP_API_KEY", API_KEY)
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
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
        assert!(output.status.success(), "{args:?}: {words}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Fails unless the client finds no such key.
    async fn absent(&self, name: &str) {
        assert_eq!(self.run(&["read", name]).await.status.code(), Some(3));
    }
}

/// A KEK of Rook's form.
fn new() -> Kek {
    Kek::generate().unwrap()
}

async fn each_reads_what_the_other_wrote(double: &IbmKp, client: &Client<'_>, restores: bool) {
    let provider = quick(Setup::on(double).cluster("rook-ceph/rook-ceph").build().await);
    let (ours, theirs) = (key("ours-0x7dwl"), key("theirs-0x7dwl"));

    // We write, they read: after a create, after an update, after a delete.
    let first = new();
    let version = provider.put(&ours, &first, PutMode::Create).await.unwrap();
    assert_eq!(client.done(&["read", ours.as_str()]).await, first.expose_secret_text().unwrap());
    let second = new();
    let version = provider.put(&ours, &second, PutMode::Update(version)).await.unwrap();
    assert_eq!(client.done(&["read", ours.as_str()]).await, second.expose_secret_text().unwrap());
    provider.delete(&ours, DeleteMode::Destroy).await.unwrap();
    client.absent(ours.as_str()).await;
    if restores {
        client.done(&["restore", version.as_str(), ours.as_str()]).await;
        let stored = provider.get(&ours, Freshness::Fresh).await.unwrap();
        assert!(stored.kek.ct_eq(&second) && stored.version == version);
        client.done(&["delete", ours.as_str()]).await;
    }

    // They write, we read, compare, rotate, list and delete.
    let third = new();
    let id = client.done(&["write", theirs.as_str(), third.expose_secret_text().unwrap()]).await;
    let stored = provider.get(&theirs, Freshness::Any).await.unwrap();
    assert!(stored.kek.ct_eq(&third));
    assert_eq!(stored.version.as_str(), id);
    let error = provider.put(&theirs, &third, PutMode::Create).await.unwrap_err();
    assert_eq!(error.existing(), Some(Existing::Same));
    let names: Vec<_> = provider.list().map_ok(|info| info.name.to_string()).try_collect().await.unwrap();
    assert_eq!(names, ["theirs-0x7dwl"]);
    let fourth = new();
    let version = provider.put(&theirs, &fourth, PutMode::Update(stored.version)).await.unwrap();
    assert_eq!(client.done(&["read", theirs.as_str()]).await, fourth.expose_secret_text().unwrap());
    assert_eq!(provider.retire_superseded(&theirs, &version).await.unwrap(), 1);

    // They delete, and it is gone for us.
    assert_eq!(client.done(&["delete", theirs.as_str()]).await, version.as_str());
    let error = provider.get(&theirs, Freshness::Fresh).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
#[ignore = "needs IBM's clients: cargo xtask it ibmkp"]
async fn ibms_python_client_finds_the_double_honest_and_our_keys_its_own() {
    for destroyed in [Destroyed::Gone, Destroyed::Shown] {
        let double = IbmKp::start().await.unwrap();
        double.switch(|switches| switches.destroyed = destroyed);
        let client = Client::python(&double);
        client.done(&["all"]).await;
        if destroyed == Destroyed::Gone {
            each_reads_what_the_other_wrote(&double, &client, true).await;
        }
    }
}

#[tokio::test]
#[ignore = "needs IBM's clients: cargo xtask it ibmkp"]
async fn ibms_node_client_finds_the_double_honest_and_our_keys_its_own() {
    let double = IbmKp::start().await.unwrap();
    let client = Client::node(&double);
    client.done(&["all"]).await;
    each_reads_what_the_other_wrote(&double, &client, true).await;
}

#[tokio::test]
#[ignore = "needs IBM's clients: cargo xtask it ibmkp"]
async fn rooks_go_client_reads_our_keys_and_sends_what_we_send() {
    let double = IbmKp::start().await.unwrap();
    let client = Client::go(&double);
    each_reads_what_the_other_wrote(&double, &client, false).await;

    // The same import by both, byte for byte.
    let (provider, kek) = (Setup::on(&double).build().await, new());
    let post = || {
        let requests = double.requests();
        requests.iter().rfind(|request| request.line() == "POST /api/v2/keys").unwrap().text().to_owned()
    };
    client.done(&["write", "same-0x7dwl", kek.expose_secret_text().unwrap()]).await;
    let theirs = post();
    client.done(&["delete", "same-0x7dwl"]).await;
    provider.put(&key("same-0x7dwl"), &kek, PutMode::Create).await.unwrap();
    assert_eq!(post(), theirs);
}
