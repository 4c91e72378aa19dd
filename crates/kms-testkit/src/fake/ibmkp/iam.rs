//! The service that gives tokens.

use serde_json::json;

use super::{API_KEY, text::jwt, world::World};
use crate::fake::{
    cloud::text::{pairs, uuid},
    http::{Request, Response},
};

/// The grant type of a login with an API key.
const GRANT: &str = "urn:ibm:params:oauth:grant-type:apikey";

impl World {
    pub(super) fn token(&mut self, request: &Request) -> Response {
        let path = request.path.split('?').next().unwrap_or_default();
        if !matches!(path, "/identity/token" | "/oidc/token") {
            return denied(404, "BXNIM0101E", "Resource not found", path);
        }
        if request.method != "POST" {
            return denied(405, "BXNIM0103E", "Method not allowed", path);
        }
        let form = request.header("content-type").unwrap_or_default();
        if !form.starts_with("application/x-www-form-urlencoded") {
            return denied(415, "BXNIM0120E", "Content type is not supported", path);
        }
        let form = pairs(request.text()).unwrap_or_default();
        let value =
            |name: &str| form.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        if value("grant_type") != Some(GRANT) {
            return denied(400, "BXNIM0109E", "Property missing or empty: grant_type", path);
        }
        match value("apikey") {
            None | Some("") => denied(400, "BXNIM0109E", "Property missing or empty: apikey", path),
            Some(API_KEY) => {
                let (now, life) = (self.base.clock.now(), self.switches.token_seconds);
                let token = jwt(now, now + life);
                self.base.counts.issued += 1;
                self.tokens.insert(token.clone(), now + life);
                Response::value(
                    200,
                    json!({"access_token": token, "refresh_token": "not_supported", "token_type": "Bearer",
                           "expires_in": life, "expiration": now + life, "scope": "ibm openid"}),
                )
            }
            Some(_) => denied(400, "BXNIM0415E", "Provided API key could not be found", path),
        }
    }
}

fn denied(status: u16, code: &str, message: &str, path: &str) -> Response {
    Response::value(
        status,
        json!({"errorCode": code, "errorMessage": message, "context": {
            "requestId": uuid(), "requestType": "incoming.Identity_Token", "clientIp": "127.0.0.1", "url": path,
            "instanceId": "tokenservice", "host": "localhost", "startTime": "", "endTime": "", "elapsedTime": "1",
            "locale": "en_US"}}),
    )
}
