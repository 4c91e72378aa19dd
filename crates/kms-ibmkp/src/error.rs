//! Maps responses of Key Protect to errors.

use kms_core::{Error, ErrorKind, Retry};
use kms_http::{HttpResponse, http::StatusCode};
use serde::Deserialize;

/// The maximum length, in characters, of server text in an error.
const MAX_WORDS: usize = 200;

/// The name of the correlation id in errors.
pub(crate) const CORRELATION_ID: &str = "correlation id";

/// The name of the service's code in errors.
pub(crate) const CODE: &str = "code";

/// No key has this id or alias.
const KEY_NOT_FOUND: &str = "KEY_NOT_FOUND_ERR";
/// No key has this alias.
const ALIAS_NOT_FOUND: &str = "KEY_ALIAS_NOT_FOUND_ERR";
/// The key has been deleted.
pub(crate) const KEY_DELETED: &str = "KEY_DELETED_ERR";
/// A key already has the alias.
pub(crate) const ALIAS_TAKEN: &str = "KEY_ALIAS_NOT_UNIQUE_ERR";
/// The instance has more keys than a search can examine.
pub(crate) const TOO_BROAD: &str = "KEY_SEARCH_TOO_BROAD";

/// The body of an error response.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Refusal {
    #[serde(default)]
    resources: Option<Vec<Problem>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Problem {
    #[serde(default)]
    error_msg: Option<String>,
    #[serde(default)]
    reasons: Option<Vec<Reason>>,
}

#[derive(Debug, Deserialize)]
struct Reason {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

impl Refusal {
    /// Parses the body. `None` if the body is not from Key Protect but, for example, from a proxy.
    pub(crate) fn of(answer: &HttpResponse) -> Option<Self> {
        serde_json::from_slice::<Self>(&answer.body).ok().filter(|refusal| {
            refusal.resources.as_ref().is_some_and(|all| all.iter().any(|one| one.error_msg.is_some()))
        })
    }

    fn reasons(&self) -> impl Iterator<Item = &Reason> {
        self.resources.iter().flatten().flat_map(|problem| problem.reasons.iter().flatten())
    }

    /// The code of the first reason.
    pub(crate) fn code(&self) -> Option<&str> {
        self.reasons().find_map(|reason| reason.code.as_deref())
    }

