//! The administrator of a test's OpenBao.

use std::fmt;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::servers::http::{Http, Reply};

const TOKEN: &str = "x-vault-token";
const NAMESPACE: &str = "x-vault-namespace";

/// A client with a token, by default the administrator's.
#[derive(Clone)]
pub struct Admin {
    http: Http,
    token: String,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { http, token: _ } = self;
        f.debug_struct("Admin").field("http", http).finish_non_exhaustive()
    }
}

/// The settings of a new token.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "tests fill in what they need and take the rest from the default"
)]
pub struct TokenSpec<'a> {
    /// Its policies.
    pub policies: &'a [&'a str],
    /// Its life unless it is renewed.
    pub ttl: &'a str,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// Its longest life with renewals.
    pub explicit_max_ttl: Option<&'a str>,
    /// The number of uses.
    pub num_uses: Option<u32>,
}

impl Default for TokenSpec<'_> {
    /// An hour, renewable, with the policy `rook`.
    fn default() -> Self {
        Self { policies: &["rook"], ttl: "1h", renewable: true, explicit_max_ttl: None, num_uses: None }
    }
}

impl Admin {
    /// A client with `token`.
    ///
    /// # Errors
    ///
    /// If the token cannot be sent in a header.
    pub fn new(http: Http, token: &str) -> Result<Self> {
        Ok(Self { http: http.with_header(TOKEN, token)?, token: token.to_owned() })
    }

