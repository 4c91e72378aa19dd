//! The service that keeps secrets.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    Host, TENANT,
    entra::RESOURCE,
    text::refused,
    world::{Entry, Life, Links, Version, World},
};
use crate::fake::{
    cloud::text::{pairs, random_hex, unescaped, uuid},
    http::{Request, Response},
};

/// The versions of the API that the vault accepts.
const VERSIONS: [&str; 8] = ["2026-04-01", "2025-07-01", "7.6", "7.5", "7.4", "7.3", "7.2", "7.0"];
/// The largest value.
const MAX_VALUE: usize = 25_600;
/// How many days a deleted secret is kept.
const DAYS: i64 = 90;

type Reply<T = Response> = Result<T, Response>;

impl World {
    pub(super) fn vault(&mut self, request: &Request) -> Response {
        self.base.clock.offset += i64::try_from(self.switches.haste.as_millis()).expect("a sensible time");
        self.pass_time();
        let answer = self.routed(request).unwrap_or_else(|refusal| refusal);
        if self.switches.sparse { answer } else { answer.header("x-ms-request-id", uuid()) }
    }

    fn authorized(&mut self, request: &Request) -> Reply<()> {
        let elsewhere = self.switches.vault_tenant;
        let authority = format!("{}/{}", self.url(Host::Tokens), elsewhere.unwrap_or(TENANT));
        let challenge = if self.switches.sparse {
            format!(r#"Bearer authorization_uri="{authority}", scope="{RESOURCE}/.default""#)
        } else {
            format!(r#"Bearer authorization="{authority}", resource="{RESOURCE}""#)
        };
        let Some(header) = request.header("authorization") else {
            self.base.counts.challenges += 1;
            let message = "AKV10000: Request is missing a Bearer or PoP token.";
            return Err(refused(401, "Unauthorized", message, None).header("www-authenticate", challenge));
        };
        if elsewhere.is_none() && header.strip_prefix("Bearer ").is_some_and(|token| self.accepts(token)) {
            return Ok(());
        }
        let message = match elsewhere {
            Some(_) => "AKV10032: Invalid issuer. Expected the tenant of the vault.",
            None => "AKV10022: Invalid audience, issuer, signature or time of the token.",
        };
        let challenge =
            format!(r#"{challenge}, error="invalid_token", error_description="the token is not valid""#);
        Err(refused(401, "Unauthorized", message, None).header("www-authenticate", challenge))
    }

    fn allowed(&self, operation: &'static str) -> Reply<()> {
        if self.switches.denied.contains(operation) {
            let message = format!("Caller is not authorized to perform action on resource: {operation}");
            return Err(refused(403, "Forbidden", &message, Some("ForbiddenByRbac")));
        }
        Ok(())
    }

    fn routed(&mut self, request: &Request) -> Reply {
        self.authorized(request)?;
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let query = pairs(query).unwrap_or_default();
        let value =
            |name: &str| query.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        match value("api-version") {
            Some(version) if VERSIONS.contains(&version.as_str()) => {}
            Some(_) => {
                return Err(refused(400, "BadParameter", "The specified version is not supported", None));
            }
            None => return Err(refused(400, "BadParameter", "api-version must be specified", None)),
        }
        let parts: Vec<String> = path
            .split('/')
            .filter(|part| !part.is_empty())
            .filter_map(|part| unescaped(part, false))
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        if let [_, name, ..] = parts.as_slice()
            && !(1..=127).contains(&name.len())
                | !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            let message = "The request URI contains an invalid name: it has to match ^[0-9a-zA-Z-]{1,127}$";
            return Err(refused(400, "BadParameter", message, None));
        }
        let skip: usize = value("$skiptoken").and_then(|skip| skip.parse().ok()).unwrap_or(0);
        let most = match value("maxresults") {
            None => self.switches.page,
            Some(text) => match text.parse::<usize>() {
                Ok(count) if (1..=25).contains(&count) => count.min(self.switches.page),
                _ => return Err(refused(400, "BadParameter", "Invalid maxresults", None)),
            },
        };
        match (request.method.as_str(), parts.as_slice()) {
            ("GET", ["secrets"]) => self.list("secrets", skip, most),
            ("GET", ["deletedsecrets"]) => self.list("deletedsecrets", skip, most),
            ("PUT", ["secrets", name]) => self.set(name, request),
            ("GET", ["secrets", name, "versions"]) => self.versions(name, skip, most),
            ("GET", ["secrets", name]) => self.get(name, None),
            ("GET", ["secrets", name, version]) => self.get(name, Some(version)),
            ("PATCH", ["secrets", name]) => self.patch(name, None, request),
            ("PATCH", ["secrets", name, version]) => self.patch(name, Some(version), request),
            ("DELETE", ["secrets", name]) => self.delete(name),
            ("GET", ["deletedsecrets", name]) => {
                self.allowed("get")?;
                let entry = self.deleted(name)?;
                Ok(Response::value(200, self.gone(entry)))
            }
            ("POST", ["deletedsecrets", name, "recover"]) => self.recover(name),
            ("DELETE", ["deletedsecrets", name]) => self.purge(name),
            _ => Err(refused(405, "MethodNotAllowed", "The method is not allowed here", None)),
        }
    }

    /// The refusal of a request whose secret is deleted or in transition.
    fn conflict(&self, life: Life) -> Response {
        let (text, code) = match life {
            Life::Deleted { complete, .. } if complete <= self.base.clock.milliseconds() => {
                ("is currently in a deleted but recoverable state", "ObjectIsDeletedButRecoverable")
            }
            Life::Recovering { .. } => ("is currently being recovered", "ObjectIsBeingRecovered"),
            _ => ("is currently being deleted", "ObjectIsBeingDeleted"),
        };
        let inner = self.switches.codes.then_some(code);
        refused(409, "Conflict", &format!("Secret {text}, and its name cannot be reused."), inner)
    }

    fn live(&self, name: &str) -> Reply<&Entry> {
        let found = self.secrets.get(&name.to_lowercase()).filter(|entry| entry.life == Life::Live);
        found.ok_or_else(|| missing(name))
    }

    /// The deleted secret of that name, once its deletion is complete.
    fn deleted(&self, name: &str) -> Reply<&Entry> {
        let now = self.base.clock.milliseconds();
        let found = self.secrets.get(&name.to_lowercase());
        found
            .filter(|entry| matches!(entry.life, Life::Deleted { complete, .. } if complete <= now))
            .ok_or_else(|| missing(name))
    }

    fn set(&mut self, name: &str, request: &Request) -> Reply {
        self.allowed("set")?;
        let bad = |message: &str| refused(400, "BadParameter", message, None);
        if !request.header("content-type").unwrap_or_default().starts_with("application/json") {
            return Err(refused(415, "UnsupportedMediaType", "The body has to be JSON", None));
        }
        let body: Value =
            serde_json::from_slice(&request.body).map_err(|_cause| bad("The body is not JSON"))?;
        let value = body["value"].as_str().ok_or_else(|| bad("Property value is missing"))?;
        if value.len() > MAX_VALUE {
            return Err(bad("The value is too long"));
        }
        let now = self.base.clock.now();
        let version = Version {
            id: random_hex(32),
            value: value.to_owned(),
            content_type: body["contentType"].as_str().map(str::to_owned),
            tags: tags(&body["tags"]).unwrap_or_default(),
            enabled: body["attributes"]["enabled"].as_bool().unwrap_or(true),
            expires: body["attributes"]["exp"].as_i64(),
            created: now,
            updated: now,
        };
        if let Some(entry) = self.secrets.get(&name.to_lowercase())
            && entry.life != Life::Live
        {
            return Err(self.conflict(entry.life));
        }
        let entry = self.add(name, version.clone()).clone();
        Ok(Response::value(200, self.bundle(&entry, &version, true)))
    }

    fn get(&self, name: &str, version: Option<&str>) -> Reply {
        self.allowed("get")?;
        let entry = self.live(name)?;
        let version = find(entry, version)?;
        if !version.enabled {
            let message = "Operation get is not allowed on a disabled secret.";
            return Err(refused(403, "Forbidden", message, Some("SecretDisabled")));
        }
        Ok(Response::value(200, self.bundle(entry, version, true)))
    }

    fn patch(&mut self, name: &str, version: Option<&str>, request: &Request) -> Reply {
        self.allowed("set")?;
        let body: Value = serde_json::from_slice(&request.body)
            .map_err(|_cause| refused(400, "BadParameter", "The body is not JSON", None))?;
        let now = self.base.clock.now();
        let id = find(self.live(name)?, version)?.id.clone();
        let entry = self.secrets.get_mut(&name.to_lowercase()).ok_or_else(|| missing(name))?;
        let found = entry.versions.iter_mut().find(|one| one.id == id).ok_or_else(|| missing(name))?;
        found.updated = now;
        if let Some(enabled) = body["attributes"]["enabled"].as_bool() {
            found.enabled = enabled;
        }
        if let Some(tags) = tags(&body["tags"]) {
            found.tags = tags;
        }
        if let Some(kind) = body["contentType"].as_str() {
            found.content_type = Some(kind.to_owned());
        }
        let (found, entry) = (found.clone(), entry.clone());
        Ok(Response::value(200, self.bundle(&entry, &found, false)))
    }

    fn delete(&mut self, name: &str) -> Reply {
        self.allowed("delete")?;
        if let Some(entry) = self.secrets.get(&name.to_lowercase())
            && matches!(entry.life, Life::Recovering { .. })
        {
            return Err(self.conflict(entry.life));
        }
        let entry = self.live(name)?.clone();
        if !self.switches.soft_delete {
            self.secrets.remove(&name.to_lowercase());
            let Some(last) = entry.versions.last() else { return Err(missing(name)) };
            return Ok(Response::value(200, self.bundle(&entry, last, false)));
        }
        let life = Life::Deleted { since: self.base.clock.milliseconds(), complete: self.complete() };
        let entry = self.secrets.get_mut(&name.to_lowercase()).ok_or_else(|| missing(name))?;
        entry.life = life;
        let entry = entry.clone();
        Ok(Response::value(200, self.gone(&entry)))
    }

    /// Checks that the deletion of a secret is complete, before a change of its state.
    fn settled(&self, name: &str) -> Reply<()> {
        match self.secrets.get(&name.to_lowercase()) {
            None => Err(missing(name)),
            Some(entry) if entry.life == Life::Live => Err(missing(name)),
            Some(entry) => match self.deleted(name) {
                Ok(_) => Ok(()),
                Err(_) if self.switches.sparse => Err(missing(name)),
                Err(_) => Err(self.conflict(entry.life)),
            },
        }
    }

    fn recover(&mut self, name: &str) -> Reply {
        self.allowed("recover")?;
        self.settled(name)?;
        let complete = self.complete();
        let entry = self.secrets.get_mut(&name.to_lowercase()).ok_or_else(|| missing(name))?;
        entry.life = Life::Recovering { complete };
        let entry = entry.clone();
        let last = find(&entry, None)?;
        Ok(Response::value(200, self.bundle(&entry, last, false)))
    }

    fn purge(&mut self, name: &str) -> Reply {
        self.allowed("purge")?;
        self.settled(name)?;
        if self.switches.purge_protection {
            let message =
                "Operation \"purge\" is not allowed because purge protection is enabled for this vault.";
            return Err(refused(403, "Forbidden", message, None));
        }
        let complete = self.complete();
        let entry = self.secrets.get_mut(&name.to_lowercase()).ok_or_else(|| missing(name))?;
        entry.life = Life::Purging { complete };
        Ok(Response::status(204))
    }

    fn list(&self, kind: &str, skip: usize, most: usize) -> Reply {
        self.allowed("list")?;
        let now = self.base.clock.milliseconds();
        let of_deleted = kind == "deletedsecrets";
        let chosen = self.secrets.values().filter(|entry| match entry.life {
            Life::Live => !of_deleted,
            Life::Deleted { complete, .. } => of_deleted && complete <= now,
            _ => false,
        });
        let items = chosen.filter_map(|entry| {
            let mut item =
                if of_deleted { self.gone(entry) } else { self.bundle(entry, entry.versions.last()?, false) };
            item["id"] = json!(format!("{}/secrets/{}", self.url(Host::Keys), entry.name));
            Some(item)
        });
        Ok(self.page(kind, items.collect(), skip, most))
    }

    fn versions(&self, name: &str, skip: usize, most: usize) -> Reply {
        self.allowed("list")?;
        // Not in the order in which they were made: the service promises none.
        let mut items: Vec<Value> = Vec::new();
        if let Ok(entry) = self.live(name) {
            let mut versions: Vec<_> = entry.versions.iter().collect();
            versions.sort_by(|one, other| one.id.cmp(&other.id));
            items.extend(versions.into_iter().map(|version| self.bundle(entry, version, false)));
        }
        Ok(self.page(&format!("secrets/{name}/versions"), items, skip, most))
    }

    fn page(&self, path: &str, items: Vec<Value>, skip: usize, most: usize) -> Response {
        let links = self.switches.links;
        let next = (skip + most < items.len()).then(|| {
            let host = if self.switches.sparse || links == Links::Elsewhere {
                "https://elsewhere.example:8443".to_owned()
            } else {
                self.url(Host::Keys)
            };
            let to = if matches!(links, Links::Back | Links::BackAnew) { skip } else { skip + most };
            let spelling = if links == Links::BackAnew { format!("&n={}", uuid()) } else { String::new() };
            format!("{host}/{path}?api-version=7.4&$skiptoken={to}&maxresults={}{spelling}", most.min(25))
        });
        let items: Vec<Value> = items.into_iter().skip(skip).take(most).collect();
        let mut page = json!({"value": items, "nextLink": next});
        if links == Links::Lost {
            page.as_object_mut().map(|page| page.remove("nextLink"));
        }
        if self.switches.bare_pages && skip > 0 {
            page.as_object_mut().map(|page| page.remove("value"));
        }
        Response::value(200, page)
    }

    fn bundle(&self, entry: &Entry, version: &Version, with_value: bool) -> Value {
        let level = if self.switches.purge_protection { "Recoverable" } else { "Recoverable+Purgeable" };
        let mut bundle = json!({
            "id": format!("{}/secrets/{}/{}", self.url(Host::Keys), entry.name, version.id),
            "attributes": {"enabled": version.enabled, "created": version.created, "updated": version.updated,
                           "recoveryLevel": level, "recoverableDays": DAYS},
        });
        if !self.switches.soft_delete {
            bundle["attributes"]["recoveryLevel"] = json!("Purgeable");
        }
        if self.switches.sparse {
            bundle["attributes"] = json!({"enabled": version.enabled, "created": version.created});
            bundle["tags"] = Value::Null;
            bundle["contentType"] = Value::Null;
        }
        if let Some(expires) = version.expires {
            bundle["attributes"]["exp"] = json!(expires);
        }
        if with_value {
            bundle["value"] = json!(version.value);
        }
        if let Some(kind) = &version.content_type {
            bundle["contentType"] = json!(kind);
        }
        if !version.tags.is_empty() {
            bundle["tags"] = json!(version.tags);
        }
        bundle
    }

    fn gone(&self, entry: &Entry) -> Value {
        let since = match entry.life {
            Life::Deleted { since, .. } => since / 1_000,
            _ => 0,
        };
        let Some(last) = entry.versions.last() else { return Value::Null };
        let mut bundle = self.bundle(entry, last, false);
        if self.switches.sparse {
            return bundle;
        }
        bundle["recoveryId"] = json!(format!("{}/deletedsecrets/{}", self.url(Host::Keys), entry.name));
        bundle["deletedDate"] = json!(since);
        bundle["scheduledPurgeDate"] = json!(since + DAYS * 86_400);
        bundle
    }
}

fn find<'a>(entry: &'a Entry, version: Option<&str>) -> Reply<&'a Version> {
    let found = match version {
        None | Some("") => entry.versions.last(),
        Some(id) => entry.versions.iter().find(|version| version.id == id),
    };
    found.ok_or_else(|| missing(&entry.name))
}

fn missing(name: &str) -> Response {
    let message = format!(
        "A secret with (name/id) {name} was not found in this key vault. If you recently deleted this secret you may be \
         able to recover it using the correct recovery command."
    );
    refused(404, "SecretNotFound", &message, None)
}

fn tags(json: &Value) -> Option<BTreeMap<String, String>> {
    let text = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    json.as_object().map(|tags: &Map<String, Value>| tags.iter().filter_map(text).collect())
}
