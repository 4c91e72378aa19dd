//! Exchanges the API key for tokens of IAM.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kms_core::{
    Error, ErrorKind, ExposeSecret, Result, Retry, SecretString,
    layer::{limited, step_limit, waiting_for},
};
use kms_http::{
    Call, HttpClient, HttpResponse, Lease, Token, TokenCache,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    json::parse,
    send::Body,
};
use serde::Deserialize;
use tokio::time::Instant;
use tracing::debug;
use url::{Url, form_urlencoded};
use zeroize::{Zeroize, Zeroizing};

/// The time limit of a request to IAM. It is shorter than one attempt of the retry layer, so that an error names IAM.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// The minimum remaining lifetime of a token in use.
const MARGIN: Duration = Duration::from_secs(60);
/// The assumed lifetime of a token if IAM names none.
const UNKNOWN_LIFE: Duration = Duration::from_secs(20 * 60);
/// The age from which a refused token is replaced even if Key Protect never accepted it: an administrator may have
/// granted the rights by then.
const OLD: Duration = Duration::from_secs(60);
/// The maximum length, in characters, of IAM's text in an error.
const MAX_WORDS: usize = 200;

/// The data of a token besides its value.
#[derive(Debug)]
pub(crate) struct Details {
    /// The authentication scheme in the header.
    scheme: String,
    fetched: Instant,
    /// Whether Key Protect has ever accepted the token.
    accepted: AtomicBool,
}

/// The API key and its current token.
pub(crate) struct Auth {
    pub(crate) http: HttpClient,
    pub(crate) url: Url,
    api_key: SecretString,
    tokens: TokenCache<Details>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { http: _, url, api_key: _, tokens: _ } = self;
        f.debug_struct("Auth").field("url", &url.as_str()).finish_non_exhaustive()
    }
}

/// The successful response of IAM.
#[derive(Deserialize)]
struct Granted {
    access_token: Option<String>,
    token_type: Option<String>,
    expires_in: Option<i64>,
    /// Unused, but a secret that must be wiped too.
    refresh_token: Option<String>,
}

impl Drop for Granted {
    fn drop(&mut self) {
        self.access_token.zeroize();
        self.refresh_token.zeroize();
    }
}

/// The error response of IAM.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Denied {
    error_code: Option<String>,
    error_message: Option<String>,
    context: Option<DeniedContext>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeniedContext {
    request_id: Option<String>,
}

impl Auth {
    pub(crate) fn new(http: HttpClient, url: Url, api_key: SecretString) -> Self {
        Self { http, url, api_key, tokens: TokenCache::new() }
    }

    /// Returns a token that has not expired: the cached one, or a new one.
    pub(crate) async fn token(&self) -> Result<Arc<Token<Details>>> {
        self.tokens.get(async |_| self.fetch().await).await
    }

    /// Returns a new token in place of a token that Key Protect refused.
    ///
    /// `None` if the refused token is new and Key Protect never accepted it: then the instance, the region or a right
    /// is wrong, and a new token would not help. Without this rule a wrong setting would cause a storm of logins.
    pub(crate) async fn another(&self, refused: &Token<Details>) -> Result<Option<Arc<Token<Details>>>> {
        let Details { fetched, accepted, .. } = &refused.details;
        if !accepted.load(Ordering::Relaxed) && fetched.elapsed() < OLD {
            return Ok(None);
        }
        debug!("Key Protect refused the token of IAM before it expired; requesting a new one");
        self.tokens.replace(refused.generation(), async |_| self.fetch().await).await.map(Some)
    }

    async fn fetch(&self) -> Result<Token<Details>> {
        let call = self.call();
        let result = limited(step_limit(TIME_LIMIT), waiting_for(|| "IAM", self.http.send(&call))).await;
        result.and_then(|answer| granted(&answer)).map_err(|error| {
            error
                .operation("get a token from IAM")
                .context("token service", kms_http::send::endpoint(&self.url))
        })
    }

    fn call(&self) -> Call {
        const GRANT: &str = "grant_type=urn%3Aibm%3Aparams%3Aoauth%3Agrant-type%3Aapikey&apikey=";
        let api_key = self.api_key.expose_secret().as_bytes();
        // A buffer that grows would leave unwiped copies behind.
        let mut body = Zeroizing::new(Vec::with_capacity(GRANT.len() + 3 * api_key.len()));
        body.extend_from_slice(GRANT.as_bytes());
        for part in form_urlencoded::byte_serialize(api_key) {
            body.extend_from_slice(part.as_bytes());
        }
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        Call { method: Method::POST, url: self.url.clone(), headers, body: Body::secret(body) }
    }
}