    /// Logs in with a password.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn login(http: Http, user: &str, password: &str) -> Result<Self> {
        let http = http.without_header(TOKEN);
        let path = format!("/v1/auth/userpass/login/{user}");
        let reply = http.send("POST", &path, &json!({"password": password})).await?;
        let token = reply.text("/auth/client_token").context("log in as the administrator")?;
        Self::new(http, &token)
    }

    /// Its token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Its HTTP client.
    #[must_use]
    pub fn http(&self) -> &Http {
        &self.http
    }

    /// Returns the client with another token.
    ///
    /// # Errors
    ///
    /// If the token cannot be sent in a header.
    pub fn with_token(&self, token: &str) -> Result<Self> {
        Self::new(self.http.clone(), token)
    }

    /// Returns the client for a namespace.
    ///
    /// # Errors
    ///
    /// If the name cannot be sent in a header.
    pub fn in_namespace(&self, vault_namespace: &str) -> Result<Self> {
        Ok(Self {
            http: self.http.clone().with_header(NAMESPACE, vault_namespace)?,
            token: self.token.clone(),
        })
    }

    /// Returns the client for another server of the cluster, or for a relay.
    #[must_use]
    pub fn at(&self, url: &str) -> Self {
        Self { http: self.http.at(url), token: self.token.clone() }
    }

    /// Sends one request; `path` is without `/v1/`, a null `body` is no body.
    ///
    /// # Errors
    ///
    /// If there is no response.
    pub async fn request(&self, method: &str, path: &str, body: Value) -> Result<Reply> {
        self.http.send(method, &format!("/v1/{path}"), &body).await
    }

    /// Sends one request that must succeed, and returns the body.
    ///
    /// # Errors
    ///
    /// If the request fails.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Result<Value> {
        self.request(method, path, body).await?.ok().with_context(|| format!("{method} {path}"))
    }

    /// The status of `sys/health`: 200 active, 429 standby, 501 not initialised, 503 sealed.
    ///
    /// # Errors
    ///
    /// If there is no response.
    pub async fn health(&self) -> Result<u16> {
        Ok(self.request("GET", "sys/health", Value::Null).await?.status)
    }

    /// Mounts a KV store of version 1 or 2.
    ///
    /// # Errors
    ///
    /// If the server refuses, as it does when the path is taken.
    pub async fn mount_kv(&self, path: &str, version: u8) -> Result<()> {
        let body = json!({"type": "kv", "options": {"version": version.to_string()}});
        self.call("POST", &format!("sys/mounts/{path}"), body).await?;
        let keys = if version == 2 { format!("{path}/metadata/") } else { format!("{path}/") };
        // A new mount of version 2 refuses requests while it gets ready ("Upgrading from non-versioned to versioned").
        crate::servers::wait::until("the new mount", crate::servers::wait::START, async || {
            Ok((self.request("LIST", &keys, Value::Null).await?.status == 404).then_some(()))
        })
        .await
    }

    /// Sets a policy.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn put_policy(&self, name: &str, policy: &str) -> Result<()> {
        self.call("PUT", &format!("sys/policies/acl/{name}"), json!({"policy": policy})).await?;
        Ok(())
    }

    /// Creates a token.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn create_token(&self, spec: TokenSpec<'_>) -> Result<String> {
        let TokenSpec { policies, ttl, renewable, explicit_max_ttl, num_uses } = spec;
        let body = json!({"policies": policies, "ttl": ttl, "renewable": renewable, "explicit_max_ttl": explicit_max_ttl,
                          "num_uses": num_uses});
        self.request("POST", "auth/token/create", body).await?.text("/auth/client_token")
    }

    /// A token with the policy `rook`.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn rook_token(&self) -> Result<String> {
        self.create_token(TokenSpec::default()).await
    }

    /// Revokes a token.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn revoke(&self, token: &str) -> Result<()> {
        self.call("POST", "auth/token/revoke", json!({"token": token})).await?;
        Ok(())
    }

    /// Enables an auth method at a path.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn enable_auth(&self, path: &str, method: &str) -> Result<()> {
        self.call("POST", &format!("sys/auth/{path}"), json!({"type": method})).await?;
        Ok(())
    }

    /// Enables AppRole at `path` with the role `role`; returns the role's id and a secret id.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn enable_approle(&self, path: &str, role: &str, settings: Value) -> Result<(String, String)> {
        self.enable_auth(path, "approle").await?;
        let role = format!("auth/{path}/role/{role}");
        self.call("POST", &role, settings).await?;
        let role_id =
            self.request("GET", &format!("{role}/role-id"), Value::Null).await?.text("/data/role_id")?;
        let secret_id = self.request("POST", &format!("{role}/secret-id"), json!({})).await?;
        Ok((role_id, secret_id.text("/data/secret_id")?))
    }

    /// Enables TLS certificates at `path`: the entry `name` takes certificates of `ca` with the common name
    /// `common_name` and grants the policy `rook`.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn enable_cert(&self, path: &str, name: &str, ca: &str, common_name: &str) -> Result<()> {
        self.enable_auth(path, "cert").await?;
        let body =
            json!({"certificate": ca, "allowed_common_names": [common_name], "token_policies": ["rook"]});
        self.call("POST", &format!("auth/{path}/certs/{name}"), body).await?;
        Ok(())
    }

    /// Enables Kubernetes service accounts at `path`; tokens are reviewed by the API server at `host` for `reviewer`.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn enable_kubernetes(&self, path: &str, host: &str, ca: &str, reviewer: &str) -> Result<()> {
        self.enable_auth(path, "kubernetes").await?;
        self.configure_kubernetes(path, host, ca, reviewer).await
    }

    /// Changes the API server that reviews tokens, and the account for it.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn configure_kubernetes(&self, path: &str, host: &str, ca: &str, reviewer: &str) -> Result<()> {
        // OpenBao has no token of its own outside a pod, so the fallback must be disabled.
        let body = json!({"kubernetes_host": host, "kubernetes_ca_cert": ca, "token_reviewer_jwt": reviewer,
                          "disable_local_ca_jwt": true});
        self.call("POST", &format!("auth/{path}/config"), body).await?;
        Ok(())
    }

    /// Adds a role: these service accounts of this Kubernetes namespace get the policy `rook`.
    /// `extra` is merged in: `{"ttl": "20m", "audience": "vault"}`.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn kubernetes_role(
        &self,
        path: &str,
        role: &str,
        service_accounts: &[&str],
        kube_namespace: &str,
        extra: Value,
    ) -> Result<()> {
        let mut body = json!({"bound_service_account_names": service_accounts,
                              "bound_service_account_namespaces": [kube_namespace], "policies": ["rook"], "ttl": "20m"});
        if let (Some(body), Value::Object(extra)) = (body.as_object_mut(), extra) {
            body.extend(extra);
        }
        self.call("POST", &format!("auth/{path}/role/{role}"), body).await?;
        Ok(())
    }

    /// Creates a namespace with the mounts and policies of the root; returns a client in it.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn create_namespace(&self, name: &str) -> Result<Self> {
        self.call("POST", &format!("sys/namespaces/{name}"), Value::Null).await?;
        let inside = self.in_namespace(name)?;
        inside.mount_kv("rook", 1).await?;
        inside.mount_kv("rookv2", 2).await?;
        inside.put_policy("rook", super::ROOK_POLICY).await?;
        Ok(inside)
    }

    /// Limits the requests below `path` to `rate` in each `interval` (`1s`).
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn limit_rate(&self, name: &str, path: &str, rate: f64, interval: &str) -> Result<()> {
        let body = json!({"path": path, "rate": rate, "interval": interval});
        self.call("POST", &format!("sys/quotas/rate-limit/{name}"), body).await?;
        Ok(())
    }

    /// Whether a 429 carries `Retry-After` (which is 0 in intervals of a second).
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn rate_limit_headers(&self, shown: bool) -> Result<()> {
        let body = json!({"enable_rate_limit_response_headers": shown});
        self.call("POST", "sys/quotas/config", body).await?;
        Ok(())
    }

    /// Lifts a limit.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn lift_rate_limit(&self, name: &str) -> Result<()> {
        self.call("DELETE", &format!("sys/quotas/rate-limit/{name}"), Value::Null).await?;
        Ok(())
    }
}
