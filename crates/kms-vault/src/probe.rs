//! Probes the server: its state, the identity of the token, and the token's rights.

use std::{collections::BTreeMap, time::Duration};

use kms_core::{Error, ErrorKind, ExposeSecret as _, KeyName, Probe, Result, UpdateRight};
use kms_http::{http::StatusCode, json::unreadable, probe::STEPS, send::endpoint};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{
    api::{Scope, data_of},
    auth::{AuthMethod, identity},
    error::{Refusal, from_answer, not_vault},
    mount::Mount,
    name::secret_id,
    stored::KvVersion,
};

/// The number of keys that one request asks about.
const NAMES_PER_REQUEST: usize = 200;

/// A probe warns of a token that ends within this time and cannot be renewed.
const ENDS_SOON: Duration = Duration::from_secs(7 * 86_400);

/// The rights that the token has, by path.
type Rights = BTreeMap<String, Vec<String>>;

/// The response of `sys/health`.
#[derive(Deserialize)]
struct Health {
    /// Required: JSON without it does not come from Vault.
    #[serde(rename = "initialized")]
    _initialized: bool,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    cluster_name: Option<String>,
}

/// Runs the steps of a probe. Only a server that has answered as a Vault gets the token.
pub(crate) async fn probe(mount: &Mount, probe: &mut Probe) -> Option<()> {
    let [dns, tcp, tls] = STEPS;
    probe.plan(&["authentication", dns, tcp, tls, "server", "login", "mount", "rights"]);
    probe.pass("authentication", mount.auth.method.describe());
    if let Some(namespace) = mount.api.data_namespace.as_ref().and_then(|value| value.to_str().ok()) {
        probe.pass("namespace", namespace);
    }
    mount.api.http.probe(&mount.api.base, STEPS, probe).await?;
    let found = health(mount).await;
    probe.step("server", found)?;
    probe.clock(mount.api.http.clock());
    let found = login(mount, probe).await;
    probe.step("login", found)?;
    let version = match mount.ask_version().await {
        Ok(version) => version,
        // The first request that needs the token shows whether the token is valid.
        Err(error) if error.kind() == ErrorKind::Unauthenticated => {
            probe.passed.retain(|(step, _)| *step != "login");
            return probe.fail("login", error);
        }
        Err(error) => return probe.fail("mount", error),
    };
    let kv = match version {
        KvVersion::V1 => "v1, which has no conditional writes",
        KvVersion::V2 => "v2",
    };
    let path = if version == KvVersion::V1 { mount.v1_folder() } else { mount.path.clone() };
    probe.pass("mount", format!("{path}/, KV {kv}"));
    let found = rights(mount, version, probe).await;
    probe.step("rights", found)
}

/// Asks for the state of the server, without the token.
///
/// # Errors
///
/// `Protocol` if the server is not Vault.
async fn health(mount: &Mount) -> Result<String> {
    let address = endpoint(&mount.api.base);
    // The status tells a sealed server or a standby from an active server.
    let answer = mount.api.send(&mut mount.api.read_state("sys/health")?, None).await?;
    let Ok(health) = serde_json::from_slice::<Health>(&answer.body) else {
        // A proxy may block this path, but Vault itself refuses a request without a token in its own form.
        let refused =
            mount.api.send(&mut mount.api.read("auth/token/lookup-self", Scope::Auth)?, None).await?;
        return match Refusal::of(&refused) {
            Some(refusal) if refusal.has_words() => Ok(format!("{address}, which does not show its state")),
            _ if answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS => {
                Err(from_answer(&answer))
            }
            _ => Err(not_vault(&answer)),
        };
    };
    let state = match answer.status.as_u16() {
        200 => "active",
        429 => "standby",
        472 => "replica for disaster recovery",
        473 => "performance standby",
        501 => return Err(Error::new(ErrorKind::Unavailable, "the server is not initialised")),
        503 => return Err(Error::new(ErrorKind::Unavailable, "the server is sealed; unseal it")),
        _ => "reached",
    };
    let version = health.version.unwrap_or_else(|| "unknown".to_owned());
    let cluster = health.cluster_name.map(|name| format!(", cluster {name}")).unwrap_or_default();
    Ok(format!("{address}, version {version}, {state}{cluster}"))
}

/// Describes identity, policies and lifetime of the token.
async fn login(mount: &Mount, probe: &mut Probe) -> Result<String> {
    let Some(token) = mount.auth.token(&mount.api).await? else {
        return Ok("an agent adds the token".to_owned());
    };
    let presented = match &mount.auth.method {
        AuthMethod::Kubernetes { token, .. } => {
            token.read().map(|jwt| format!("as {}, ", identity(jwt.expose_secret()))).unwrap_or_default()
        }
        _ => String::new(),
    };
    let found = match mount.auth.lookup(&mount.api, &token.value).await {
        Ok(lookup) => {
            if lookup.ends_within(ENDS_SOON) {
                let left = in_words(lookup.ttl);
                probe.warn(
                    "login",
                    format!("the Vault token ends in {left} and cannot be renewed; put a new token into its Secret"),
                );
            }
            let renewable = if lookup.renewable == Some(true) { "renewable" } else { "not renewable" };
            let life = match lookup.ttl {
                0 => "never ends".to_owned(),
                seconds => format!("ends in {}, {renewable}", in_words(seconds)),
            };
            let policies = lookup.policies.unwrap_or_default().join(", ");
            format!("{} with policies {policies}; token {life}", lookup.display_name.unwrap_or_default())
        }
        // A token without the policy `default` may not look itself up. The next step shows whether it is valid.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => match &mount.auth.method {
            AuthMethod::Token(_) => "the token could not be looked up".to_owned(),
            _ => "logged in; the token may not look itself up".to_owned(),
        },
        Err(error) => return Err(error),
    };
    Ok(format!("{presented}{found}"))
}

