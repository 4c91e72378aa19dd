//! Credentials, logins, and the life of a token.
//!
//! A token is kept for all callers, renewed while that extends it, and replaced by a new login when it does not or
//! when the server no longer takes it. Nothing runs in the background: a token is looked after when it is used.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kms_core::{Error, ErrorKind, ExposeSecret, Result, Retry, SecretString};
use kms_http::{Lease, Token, TokenCache, http::StatusCode, json::unreadable};
use serde::Deserialize;
use tracing::{debug, warn};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    api::{Api, Scope},
    error::{from_answer, with_words},
};

/// A token from outside is looked up after this time, to learn when it ends. Short-lived programs are spared the
/// request.
const LOOKUP_AFTER: Duration = Duration::from_secs(60);
/// Longer than any token that is not asked about lasts.
const LONG: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// What has to be left of a token that is handed out: the time that one slow call may take.
const MARGIN: Duration = Duration::from_secs(30);
/// A token that cannot be renewed and ends within this time is warned of.
const ENDS_SOON: Duration = Duration::from_secs(3600);

/// How we show who we are.
pub(crate) enum Method {
    /// A token that somebody gave us.
    Token(SecretString),
    /// The token of a Kubernetes service account, read anew at each login.
    Kubernetes { mount: String, role: String, path: PathBuf },
    /// AppRole.
    AppRole { mount: String, role_id: String, secret_id: SecretString },
    /// The client certificate of the TLS connection.
    Certificate { mount: String, name: Option<String> },
    /// Nothing: an agent between us and the server adds its token.
    Agent,
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl Method {
    /// The method and the public part of what is presented.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Token(_) => "token".to_owned(),
            Self::Kubernetes { mount, role, path } => {
                format!("kubernetes (mount {mount}, role {role}, token file {})", path.display())
            }
            Self::AppRole { mount, role_id, secret_id: _ } => {
                format!("approle (mount {mount}, role id {role_id})")
            }
            Self::Certificate { mount, name } => {
                format!("cert (mount {mount}, name {})", name.as_deref().unwrap_or("any"))
            }
            Self::Agent => "agent".to_owned(),
        }
    }
}

/// What is remembered of a token besides its value.
#[derive(Debug)]
pub(crate) struct Details {
    renewable: bool,
    /// How long it lasted when it was new. A renewal that gives much less has met the maximum.
    length: Duration,
    /// Whether it is from outside and nothing has been asked about it yet.
    unknown: bool,
}

/// Why the server did not take a request, found out after it said 403.
pub(crate) enum Verdict {
    /// There is a new token; the request may be sent once more.
    Renewed(Arc<Token<Details>>),
    /// The token is good, so it is the right that is missing.
    Denied(Error),
}

/// The credentials of one client.
#[derive(Debug)]
pub(crate) struct Auth {
    pub(crate) method: Method,
    tokens: TokenCache<Details>,
}

#[derive(Deserialize)]
struct LoginAnswer {
    auth: Option<LoginAuth>,
}

#[derive(Deserialize)]
struct LoginAuth {
    client_token: Option<String>,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

impl Drop for LoginAuth {
    fn drop(&mut self) {
        self.client_token.zeroize();
    }
}

/// What a token says of itself.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Lookup {
    #[serde(default)]
    pub(crate) ttl: u64,
    #[serde(default)]
    pub(crate) renewable: Option<bool>,
    #[serde(default)]
    pub(crate) policies: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) display_name: Option<String>,
}

impl Auth {
    pub(crate) fn new(method: Method) -> Self {
        Self { method, tokens: TokenCache::new() }
    }

    /// A token that is good now, as far as we know. `None` if an agent adds one.
    ///
    /// # Errors
    ///
    /// Those of a login.
    pub(crate) async fn token(&self, api: &Api) -> Result<Option<Arc<Token<Details>>>> {
        if matches!(self.method, Method::Agent) {
            return Ok(None);
        }
        self.tokens.get(|before| self.fetch(api, before)).await.map(Some)
    }

