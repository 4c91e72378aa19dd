//! Maps responses of Vault to error kinds.

use kms_core::{Error, ErrorKind, Result, Retry};
use kms_http::{HttpResponse, http::StatusCode};
use serde::Deserialize;

/// The maximum number of characters of the server's message in an error.
const MAX_WORDS: usize = 200;

/// The body of an unsuccessful response: `errors`, or a whole response with a request id.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Refusal {
    #[serde(default)]
    errors: Option<Vec<String>>,
    #[serde(default)]
    warnings: Option<Vec<String>>,
    #[serde(default)]
    request_id: Option<String>,
}

impl Refusal {
    /// Decodes the body. `None` if the body does not come from Vault but, for example, from a load balancer. Gateways
    /// write JSON too, so the form alone does not suffice.
    pub(crate) fn of(answer: &HttpResponse) -> Option<Self> {
        let refusal: Self = serde_json::from_slice(&answer.body).ok()?;
        (refusal.errors.is_some() || refusal.request_id.is_some()).then_some(refusal)
    }

    /// Decodes the body of a 404.
    ///
    /// # Errors
    ///
    /// `Protocol` if the body does not come from Vault: the response of another server says nothing about keys.
    pub(crate) fn of_not_found(answer: &HttpResponse) -> Result<Self> {
        Self::of(answer).ok_or_else(|| not_vault(answer))
    }

    /// Whether the server says that the path is empty: an explicit list of errors without an error.
    pub(crate) fn says_absent(&self) -> bool {
        self.errors.as_ref().is_some_and(Vec::is_empty) && !self.has_warnings()
    }

    /// Whether the server gives a reason.
    pub(crate) fn has_words(&self) -> bool {
        self.errors.as_ref().is_some_and(|errors| !errors.is_empty())
    }

    /// Whether the server warns, as it does with a 404 for a v1 path on a v2 mount.
    pub(crate) fn has_warnings(&self) -> bool {
        self.warnings.as_ref().is_some_and(|warnings| !warnings.is_empty())
    }

    /// The server's message on one line, truncated.
    fn words(&self) -> Option<String> {
        let words = self.errors.as_ref()?.iter().find(|words| !words.trim().is_empty())?;
        let line: String = words.split_whitespace().collect::<Vec<_>>().join(" ");
        Some(line.chars().take(MAX_WORDS).collect())
    }
}

/// The error for a response that Vault never sends.
pub(crate) fn not_vault(answer: &HttpResponse) -> Error {
    #[derive(Deserialize)]
    struct OfKubernetes {
        kind: String,
        #[serde(rename = "apiVersion")]
        _api_version: String,
    }

    if let Some(error) = answer.page_error(true) {
        return error;
    }
    let status = answer.status.as_u16();
    let is_kubernetes =
        serde_json::from_slice::<OfKubernetes>(&answer.body).is_ok_and(|body| body.kind == "Status");
    let who = if is_kubernetes { ", but a Kubernetes API server" } else { "" };
    Error::new(
        ErrorKind::Protocol,
        format!(
            "the server that answered {status} is not Vault{who}; check VAULT_ADDR with its path, and the proxies in \
             between"
        ),
    )
}

/// Whether a refusal comes from another server than Vault, such as a firewall: Vault writes a body for each refusal.
pub(crate) fn is_foreign(answer: &HttpResponse) -> bool {
    Refusal::of(answer).is_none()
}

/// The error for a response that is wrapped, as those of a control group are: it says nothing about the key.
pub(crate) fn wrapped() -> Error {
    Error::new(
        ErrorKind::Protocol,
        "the server holds its response back in a wrapping token, as a control group demands; give the token a policy \
         without a control group",
    )
}

/// The error for a conditional write that the server refuses although a fresh read shows the version that the write
/// names: a standby or a replica decides by a stale copy, and the server has written nothing.
pub(crate) fn stale(refused: Error) -> Error {
    Error::new(
        ErrorKind::Conflict,
        "the key has changed, or a standby that has not caught up refuses the write; try again",
    )
    .retry(Retry::Always)
    .source(refused)
}

