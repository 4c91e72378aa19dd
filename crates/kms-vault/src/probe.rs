//! What is there, who we are to it, and what we may do: the steps of a probe.

use std::{collections::BTreeMap, time::Duration};

use kms_core::{Error, ErrorKind, KeyName, Probe, Result};
use kms_http::http::StatusCode;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{
    api::Scope,
    auth::{Method, identity},
    error::{from_answer, unreadable},
    kv::{self, KvVersion, Mount},
    name::secret_id,
    provider::Vault,
};

/// What `sys/health` says.
#[derive(Default, Deserialize)]
struct Health {
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    cluster_name: Option<String>,
}

impl Vault {
    pub(crate) async fn run_probe(&self) -> Probe {
        let mut probe = Probe::new();
        probe.pass("authentication", self.auth.method.describe());
        if let Some(namespace) = self.api.data_namespace.as_ref().and_then(|value| value.to_str().ok()) {
            probe.pass("namespace", namespace);
        }
        match self.health().await {
            Ok(found) => probe.pass("server", found),
            Err(error) => return probe.fail("server", error, &["login", "mount", "rights"]),
        }
        match self.identity().await {
            Ok(found) => probe.pass("login", found),
            Err(error) => return probe.fail("login", error, &["mount", "rights"]),
        }
        let mount = match self.mount().await {
            Ok(mount) => mount,
            Err(error) => return probe.fail("mount", error, &["rights"]),
        };
        let version = if mount.version == KvVersion::V2 { "v2" } else { "v1" };
        probe.pass("mount", format!("{}/, KV {version}", mount.path));
        match self.rights(mount).await {
            Ok(found) => probe.pass("rights", found),
            Err(error) => return probe.fail("rights", error, &[]),
        }
        probe
    }

    /// Who we are and what we may do, for a probe.
    async fn identity(&self) -> Result<String> {
        let Some(token) = self.auth.token(&self.api).await? else {
            return Ok("an agent adds the token".to_owned());
        };
        let presented = match &self.auth.method {
            Method::Kubernetes { path, .. } => std::fs::read_to_string(path)
                .map(Zeroizing::new)
                .map(|jwt| format!("as {}, ", identity(jwt.trim())))
                .unwrap_or_default(),
            _ => String::new(),
        };
        let found = match self.auth.lookup(&self.api, &token.value).await {
            Ok(lookup) => {
                let renewable = if lookup.renewable == Some(true) { "renewable" } else { "not renewable" };
                let life = match lookup.ttl {
                    0 => "never ends".to_owned(),
                    seconds => format!("ends in {:?}, {renewable}", Duration::from_secs(seconds)),
                };
                let policies = lookup.policies.unwrap_or_default().join(", ");
                format!("{} with policies {policies}; token {life}", lookup.display_name.unwrap_or_default())
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => match &self.auth.method {
                Method::Token(_) => {
                    return Err(Error::new(
                        ErrorKind::Unauthenticated,
                        "the token is not accepted: it is wrong, revoked or expired",
                    ));
                }
                _ => "logged in; the token may not look itself up".to_owned(),
            },
            Err(error) => return Err(error),
        };
        Ok(format!("{presented}{found}"))
    }

    /// Which rights are there, and which are missing.
    async fn rights(&self, mount: &Mount) -> Result<String> {
        let anything = secret_id(&KeyName::new("any")?);
        let needed: Vec<(String, Vec<&str>)> = match mount.version {
            KvVersion::V1 => vec![
                (format!("{}/{anything}", mount.path), vec!["create", "read", "update", "delete"]),
                (format!("{}/", mount.path), vec!["list"]),
            ],
            KvVersion::V2 => vec![
                (format!("{}/data/{anything}", mount.path), vec!["create", "read", "update"]),
                (format!("{}/metadata/{anything}", mount.path), vec!["read", "delete"]),
                (format!("{}/destroy/{anything}", mount.path), vec!["update"]),
                (format!("{}/metadata/", mount.path), vec!["list"]),
            ],
        };
        let paths: Vec<_> = needed.iter().map(|(path, _)| path.as_str()).collect();
        let body =
            serde_json::to_vec(&BTreeMap::from([("paths", paths)])).map_err(|cause| unreadable(&cause))?;
        let call = self.api.write("sys/capabilities-self", Zeroizing::new(body), Scope::Data)?;
        let answer = self.send(call).await?;
        if answer.status != StatusCode::OK {
            return Err(from_answer(&answer));
        }
        let envelope: kv::Envelope<BTreeMap<String, Vec<String>>> =
            serde_json::from_slice(&answer.body).map_err(|cause| unreadable(&cause))?;
        let granted = envelope.data.unwrap_or_default();
        let mut missing = Vec::new();
        for (path, verbs) in needed {
            let have = granted.get(&path).map(Vec::as_slice).unwrap_or_default();
            let lacks = |verb: &&str| !have.iter().any(|granted| granted == "root" || granted == verb);
            let lacking: Vec<_> = verbs.into_iter().filter(lacks).collect();
            if !lacking.is_empty() {
                missing.push(format!("{} on {path}", lacking.join(", ")));
            }
        }
        match missing.as_slice() {
            [] => Ok("create, read, update, delete, list".to_owned()),
            missing if missing.iter().any(|line| line.contains("read on") || line.contains("read,")) => {
                Err(Error::new(ErrorKind::PermissionDenied, "the policy lacks rights that are needed")
                    .context("missing", missing.join("; ")))
            }
            missing => Ok(format!("missing: {}", missing.join("; "))),
        }
    }

    async fn health(&self) -> Result<String> {
        // A sealed or standby server is told by its status; both are reached all the same.
        let answer = self.api.send(self.api.read_state("sys/health")?, None).await?;
        let health: Health = serde_json::from_slice(&answer.body).unwrap_or_default();
        let state = match answer.status.as_u16() {
            200 => "active",
            429 => "standby",
            472 => "replica for disaster recovery",
            473 => "performance standby",
            501 => {
                return Err(Error::new(ErrorKind::Unavailable, "the server is not initialised"));
            }
            503 => {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "the server is sealed; unseal it, then this works again",
                ));
            }
            _ => "reached",
        };
        let version = health.version.unwrap_or_else(|| "unknown".to_owned());
        let cluster = health.cluster_name.map(|name| format!(", cluster {name}")).unwrap_or_default();
        Ok(format!("{}, version {version}, {state}{cluster}", kms_http::send::endpoint(&self.api.base)))
    }
}
