//! Maps responses of Key Vault and Entra ID to error kinds, and converts the SDK's errors.

use std::error::Error as StdError;

use kms_core::{Error, ErrorKind, Retry};
use kms_http::{
    HttpResponse,
    http::{StatusCode, header::WWW_AUTHENTICATE},
};
use serde_json::Value;

/// The maximum number of characters of a server's message in an error.
const MAX_WORDS: usize = 200;
/// The maximum depth of nested errors to examine.
const MAX_DEPTH: usize = 4;
/// The name of the context that holds the server's code.
const CODE: &str = "code";
/// The code for an absent secret.
const NOT_FOUND: &str = "SecretNotFound";
/// The code for a soft-deleted secret, which occupies its name.
pub(crate) const RECOVERABLE: &str = "ObjectIsDeletedButRecoverable";
/// The code for a disabled version.
pub(crate) const DISABLED: &str = "SecretDisabled";

/// The error in the body of an unsuccessful response. Servers write it in several forms; the status decides first.
#[derive(Debug, Default)]
struct Refusal {
    /// Whether the body is an error of the API, and not the page of a proxy.
    of_service: bool,
    code: Option<String>,
    inner: Option<String>,
    message: Option<String>,
}

impl Refusal {
    fn read(body: &[u8]) -> Self {
        let json: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let part = |value: &Value, name: &str| value.get(name).cloned().unwrap_or_default();
        let error = part(&json, "error");
        // Errors may be nested: the innermost code is the most specific.
        let (mut inner, mut deeper) = (None, error.clone());
        for _ in 0..MAX_DEPTH {
            deeper = match part(&deeper, "innererror") {
                Value::Null => part(&deeper, "innerError"),
                found => found,
            };
            inner = text(&part(&deeper, "code")).or(inner);
        }
        Self {
            of_service: json.get("error").is_some(),
            code: text(&part(&error, "code")),
            inner,
            message: text(&part(&error, "message")).or_else(|| text(&error)),
        }
    }
}

/// The error in the body of an unsuccessful response of Entra ID.
#[derive(Debug, Default)]
struct EntraRefusal {
    of_service: bool,
    description: Option<String>,
    /// The number after `AADSTS`.
    number: Option<u64>,
    trace_id: Option<String>,
}

impl EntraRefusal {
    fn read(body: &[u8]) -> Self {
        // A gateway may have appended its own page to the response.
        let first = serde_json::Deserializer::from_slice(body).into_iter::<Value>().next();
        let json = first.and_then(Result::ok).unwrap_or_default();
        let text = |name: &str| json.get(name).and_then(Value::as_str).map(str::to_owned);
        let description = text("error_description");
        let listed = json.get("error_codes").and_then(|codes| codes.get(0)).and_then(Value::as_u64);
        // The text comes first: it may name a general number and then the one that tells the cause.
        let written: Vec<u64> = description.as_deref().map(numbers).unwrap_or_default();
        let known = written.iter().rev().find(|number| remedy(**number).is_some());
        let number = known.or_else(|| written.first()).copied().or(listed);
        Self { of_service: json.get("error").is_some(), description, number, trace_id: text("trace_id") }
    }
}

/// The numbers after `AADSTS` in a text of Entra ID, in order.
fn numbers(text: &str) -> Vec<u64> {
    let digits = |rest: &str| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    text.split("AADSTS").skip(1).filter_map(digits).collect()
}

