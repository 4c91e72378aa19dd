//! Authentication: logs in with the credentials, and renews and replaces the token.
//!
//! All callers share one token. The client renews it while a renewal extends it. When a renewal no longer extends it,
//! or the server refuses it, the client logs in again. There is no background task: the client renews a token when it
//! uses the token.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kms_core::{Error, ErrorKind, ExposeSecret, Result, Retry, SecretString, token_life};
use kms_http::{HttpResponse, Lease, Token, TokenCache, http::StatusCode, json::parse};
use serde::Deserialize;
use tracing::{debug, warn};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    api::{Api, Scope, data_of},
    error::{from_answer, is_foreign, with_words},
};

/// How long to use a token of the settings before looking it up to learn when it expires. Short-lived programs do not
/// send this request unless they ask for it.
const LOOKUP_AFTER: Duration = Duration::from_secs(60);
/// The assumed lifetime of a token that was not looked up: longer than any real one.
const LONG: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The minimum remaining lifetime of a token that a request gets: the time that one slow request may take.
const MARGIN: Duration = Duration::from_secs(30);
/// The client logs a warning for a token that cannot be renewed and expires within this time.
const ENDS_SOON: Duration = Duration::from_secs(3600);

/// How the client authenticates.
pub(crate) enum AuthMethod {
    /// A token of the settings.
    Token(SecretString),
    /// The token of a Kubernetes service account.
    Kubernetes { mount: String, role: String, token: AccountToken },
    /// AppRole.
    AppRole { mount: String, role_id: String, secret_id: SecretString },
    /// The client certificate of the TLS connection.
    Certificate { mount: String, name: Option<String> },
    /// No token: an agent between client and server adds its own token.
    Agent,
}

/// Where the token of a service account comes from.
#[derive(Clone)]
pub(crate) enum AccountToken {
    /// A file, which is read again at each login.
    File(PathBuf),
    /// The caller.
    Given(SecretString),
}

impl AccountToken {
    /// The token.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the file cannot be read; `Unavailable` if it is empty, as it may be while the kubelet replaces it.
    pub(crate) fn read(&self) -> Result<SecretString> {
        match self {
            Self::File(path) => read_jwt(path),
            Self::Given(token) => Ok(token.clone()),
        }
    }
}