    /// Finds out what a 403 means. The server gives the same answer for a token that is bad, revoked, expired or
    /// without the right, so the token is asked about itself; however many callers come here at once, that and the
    /// login that may follow are done once.
    ///
    /// # Errors
    ///
    /// `Unauthenticated` if the token is no longer good and there is no way to get another one.
    pub(crate) async fn examine(&self, api: &Api, refused: &Token<Details>) -> Result<Verdict> {
        let fetch = async |before: Option<Arc<Token<Details>>>| {
            let value = before.as_ref().map_or(&refused.value, |token| &token.value);
            match self.lookup(api, value).await {
                Ok(lookup) => {
                    let policies = lookup.policies.unwrap_or_default().join(", ");
                    Err(Error::new(
                        ErrorKind::PermissionDenied,
                        "the token is good, but has no right to do this",
                    )
                    .context("policies", policies))
                }
                Err(error) if error.kind() == ErrorKind::PermissionDenied => match &self.method {
                    Method::Token(_) => Err(Error::new(
                        ErrorKind::Unauthenticated,
                        "the token is not accepted: it is wrong, revoked or expired, or may not even look itself up",
                    )),
                    _ => self.login(api).await,
                },
                Err(error) => Err(error),
            }
        };
        match self.tokens.replace(refused.generation(), fetch).await {
            Ok(token) => Ok(Verdict::Renewed(token)),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(Verdict::Denied(error)),
            Err(error) => Err(error),
        }
    }

    /// What the token says of itself.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the server does not take the token.
    pub(crate) async fn lookup(&self, api: &Api, token: &SecretString) -> Result<Lookup> {
        let answer = api.send(api.read("auth/token/lookup-self", Scope::Auth)?, Some(token)).await?;
        if answer.status != StatusCode::OK {
            return Err(from_answer(&answer));
        }
        let envelope: crate::stored::Envelope<Lookup> =
            serde_json::from_slice(&answer.body).map_err(|cause| unreadable(&cause))?;
        envelope.data.ok_or_else(|| Error::new(ErrorKind::Protocol, "the server says nothing of the token"))
    }

    async fn fetch(&self, api: &Api, before: Option<Arc<Token<Details>>>) -> Result<Token<Details>> {
        match (&self.method, before) {
            (Method::Token(token), None) => {
                let lease = Lease::starting(LOOKUP_AFTER, LONG);
                let details = Details { renewable: false, length: Duration::ZERO, unknown: true };
                Ok(Token::new(token.clone(), Some(lease), details))
            }
            (Method::Token(_), Some(before)) if before.details.unknown => Ok(self.learn(api, &before).await),
            (_, Some(before)) if before.details.renewable => match self.renew(api, &before).await {
                Ok(token) => Ok(token),
                Err(error) if error.retryable() != Retry::Never => Err(error),
                Err(error) => {
                    debug!(%error, "the token can no longer be renewed");
                    self.anew(api, &before).await
                }
            },
            (Method::Token(_), Some(before)) => self.anew(api, &before).await,
            _ => self.login(api).await,
        }
    }

    /// A new login, or for a token from outside the same one on and on, until the server refuses it.
    async fn anew(&self, api: &Api, before: &Token<Details>) -> Result<Token<Details>> {
        match &self.method {
            Method::Token(token) => {
                let details = Details { renewable: false, length: before.details.length, unknown: false };
                Ok(Token::new(token.clone(), None, details))
            }
            _ => self.login(api).await,
        }
    }