/// A time in whole units, of which there are at least two: `36 h`, and not `1 days`. It is rounded down, so no token ends before
/// its time.
fn in_words(seconds: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(86_400, "days"), (3_600, "h"), (60, "min")];
    let (length, unit) = UNITS.into_iter().find(|(length, _)| seconds >= 2 * length).unwrap_or((1, "s"));
    format!("{} {unit}", seconds / length)
}

/// Describes the rights that the token has, and the rights that it lacks.
async fn rights(mount: &Mount, version: KvVersion, probe: &mut Probe) -> Result<String> {
    let (path, folder, any) = (&mount.path, mount.v1_folder(), secret_id(&KeyName::new("any")?));
    let needed: Vec<(String, Vec<&str>)> = match version {
        KvVersion::V1 => vec![
            (format!("{folder}/{any}"), vec!["create", "read", "update", "delete"]),
            (format!("{folder}/"), vec!["list"]),
        ],
        KvVersion::V2 => vec![
            (format!("{path}/data/{any}"), vec!["create", "read", "update"]),
            (format!("{path}/metadata/{any}"), vec!["read", "delete"]),
            (format!("{path}/destroy/{any}"), vec!["update"]),
            (format!("{path}/metadata/"), vec!["list"]),
        ],
    };
    let paths: Vec<_> = needed.iter().map(|(path, _)| path.as_str()).collect();
    let Some(granted) = granted(mount, &paths).await? else {
        probe.warn(
            "rights",
            "unknown: the token may not ask for its rights; give it the policy \"default\", or run the check without \
             --read-only",
        );
        return Ok("not known".to_owned());
    };
    // Removing the metadata destroys every version of a key; v1 has one path for all.
    probe.cannot_destroy =
        needed.iter().any(|(path, verbs)| verbs.contains(&"delete") && !grants(&granted, path, "delete"));
    let (mut missing, mut reads) = (Vec::new(), true);
    for (at, (path, verbs)) in needed.into_iter().enumerate() {
        let lacking: Vec<_> = verbs.into_iter().filter(|verb| !grants(&granted, &path, verb)).collect();
        // Only the first path, the path of the keys, is needed for reading. An administrator may leave the other rights
        // to other clients.
        reads &= at > 0 || !lacking.contains(&"read");
        if !lacking.is_empty() {
            missing.push(format!("{} on {path}", lacking.join(", ")));
        }
    }
    match missing.as_slice() {
        [] => Ok("create, read, update, delete, list".to_owned()),
        missing if !reads => {
            Err(Error::new(ErrorKind::PermissionDenied, "the policy does not allow reading keys")
                .context("missing", missing.join("; ")))
        }
        missing => {
            probe.warn("rights", format!("the policy lacks capabilities: {}", missing.join("; ")));
            Ok("keys may be read".to_owned())
        }
    }
}

/// Whether the token may update each of these keys.
pub(crate) async fn may_update(mount: &Mount, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
    let mut rights = Vec::with_capacity(names.len());
    for names in names.chunks(NAMES_PER_REQUEST) {
        let version = mount.ask_version().await?;
        let paths: Vec<_> = names.iter().map(|name| mount.data_path(version, name)).collect();
        let granted = granted(mount, &paths.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        rights.extend(paths.iter().map(|path| match &granted {
            None => UpdateRight::Unknown,
            Some(granted) if grants(granted, path, "update") => UpdateRight::Granted,
            Some(_) => UpdateRight::Denied,
        }));
    }
    Ok(rights)
}

/// Asks for the rights of the token at each path. `None` if the token may not ask: that needs the policy `default`.
async fn granted(mount: &Mount, paths: &[&str]) -> Result<Option<Rights>> {
    let body = serde_json::to_vec(&BTreeMap::from([("paths", paths)])).map_err(|cause| unreadable(&cause))?;
    let call = mount.api.write("sys/capabilities-self", Zeroizing::new(body), Scope::Data)?;
    match mount.send(call).await {
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unauthenticated) => {
            Ok(None)
        }
        answer => Ok(Some(data_of(&answer?)?)),
    }
}

/// Whether the server has granted a right at a path.
fn grants(granted: &Rights, path: &str, verb: &str) -> bool {
    granted.get(path).is_some_and(|have| have.iter().any(|one| one == "root" || one == verb))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_units_that_leave_something_to_see() {
        for (seconds, expected) in [
            (1, "1 s"),
            (119, "119 s"),
            (120, "2 min"),
            (3_599, "59 min"),
            (7_199, "119 min"),
            (7_200, "2 h"),
            (172_799, "47 h"),
            (604_799, "6 days"),
            (2_764_800, "32 days"),
        ] {
            assert_eq!(in_words(seconds), expected);
        }
    }
}
