//! The one table from what Key Protect answers to what it means.

use kms_core::{Error, ErrorKind, Retry};
use kms_http::{HttpResponse, http::StatusCode};
use serde::Deserialize;

/// How much of the server's own words goes into an error.
const MAX_WORDS: usize = 200;

/// The name of the correlation id in errors.
pub(crate) const CORRELATION_ID: &str = "correlation id";

/// The alias is in use already.
pub(crate) const ALIAS_TAKEN: &str = "KEY_ALIAS_NOT_UNIQUE_ERR";
/// There are more keys than a search looks through.
pub(crate) const TOO_BROAD: &str = "KEY_SEARCH_TOO_BROAD";

/// The body of an answer that is no success.
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
    /// Reads the body. A body that is not Key Protect's (of a proxy, say) is `None`.
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

    /// The server's own words in one line, cut off.
    fn words(&self) -> Option<String> {
        let message = self.reasons().find_map(|reason| reason.message.as_deref());
        let headline = self.resources.iter().flatten().find_map(|problem| problem.error_msg.as_deref());
        let words = message.or(headline).filter(|words| !words.trim().is_empty())?;
        let line: String = words.split_whitespace().collect::<Vec<_>>().join(" ");
        Some(line.chars().take(MAX_WORDS).collect())
    }
}

/// The error for a key that other clients change faster than this one can follow.
pub(crate) fn changing() -> Error {
    Error::new(ErrorKind::Conflict, "other clients keep changing the key; try again later")
}

/// Whether the answer gives this code as its reason.
pub(crate) fn has_code(answer: &HttpResponse, code: &str) -> bool {
    Refusal::of(answer).is_some_and(|refusal| refusal.code() == Some(code))
}

/// What an answer means, to a request whose body holds no key.
pub(crate) fn from_answer(answer: &HttpResponse) -> Error {
    let error = coded(answer);
    match Refusal::of(answer).and_then(|refusal| refusal.words()) {
        Some(words) => error.context("server said", words),
        None => error,
    }
}

/// The same without the server's words, which might quote a body that holds a key.
pub(crate) fn from_answer_to_key(answer: &HttpResponse) -> Error {
    coded(answer)
}

fn coded(answer: &HttpResponse) -> Error {
    let refusal = Refusal::of(answer);
    let code = refusal.as_ref().and_then(Refusal::code);
    let error = code
        .and_then(|code| by_code(code, answer.status))
        .unwrap_or_else(|| by_status(answer, refusal.is_some()));
    let error = match code {
        Some(code) => error.context("code", code.chars().take(MAX_WORDS).collect::<String>()),
        None => error,
    };
    error.context("status", answer.status.as_u16().to_string()).retry_after(answer.retry_after())
}

/// The codes of IBM's documentation of errors, and those that its Go client knows.
fn by_code(code: &str, status: StatusCode) -> Option<Error> {
    let error = |kind, message: &'static str| Some(Error::new(kind, message));
    match code {
        "KEY_NOT_FOUND_ERR" => error(ErrorKind::NotFound, "there is no such key"),
        "KEY_DELETED_ERR" => {
            error(ErrorKind::NotFound, "the key has been deleted; it can be restored for 30 days")
        }
        ALIAS_TAKEN => error(ErrorKind::AlreadyExists, "the alias belongs to a key already"),
        "BEARER_SUB_EXTRACTION_ERR" => {
            error(ErrorKind::Unauthenticated, "the service cannot read the token of IAM")
        }
        "FEATURE_RESTRICTED_ERR" | "SERVICE_ONLY_ERR" | "RESOURCE_OWNER_ERR" => {
            error(ErrorKind::PermissionDenied, "the service does not allow this to us")
        }
        "KEY_CREATE_IMPORT_ACCESS_ERR" | "CONFIG_RULE_CONFLICT_ERR" => error(
            ErrorKind::PermissionDenied,
            "a policy of the instance forbids to import standard keys; allow it (key create and import access)",
        ),
        "AUTHORIZATIONS_NOT_MET" | "NOT_DUAL_AUTH_ERR" => error(
            ErrorKind::PermissionDenied,
            "the key is under dual authorisation: a second person has to set it for deletion first",
        ),
        "PROTECTED_RESOURCE_ERR" | "PREV_KEY_DEL_ERR" => {
            error(ErrorKind::PermissionDenied, "the service protects this key from deletion")
        }
        "REQ_TOO_EARLY_ERR" => {
            error(ErrorKind::Conflict, "it is too early: a key can be purged 4 hours after its deletion")
        }
        "KEY_ACTION_INVALID_STATE_ERR" | "KEY_INVALID_STATE_ERR" => error(
            ErrorKind::Conflict,
            "the key is in a state that does not allow this (disabled, deactivated?)",
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
            error(ErrorKind::Protocol, "the server calls the request wrong")
        }
        _ => None,
    }
}

