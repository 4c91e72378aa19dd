//! The service that keeps keys.

mod create;
mod key;
mod list;

use serde_json::{Value, json};

use super::{
    INSTANCE,
    text::rfc3339,
    world::{Key, World},
};
use crate::fake::{
    cloud::text::{pairs, unescaped},
    http::{Request, Response},
};

/// The type of a key in bodies.
const KEY_TYPE: &str = "application/vnd.ibm.kms.key+json";
const ALIAS_TYPE: &str = "application/vnd.ibm.kms.alias+json";
const ERROR_TYPE: &str = "application/vnd.ibm.kms.error+json";
const RING_TYPE: &str = "application/vnd.ibm.kms.key_ring+json";

/// Words that are not valid aliases.
const RESERVED: [&str; 16] = [
    "allowed_ip",
    "key",
    "keys",
    "metadata",
    "policies",
    "policy",
    "registration",
    "registrations",
    "ring",
    "rings",
    "rotate",
    "wrap",
    "unwrap",
    "rewrap",
    "version",
    "versions",
];

/// A request and its parsed query.
struct Call<'a> {
    request: &'a Request,
    query: Vec<(String, String)>,
}

impl Call<'_> {
    fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn prefers(&self, what: &str) -> bool {
        self.request.header("prefer").is_some_and(|prefer| prefer.contains(what))
    }

    fn ring(&self) -> Option<&str> {
        self.request.header("x-kms-key-ring")
    }
}

impl World {
    /// Responds to a request for keys.
    pub(super) fn keys(&mut self, request: &Request) -> Response {
        if let Some(refused) = self.refused(request) {
            return refused;
        }
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let Some(path) = path.strip_prefix("/api/v2/") else { return plain(404, "Not Found: no such path") };
        let parts: Option<Vec<String>> = path.split('/').map(|part| unescaped(part, false)).collect();
        let (Some(parts), Some(query)) = (parts, pairs(query)) else {
            return reason(400, "INVALID_QUERY_PARAM_ERR", "the path or the query is not escaped well");
        };
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let call = Call { request, query };
        let writes = !matches!(request.method.as_str(), "GET" | "HEAD");
        if writes && !self.switches.may_write {
            return plain(403, "Forbidden: The user does not have the right to do this");
        }
        match (request.method.as_str(), parts.as_slice()) {
            ("POST", ["keys"]) => self.create(&call),
            ("GET", ["keys"]) => self.list(&call),
            ("HEAD", ["keys"]) => self.count(&call),
            ("GET", ["keys", which]) => self.get(&call, which, true),
            ("GET", ["keys", which, "metadata"]) => self.get(&call, which, false),
            ("DELETE", ["keys", which]) => self.destroy(&call, which),
            ("POST", ["keys", which, "restore"]) => self.restore(&call, which),
            ("DELETE", ["keys", which, "purge"]) => self.purge(&call, which),
            ("POST", ["keys", which, "actions", action @ ("disable" | "enable")]) => {
                self.act(&call, which, action)
            }
            ("POST", ["keys", which, "aliases", alias]) => self.add_alias(&call, which, alias),
            ("DELETE", ["keys", which, "aliases", alias]) => self.remove_alias(&call, which, alias),
            ("GET", ["key_rings"]) => {
                let rings: Vec<_> = self.rings.iter().map(|ring| json!({"id": ring})).collect();
                Response::value(200, envelope(RING_TYPE, rings))
            }
            ("POST", ["key_rings", ring]) => {
                self.rings.push((*ring).to_owned());
                Response::status(201)
            }
            ("DELETE", ["key_rings", ring]) => {
                self.rings.retain(|known| known == "default" || known != ring);
                Response::status(204)
            }
            _ => plain(404, "Not Found: no such path"),
        }
    }