    /// The server's message in one line, truncated.
    fn words(&self) -> Option<String> {
        let message = self.reasons().find_map(|reason| reason.message.as_deref());
        let headline = self.resources.iter().flatten().find_map(|problem| problem.error_msg.as_deref());
        let words = message.or(headline).filter(|words| !words.trim().is_empty())?;
        let line: String = words.split_whitespace().collect::<Vec<_>>().join(" ");
        Some(line.chars().take(MAX_WORDS).collect())
    }
}

/// The error for a key that other clients changed during every attempt to read it.
pub(crate) fn changing() -> Error {
    Error::new(ErrorKind::Conflict, "other clients keep changing the key; try again later")
}

/// Whether the response says that the key or alias does not exist. IBM's Go client has the code for keys in its tests;
/// IBM does not document the code for aliases.
pub(crate) fn says_absent(answer: &HttpResponse) -> bool {
    answer.status == StatusCode::NOT_FOUND
        && (has_code(answer, KEY_NOT_FOUND) || has_code(answer, ALIAS_NOT_FOUND))
}

/// Whether the first reason in the response has this code.
pub(crate) fn has_code(answer: &HttpResponse, code: &str) -> bool {
    Refusal::of(answer).is_some_and(|refusal| refusal.code() == Some(code))
}

/// The error for a response to a request whose body holds no key.
pub(crate) fn from_answer(answer: &HttpResponse) -> Error {
    let error = answer.page_error(true).unwrap_or_else(|| coded(answer));
    match Refusal::of(answer).and_then(|refusal| refusal.words()) {
        Some(words) => error.context("server said", words),
        None => error,
    }
}

/// The error for a response to a request whose body holds a key.
///
/// It leaves out the server's message, which may quote the body.
pub(crate) fn from_answer_to_key(answer: &HttpResponse) -> Error {
    answer.page_error(false).unwrap_or_else(|| coded(answer))
}

fn coded(answer: &HttpResponse) -> Error {
    let refusal = Refusal::of(answer);
    let code = refusal.as_ref().and_then(Refusal::code);
    let error = code
        .and_then(|code| by_code(code, answer.status))
        .unwrap_or_else(|| by_status(answer, refusal.is_some()));
    let error = match code {
        Some(code) => error.context(CODE, code.chars().take(MAX_WORDS).collect::<String>()),
        None => error,
    };
    error.context("status", answer.status.as_u16().to_string()).retry_after(answer.retry_after())
}

/// The error for a code from IBM's error documentation or its Go client.
fn by_code(code: &str, status: StatusCode) -> Option<Error> {
    let error = |kind, message: &'static str| Some(Error::new(kind, message));
    match code {
        KEY_NOT_FOUND | ALIAS_NOT_FOUND => error(ErrorKind::NotFound, "the key does not exist"),
        KEY_DELETED => error(ErrorKind::NotFound, "the key has been deleted; it can be restored for 30 days"),
        "KEY_RING_NOT_FOUND_ERR" => {
            error(ErrorKind::ConfigInvalid, "the key ring does not exist; check IBM_KP_KEY_RING")
        }
        ALIAS_TAKEN => error(ErrorKind::AlreadyExists, "a key already has the alias"),
        "BEARER_SUB_EXTRACTION_ERR" => {
            error(ErrorKind::Unauthenticated, "the service cannot read the token of IAM")
        }
        "FEATURE_RESTRICTED_ERR" | "SERVICE_ONLY_ERR" | "RESOURCE_OWNER_ERR" => {
            error(ErrorKind::PermissionDenied, "the service does not permit this request for the service id")
        }
        "KEY_CREATE_IMPORT_ACCESS_ERR" | "CONFIG_RULE_CONFLICT_ERR" => error(
            ErrorKind::PermissionDenied,
            "a policy of the instance forbids the import; allow clients to import standard keys (key create and import access)",
        ),
        "AUTHORIZATIONS_NOT_MET" | "NOT_DUAL_AUTH_ERR" => error(
            ErrorKind::PermissionDenied,
            "the key is under dual authorisation; have a second person set it for deletion first",
        ),
        "PROTECTED_RESOURCE_ERR" | "PREV_KEY_DEL_ERR" => {
            error(ErrorKind::PermissionDenied, "the service protects this key from deletion")
        }
        "REQ_TOO_EARLY_ERR" => error(
            ErrorKind::Conflict,
            "the purge is too early; purge a key 4 hours after its deletion or later",
        ),
        "KEY_ACTION_INVALID_STATE_ERR" | "KEY_INVALID_STATE_ERR" => error(
            ErrorKind::Conflict,
            "the state of the key does not allow the request; check whether the key is disabled or deactivated",
        ),
        "KEY_EXPIRED_ERR" => error(ErrorKind::Conflict, "the key has expired"),
        "INCOMPLETE_METADATA_ERR" => Some(
            Error::new(ErrorKind::Unavailable, "the service cannot read the key's metadata now")
                .retry(Retry::IfIdempotent),
        ),
        TOO_BROAD => error(ErrorKind::Unsupported, "the instance has too many keys for a search"),
        "BAD_BODY_ERR"
        | "COLLECTION_TOTAL_MISMATCH_ERR"
        | "NO_BODY_ERR"
        | "INVALID_FIELD_ERR"
        | "INVALID_QUERY_PARAM_ERR"
        | "KEY_ROOT_REQ_ERR"
        | "KEY_PAYLOAD_REQ_ERR"
            if status.is_client_error() =>
        {
            error(ErrorKind::Protocol, "the server rejects the request as malformed")
        }
        _ => None,
    }
}

fn by_status(answer: &HttpResponse, of_service: bool) -> Error {
    let error = |kind, message: &'static str, retry| Error::new(kind, message).retry(retry);
    match answer.status {
        StatusCode::BAD_REQUEST => {
            error(ErrorKind::Protocol, "the server rejects the request as malformed", Retry::Never)
        }
        // Key Protect gives a reason with each refusal.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if !of_service => error(
            ErrorKind::Protocol,
            "the refusal does not come from Key Protect, but from a proxy, a firewall or a gateway in between, so it says \
             nothing about the API key; check IBM_KP_BASE_URL and the proxies in between",
            Retry::Never,
        ),
        // IAM has just accepted the API key, so the API key is valid. The service reports no further cause.
        StatusCode::UNAUTHORIZED => error(
            ErrorKind::PermissionDenied,
            "Key Protect refuses the token, although IAM accepts the API key: the instance id is wrong, the instance \
             is in another region than the address, or the API key has no access to it (check \
             IBM_KP_SERVICE_INSTANCE_ID, IBM_KP_BASE_URL and the access policies of the service id)",
            Retry::Never,
        ),
        StatusCode::FORBIDDEN => error(
            ErrorKind::PermissionDenied,
            "Key Protect denies permission; check the access policies of the service id",
            Retry::Never,
        ),
        // `NotFound` would let a caller create the key anew, so only a code of the service makes it.
        StatusCode::NOT_FOUND | StatusCode::GONE if of_service => error(
            ErrorKind::Protocol,
            "the server does not find the object, and does not say that it is the key that is absent",
            Retry::Never,
        ),
        StatusCode::NOT_FOUND | StatusCode::GONE => error(
            ErrorKind::Protocol,
            "the server at this address is not Key Protect; check IBM_KP_BASE_URL",
            Retry::Never,
        ),
        StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => {
            error(ErrorKind::Conflict, "the state of the key does not allow the request", Retry::Never)
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            error(ErrorKind::ConfigInvalid, "the KEK is too large", Retry::Never)
        }
        StatusCode::TOO_MANY_REQUESTS => {
            error(ErrorKind::RateLimited, "the server's rate limit is reached", Retry::Always)
        }
        StatusCode::NOT_IMPLEMENTED => {
            error(ErrorKind::Unsupported, "the service does not support this request", Retry::Never)
        }
        status if status.is_server_error() => {
            error(ErrorKind::Unavailable, "the server cannot answer now", Retry::IfIdempotent)
        }
        status if status.is_redirection() => error(
            ErrorKind::Protocol,
            "the server redirects the request, which Key Protect never does; check IBM_KP_BASE_URL and the proxy",
            Retry::Never,
        ),
        _ => error(ErrorKind::Protocol, "the server sent a response with an unexpected status", Retry::Never),
    }
}