/// The value of the header `authorization`.
pub(crate) fn authorization(token: &Token<Details>) -> Result<HeaderValue> {
    let text = Zeroizing::new(format!("{} {}", token.details.scheme, token.value.expose_secret()));
    let wrong = |_cause| Error::new(ErrorKind::Protocol, "the token of IAM is not a valid header value");
    let mut value = HeaderValue::from_str(&text).map_err(wrong)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Records that Key Protect has accepted a token.
pub(crate) fn accepted(token: &Token<Details>) {
    token.details.accepted.store(true, Ordering::Relaxed);
}

fn granted(answer: &HttpResponse) -> Result<Token<Details>> {
    if answer.status != StatusCode::OK {
        return Err(denied(answer));
    }
    let mut granted: Granted = parse(&answer.body)?;
    let token = granted.access_token.take().filter(|token| !token.is_empty()).map(SecretString::from);
    let token = token.ok_or_else(|| Error::new(ErrorKind::Protocol, "the response of IAM holds no token"))?;
    let life = match granted.expires_in {
        Some(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
        None => UNKNOWN_LIFE,
    };
    debug!(seconds = life.as_secs(), "got a token from IAM");
    let scheme = granted.token_type.take().filter(|scheme| !scheme.is_empty());
    let details = Details {
        scheme: scheme.unwrap_or_else(|| "Bearer".to_owned()),
        fetched: Instant::now(),
        accepted: AtomicBool::new(false),
    };
    Ok(Token::new(token, Some(Lease::from_now(life, MARGIN)), details))
}

/// The error for a refusal by IAM. The code of the refusal decides first, then its status.
fn denied(answer: &HttpResponse) -> Error {
    if let Some(error) = answer.page_error(true) {
        return error.context("setting", "IBM_KP_TOKEN_URL");
    }
    let denied: Denied = serde_json::from_slice(&answer.body).unwrap_or_default();
    let Denied { error_code, error_message, context } = denied;
    let error = |kind, message: &'static str, retry| Error::new(kind, message).retry(retry);
    let error = match (error_code.as_deref(), answer.status) {
        (Some("BXNIM0415E"), _) => error(
            ErrorKind::Unauthenticated,
            "IAM does not know the API key: it is wrong or was deleted; put a new one into the token Secret",
            Retry::Never,
        ),
        (Some(_), StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            error(ErrorKind::Unauthenticated, "IAM refuses the API key", Retry::Never)
        }
        // IAM gives each refusal a code, so another server says nothing about the API key.
        (None, StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => error(
            ErrorKind::Protocol,
            "the responding server is not IAM; check IBM_KP_TOKEN_URL and the proxies in between",
            Retry::Never,
        ),
        (None, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) => error(
            ErrorKind::ConfigInvalid,
            "there is no token endpoint at this address; check IBM_KP_TOKEN_URL, including its path",
            Retry::Never,
        ),
        (_, StatusCode::TOO_MANY_REQUESTS) => {
            error(ErrorKind::RateLimited, "the rate limit of IAM is reached", Retry::Always)
        }
        (_, status) if status.is_server_error() => {
            error(ErrorKind::Unavailable, "IAM cannot answer now", Retry::Always)
        }
        _ => error(ErrorKind::Protocol, "IAM sent a response with an unexpected status", Retry::Never),
    };
    let short = |text: String| -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_WORDS).collect()
    };
    let known = [
        ("code", error_code),
        ("IAM said", error_message),
        ("request id", context.and_then(|context| context.request_id)),
    ];
    known
        .into_iter()
        .filter_map(|(name, value)| Some((name, short(value?))))
        .fold(error, |error, (name, value)| error.context(name, value))
        .context("status", answer.status.as_u16().to_string())
        .retry_after(answer.retry_after())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> HttpResponse {
        HttpResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: body.as_bytes().to_vec().into(),
        }
    }

    #[test]
    fn a_refusal_is_reported_with_code_and_request_id() {
        let body = r#"{"errorCode":"BXNIM0415E","errorMessage":"Provided API key could not be found","context":{"requestId":"r-1","url":"x"}}"#;
        let error = denied(&answer(400, body));
        assert_eq!((error.kind(), error.retryable()), (ErrorKind::Unauthenticated, Retry::Never));
        let text = error.to_string();
        assert!(text.contains("code: BXNIM0415E") && text.contains("request id: r-1"), "{text}");
    }

    #[test]
    fn statuses_count_where_there_is_no_code() {
        use ErrorKind::*;
        for (status, body, kind, retry) in [
            (400, r#"{"errorCode":"BXNIM0109E"}"#, Unauthenticated, Retry::Never),
            // The refusal of another server, such as a firewall.
            (400, "no", Protocol, Retry::Never),
            (401, r#"{"message":"denied"}"#, Protocol, Retry::Never),
            (403, "", Protocol, Retry::Never),
            (404, "no", ConfigInvalid, Retry::Never),
            // A proxy's page says nothing about the API key.
            (400, "<html>", Protocol, Retry::Never),
            (403, "<html>", Protocol, Retry::Never),
            (429, "", RateLimited, Retry::Always),
            (500, "{}", Unavailable, Retry::Always),
            (302, "", Protocol, Retry::Never),
        ] {
            let error = granted(&answer(status, body)).unwrap_err();
            assert_eq!((error.kind(), error.retryable()), (kind, retry), "{status}: {error}");
        }
        for body in ["", "canary", r#"{"access_token":"","expires_in":5}"#, r#"{"access_token":7}"#] {
            let error = granted(&answer(200, body)).unwrap_err();
            assert_eq!(error.kind(), Protocol, "{error}");
            assert!(!format!("{error:?}").contains("canary"));
        }
    }
}