/// The cause that a number of Entra ID stands for, and the setting to check. `None` if the number is not known here.
fn remedy(number: u64) -> Option<&'static str> {
    Some(match number {
        90_002 | 900_023 => {
            "the tenant does not exist; check AZURE_TENANT_ID, and AZURE_ENVIRONMENT for its cloud"
        }
        90_038 | 900_382 => {
            "the tenant is in another cloud; set AZURE_ENVIRONMENT to the cloud of the tenant"
        }
        500_011 => {
            "the tenant does not know the vaults of this cloud; check that AZURE_VAULT_URL and AZURE_ENVIRONMENT name the \
             same cloud"
        }
        70_001 | 700_016 => "the tenant knows no such application; check AZURE_CLIENT_ID and AZURE_TENANT_ID",
        7_000_112 => "the application is disabled in the tenant; enable it, or check AZURE_CLIENT_ID",
        700_027 => {
            "Entra ID does not know the certificate, or it has expired; upload it to the application, or check \
             AZURE_CERT_SECRET_NAME"
        }
        700_024 => {
            "the assertion has expired or is not valid yet; check the clock of this host, and that the token file is \
             renewed"
        }
        70_021 | 700_211 | 700_212 | 700_213 => {
            "the application has no federated credential for the issuer, subject and audience of the token in \
             AZURE_FEDERATED_TOKEN_FILE; add one"
        }
        50_012 | 7_000_215 => {
            "the client secret is wrong; AZURE_CLIENT_SECRET must be the value of the secret, not its id"
        }
        7_000_222 => "the client secret has expired; make a new one and put it into AZURE_CLIENT_SECRET",
        53_003 | 530_032 => "a Conditional Access policy of the tenant blocks the application; exempt it",
        _ => return None,
    })
}

/// Shortens a server's message to one line.
fn words(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect()
}

/// The error for an unsuccessful response of Key Vault. `held_key`: the request held a KEK, which the server's message
/// may quote.
pub(crate) fn from_answer(answer: &HttpResponse, held_key: bool) -> Error {
    let with_id = |error: Error| match answer.header("x-ms-request-id") {
        Some(id) => error.context("request id", words(id)),
        None => error,
    };
    if let Some(error) = answer.page_error(!held_key) {
        return with_id(error);
    }
    let Refusal { of_service, code, inner, message } = Refusal::read(&answer.body);
    // A challenge is the vault's too, whatever comes with it.
    let of_service = of_service || answer.headers.contains_key(WWW_AUTHENTICATE);
    let (kind, text, retry) = meaning(answer.status, code.as_deref(), inner.as_deref(), of_service);
    let mut error = match message.map(|message| words(&message)).filter(|text| !text.is_empty()) {
        Some(said) if !held_key => Error::new(kind, format!("{text}; the server said: {said}")),
        _ => Error::new(kind, text),
    };
    error = error.retry(retry).retry_after(answer.retry_after());
    error = error.context("status", answer.status.as_u16().to_string());
    if let Some(code) = inner.or(code) {
        error = error.context(CODE, words(&code));
    }
    with_id(error)
}

/// The permission that a request to the vault needs: its name in access policies, and the action of a role.
pub(crate) fn needed_permission(method: &str, path: &str) -> &'static str {
    let ends = |end: &str| path.trim_end_matches('/').ends_with(end);
    match method {
        "PUT" => "\"set\" (Microsoft.KeyVault/vaults/secrets/setSecret/action)",
        "PATCH" => "\"set\" (Microsoft.KeyVault/vaults/secrets/update/action)",
        "POST" => "\"recover\" (Microsoft.KeyVault/vaults/secrets/recover/action)",
        "DELETE" if path.contains("/deletedsecrets/") => {
            "\"purge\" (Microsoft.KeyVault/vaults/secrets/purge/action)"
        }
        "DELETE" => "\"delete\" (Microsoft.KeyVault/vaults/secrets/delete)",
        _ if ends("/secrets") || ends("/versions") => {
            "\"list\" (Microsoft.KeyVault/vaults/secrets/readMetadata/action)"
        }
        _ if path.contains("/deletedsecrets/") => {
            "\"get\" (Microsoft.KeyVault/vaults/secrets/readMetadata/action)"
        }
        _ => "\"get\" (Microsoft.KeyVault/vaults/secrets/getSecret/action)",
    }
}