#[cfg(test)]
mod tests {
    use kms_http::http::HeaderMap;

    use kms_http::json::unreadable;

    use super::*;

    fn answer(status: u16, body: &str) -> HttpResponse {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "7".parse().unwrap());
        HttpResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: body.as_bytes().to_vec().into(),
        }
    }

    fn refusal(code: &str) -> String {
        format!(
            r#"{{"resources":[{{"errorMsg":"No: see reasons","reasons":[{{"code":"{code}","message":"why not"}}]}}]}}"#
        )
    }

    #[test]
    fn codes_come_before_statuses() {
        use ErrorKind::*;
        let plain = r#"{"resources":[{"errorMsg":"Unauthorized: The user does not have access"}]}"#;
        for (status, body, kind, retry) in [
            (404, refusal("KEY_NOT_FOUND_ERR"), NotFound, Retry::Never),
            (410, refusal("KEY_DELETED_ERR"), NotFound, Retry::Never),
            (409, refusal(ALIAS_TAKEN), AlreadyExists, Retry::Never),
            // The code is certain; which status comes with it is an assumption.
            (400, refusal(ALIAS_TAKEN), AlreadyExists, Retry::Never),
            (409, refusal("REQ_TOO_EARLY_ERR"), Conflict, Retry::Never),
            (409, refusal("AUTHORIZATIONS_NOT_MET"), PermissionDenied, Retry::Never),
            (409, refusal("NEVER_HEARD_OF"), Conflict, Retry::Never),
            (400, refusal("BAD_BODY_ERR"), Protocol, Retry::Never),
            (500, refusal("INCOMPLETE_METADATA_ERR"), Unavailable, Retry::IfIdempotent),
            (500, refusal("BAD_BODY_ERR"), Unavailable, Retry::IfIdempotent),
            (401, plain.to_owned(), PermissionDenied, Retry::Never),
            (403, plain.to_owned(), PermissionDenied, Retry::Never),
            (403, refusal("SERVICE_ONLY_ERR"), PermissionDenied, Retry::Never),
            // Something in between has answered.
            (401, String::new(), Protocol, Retry::Never),
            (401, r#"{"error":"Unauthorized"}"#.to_owned(), Protocol, Retry::Never),
            (403, String::new(), Protocol, Retry::Never),
            (403, r#"{"message":"Forbidden"}"#.to_owned(), Protocol, Retry::Never),
            (404, refusal("KEY_RING_NOT_FOUND_ERR"), ConfigInvalid, Retry::Never),
            (404, plain.to_owned(), Protocol, Retry::Never),
            (410, plain.to_owned(), Protocol, Retry::Never),
            (404, "<html>".to_owned(), Protocol, Retry::Never),
            (404, "{}".to_owned(), Protocol, Retry::Never),
            (410, String::new(), Protocol, Retry::Never),
            (429, "<html>".to_owned(), RateLimited, Retry::Always),
            (501, String::new(), Unsupported, Retry::Never),
            (502, "<html>".to_owned(), Unavailable, Retry::IfIdempotent),
            (503, String::new(), Unavailable, Retry::IfIdempotent),
            (302, String::new(), Protocol, Retry::Never),
            (204, String::new(), Protocol, Retry::Never),
        ] {
            let error = from_answer(&answer(status, &body));
            assert_eq!((error.kind(), error.retryable()), (kind, retry), "{status} {body}: {error}");
            assert_eq!(error.wait(), Some(std::time::Duration::from_secs(7)));
        }
    }

    #[test]
    fn the_words_of_the_server_are_one_short_line_and_left_out_where_they_might_quote_a_key() {
        let body = r#"{"resources":[{"errorMsg":"Bad Request: x","reasons":[{"code":"BAD_BODY_ERR","message":"canary\n  \"field\""}]}]}"#;
        let error = from_answer(&answer(400, body)).to_string();
        assert!(error.contains(r#"server said: canary "field""#), "{error}");
        let error = from_answer_to_key(&answer(400, body));
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        assert!(error.to_string().contains("BAD_BODY_ERR"), "{error}");
    }

    #[test]
    fn an_unreadable_answer_is_not_quoted() {
        let error = unreadable(&serde_json::from_str::<u8>("\"canary\"").unwrap_err());
        assert!(!format!("{error:?}{error}").contains("canary"), "{error}");
    }
}