/// Adds the server's message to an error. Vault's messages name paths, roles and limits, and never quote a secret.
pub(crate) fn with_words(error: Error, answer: &HttpResponse) -> Error {
    match Refusal::of(answer).and_then(|refusal| refusal.words()) {
        Some(words) => error.context("server said", words),
        None => error,
    }
}

/// The error for a response that the operation does not handle itself.
pub(crate) fn from_answer(answer: &HttpResponse) -> Error {
    if let Some(error) = answer.page_error(true) {
        return error;
    }
    let refusal = Refusal::of(answer);
    let error = |kind, message: &'static str, retry| Error::new(kind, message).retry(retry);
    let error = match answer.status {
        StatusCode::BAD_REQUEST if refusal.is_none() => error(
            ErrorKind::Protocol,
            "the server does not understand the request; if VAULT_ADDR is an http address, check whether the server \
             expects https",
            Retry::Never,
        ),
        StatusCode::BAD_REQUEST => {
            error(ErrorKind::Protocol, "the server rejects the request as malformed", Retry::Never)
        }
        // Vault answers 403, with its reason, to a token that it does not accept.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if is_foreign(answer) => not_vault(answer),
        StatusCode::UNAUTHORIZED => {
            error(ErrorKind::Unauthenticated, "the server does not accept the credentials", Retry::Never)
        }
        StatusCode::FORBIDDEN => error(ErrorKind::PermissionDenied, "permission denied", Retry::Never),
        // With a reason, the mount or the namespace is absent. Without a reason, the operation names the absent object.
        StatusCode::NOT_FOUND if refusal.as_ref().is_some_and(Refusal::has_words) => error(
            ErrorKind::ConfigInvalid,
            "the server has no such mount or namespace; check VAULT_BACKEND_PATH, VAULT_NAMESPACE and \
             VAULT_AUTH_MOUNT_PATH",
            Retry::Never,
        ),
        StatusCode::NOT_FOUND if refusal.as_ref().is_some_and(Refusal::says_absent) => {
            error(ErrorKind::NotFound, "the path is empty", Retry::Never)
        }
        StatusCode::NOT_FOUND => not_vault(answer),
        StatusCode::METHOD_NOT_ALLOWED => error(
            ErrorKind::ConfigInvalid,
            "the mount does not support this request; check that it is a KV mount",
            Retry::Never,
        ),
        StatusCode::PAYLOAD_TOO_LARGE => {
            error(ErrorKind::ConfigInvalid, "the KEK is too large", Retry::Never)
        }
        // Vault Enterprise: the server has not replicated the state that the request depends on.
        StatusCode::PRECONDITION_FAILED => {
            error(ErrorKind::Unavailable, "the server has not caught up yet", Retry::Always)
        }
        // With a reason, a quota is exhausted. Without a reason, a standby has not replicated the index of the request.
        StatusCode::TOO_MANY_REQUESTS if refusal.as_ref().is_some_and(|refusal| !refusal.has_words()) => {
            error(ErrorKind::Unavailable, "the standby has not caught up yet", Retry::Always)
        }
        StatusCode::TOO_MANY_REQUESTS => {
            error(ErrorKind::RateLimited, "the server's rate limit is reached", Retry::Always)
        }
        StatusCode::NOT_IMPLEMENTED => {
            error(ErrorKind::Unavailable, "the server is not initialised", Retry::Never)
        }
        // A response in JSON comes from Vault itself, which has not executed the request. After a response of a proxy
        // the outcome is unknown, since the proxy may have forwarded the request.
        StatusCode::SERVICE_UNAVAILABLE if refusal.as_ref().is_some_and(Refusal::has_words) => {
            error(ErrorKind::Unavailable, "the server is sealed or not ready; unseal it", Retry::Always)
        }
        status if status.is_server_error() || matches!(status.as_u16(), 472 | 473) => {
            error(ErrorKind::Unavailable, "the server cannot answer at present", Retry::IfIdempotent)
        }
        status if status.is_redirection() => {
            error(ErrorKind::Unavailable, "the server redirects to another server", Retry::Always)
        }
        _ => error(ErrorKind::Protocol, "the server's response has an unexpected status", Retry::Never),
    };
    with_words(error, answer)
        .context("status", answer.status.as_u16().to_string())
        .retry_after(answer.retry_after())
}