/// Maps status and code to an error kind. The status comes first, since other implementations have other codes.
fn meaning(
    status: StatusCode,
    code: Option<&str>,
    inner: Option<&str>,
    of_service: bool,
) -> (ErrorKind, &'static str, Retry) {
    let is = |name: &str| [code, inner].into_iter().flatten().any(|found| found.eq_ignore_ascii_case(name));
    let elsewhere = "the responding server is not Key Vault; check AZURE_VAULT_URL and the proxy";
    match status {
        StatusCode::BAD_REQUEST => {
            (ErrorKind::Protocol, "the vault rejects the request as malformed", Retry::Never)
        }
        // The vault gives a reason with each refusal.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if !of_service => (
            ErrorKind::Protocol,
            "the refusal does not come from Key Vault, but from a proxy, a firewall or a gateway in between, so it says \
             nothing about our identity; check AZURE_VAULT_URL and the proxy",
            Retry::Never,
        ),
        StatusCode::UNAUTHORIZED => (
            ErrorKind::Unauthenticated,
            "the vault does not accept our token; check that AZURE_TENANT_ID is the tenant of the vault, and the clocks",
            Retry::Never,
        ),
        StatusCode::FORBIDDEN if is(DISABLED) => {
            (ErrorKind::PermissionDenied, "the secret is disabled; enable its current version", Retry::Never)
        }
        StatusCode::FORBIDDEN if is("ForbiddenByFirewall") || is("ForbiddenByConnection") => (
            ErrorKind::PermissionDenied,
            "the vault's firewall blocks this network; allow it, or use a private endpoint",
            Retry::Never,
        ),
        StatusCode::FORBIDDEN if is("ForbiddenByRbac") => (
            ErrorKind::PermissionDenied,
            "our identity lacks a role on the vault: grant it \"Key Vault Secrets Officer\", or \"Key Vault Secrets \
             User\" to read only",
            Retry::Never,
        ),
        StatusCode::FORBIDDEN if is("ForbiddenByPolicy") => (
            ErrorKind::PermissionDenied,
            "the vault's access policy lacks a permission on secrets for our identity: get, list, set, delete, \
             recover and purge are used",
            Retry::Never,
        ),
        StatusCode::FORBIDDEN => (
            ErrorKind::PermissionDenied,
            "the vault denies permission: a role or access policy is missing, its firewall blocks this network, or \
             the secret is disabled",
            Retry::Never,
        ),
        // A gateway's or a web server's 404 says nothing about secrets, whatever form its body has.
        StatusCode::NOT_FOUND if is(NOT_FOUND) => {
            (ErrorKind::NotFound, "there is no such secret", Retry::Never)
        }
        StatusCode::NOT_FOUND if is("VaultNotFound") => {
            (ErrorKind::ConfigInvalid, "there is no such vault; check AZURE_VAULT_URL", Retry::Never)
        }
        StatusCode::NOT_FOUND => (ErrorKind::Protocol, elsewhere, Retry::Never),
        StatusCode::CONFLICT if is(RECOVERABLE) => {
            (ErrorKind::Conflict, "a soft-deleted secret has that name; recover or purge it", Retry::Never)
        }
        StatusCode::CONFLICT => {
            (ErrorKind::Conflict, "the state of the secret does not allow this now", Retry::Never)
        }
        StatusCode::REQUEST_TIMEOUT => {
            (ErrorKind::Unavailable, "the vault has exceeded its own time limit", Retry::IfIdempotent)
        }
        StatusCode::TOO_MANY_REQUESTS => {
            (ErrorKind::RateLimited, "the vault's rate limit is reached", Retry::Always)
        }
        StatusCode::NOT_IMPLEMENTED => {
            (ErrorKind::Protocol, "the vault does not support this at all", Retry::Never)
        }
        status if status.is_server_error() => {
            (ErrorKind::Unavailable, "the vault cannot answer now", Retry::IfIdempotent)
        }
        status if status.is_redirection() => (ErrorKind::Protocol, elsewhere, Retry::Never),
        _ => (ErrorKind::Protocol, "the vault responds with an unexpected status", Retry::Never),
    }
}