fn by_status(answer: &HttpResponse, of_service: bool) -> Error {
    let error = |kind, message: &'static str, retry| Error::new(kind, message).retry(retry);
    match answer.status {
        StatusCode::BAD_REQUEST => {
            error(ErrorKind::Protocol, "the server calls the request wrong", Retry::Never)
        }
        // IAM has just vouched for us, so it is not the API key. The service says no more than this.
        StatusCode::UNAUTHORIZED => error(
            ErrorKind::PermissionDenied,
            "Key Protect does not let us in, although IAM knows the API key: the instance id is wrong, the instance \
             is in another region than the address, or the API key has no access to it (check \
             IBM_KP_SERVICE_INSTANCE_ID, IBM_KP_BASE_URL and the access policies of the service id)",
            Retry::Never,
        ),
        StatusCode::FORBIDDEN => error(
            ErrorKind::PermissionDenied,
            "Key Protect does not allow this to us; check the access policies of the service id",
            Retry::Never,
        ),
        StatusCode::NOT_FOUND if of_service => {
            error(ErrorKind::NotFound, "there is no such thing", Retry::Never)
        }
        StatusCode::NOT_FOUND => error(
            ErrorKind::ConfigInvalid,
            "what answers there is not Key Protect; check IBM_KP_BASE_URL",
            Retry::Never,
        ),
        StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => {
            error(ErrorKind::Conflict, "the state of the key does not allow this", Retry::Never)
        }
        StatusCode::GONE => error(
            ErrorKind::NotFound,
            "the key has been deleted; it can be restored for 30 days",
            Retry::Never,
        ),
        StatusCode::PAYLOAD_TOO_LARGE => {
            error(ErrorKind::ConfigInvalid, "the KEK is too large", Retry::Never)
        }
        StatusCode::TOO_MANY_REQUESTS => {
            error(ErrorKind::RateLimited, "the server's rate limit is reached", Retry::Always)
        }
        StatusCode::NOT_IMPLEMENTED => {
            error(ErrorKind::Unsupported, "the service does not know this request", Retry::Never)
        }
        status if status.is_server_error() => {
            error(ErrorKind::Unavailable, "the server cannot answer now", Retry::IfIdempotent)
        }
        status if status.is_redirection() => error(
            ErrorKind::ConfigInvalid,
            "the server sends us elsewhere, and Key Protect does not; check IBM_KP_BASE_URL and the proxy",
            Retry::Never,
        ),
        _ => error(ErrorKind::Protocol, "the server's answer makes no sense", Retry::Never),
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
            // The status is inferred in our notes, the code is certain.
            (400, refusal(ALIAS_TAKEN), AlreadyExists, Retry::Never),
            (409, refusal("REQ_TOO_EARLY_ERR"), Conflict, Retry::Never),
            (409, refusal("AUTHORIZATIONS_NOT_MET"), PermissionDenied, Retry::Never),
            (409, refusal("NEVER_HEARD_OF"), Conflict, Retry::Never),
            (400, refusal("BAD_BODY_ERR"), Protocol, Retry::Never),
            (500, refusal("INCOMPLETE_METADATA_ERR"), Unavailable, Retry::IfIdempotent),
            (500, refusal("BAD_BODY_ERR"), Unavailable, Retry::IfIdempotent),
            (401, plain.to_owned(), PermissionDenied, Retry::Never),
            (403, refusal("SERVICE_ONLY_ERR"), PermissionDenied, Retry::Never),
            (404, plain.to_owned(), NotFound, Retry::Never),
            (404, "<html>".to_owned(), ConfigInvalid, Retry::Never),
            (404, "{}".to_owned(), ConfigInvalid, Retry::Never),
            (410, String::new(), NotFound, Retry::Never),
            (429, "<html>".to_owned(), RateLimited, Retry::Always),
            (501, String::new(), Unsupported, Retry::Never),
            (502, "<html>".to_owned(), Unavailable, Retry::IfIdempotent),
            (503, String::new(), Unavailable, Retry::IfIdempotent),
            (302, String::new(), ConfigInvalid, Retry::Never),
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