    /// Learns how long a token from outside lasts. One that may not look itself up is used as it is.
    async fn learn(&self, api: &Api, before: &Token<Details>) -> Token<Details> {
        let lookup = match self.lookup(api, &before.value).await {
            Ok(lookup) => lookup,
            Err(error) => {
                debug!(%error, "the token could not be looked up, so it will not be renewed");
                Lookup::default()
            }
        };
        let (length, renewable) = (Duration::from_secs(lookup.ttl), lookup.renewable.unwrap_or(false));
        if !length.is_zero() && !renewable && length < ENDS_SOON {
            warn!(
                seconds = lookup.ttl,
                "the Vault token ends soon and cannot be renewed; put a new one in its Secret"
            );
        }
        let lease = (renewable && !length.is_zero()).then(|| Lease::from_now(length, MARGIN));
        Token::new(before.value.clone(), lease, Details { renewable, length, unknown: false })
    }

    async fn renew(&self, api: &Api, before: &Token<Details>) -> Result<Token<Details>> {
        let call = api.write("auth/token/renew-self", Zeroizing::new(b"{}".to_vec()), Scope::Auth)?;
        let answer = api.send(call, Some(&before.value)).await?;
        if answer.status != StatusCode::OK {
            return Err(from_answer(&answer).operation("renew token"));
        }
        let login: LoginAnswer = serde_json::from_slice(&answer.body).map_err(|cause| unreadable(&cause))?;
        let auth = login.auth.ok_or_else(|| Error::new(ErrorKind::Protocol, "the token was not renewed"))?;
        let length = Duration::from_secs(auth.lease_duration);
        // Close to its maximum, a token gets shorter and shorter leases: then it is time for another one.
        let renewable = auth.renewable && length > before.details.length / 2;
        debug!(seconds = auth.lease_duration, renewable, "renewed the token");
        let details = Details { renewable, length: before.details.length.max(length), unknown: false };
        Ok(Token::new(before.value.clone(), Some(Lease::from_now(length, MARGIN)), details))
    }

    async fn login(&self, api: &Api) -> Result<Token<Details>> {
        let (mount, body, who) = match &self.method {
            Method::Token(_) | Method::Agent => {
                return Err(Error::new(ErrorKind::Unexpected, "there is nothing to log in with"));
            }
            Method::Kubernetes { mount, role, path } => {
                let jwt = read_jwt(path)?;
                let who = identity(jwt.expose_secret());
                let body = json(&[("jwt", jwt.expose_secret()), ("role", role)])?;
                (mount, body, [("role", role.clone()), ("identity", who)].to_vec())
            }
            Method::AppRole { mount, role_id, secret_id } => {
                let body = json(&[("role_id", role_id), ("secret_id", secret_id.expose_secret())])?;
                (mount, body, [("role id", role_id.clone())].to_vec())
            }
            Method::Certificate { mount, name } => {
                let body = json(&name.as_deref().map_or_else(Vec::new, |name| vec![("name", name)]))?;
                (mount, body, vec![("name", name.clone().unwrap_or_else(|| "any".to_owned()))])
            }
        };
        let call = api.write(&format!("auth/{mount}/login"), body, Scope::Auth)?;
        let answer = api.send(call, None).await.map_err(|error| error.operation("log in"))?;
        if answer.status != StatusCode::OK {
            let error = match answer.status {
                // Wrong roles, secret ids and certificates are 400, all else that is refused is 403.
                StatusCode::BAD_REQUEST => with_words(refused(&self.method), &answer),
                StatusCode::FORBIDDEN => with_words(refused(&self.method), &answer),
                _ => from_answer(&answer),
            };
            let error = error.operation("log in").context("auth mount", mount.as_str());
            return Err(who.into_iter().fold(error, |error, (name, value)| error.context(name, value)));
        }
        let mut login: LoginAnswer =
            serde_json::from_slice(&answer.body).map_err(|cause| unreadable(&cause))?;
        let mut auth = login
            .auth
            .take()
            .ok_or_else(|| Error::new(ErrorKind::Protocol, "the login gave no token").operation("log in"))?;
        let token = auth.client_token.take().filter(|token| !token.is_empty()).map(SecretString::from);
        let token = token
            .ok_or_else(|| Error::new(ErrorKind::Protocol, "the login gave no token").operation("log in"))?;
        let length = Duration::from_secs(auth.lease_duration);
        debug!(seconds = auth.lease_duration, renewable = auth.renewable, method = ?self.method, "logged in");
        let lease = (!length.is_zero()).then(|| Lease::from_now(length, MARGIN));
        Ok(Token::new(token, lease, Details { renewable: auth.renewable, length, unknown: false }))
    }
}

