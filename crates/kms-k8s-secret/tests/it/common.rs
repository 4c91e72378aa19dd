//! Functions that the tests with a real API server share.

use std::sync::Arc;

use kms_core::{Kek, KeyName};
use kms_k8s_secret::{KubernetesSecret, KubernetesSecretBuilder};
use kms_kube::{ConnectOptions, Connection, connect};
use kms_testkit::{
    fake::http::Response,
    servers::{Kube, KubeNamespace, Relay},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The administrator's token, which may do everything.
pub(crate) const ADMIN_TOKEN: &str = "admintoken";

/// A server and a namespace for one test.
pub(crate) struct Place {
    pub(crate) kube: Kube,
    pub(crate) namespace: KubeNamespace,
    pub(crate) folder: TempDir,
}

impl Place {
    pub(crate) async fn new() -> Self {
        let kube = Kube::for_tests().await.unwrap();
        let namespace = kube.create_namespace("k8s-secret").await.unwrap();
        Self { kube, namespace, folder: tempfile::tempdir().unwrap() }
    }

    /// A connection of its own with this token.
    pub(crate) async fn connection(&self, token: &str) -> Connection {
        let path = self.folder.path().join("kubeconfig");
        self.kube.write_kubeconfig(&path, self.namespace.name(), token).unwrap();
        connect(ConnectOptions::new().with_kubeconfig(path)).await.unwrap()
    }

    /// A connection of the administrator through a relay.
    pub(crate) async fn through_a_relay(&self) -> (Relay, Connection) {
        let server = self.kube.url().trim_start_matches("https://").parse().unwrap();
        let relay = Relay::start(server).await.unwrap();
        let path = self.folder.path().join("kubeconfig");
        self.kube.write_kubeconfig(&path, self.namespace.name(), ADMIN_TOKEN).unwrap();
        let text = std::fs::read_to_string(&path).unwrap().replace(self.kube.url(), &relay.url());
        std::fs::write(&path, text).unwrap();
        (relay, connect(ConnectOptions::new().with_kubeconfig(path)).await.unwrap())
    }

    /// A provider over a connection of its own with this token.
    pub(crate) async fn provider(&self, token: &str) -> Arc<KubernetesSecret> {
        let connection = self.connection(token).await;
        Arc::new(KubernetesSecretBuilder::new().with_client(connection).build().await.unwrap())
    }

    /// The administrator's provider.
    pub(crate) async fn admin(&self) -> Arc<KubernetesSecret> {
        self.provider(ADMIN_TOKEN).await
    }

    /// The Secret of a PVC as the server has it.
    pub(crate) async fn secret(&self, name: &str) -> Value {
        self.namespace
            .call("GET", &self.namespace.path(&format!("secrets/{name}")), Value::Null)
            .await
            .unwrap()
    }

    /// Creates a Secret.
    pub(crate) async fn create(&self, secret: Value) {
        self.namespace.call("POST", &self.namespace.path("secrets"), secret).await.unwrap();
    }
}

/// The Secret that Rook writes for a PVC (rook-behaviour §3), with the KEK through stringData.
pub(crate) fn rook_secret(pvc: &str, kek: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": format!("rook-ceph-osd-encryption-key-{pvc}"), "labels": {"pvc_name": pvc}},
        "type": "kubernetes.io/rook",
        "stringData": {"dmcrypt-key": kek},
    })
}

/// Responses of an API server, or of a part of it, that say nothing about a Secret, each with its name.
pub(crate) fn empty_responses() -> Vec<(&'static str, Response)> {
    let not_found = |details: Value| {
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                            "reason": "NotFound", "code": 404, "details": details});
        Response::json(404, status.to_string())
    };
    let of_another_api = json!({"code": 404, "reason": "NotFound", "message": "not found"}).to_string();
    vec![
        ("the 404 of an unknown path", Response::status(404).body("404 page not found\n")),
        ("a 404 that names no object", not_found(json!({}))),
        ("a 404 about another object", not_found(json!({"name": "another", "kind": "secrets"}))),
        ("a 404 without a kind", Response::json(404, of_another_api)),
        ("a list without items", Response::json(200, r#"{"kind":"SecretList","metadata":{}}"#)),
    ]
}

pub(crate) fn key(name: &str) -> KeyName {
    KeyName::new(name).unwrap()
}

pub(crate) fn kek(text: &str) -> Kek {
    Kek::parse(text).unwrap()
}