/// The error for an unsuccessful response of Entra ID.
pub(crate) fn from_entra(answer: &HttpResponse) -> Error {
    if let Some(error) = answer.page_error(true) {
        return error.context("settings", "AZURE_AUTHORITY_HOST, AZURE_ENVIRONMENT");
    }
    let EntraRefusal { of_service, description, number, trace_id } = EntraRefusal::read(&answer.body);
    let (kind, text, retry) = match answer.status {
        StatusCode::TOO_MANY_REQUESTS => {
            (ErrorKind::RateLimited, "Entra ID's rate limit is reached", Retry::Always)
        }
        // Entra ID has issued no token, so a retry is safe.
        status if status.is_server_error() => {
            (ErrorKind::Unavailable, "Entra ID cannot answer now", Retry::Always)
        }
        _ if !of_service => (
            ErrorKind::ConfigInvalid,
            "the responding server is not Entra ID; check AZURE_AUTHORITY_HOST, AZURE_ENVIRONMENT and the proxy",
            Retry::Never,
        ),
        _ => (
            ErrorKind::Unauthenticated,
            number.and_then(remedy).unwrap_or("Entra ID does not accept our credential"),
            Retry::Never,
        ),
    };
    let said = description.map(|text| words(&text)).filter(|text| !text.is_empty());
    let mut error = match said {
        Some(said) => Error::new(kind, format!("{text}; the server said: {said}")),
        None => Error::new(kind, text),
    };
    error = error.retry(retry).retry_after(answer.retry_after());
    error = error.context("status", answer.status.as_u16().to_string());
    if let Some(number) = number {
        error = error.context(CODE, format!("AADSTS{number}"));
    }
    match trace_id {
        Some(id) => error.context("trace id", words(&id)),
        None => error,
    }
}

/// Whether this error comes from a response of the vault with this code.
pub(crate) fn has_code(error: &Error, code: &str) -> bool {
    error.contexts().any(|(name, found)| name == CODE && found.eq_ignore_ascii_case(code))
}

/// Wraps our error in an error of the SDK, to pass it through the SDK.
pub(crate) fn wrapped(error: Error) -> azure_core::Error {
    let message = error.to_string();
    azure_core::Error::with_error(azure_core::error::ErrorKind::Other, error, message)
}

/// Unwraps our error from an error of the SDK. Drops the SDK's own message if it may quote a body.
pub(crate) fn from_sdk(error: &azure_core::Error) -> Error {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = next {
        if let Some(ours) = current.downcast_ref::<Error>() {
            return ours.clone();
        }
        next = current.source();
    }
    if let azure_core::error::ErrorKind::HttpResponse { status, raw_response, .. } = error.kind() {
        let mut answer = HttpResponse {
            status: StatusCode::from_u16(u16::from(*status)).unwrap_or(StatusCode::BAD_GATEWAY),
            headers: Default::default(),
            body: Default::default(),
        };
        if let Some(raw) = raw_response {
            answer.body.extend_from_slice(raw.body());
        }
        return from_answer(&answer, true);
    }
    match error.kind() {
        azure_core::error::ErrorKind::Credential => {
            Error::new(ErrorKind::Unauthenticated, "the SDK could not get a token")
        }
        azure_core::error::ErrorKind::DataConversion => Error::new(
            ErrorKind::Protocol,
            "the answer cannot be read by the SDK, or its challenge names no resource",
        ),
        _ => Error::new(ErrorKind::Unexpected, "the SDK could not send the request"),
    }
}

#[cfg(test)]
mod tests {
    use kms_http::http::HeaderMap;

    use super::*;

