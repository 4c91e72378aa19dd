//! A provider for a server of the test.

use kms_core::{
    ConnectionDetails, Kek, KeyName, ProviderBuilder, Result,
    secret::{SecretData, SecretMap},
};
use kms_testkit::{
    fake::http::{Forwarder, Response},
    servers::openbao::OpenBao,
};
use kms_vault::{Vault, VaultBuilder};

/// The settings of a provider, as a CephCluster and its Secrets would have them.
#[derive(Clone)]
pub(crate) struct Setup<'a> {
    server: &'a OpenBao,
    pub(crate) token: String,
    client: Option<&'static str>,
    token_lookup: bool,
    details: Vec<(String, String)>,
}

impl<'a> Setup<'a> {
    /// A token with the policy of Rook's documentation, the server's CA, and the client certificate `client1` if the
    /// server requires one.
    pub(crate) async fn on(server: &'a OpenBao) -> Self {
        let token = server.admin().rook_token().await.unwrap_or_default();
        let setup = Self { server, token, client: None, token_lookup: false, details: Vec::new() };
        setup.address(server.url()).set("VAULT_CACERT", "vault-ca").client("client1")
    }

    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.details.retain(|(known, _)| known != key);
        self.details.push((key.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn unset(mut self, key: &str) -> Self {
        self.details.retain(|(known, _)| known != key);
        self
    }

    pub(crate) fn address(self, url: &str) -> Self {
        self.set("VAULT_ADDR", url)
    }

    pub(crate) fn mount(self, path: &str) -> Self {
        self.set("VAULT_BACKEND_PATH", path)
    }

    pub(crate) fn token(mut self, token: &str) -> Self {
        token.clone_into(&mut self.token);
        self
    }

    pub(crate) fn client(mut self, name: &'static str) -> Self {
        self.client = Some(name);
        self.set("VAULT_CLIENT_CERT", "vault-client").set("VAULT_CLIENT_KEY", "vault-client")
    }

    pub(crate) fn look_up_token(mut self) -> Self {
        self.token_lookup = true;
        self
    }

    pub(crate) fn no_client(mut self) -> Self {
        self.client = None;
        self.unset("VAULT_CLIENT_CERT").unset("VAULT_CLIENT_KEY")
    }

    /// A proxy in front of the server.
    pub(crate) async fn forwarder(&self) -> Forwarder {
        let pki = self.server.pki();
        Forwarder::start(self.server.url(), &pki.ca.cert, Some(&pki.client1)).await.unwrap()
    }

    pub(crate) async fn build(&self) -> Vault {
        self.try_build().await.unwrap()
    }

    pub(crate) async fn try_build(&self) -> Result<Vault> {
        let pki = self.server.pki();
        let mut secrets = SecretMap::new("the test");
        secrets
            .insert(SecretData::new("vault-token").with("token", format!("{}\n", self.token).into_bytes()));
        secrets.insert(SecretData::new("vault-ca").with("cert", pki.ca.cert.clone().into_bytes()));
        secrets.insert(SecretData::new("bad-ca").with("cert", pki.bad_ca.cert.clone().into_bytes()));
        if let Some(name) = self.client {
            let (_, client) =
                pki.all().into_iter().find(|(known, _)| *known == name).expect("a known client");
            let secret = SecretData::new("vault-client")
                .with("cert", client.cert.clone().into_bytes())
                .with("key", client.key.clone().into_bytes());
            secrets.insert(secret);
        }
        let details: ConnectionDetails = self.details.iter().cloned().collect();
        let builder = VaultBuilder::new().with_details(&details).with_token_lookup(self.token_lookup);
        let builder =
            if self.details.iter().any(|(key, value)| key == "VAULT_AUTH_METHOD" && value != "token") {
                builder
            } else {
                builder.with_token_secret("vault-token")
            };
        builder.build(&secrets).await
    }
}

/// Responses of Vault, or of a proxy that edits them, that say nothing about a secret on a mount of this version
/// (`VAULT_BACKEND`), each with its name.
pub(crate) fn empty_responses(version: &str) -> Vec<(&'static str, Response)> {
    const WRAPPED: &str = r#"{"request_id":"r","lease_id":"","renewable":false,"lease_duration":0,"data":null,
        "wrap_info":{"token":"s.canary","accessor":"a","ttl":86400,"creation_path":"p"},"warnings":null,"auth":null}"#;
    const BARE: &str = r#"{"request_id":"r","data":null,"wrap_info":null,"warnings":null,"auth":null}"#;
    const TAKEN_OUT: &str = r#"{"request_id":"r","data":{"data":null,
        "metadata":{"created_time":"","deletion_time":"","destroyed":false,"version":1}}}"#;

    let mut responses = vec![
        ("the wrapped response of a control group", Response::json(200, WRAPPED)),
        ("a wrapped 404", Response::json(404, WRAPPED)),
        ("a response without data", Response::json(200, BARE)),
        ("a 404 without data and without errors", Response::json(404, BARE)),
        ("a 404 with a live version whose data were taken out", Response::json(404, TAKEN_OUT)),
    ];
    // On v1, these are the fields of a secret.
    if version == "v2" {
        responses.push(("a live version whose data were taken out", Response::json(200, TAKEN_OUT)));
    }
    responses
}

pub(crate) fn key(name: &str) -> KeyName {
    KeyName::new(name).unwrap()
}

pub(crate) fn kek(text: &str) -> Kek {
    Kek::parse(text.to_owned()).unwrap()
}