fn refused(method: &Method) -> Error {
    let hint = match method {
        Method::Kubernetes { .. } => {
            "the server refused the login: check that the role binds this service account and namespace and its \
             audience, and that the server's token reviewer and its address of the Kubernetes API are valid"
        }
        Method::AppRole { .. } => "the server refused the login: check role id and secret id",
        _ => "the server refused the login: check that the certificate's role allows this client certificate",
    };
    Error::new(ErrorKind::Unauthenticated, hint)
}

fn json(pairs: &[(&str, &str)]) -> Result<Zeroizing<Vec<u8>>> {
    let length: usize = pairs.iter().map(|(name, value)| 16 + name.len() + 6 * value.len()).sum();
    let mut body = Zeroizing::new(Vec::with_capacity(2 + length));
    let map: std::collections::BTreeMap<_, _> = pairs.iter().copied().collect();
    serde_json::to_writer(&mut *body, &map)
        .map_err(|_cause| Error::new(ErrorKind::Unexpected, "the login could not be written"))?;
    Ok(body)
}

/// Reads the service account's token. The kubelet replaces the file; while it does, it may be empty.
fn read_jwt(path: &std::path::Path) -> Result<SecretString> {
    let mut text = std::fs::read_to_string(path).map_err(|cause| {
        Error::config(
            "the service account token cannot be read; set VAULT_AUTH_KUBERNETES_TOKEN_PATH to its file",
        )
        .context("file", path.display().to_string())
        .source(cause)
    })?;
    let jwt = SecretString::from(text.trim());
    text.zeroize();
    if jwt.expose_secret().is_empty() {
        return Err(Error::new(ErrorKind::Unavailable, "the service account token is empty for now")
            .retry(Retry::Always)
            .context("file", path.display().to_string()));
    }
    Ok(jwt)
}

/// Who a service account token says we are: subject and audiences, never the token itself.
pub(crate) fn identity(jwt: &str) -> String {
    #[derive(Deserialize)]
    struct Claims {
        sub: Option<String>,
        iss: Option<String>,
        aud: Option<Audiences>,
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audiences {
        One(String),
        Many(Vec<String>),
    }

    let claims =
        jwt.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok());
    let claims = claims.map(Zeroizing::new).and_then(|json| serde_json::from_slice::<Claims>(&json).ok());
    let Some(Claims { sub, iss, aud }) = claims else {
        return "not readable: the token is no JWT".to_owned();
    };
    let audiences = match aud {
        Some(Audiences::One(one)) => one,
        Some(Audiences::Many(many)) => many.join(" "),
        None => "none".to_owned(),
    };
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
    format!("{}, audience {audiences}, issuer {}", or_none(sub), or_none(iss))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jwt_tells_who_we_are_and_nothing_else() {
        let claims = br#"{"aud":["vault","x"],"iss":"https://kubernetes","sub":"system:serviceaccount:rook-ceph:rook-ceph-osd"}"#;
        let jwt = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(
            identity(&jwt),
            "system:serviceaccount:rook-ceph:rook-ceph-osd, audience vault x, issuer https://kubernetes"
        );
        assert!(!identity("canary").contains("canary"));
    }

    #[test]
    fn credentials_are_not_shown() {
        let secret = || SecretString::from("canary");
        let approle = Method::AppRole { mount: "approle".into(), role_id: "r".into(), secret_id: secret() };
        assert!(!format!("{approle:?}{:?}", Method::Token(secret())).contains("canary"));
    }
}