    /// The refusal of a request without a valid token and the right instance. Like the service, it gives no reasons.
    fn refused(&self, request: &Request) -> Option<Response> {
        const NO: &str = "Unauthorized: The user does not have access to the specified resource";
        let Some(token) = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "))
        else {
            return Some(plain(401, NO));
        };
        if token.split('.').count() != 3 {
            return Some(reason(
                400,
                "BEARER_SUB_EXTRACTION_ERR",
                "Extracting the subject from the bearer token failed",
            ));
        }
        let good = self.tokens.get(token).is_some_and(|end| self.base.clock.now() < *end);
        (!good || request.header("bluemix-instance") != Some(INSTANCE)).then(|| plain(401, NO))
    }

    /// The id of the key with this id or alias.
    fn find(&self, call: &Call<'_>, which: &str) -> Result<String, Response> {
        let key = self.keys.get(which).or_else(|| self.by_alias(which));
        let key = key.filter(|key| call.ring().is_none_or(|ring| ring == key.ring));
        key.map(|key| key.id.clone()).ok_or_else(|| {
            refusal(404, "KEY_NOT_FOUND_ERR", "Not Found: Key could not be retrieved", "key does not exist")
        })
    }

    /// A key as the service shows it.
    fn shown(&self, key: &Key, with_payload: bool) -> Value {
        let mut json = json!({
            "id": key.id, "type": KEY_TYPE, "name": key.name, "state": key.state, "extractable": key.extractable,
            "imported": key.imported, "keyRingID": key.ring, "algorithmType": "AES",
            "algorithmMetadata": {"bitLength": "256", "mode": "CBC_PAD"}, "createdBy": "iam-ServiceId-1",
            "creationDate": rfc3339(key.created), "lastUpdateDate": rfc3339(key.deleted.unwrap_or(key.created)),
            "crn": format!("crn:v1:bluemix:public:kms:us-south:a/1:{INSTANCE}:key:{}", key.id),
            "deleted": key.deleted.is_some(), "dualAuthDelete": {"enabled": self.switches.dual_authorisation},
        });
        if !key.description.is_empty() {
            json["description"] = json!(key.description);
        }
        if !key.tags.is_empty() {
            json["tags"] = json!(key.tags);
        }
        if !key.aliases.is_empty() && !self.switches.hides_aliases {
            json["aliases"] = json!(key.aliases);
        }
        if let Some(deleted) = key.deleted {
            json["deletionDate"] = json!(rfc3339(deleted));
            json["deletedBy"] = json!("iam-ServiceId-1");
        }
        if with_payload && key.extractable && key.state != 5 {
            json["payload"] = json!(key.payload);
        }
        json
    }
}

/// The envelope of every response.
fn envelope(kind: &str, resources: Vec<Value>) -> Value {
    json!({"metadata": {"collectionType": kind, "collectionTotal": resources.len()}, "resources": resources})
}

/// A refusal without reasons.
fn plain(status: u16, message: &str) -> Response {
    Response::value(status, envelope(ERROR_TYPE, vec![json!({"errorMsg": message})]))
}

/// A refusal with its reason.
fn refusal(status: u16, code: &str, headline: &str, message: &str) -> Response {
    let reasons = json!([{"code": code, "message": message, "status": status,
                          "moreInfo": "https://cloud.ibm.com/apidocs/key-protect"}]);
    let headline = format!("{headline}: Please see `reasons` for more details ({code})");
    Response::value(status, envelope(ERROR_TYPE, vec![json!({"errorMsg": headline, "reasons": reasons})]))
}

fn reason(status: u16, code: &str, message: &str) -> Response {
    let headline = match status {
        400 => "Bad Request: Action could not be performed on key",
        404 => "Not Found: Key could not be retrieved",
        409 => "Conflict: Action could not be performed on key",
        410 => "Gone: Key could not be deleted",
        _ => "Error",
    };
    refusal(status, code, headline, message)
}

fn deleted() -> Response {
    reason(410, "KEY_DELETED_ERR", "Key has already been deleted. Please delete references to this key.")
}

fn taken() -> Response {
    refusal(
        409,
        "KEY_ALIAS_NOT_UNIQUE_ERR",
        "Conflict: Key could not be created",
        "The alias is already in use",
    )
}

/// Whether the text is a valid alias.
fn is_alias(text: &str) -> bool {
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    let uuid =
        groups == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    (2..=90).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        && !uuid
        && !RESERVED.contains(&text)
}
