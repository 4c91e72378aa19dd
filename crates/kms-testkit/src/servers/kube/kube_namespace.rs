//! One test's Kubernetes namespace, with the accounts and rights of a Rook cluster.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::servers::http::{Http, Reply};

/// A namespace that one test has to itself.
#[derive(Clone, Debug)]
pub struct KubeNamespace {
    http: Http,
    name: String,
}

impl KubeNamespace {
    pub(super) fn new(http: Http, name: String) -> Self {
        Self { http, name }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of a core resource in it: `secrets`, `secrets/x` …
    #[must_use]
    pub fn path(&self, resource: &str) -> String {
        format!("/api/v1/namespaces/{}/{resource}", self.name)
    }

    /// Sends one request as the administrator; `path` comes from [`path`](Self::path).
    ///
    /// # Errors
    ///
    /// If there is no response.
    pub async fn request(&self, method: &str, path: &str, body: Value) -> Result<Reply> {
        self.http.send(method, path, &body).await
    }

    /// Sends one request that must succeed, and returns the body.
    ///
    /// # Errors
    ///
    /// If the request fails.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Result<Value> {
        self.request(method, path, body).await?.ok().with_context(|| format!("{method} {path}"))
    }

    /// Creates a service account.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn create_service_account(&self, name: &str) -> Result<()> {
        self.call("POST", &self.path("serviceaccounts"), json!({"metadata": {"name": name}})).await?;
        Ok(())
    }

    /// Grants a service account these rights on Secrets, by a role with its name.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn grant_secrets(&self, service_account: &str, verbs: &[&str]) -> Result<()> {
        self.grant(service_account, &json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": verbs}]))
            .await
    }

    /// Grants a service account the rights of these RBAC rules, by a role with its name.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn grant(&self, service_account: &str, rules: &Value) -> Result<()> {
        let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}", self.name);
        let role = json!({"metadata": {"name": service_account}, "rules": rules});
        self.call("POST", &format!("{rbac}/roles"), role).await?;
        let binding = json!({
            "metadata": {"name": service_account},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": service_account},
            "subjects": [{"kind": "ServiceAccount", "name": service_account, "namespace": self.name}],
        });
        self.call("POST", &format!("{rbac}/rolebindings"), binding).await?;
        // The authorizer learns of the binding by watching, so a request right after it may still be refused.
        let rules = rules.as_array().context("rules are a list")?;
        let Some((verb, resource, group, name)) = rules.first().and_then(|rule| {
            let text = |pointer: &str| rule.pointer(pointer).and_then(Value::as_str);
            let name = text("/resourceNames/0").unwrap_or_default();
            Some((text("/verbs/0")?, text("/resources/0")?, text("/apiGroups/0")?, name))
        }) else {
            return Ok(());
        };
        let review = json!({"spec": {
            "user": format!("system:serviceaccount:{}:{service_account}", self.name),
            "resourceAttributes": {
                "namespace": self.name, "verb": verb, "resource": resource, "group": group, "name": name,
            },
        }});
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        crate::servers::wait::until("the new rights", crate::servers::wait::START, async || {
            let answer = self.call("POST", path, review.clone()).await?;
            Ok((answer.pointer("/status/allowed") == Some(&Value::Bool(true))).then_some(()))
        })
        .await
    }

    /// Creates the service account `rook-ceph-osd` with the rights that Rook grants it, and returns a token.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn create_osd_account(&self) -> Result<String> {
        self.create_service_account("rook-ceph-osd").await?;
        self.grant_secrets("rook-ceph-osd", &["get", "update"]).await?;
        self.create_token("rook-ceph-osd", &[]).await
    }

    /// A token of a service account, valid for an hour, for these audiences, or for the API server if there are none.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn create_token(&self, service_account: &str, audiences: &[&str]) -> Result<String> {
        let mut spec = json!({"expirationSeconds": 3600});
        if let (Some(spec), false) = (spec.as_object_mut(), audiences.is_empty()) {
            spec.insert("audiences".to_owned(), json!(audiences));
        }
        let path = self.path(&format!("serviceaccounts/{service_account}/token"));
        self.request("POST", &path, json!({"spec": spec})).await?.text("/status/token")
    }

    /// Creates a Secret from text.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn create_secret(&self, name: &str, data: &[(&str, &str)]) -> Result<()> {
        let data: serde_json::Map<_, _> =
            data.iter().map(|(key, text)| ((*key).to_owned(), Value::from(*text))).collect();
        self.call("POST", &self.path("secrets"), json!({"metadata": {"name": name}, "stringData": data}))
            .await?;
        Ok(())
    }

    /// Creates a CephCluster with this `security` block, and returns its uid.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn create_ceph_cluster(&self, name: &str, security: Value) -> Result<String> {
        let path = format!("/apis/ceph.rook.io/v1/namespaces/{}/cephclusters", self.name);
        let cluster = json!({"apiVersion": "ceph.rook.io/v1", "kind": "CephCluster", "metadata": {"name": name},
                             "spec": {"mon": {"count": 3}, "security": security}});
        self.request("POST", &path, cluster).await?.text("/metadata/uid")
    }
}
