//! Creating and importing.

use serde_json::{Value, json};

use super::{Call, KEY_TYPE, envelope, is_alias, reason, refusal, taken};
use crate::fake::{
    cloud::text::uuid,
    http::Response,
    ibmkp::{
        text::{decoded, material},
        world::{Key, World},
    },
};

/// The largest payload of a standard key that the double accepts, in characters. The true limit is not documented.
const MAX_PAYLOAD: usize = 7_500;
/// The fields of a resource.
const FIELDS: [&str; 13] = [
    "name",
    "description",
    "type",
    "tags",
    "Tags",
    "aliases",
    "expirationDate",
    "extractable",
    "payload",
    "encryptedNonce",
    "iv",
    "encryptionAlgorithm",
    "keyRingID",
];

fn bad_body(message: &str) -> Response {
    refusal(400, "BAD_BODY_ERR", "Bad Request: Key could not be created", message)
}

fn invalid(field: &str, why: &str) -> Response {
    reason(400, "INVALID_FIELD_ERR", &format!("The field `{field}` must be: {why}"))
}

impl World {
    pub(super) fn create(&mut self, call: &Call<'_>) -> Response {
        match self.imported(call) {
            Ok(key) => {
                let payload = self.switches.create_returns_payload || call.prefers("return=representation");
                let shown = if call.prefers("return=minimal") {
                    json!({"id": key.id})
                } else {
                    self.shown(&key, payload)
                };
                self.keys.insert(key.id.clone(), key);
                Response::value(201, envelope(KEY_TYPE, vec![shown]))
            }
            Err(refused) => refused,
        }
    }

    fn imported(&self, call: &Call<'_>) -> Result<Key, Response> {
        let kind = call.request.header("content-type").unwrap_or("application/json");
        if !matches!(kind.split(';').next(), Some("application/json" | KEY_TYPE)) {
            return Err(bad_body("The content type is not supported"));
        }
        if call.request.body.is_empty() {
            return Err(refusal(
                400,
                "NO_BODY_ERR",
                "Bad Request: Key could not be created",
                "No body was passed",
            ));
        }
        let body: Value = serde_json::from_slice(&call.request.body).map_err(|_error| {
            bad_body("Invalid body data was passed. Please ensure the data passed had valid formatting with no invalid characters")
        })?;
        let metadata = body.get("metadata").filter(|metadata| metadata.is_object());
        let metadata = metadata.ok_or_else(|| bad_body("CollectionMetadata is empty"))?;
        if metadata["collectionType"] != KEY_TYPE {
            return Err(bad_body("The collection type is not that of keys"));
        }
        let resources = body["resources"].as_array().cloned().unwrap_or_default();
        if metadata["collectionTotal"] != json!(resources.len()) {
            return Err(refusal(
                400,
                "COLLECTION_TOTAL_MISMATCH_ERR",
                "Bad Request: Key could not be created",
                "Collection total does not match number of resources",
            ));
        }
        let [Value::Object(resource)] = resources.as_slice() else {
            return Err(bad_body(
                "Invalid body data was passed. Only creation of one key per request is supported",
            ));
        };
        if let Some(unknown) = resource.keys().find(|field| !FIELDS.contains(&field.as_str())) {
            return Err(bad_body(&format!("json: unknown field \"{unknown}\"")));
        }
        if !self.switches.import_allowed {
            return Err(reason(
                409,
                "KEY_CREATE_IMPORT_ACCESS_ERR",
                "KeyCreateImportAccess instance policy does not allow this action",
            ));
        }
        let text = |field: &str| resource.get(field).and_then(Value::as_str);
        let texts = |field: &str| -> Result<Vec<String>, Response> {
            let Some(value) = resource.get(field) else { return Ok(Vec::new()) };
            let list = value.as_array().and_then(|list| {
                list.iter().map(|text| text.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
            });
            list.ok_or_else(|| invalid(field, "a list of texts"))
        };
        if text("type") != Some(KEY_TYPE) {
            return Err(invalid("type", KEY_TYPE));
        }
        let name = text("name").filter(|name| (2..=90).contains(&name.chars().count()));
        let name = name.ok_or_else(|| invalid("name", "2 to 90 characters"))?;
        let description = text("description").unwrap_or_default();
        if description.chars().count() > 240 {
            return Err(invalid("description", "at most 240 characters"));
        }
        let tags: Vec<String> = [texts("tags")?, texts("Tags")?].concat();
        let tag = |tag: &String| {
            (2..=30).contains(&tag.chars().count()) && !tag.contains(['<', '>', ',', ':', '&', '|'])
        };
        if tags.len() > 30 || !tags.iter().all(tag) {
            return Err(invalid("tags", "at most 30 of 2 to 30 characters, without < > , : & |"));
        }
        let aliases = texts("aliases")?;
        if aliases.len() > 5 || !aliases.iter().all(|alias| is_alias(alias)) {
            return Err(invalid(
                "aliases",
                "at most 5 of 2 to 90 letters, digits, - and _, no UUID, no reserved word",
            ));
        }
        if aliases.iter().any(|alias| self.by_alias(alias).is_some()) {
            return Err(taken());
        }
        let extractable = match resource.get("extractable") {
            None => true,
            Some(value) => value.as_bool().ok_or_else(|| invalid("extractable", "a boolean"))?,
        };
        let payload = match resource.get("payload") {
            None => None,
            Some(value) => {
                let payload = value.as_str().ok_or_else(|| invalid("payload", "a text"))?;
                let bytes = decoded(payload).ok_or_else(|| invalid("payload", "base64"))?;
                let fits = if extractable {
                    !bytes.is_empty() && payload.len() <= MAX_PAYLOAD
                } else {
                    matches!(bytes.len(), 16 | 24 | 32)
                };
                if !fits {
                    return Err(invalid("payload", "of a valid size"));
                }
                Some(payload.to_owned())
            }
        };
        let ring = call.ring().unwrap_or("default");
        if !self.rings.iter().any(|known| known == ring) {
            return Err(reason(404, "KEY_RING_NOT_FOUND_ERR", "Key ring does not exist"));
        }
        Ok(Key {
            id: uuid(),
            name: name.to_owned(),
            description: description.to_owned(),
            tags,
            aliases,
            extractable,
            imported: payload.is_some(),
            payload: payload.unwrap_or_else(material),
            state: 1,
            ring: ring.to_owned(),
            created: self.base.clock.now(),
            deleted: None,
        })
    }
}
