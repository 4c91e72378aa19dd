//! What is there, who we are to it, and what we may do: the steps of a probe.

use std::{collections::BTreeMap, time::Duration};

use kms_core::{Error, ErrorKind, KeyName, Probe, Result, UpdateRight};
use kms_http::{http::StatusCode, json::unreadable};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{
    api::Scope,
    auth::{Method, identity},
    error::from_answer,
    name::secret_id,
    provider::Vault,
    stored::{self, KvVersion, Mount},
};

/// How many keys one request asks about.
const NAMES_AT_ONCE: usize = 200;

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
            // The first request that needs the token shows whether it is any good.
            Err(error) if error.kind() == ErrorKind::Unauthenticated => {
                probe.passed.retain(|(step, _)| *step != "login");
                return probe.fail("login", error, &["mount", "rights"]);
            }
            Err(error) => return probe.fail("mount", error, &["rights"]),
        };
        if let Err(error) = self.prove(mount).await {
            return probe.fail("mount", error, &["rights"]);
        }
        let version = match mount.version {
            KvVersion::V1 => "v1, which has no conditional writes",
            KvVersion::V2 => "v2",
        };
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
            // Without the policy `default` a token may do its work and not look at itself: the next step tells.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => match &self.auth.method {
                Method::Token(_) => "the token could not be looked up".to_owned(),
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
        let Some(granted) = self.granted(&paths).await? else {
            return Ok("could not be asked for".to_owned());
        };
        let (mut missing, mut reads) = (Vec::new(), true);
        for (at, (path, verbs)) in needed.into_iter().enumerate() {
            let lacks = |verb: &&str| !grants(&granted, &path, verb);
            let lacking: Vec<_> = verbs.into_iter().filter(lacks).collect();
            // The first path is that of the keys; all else may be left to others.
            reads &= at > 0 || !lacking.contains(&"read");
            if !lacking.is_empty() {
                missing.push(format!("{} on {path}", lacking.join(", ")));
            }
        }
        match missing.as_slice() {
            [] => Ok("create, read, update, delete, list".to_owned()),
            missing if !reads => {
                Err(Error::new(ErrorKind::PermissionDenied, "the policy does not let us read keys")
                    .context("missing", missing.join("; ")))
            }
            missing => Ok(format!("missing: {}", missing.join("; "))),
        }
    }

    /// Whether our token may update each of these keys.
    pub(crate) async fn ask_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        let mut rights = Vec::with_capacity(names.len());
        for names in names.chunks(NAMES_AT_ONCE) {
            let mount = self.mount().await?;
            let paths: Vec<_> = names.iter().map(|name| mount.data(name)).collect();
            let granted = self.granted(&paths.iter().map(String::as_str).collect::<Vec<_>>()).await?;
            rights.extend(paths.iter().map(|path| match &granted {
                None => UpdateRight::Unknown,
                Some(granted) if grants(granted, path, "update") => UpdateRight::Granted,
                Some(_) => UpdateRight::Denied,
            }));
        }
        Ok(rights)
    }

    /// What our token may do at each path. `None` if it may not ask.
    async fn granted(&self, paths: &[&str]) -> Result<Option<BTreeMap<String, Vec<String>>>> {
        let body =
            serde_json::to_vec(&BTreeMap::from([("paths", paths)])).map_err(|cause| unreadable(&cause))?;
        let call = self.api.write("sys/capabilities-self", Zeroizing::new(body), Scope::Data)?;
        let answer = match self.send(call).await {
            // That takes the policy `default`, which a token need not have.
            Err(error)
                if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unauthenticated) =>
            {
                return Ok(None);
            }
            answer => answer?,
        };
        if answer.status != StatusCode::OK {
            return Err(from_answer(&answer));
        }
        let envelope: stored::Envelope<BTreeMap<String, Vec<String>>> =
            serde_json::from_slice(&answer.body).map_err(|cause| unreadable(&cause))?;
        Ok(Some(envelope.data.unwrap_or_default()))
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

/// Whether a right is among those that the server has listed for a path.
fn grants(granted: &BTreeMap<String, Vec<String>>, path: &str, verb: &str) -> bool {
    granted.get(path).is_some_and(|have| have.iter().any(|one| one == "root" || one == verb))
}
