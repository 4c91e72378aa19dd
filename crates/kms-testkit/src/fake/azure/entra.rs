//! The service that gives tokens.

use serde_json::{Value, json};

use super::{
    CLIENT, CLIENT_SECRET, Host, OBJECT, TENANT,
    text::{SERVICE_PRINCIPAL, certificate, is_signed, is_thumbprint, part, seal, unbase64},
    world::World,
};
use crate::fake::{
    cloud::text::{pairs, random_hex, uuid},
    http::{Request, Response},
};

/// The type of an assertion.
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// The resource that tokens are issued for.
pub(super) const RESOURCE: &str = "https://vault.azure.net";
/// The largest accepted difference between clocks, in seconds.
const SKEW: i64 = 300;

impl World {
    pub(super) fn entra(&mut self, request: &Request) -> Response {
        let path = request.path.split('?').next().unwrap_or_default().to_owned();
        let Some(path) = path.strip_prefix(self.switches.authority_path) else {
            return Response::status(404);
        };
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        match (request.method.as_str(), parts.as_slice()) {
            ("GET", [TENANT, "v2.0", ".well-known", "openid-configuration"]) => {
                let base = format!("{}/{TENANT}", self.url(Host::Tokens));
                Response::value(
                    200,
                    json!({"token_endpoint": format!("{base}/oauth2/v2.0/token"), "issuer": format!("{base}/v2.0"),
                           "jwks_uri": format!("{base}/discovery/v2.0/keys"),
                           "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize")}),
                )
            }
            ("POST", [TENANT, "oauth2", "v2.0", "token"]) => self.token(request),
            ("POST", [_, "oauth2", "v2.0", "token"]) => denied(
                400,
                90002,
                "invalid_request",
                "Tenant not found. Check to make sure you have the correct tenant ID.",
            ),
            _ => Response::status(404),
        }
    }

    fn token(&mut self, request: &Request) -> Response {
        let form = request.header("content-type").unwrap_or_default();
        if !form.starts_with("application/x-www-form-urlencoded") {
            return denied(400, 900_144, "invalid_request", "The request body must be a form.");
        }
        let form = pairs(request.text()).unwrap_or_default();
        let value =
            |name: &str| form.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        if value("grant_type") != Some("client_credentials") {
            return denied(
                400,
                70003,
                "unsupported_grant_type",
                "The app requested an unsupported grant type.",
            );
        }
        if value("client_id") != Some(CLIENT) {
            return denied(
                400,
                700_016,
                "unauthorized_client",
                "Application was not found in the directory.",
            );
        }
        if value("scope") != Some(&format!("{RESOURCE}/.default")) {
            return denied(400, 1_002_012, "invalid_scope", "The provided value for scope is not valid.");
        }
        let problem =
            match (value("client_assertion_type"), value("client_assertion"), value("client_secret")) {
                (Some(JWT_BEARER), Some(assertion), None) => self.assertion(assertion),
                (None, None, Some(CLIENT_SECRET)) => None,
                (None, None, Some(_)) => Some((7_000_215, "Invalid client secret provided.")),
                _ => Some((7_000_218, "The request body must contain client_assertion or client_secret.")),
            };
        if let Some((number, why)) = problem {
            return denied(401, number, "invalid_client", why);
        }
        let (now, life) = (self.base.clock.now(), self.switches.token_seconds);
        let claims = json!({"aud": RESOURCE, "iss": format!("https://sts.windows.net/{TENANT}/"), "iat": now, "nbf": now,
                            "exp": now + life, "appid": CLIENT, "oid": OBJECT, "sub": OBJECT, "tid": TENANT, "ver": "1.0",
                            "uti": uuid()});
        let text = format!("{}.{}", part(&json!({"alg": "HS256", "typ": "JWT"})), part(&claims));
        let token = format!("{text}.{}", seal(&self.signing_key, &text));
        self.base.counts.issued += 1;
        if self.switches.sparse {
            let token = random_hex(64);
            self.opaque.insert(token.clone(), now + life);
            return Response::value(200, json!({"expires_in": life.to_string(), "access_token": token}));
        }
        Response::value(
            200,
            json!({"token_type": "Bearer", "expires_in": life, "ext_expires_in": life, "access_token": token}),
        )
    }

    /// The error of an assertion; `None` if it is valid.
    fn assertion(&mut self, assertion: &str) -> Option<(u32, &'static str)> {
        if self.switches.federated_token.as_deref() == Some(assertion) {
            return None;
        }
        let parts: Vec<&str> = assertion.split('.').collect();
        let [header, claims, signature] = parts.as_slice() else {
            return Some((50027, "JWT token is invalid or malformed."));
        };
        let json = |part: &str| -> Value {
            unbase64(part).and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
        };
        let (head, claim) = (json(header), json(claims));
        let known = certificate(self.switches.certificate.as_deref().unwrap_or(SERVICE_PRINCIPAL));
        if !is_thumbprint(&known, head["x5t"].as_str(), head["x5t#S256"].as_str()) {
            return Some((
                700_027,
                "The certificate with identifier used to sign the client assertion is not registered.",
            ));
        }
        let message = format!("{header}.{claims}");
        let signature = unbase64(signature).unwrap_or_default();
        if !is_signed(&known, head["alg"].as_str().unwrap_or_default(), message.as_bytes(), &signature) {
            return Some((700_027, "Client assertion failed signature validation."));
        }
        let base = format!("{}{}/{TENANT}", self.url(Host::Tokens), self.switches.authority_path);
        let audiences = [format!("{base}/oauth2/v2.0/token"), format!("{base}/v2.0")];
        if !claim["aud"].as_str().is_some_and(|aud| audiences.iter().any(|known| known == aud)) {
            return Some((700_023, "Client assertion audience claim does not match Realm issuer."));
        }
        if claim["iss"] != CLIENT || claim["sub"] != CLIENT {
            return Some((
                700_021,
                "Client assertion application identifier doesn't match 'client_id' parameter.",
            ));
        }
        // Microsoft's Python client sends fractions.
        #[allow(clippy::cast_precision_loss, reason = "seconds are far below the limit")]
        let now = self.base.clock.now() as f64;
        #[allow(clippy::cast_precision_loss, reason = "it is small")]
        let skew = SKEW as f64;
        let (from, to) = (claim["nbf"].as_f64(), claim["exp"].as_f64());
        if !to.is_some_and(|to| to > now - skew && to < now + 86_400.0)
            || from.is_some_and(|from| from > now + skew)
        {
            return Some((700_024, "Client assertion is not within its valid time range."));
        }
        match claim["jti"].as_str() {
            Some(id) if self.seen.insert(id.to_owned()) => None,
            _ => Some((700_029, "Client assertion has no id of its own: it was used before.")),
        }
    }

    /// Whether the vault accepts a token.
    pub(super) fn accepts(&self, token: &str) -> bool {
        if let Some(end) = self.opaque.get(token) {
            return *end > self.base.clock.now();
        }
        let Some((text, signature)) = token.rsplit_once('.') else { return false };
        let claims: Value = text
            .split('.')
            .nth(1)
            .and_then(unbase64)
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let now = self.base.clock.now();
        signature == seal(&self.signing_key, text)
            && claims["aud"] == RESOURCE
            && claims["tid"] == TENANT
            && claims["nbf"].as_i64().is_some_and(|from| from <= now + SKEW)
            && claims["exp"].as_i64().is_some_and(|to| to > now)
    }
}

fn denied(status: u16, number: u32, error: &str, why: &str) -> Response {
    let trace = uuid();
    Response::value(
        status,
        json!({"error": error, "error_description": format!("AADSTS{number}: {why} Trace ID: {trace}"),
               "error_codes": [number], "timestamp": "2026-01-01 00:00:00Z", "trace_id": trace,
               "correlation_id": uuid()}),
    )
}