/// The error for an operation that this version of KV does not support.
pub(crate) fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{what} is not possible with this KV mount"))
}

#[cfg(test)]
mod tests {
    use kms_http::http::HeaderMap;

    use kms_http::json::unreadable;

    use super::*;

    fn answer(status: u16, body: &str) -> HttpResponse {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "0".parse().unwrap());
        HttpResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: body.as_bytes().to_vec().into(),
        }
    }

    #[test]
    fn each_answer_has_its_meaning() {
        use ErrorKind::*;
        for (status, body, kind, retry) in [
            (400, r#"{"errors":["missing data fields"]}"#, Protocol, Retry::Never),
            (403, r#"{"errors":["permission denied"]}"#, PermissionDenied, Retry::Never),
            (404, r#"{"errors":[]}"#, NotFound, Retry::Never),
            (404, r#"{"errors":null}"#, Protocol, Retry::Never),
            (404, r#"{"message":"no Route matched with those values"}"#, Protocol, Retry::Never),
            (404, r#"{"request_id":"r","data":null,"wrap_info":null}"#, Protocol, Retry::Never),
            (404, "{}", Protocol, Retry::Never),
            (404, "", Protocol, Retry::Never),
            (410, r#"{"errors":[]}"#, Protocol, Retry::Never),
            (404, r#"{"errors":["no handler for route"]}"#, ConfigInvalid, Retry::Never),
            (404, r#"{"errors":["namespace not found"]}"#, ConfigInvalid, Retry::Never),
            (412, "", Unavailable, Retry::Always),
            (413, "", ConfigInvalid, Retry::Never),
            (429, r#"{"errors":["rate limit quota exceeded"]}"#, RateLimited, Retry::Always),
            (429, r#"{"errors":[]}"#, Unavailable, Retry::Always),
            (429, "<html>", RateLimited, Retry::Always),
            (429, "{}", RateLimited, Retry::Always),
            (473, "", Unavailable, Retry::IfIdempotent),
            (
                500,
                r#"{"errors":["local node not active but active cluster node not found"]}"#,
                Unavailable,
                Retry::IfIdempotent,
            ),
            (501, r#"{"errors":[]}"#, Unavailable, Retry::Never),
            (502, "<html>", Unavailable, Retry::IfIdempotent),
            (503, r#"{"errors":["Vault is sealed"]}"#, Unavailable, Retry::Always),
            (503, "<html>", Unavailable, Retry::IfIdempotent),
            (307, "", Unavailable, Retry::Always),
            (204, "", Protocol, Retry::Never),
        ] {
            let error = from_answer(&answer(status, body));
            assert_eq!((error.kind(), error.retryable()), (kind, retry), "{status} {body}: {error}");
            assert_eq!(error.wait(), Some(std::time::Duration::ZERO));
        }
    }

    #[test]
    fn the_words_of_the_server_are_one_short_line() {
        let body =
            format!(r#"{{"errors":["1 error occurred:\n\t* permission denied\n{}"]}}"#, "x".repeat(500));
        let error = from_answer(&answer(403, &body)).to_string();
        assert!(error.contains("server said: 1 error occurred: * permission denied x"), "{error}");
        assert!(error.len() < 300, "{error}");
    }

    #[test]
    fn an_unreadable_answer_is_not_quoted() {
        let cause = serde_json::from_str::<u8>("\"canary\"").unwrap_err();
        let error = unreadable(&cause);
        assert!(!format!("{error:?}{error}").contains("canary"), "{error}");
        assert!(error.to_string().contains("line 1 column 8"), "{error}");
    }
}