impl fmt::Debug for AuthMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl AuthMethod {
    /// Describes the method and the public part of the credentials.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Token(_) => "token".to_owned(),
            Self::Kubernetes { mount, role, token } => {
                let token = match token {
                    AccountToken::File(path) => format!("token file {}", path.display()),
                    AccountToken::Given(_) => "token of the caller".to_owned(),
                };
                format!("kubernetes (mount {mount}, role {role}, {token})")
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

/// The data of a token besides its value.
#[derive(Debug)]
pub(crate) struct Details {
    renewable: bool,
    /// The lifetime of the token when it was new. A renewal that returns much less has met the maximum lifetime.
    length: Duration,
    /// Whether the token comes from the settings and has not been looked up yet.
    unknown: bool,
}

/// The reason for a 403 of the server.
pub(crate) enum Forbidden {
    /// The token was stale. Holds a new token, with which the caller may send the request once more.
    StaleToken(Arc<Token<Details>>),
    /// The token is valid but lacks the right. Holds the error for the caller.
    MissingRight(Error),
}

/// The credentials of one client.
#[derive(Debug)]
pub(crate) struct Auth {
    pub(crate) method: AuthMethod,
    /// Whether a token of the settings is looked up when it is used first.
    looks_up_at_once: bool,
    tokens: TokenCache<Details>,
}

#[derive(Deserialize)]
struct LoginResponse {
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

/// The response to the request in which a token looks itself up.
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

impl Lookup {
    /// Whether the token ends within this time and cannot be renewed.
    pub(crate) fn ends_within(&self, limit: Duration) -> bool {
        self.ttl > 0 && self.renewable != Some(true) && Duration::from_secs(self.ttl) < limit
    }
}

impl Auth {
    pub(crate) fn new(method: AuthMethod, looks_up_at_once: bool) -> Self {
        Self { method, looks_up_at_once, tokens: TokenCache::new() }
    }

    /// Returns a token that is valid as far as the client knows. `None` if an agent adds the token.
    ///
    /// # Errors
    ///
    /// The errors of a login.
    pub(crate) async fn token(&self, api: &Api) -> Result<Option<Arc<Token<Details>>>> {
        if matches!(self.method, AuthMethod::Agent) {
            return Ok(None);
        }
        self.tokens.get(|before| self.fetch(api, before)).await.map(Some)
    }

    /// Finds out why the server has answered 403.
    ///
    /// The server gives the same response for a token that is wrong, revoked, expired or without the right, so the
    /// client looks the token up. Concurrent callers share one lookup, and the one login that may follow.
    ///
    /// # Errors
    ///
    /// `Unauthenticated` if the token is no longer valid and the client cannot log in for another one.
    pub(crate) async fn examine_forbidden(&self, api: &Api, refused: &Token<Details>) -> Result<Forbidden> {
        let fetch = async |before: Option<Arc<Token<Details>>>| {
            let value = before.as_ref().map_or(&refused.value, |token| &token.value);
            match self.lookup(api, value).await {
                Ok(lookup) => {
                    let policies = lookup.policies.unwrap_or_default().join(", ");
                    Err(Error::new(
                        ErrorKind::PermissionDenied,
                        "the token is valid, but has no right to do this",
                    )
                    .context("policies", policies))
                }
                Err(error) if error.kind() == ErrorKind::PermissionDenied => match &self.method {
                    AuthMethod::Token(_) => Err(Error::new(
                        ErrorKind::Unauthenticated,
                        "the server refuses the token: it is wrong, revoked or expired, or lacks both this right and the \
                         policy \"default\"; set a valid token (tokenSecretName or VAULT_TOKEN), or extend its policies",
                    )),
                    _ => self.login(api).await,
                },
                Err(error) => Err(error),
            }
        };
        match self.tokens.replace(refused.generation(), fetch).await {
            Ok(token) => Ok(Forbidden::StaleToken(token)),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(Forbidden::MissingRight(error)),
            Err(error) => Err(error),
        }
    }

    /// Looks the token up.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the server refuses the token.
    pub(crate) async fn lookup(&self, api: &Api, token: &SecretString) -> Result<Lookup> {
        data_of(&self.ask_about(api, token).await?)
    }

    /// Sends the request in which a token looks itself up, and returns the response, whatever its status.
    pub(crate) async fn ask_about(&self, api: &Api, token: &SecretString) -> Result<HttpResponse> {
        api.send(&mut api.read("auth/token/lookup-self", Scope::Auth)?, Some(token)).await
    }

    async fn fetch(&self, api: &Api, before: Option<Arc<Token<Details>>>) -> Result<Token<Details>> {
        match (&self.method, before) {
            (AuthMethod::Token(token), None) => {
                let lease = Lease::starting(LOOKUP_AFTER, LONG);
                let details = Details { renewable: false, length: Duration::ZERO, unknown: true };
                let token = Token::new(token.clone(), Some(lease), details);
                Ok(if self.looks_up_at_once { self.learn(api, &token).await } else { token })
            }
            (AuthMethod::Token(_), Some(before)) if before.details.unknown => {
                Ok(self.learn(api, &before).await)
            }
            (_, Some(before)) if before.details.renewable => match self.renew(api, &before).await {
                Ok(token) => Ok(token),
                Err(error) if error.retryable() != Retry::Never => Err(error),
                Err(error) => {
                    debug!(%error, "the token can no longer be renewed");
                    self.replace(api, &before).await
                }
            },
            (AuthMethod::Token(_), Some(before)) => self.replace(api, &before).await,
            _ => self.login(api).await,
        }
    }

    /// Logs in again. A token of the settings cannot be replaced, so it stays in use until the server refuses it.
    async fn replace(&self, api: &Api, before: &Token<Details>) -> Result<Token<Details>> {
        match &self.method {
            AuthMethod::Token(token) => {
                let details = Details { renewable: false, length: before.details.length, unknown: false };
                Ok(Token::new(token.clone(), None, details))
            }
            _ => self.login(api).await,
        }
    }

    /// Looks up the lifetime of a token of the settings. A token without the right to look itself up stays in use
    /// unchanged.
    async fn learn(&self, api: &Api, before: &Token<Details>) -> Token<Details> {
        let lookup = match self.lookup(api, &before.value).await {
            Ok(lookup) => {
                let left = Some(Duration::from_secs(lookup.ttl)).filter(|left| !left.is_zero());
                token_life::learnt("vault", left, lookup.renewable == Some(true));
                lookup
            }
            Err(error) => {
                debug!(%error, "the token could not be looked up and will not be renewed");
                Lookup::default()
            }
        };
        let (length, renewable) = (Duration::from_secs(lookup.ttl), lookup.renewable.unwrap_or(false));
        if lookup.ends_within(ENDS_SOON) {
            warn!(
                seconds = lookup.ttl,
                "the Vault token ends soon and cannot be renewed; put a new token into its Secret"
            );
        }
        let lease = (renewable && !length.is_zero()).then(|| Lease::from_now(length, MARGIN));
        Token::new(before.value.clone(), lease, Details { renewable, length, unknown: false })
    }

    async fn renew(&self, api: &Api, before: &Token<Details>) -> Result<Token<Details>> {
        let mut call = api.write("auth/token/renew-self", Zeroizing::new(b"{}".to_vec()), Scope::Auth)?;
        let answer = api.send(&mut call, Some(&before.value)).await?;
        if answer.status != StatusCode::OK {
            return Err(from_answer(&answer).operation("renew token"));
        }
        let login: LoginResponse = parse(&answer.body)?;
        let auth = login
            .auth
            .ok_or_else(|| Error::new(ErrorKind::Protocol, "the response to the renewal has no token"))?;
        let length = Duration::from_secs(auth.lease_duration);
        // Close to its maximum lifetime, a token gets ever shorter leases. Then a new login has to replace the token.
        let renewable = auth.renewable && length > before.details.length / 2;
        debug!(seconds = auth.lease_duration, renewable, "renewed the token");
        let details = Details { renewable, length: before.details.length.max(length), unknown: false };
        Ok(Token::new(before.value.clone(), Some(Lease::from_now(length, MARGIN)), details))
    }

    async fn login(&self, api: &Api) -> Result<Token<Details>> {
        let (mount, body, identifiers) = match &self.method {
            AuthMethod::Token(_) | AuthMethod::Agent => {
                return Err(Error::new(ErrorKind::Unexpected, "this authentication method has no login"));
            }
            AuthMethod::Kubernetes { mount, role, token } => {
                let jwt = token.read()?;
                let identity = identity(jwt.expose_secret());
                let body = json(&[("jwt", jwt.expose_secret()), ("role", role)])?;
                (mount, body, vec![("role", role.clone()), ("identity", identity)])
            }
            AuthMethod::AppRole { mount, role_id, secret_id } => {
                let body = json(&[("role_id", role_id), ("secret_id", secret_id.expose_secret())])?;
                (mount, body, vec![("role id", role_id.clone())])
            }
            AuthMethod::Certificate { mount, name } => {
                let body = json(&name.as_deref().map_or_else(Vec::new, |name| vec![("name", name)]))?;
                (mount, body, vec![("name", name.clone().unwrap_or_else(|| "any".to_owned()))])
            }
        };
        let mut call = api.write(&format!("auth/{mount}/login"), body, Scope::Auth)?;
        let answer = api.send(&mut call, None).await.map_err(|error| error.operation("log in"))?;
        if answer.status != StatusCode::OK {
            let error = match answer.status {
                // The server answers 400 to wrong roles, secret ids and certificates, and 403 to other refused logins.
                StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN if !is_foreign(&answer) => {
                    with_words(login_refused(&self.method), &answer)
                }
                _ => from_answer(&answer),
            };
            let error = error.operation("log in").context("auth mount", mount.as_str());
            return Err(identifiers
                .into_iter()
                .fold(error, |error, (name, value)| error.context(name, value)));
        }
        let mut login: LoginResponse = parse(&answer.body)?;
        let no_token =
            || Error::new(ErrorKind::Protocol, "the response to the login has no token").operation("log in");
        let mut auth = login.auth.take().ok_or_else(no_token)?;
        let token = auth.client_token.take().filter(|token| !token.is_empty()).map(SecretString::from);
        let token = token.ok_or_else(no_token)?;
        let length = Duration::from_secs(auth.lease_duration);
        debug!(seconds = auth.lease_duration, renewable = auth.renewable, method = ?self.method, "logged in");
        let lease = (!length.is_zero()).then(|| Lease::from_now(length, MARGIN));
        Ok(Token::new(token, lease, Details { renewable: auth.renewable, length, unknown: false }))
    }
}

/// The error for a refused login: the settings to check depend on the method.
fn login_refused(method: &AuthMethod) -> Error {
    let hint = match method {
        AuthMethod::Kubernetes { .. } => {
            "the server refused the login: check that the role binds this service account, its namespace and its \
             audience, and that the server's token reviewer and its address of the Kubernetes API are valid"
        }
        AuthMethod::AppRole { .. } => "the server refused the login: check the role id and the secret id",
        _ => "the server refused the login: check that the certificate role allows this client certificate",
    };
    Error::new(ErrorKind::Unauthenticated, hint)
}

fn json(pairs: &[(&str, &str)]) -> Result<Zeroizing<Vec<u8>>> {
    let length: usize = pairs.iter().map(|(name, value)| 16 + name.len() + 6 * value.len()).sum();
    let mut body = Zeroizing::new(Vec::with_capacity(2 + length));
    let map: std::collections::BTreeMap<_, _> = pairs.iter().copied().collect();
    serde_json::to_writer(&mut *body, &map)
        .map_err(|_cause| Error::new(ErrorKind::Unexpected, "the login could not be encoded"))?;
    Ok(body)
}

/// Reads the token of the service account. The file may be empty while the kubelet replaces it.
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
        return Err(Error::new(ErrorKind::Unavailable, "the file of the service account token is empty")
            .retry(Retry::Always)
            .context("file", path.display().to_string()));
    }
    Ok(jwt)
}

/// Subject, audiences and issuer of a service account token, never the token itself.
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
        return "unknown: the token is not a JWT".to_owned();
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
        let approle =
            AuthMethod::AppRole { mount: "approle".into(), role_id: "r".into(), secret_id: secret() };
        assert!(!format!("{approle:?}{:?}", AuthMethod::Token(secret())).contains("canary"));
    }
}