    fn answer(status: u16, body: &str) -> HttpResponse {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "7".parse().unwrap());
        headers.insert("x-ms-request-id", "id-1".parse().unwrap());
        HttpResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: body.as_bytes().to_vec().into(),
        }
    }

    fn refusal(code: &str, inner: &str) -> String {
        format!(r#"{{"error":{{"code":"{code}","message":"why\n not","innererror":{{"code":"{inner}"}}}}}}"#)
    }

    #[test]
    fn the_status_comes_first_and_then_the_code() {
        use ErrorKind::*;
        let foreign = "does not come from Key Vault";
        for (status, body, kind, retry, text) in [
            (400, refusal("BadParameter", ""), Protocol, Retry::Never, "malformed"),
            (401, refusal("Unauthorized", ""), Unauthenticated, Retry::Never, "token"),
            (403, refusal("Forbidden", "SecretDisabled"), PermissionDenied, Retry::Never, "disabled"),
            (403, refusal("Forbidden", "ForbiddenByRbac"), PermissionDenied, Retry::Never, "role"),
            (403, refusal("Forbidden", "ForbiddenByPolicy"), PermissionDenied, Retry::Never, "access policy"),
            (403, refusal("Forbidden", "ForbiddenByFirewall"), PermissionDenied, Retry::Never, "firewall"),
            (403, refusal("NeverHeardOf", ""), PermissionDenied, Retry::Never, "role or access policy"),
            // A refusal of something in between says nothing about our rights.
            (403, "<html>".to_owned(), Protocol, Retry::Never, "web page"),
            (401, String::new(), Protocol, Retry::Never, foreign),
            (401, r#"{"message":"Unauthorized"}"#.to_owned(), Protocol, Retry::Never, foreign),
            (403, String::new(), Protocol, Retry::Never, foreign),
            (403, r#"{"message":"Forbidden"}"#.to_owned(), Protocol, Retry::Never, foreign),
            (404, refusal("SecretNotFound", ""), NotFound, Retry::Never, "no such secret"),
            (404, refusal("NotFound", "SecretNotFound"), NotFound, Retry::Never, "no such secret"),
            (404, refusal("VaultNotFound", ""), ConfigInvalid, Retry::Never, "no such vault"),
            (404, refusal("ResourceNotFound", ""), Protocol, Retry::Never, "not Key Vault"),
            (404, "<html>".to_owned(), Protocol, Retry::Never, "web page"),
            (404, String::new(), Protocol, Retry::Never, "not Key Vault"),
            (410, String::new(), Protocol, Retry::Never, "unexpected status"),
            (409, refusal("Conflict", RECOVERABLE), Conflict, Retry::Never, "recover or purge"),
            (409, refusal("Conflict", "ObjectIsBeingDeleted"), Conflict, Retry::Never, "state"),
            (429, "<html>".to_owned(), RateLimited, Retry::Always, "web page"),
            (500, String::new(), Unavailable, Retry::IfIdempotent, "cannot answer"),
            (503, String::new(), Unavailable, Retry::IfIdempotent, "cannot answer"),
            (501, String::new(), Protocol, Retry::Never, "at all"),
            (302, String::new(), Protocol, Retry::Never, "not Key Vault"),
            (204, String::new(), Protocol, Retry::Never, "unexpected status"),
        ] {
            let error = from_answer(&answer(status, &body), false);
            assert_eq!((error.kind(), error.retryable()), (kind, retry), "{status} {body}: {error}");
            assert_eq!(error.wait(), Some(std::time::Duration::from_secs(7)));
            assert!(error.to_string().contains(text), "{error}");
            assert!(error.to_string().contains("request id: id-1"), "{error}");
        }
    }

    #[test]
    fn entras_numbers_are_explained() {
        const PAGE: &str = "<!DOCTYPE html><html><title>Blocked by policy</title></html>";
        let body = |number: u32| {
            format!(
                r#"{{"error":"invalid_client","error_description":"AADSTS{number}: no.\r\nTrace","error_codes":[{number}],"trace_id":"t-1"}}"#
            )
        };
        for (status, body, kind, retry, text) in [
            (400, body(90002), ErrorKind::Unauthenticated, Retry::Never, "AZURE_TENANT_ID"),
            (400, body(700_016), ErrorKind::Unauthenticated, Retry::Never, "AZURE_CLIENT_ID"),
            (401, body(700_027), ErrorKind::Unauthenticated, Retry::Never, "certificate"),
            (401, body(700_024), ErrorKind::Unauthenticated, Retry::Never, "clock"),
            (401, body(7_000_215), ErrorKind::Unauthenticated, Retry::Never, "client secret"),
            (401, body(1), ErrorKind::Unauthenticated, Retry::Never, "AADSTS1"),
            // Texts of Microsoft's services, with the general number, a page or no list of numbers beside the cause.
            (
                401,
                r#"{"error":"invalid_client","error_description":"AADSTS70002: Error validating credentials. AADSTS50012: Invalid client secret is provided.\r\nTrace ID: t","error_codes":[70002,50012]}"#.to_owned(),
                ErrorKind::Unauthenticated,
                Retry::Never,
                "AZURE_CLIENT_SECRET must be the value of the secret, not its id",
            ),
            (
                401,
                r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID","error_codes":[1]}<!DOCTYPE html><html><title>IIS</title>"#.to_owned(),
                ErrorKind::Unauthenticated,
                Retry::Never,
                "AADSTS7000215: Invalid client secret provided",
            ),
            (
                400,
                r#"{"error":"invalid_tenant","error_description":"AADSTS90002: Tenant 'x' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud.","error_codes":["90002"]}"#.to_owned(),
                ErrorKind::Unauthenticated,
                Retry::Never,
                "AZURE_ENVIRONMENT for its cloud",
            ),
            (401, body(7_000_222), ErrorKind::Unauthenticated, Retry::Never, "has expired"),
            (401, body(700_213), ErrorKind::Unauthenticated, Retry::Never, "AZURE_FEDERATED_TOKEN_FILE"),
            (400, body(500_011), ErrorKind::Unauthenticated, Retry::Never, "AZURE_ENVIRONMENT"),
            (429, String::new(), ErrorKind::RateLimited, Retry::Always, "rate"),
            (503, String::new(), ErrorKind::Unavailable, Retry::Always, "cannot answer"),
            (404, "{}".to_owned(), ErrorKind::ConfigInvalid, Retry::Never, "AZURE_AUTHORITY_HOST"),
            // A page of a proxy, whatever its status.
            (404, PAGE.to_owned(), ErrorKind::Protocol, Retry::Never, "AZURE_AUTHORITY_HOST"),
            (403, PAGE.to_owned(), ErrorKind::Protocol, Retry::Never, "title of the page: Blocked by policy"),
            (502, PAGE.to_owned(), ErrorKind::Unavailable, Retry::IfIdempotent, "title of the page: Blocked"),
            (429, PAGE.to_owned(), ErrorKind::RateLimited, Retry::Always, "title of the page: Blocked"),
        ] {
            let error = from_entra(&answer(status, &body));
            assert_eq!((error.kind(), error.retryable()), (kind, retry), "{status} {body}: {error}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn errors_in_other_forms_are_read_too() {
        let deep = r#"{"error":{"code":"Conflict","innererror":{"code":"x","innererror":{"code":"ObjectIsDeletedButRecoverable"}}}}"#;
        assert!(has_code(&from_answer(&answer(409, deep), false), RECOVERABLE));
        let spelt = r#"{"error":{"code":409,"innerError":{"code":"objectisdeletedbutrecoverable"}}}"#;
        assert!(has_code(&from_answer(&answer(409, spelt), false), RECOVERABLE));
        // Only the code says that the secret is absent.
        for body in [
            "",
            "[]",
            "null",
            "{}",
            "gone",
            r#"{"message":"x"}"#,
            r#"{"error":{}}"#,
            r#"{"error":null}"#,
            r#"{"error":"SecretNotFound"}"#,
            r#"{"error":{"code":404,"message":"SecretNotFound"}}"#,
            r#"{"error":{"code":7,"message":[]}}"#,
        ] {
            assert_eq!(from_answer(&answer(404, body), false).kind(), ErrorKind::Protocol, "{body}");
        }
        let bare = r#"{"error":"unauthorized_client","error_description":"AADSTS700016: no."}"#;
        assert!(from_entra(&answer(400, bare)).to_string().contains("AZURE_CLIENT_ID"));
        let odd = r#"{"error":"invalid_client","error_codes":["700016"],"error_description":7}"#;
        assert_eq!(from_entra(&answer(401, odd)).kind(), ErrorKind::Unauthenticated);
    }

    #[test]
    fn words_about_a_request_with_a_kek_are_left_out() {
        let body = r#"{"error":{"code":"BadParameter","message":"canary"}}"#;
        assert!(from_answer(&answer(400, body), false).to_string().contains("canary"));
        let error = from_answer(&answer(400, body), true);
        assert!(!format!("{error:?}").contains("canary") && error.to_string().contains("BadParameter"));
    }

    #[test]
    fn our_error_comes_through_the_sdk() {
        let ours = Error::new(ErrorKind::RateLimited, "x").retry(Retry::Always);
        let theirs = wrapped(ours).with_context("authentication failed");
        let back = from_sdk(&theirs);
        assert_eq!((back.kind(), back.retryable()), (ErrorKind::RateLimited, Retry::Always));
    }
}
