//! Authentication: exchanges the credential for tokens of Entra ID.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use azure_core::{
    cloud::{CloudConfiguration, CustomConfiguration},
    credentials::{AccessToken, Secret, TokenCredential, TokenRequestOptions},
    time::OffsetDateTime,
};
use azure_identity::{
    ClientAssertionCredential, ClientAssertionCredentialOptions, ClientSecretCredential,
    ClientSecretCredentialOptions, ManagedIdentityCredential, ManagedIdentityCredentialOptions,
    UserAssignedId,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kms_core::{
    Error, ErrorKind, ExposeSecret, Result, SecretString,
    layer::{limited, step_limit, waiting_for},
};
use kms_http::{
    Lease, Token, TokenCache,
    http::{HeaderMap, header::WWW_AUTHENTICATE},
};
use tokio::time::Instant;
use tracing::debug;
use url::Url;

use crate::{
    address::{default_scope, foreign_scope, is_scope_for},
    assertion::{Federated, Signed},
    certificate::{Certificate, date, hex},
    challenge::Challenge,
    error::{from_sdk, wrapped},
    transport::{ToEntra, options},
};

/// The time limit for one token of Entra ID.
const LIMIT: Duration = Duration::from_secs(10);
/// The minimum remaining lifetime of a token in use.
const MARGIN: Duration = Duration::from_secs(300);
/// How long to wait after the vault has refused a new token before requesting another token.
const PAUSE: Duration = Duration::from_secs(5);

/// The configured credential.
pub(crate) enum Source {
    Certificate { tenant: String, client: String, certificate: Arc<Certificate>, send_chain: bool },
    Workload { tenant: String, client: String, file: std::path::PathBuf },
    Managed { client: Option<String> },
    Secret { tenant: String, client: String, secret: SecretString },
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl Source {
    /// Describes the credential for messages, without its secret parts.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Certificate { tenant, client, certificate, send_chain } => format!(
                "certificate with thumbprint {}, valid until {}, of application {client} in tenant {tenant}{}",
                hex(&certificate.sha1),
                date(certificate.not_after),
                if *send_chain { ", with its chain" } else { "" },
            ),
            Self::Workload { tenant, client, file } => {
                format!("workload identity {client} in tenant {tenant}, token file {}", file.display())
            }
            Self::Managed { client: Some(client) } => format!("managed identity {client}"),
            Self::Managed { client: None } => "system-assigned managed identity".to_owned(),
            Self::Secret { tenant, client, secret: _ } => {
                format!("client secret of application {client} in tenant {tenant}")
            }
        }
    }

    /// The setting that names the credential.
    fn setting(&self) -> &'static str {
        match self {
            Self::Certificate { .. } => "AZURE_CERT_SECRET_NAME",
            Self::Workload { .. } => "AZURE_FEDERATED_TOKEN_FILE",
            Self::Managed { .. } => "AZURE_CREDENTIAL, AZURE_CLIENT_ID",
            Self::Secret { .. } => "AZURE_CLIENT_SECRET",
        }
    }

    fn tenant(&self) -> Option<&str> {
        match self {
            Self::Certificate { tenant, .. }
            | Self::Workload { tenant, .. }
            | Self::Secret { tenant, .. } => Some(tenant),
            Self::Managed { .. } => None,
        }
    }
}

/// The claims of a token about its owner. The vault verifies the signature; this client does not.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    pub(crate) oid: Option<String>,
    pub(crate) appid: Option<String>,
    pub(crate) tid: Option<String>,
    /// Whether the vault has accepted the token.
    accepted: AtomicBool,
}

impl Claims {
    fn of(token: &str) -> Self {
        let payload = token.split('.').nth(1).unwrap_or_default();
        let json = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).unwrap_or_default();
        let claims: serde_json::Value = serde_json::from_slice(&json).unwrap_or_default();
        // A token may have the claims of both versions, or odd ones: each is read by itself.
        let text = |names: &[&str]| {
            let texts = names.iter().filter_map(|name| claims.get(name)?.as_str());
            texts.map(str::to_owned).find(|text| !text.is_empty())
        };
        Self {
            oid: text(&["oid", "sub"]),
            appid: text(&["appid", "azp"]),
            tid: text(&["tid"]),
            accepted: AtomicBool::new(false),
        }
    }

    /// Describes the token's owner by the ids that a role assignment or an access policy names (field-reports UP-85).
    pub(crate) fn describe(&self) -> String {
        let id = |id: &Option<String>| id.clone().unwrap_or_else(|| "unknown".to_owned());
        format!("object id {}, application id {}, tenant {}", id(&self.oid), id(&self.appid), id(&self.tid))
    }
}

/// The last token that the vault refused.
struct RefusedToken {
    generation: u64,
    at: Instant,
    error: Error,
}

/// The credential of one vault, and the token that all callers share.
pub(crate) struct Auth {
    pub(crate) source: Source,
    pub(crate) authority: Url,
    pub(crate) entra: ToEntra,
    pub(crate) vault: Url,
    cache: TokenCache<Claims>,
    refusal: Mutex<Option<RefusedToken>>,
    /// The scope of tokens if the vault's challenge names no scope.
    pub(crate) scope: String,
    /// The vault's last challenge.
    challenge: Mutex<Challenge>,
    /// Whether the SDK knows the vault's challenge.
    challenge_known: AtomicBool,
    renewing: AtomicBool,
}

impl Auth {
    pub(crate) fn new(source: Source, authority: Url, entra: ToEntra, vault: Url, domain: &str) -> Self {
        let scope = default_scope(&vault, domain);
        Self {
            source,
            authority,
            scope,
            entra,
            vault,
            cache: TokenCache::new(),
            refusal: Mutex::default(),
            challenge: Mutex::default(),
            challenge_known: AtomicBool::new(false),
            renewing: AtomicBool::new(false),
        }
    }

    /// Whether the SDK knows the vault's challenge: the vault has accepted a token.
    pub(crate) fn is_challenge_known(&self) -> bool {
        self.challenge_known.load(Ordering::Acquire)
    }

    /// Records the vault's challenge, and returns the scope that a token needs.
    pub(crate) fn challenged(&self, headers: &HeaderMap) -> String {
        let texts = headers.get_all(WWW_AUTHENTICATE).into_iter().filter_map(|value| value.to_str().ok());
        let challenge = Challenge::read(texts);
        let scope = challenge.scope.clone().unwrap_or_else(|| self.scope.clone());
        *self.challenge.lock().unwrap_or_else(PoisonError::into_inner) = challenge;
        scope
    }

    /// The cached token. `None` if this header holds another token.
    fn held(&self, header: &str) -> Option<Arc<Token<Claims>>> {
        self.cache.peek().filter(|token| header.strip_prefix("Bearer ") == Some(token.value.expose_secret()))
    }

    /// Records that the vault has accepted a token.
    pub(crate) fn accepted(&self, header: &str) {
        self.challenge_known.store(true, Ordering::Release);
        if let Some(token) = self.held(header) {
            token.details.accepted.store(true, Ordering::Relaxed);
        }
    }

    /// Records that the vault has refused a token, so that the client does not use it again.
    pub(crate) fn refused(&self, header: &str, error: Error) {
        if let Some(token) = self.held(header) {
            debug!(generation = token.generation(), "the vault refuses the token");
            let refusal = RefusedToken { generation: token.generation(), at: Instant::now(), error };
            *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
        }
    }

    /// Describes the owner of the cached token, for errors and probes.
    pub(crate) fn claims(&self) -> Option<String> {
        self.cache.peek().map(|token| token.details.describe())
    }

    /// The error of the vault's last refusal of the cached token, with the vault's words, and its likely causes.
    pub(crate) fn last_refusal(&self, otherwise: Error) -> Error {
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.cache.peek().map(|token| token.generation());
        let error = refusal
            .as_ref()
            .filter(|refusal| Some(refusal.generation) == generation)
            .map_or(otherwise, |refusal| refusal.error.clone());
        drop(refusal);
        self.explain(error)
    }

    /// Adds the likely causes of a refusal to the error: the token's owner, and the vault's tenant if it differs from
    /// ours.
    fn explain(&self, error: Error) -> Error {
        let challenge = self.challenge.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let error = match self.claims() {
            Some(claims) => error.context("identity", claims),
            None => error,
        };
        match (challenge.tenant(), self.source.tenant()) {
            (Some(theirs), Some(ours)) if !theirs.eq_ignore_ascii_case(ours) => {
                error.context("the vault's tenant", theirs)
            }
            _ => error,
        }
    }

    /// Returns a token for the vault.
    ///
    /// # Errors
    ///
    /// The errors of Entra ID; `Unauthenticated` if the vault has just refused a new token; `Protocol` if `scope` is
    /// not a scope for vaults.
    pub(crate) async fn token(self: &Arc<Self>, scope: &str) -> Result<Arc<Token<Claims>>> {
        if !is_scope_for(scope, &self.vault) {
            return Err(Error::new(ErrorKind::Protocol, foreign_scope(scope)));
        }
        let fetch = |_before| self.fetch(scope);
        let Some(current) = self.cache.peek() else { return self.cache.get(fetch).await };
        let refused = {
            let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
            refusal
                .as_ref()
                .filter(|refusal| refusal.generation == current.generation())
                .map(|refusal| (refusal.at, refusal.error.clone()))
        };
        if let Some((at, error)) = refused {
            // The vault never accepted this token, so expiry is not the cause, and the vault would refuse a new token
            // too.
            if !current.details.accepted.load(Ordering::Relaxed) && at.elapsed() < PAUSE {
                return Err(self.explain(error));
            }
            return self.cache.replace(current.generation(), fetch).await;
        }
        let (now, lease) = (Instant::now(), current.lease);
        match lease {
            // Renew in the background, since the SDK makes all requests wait while it gets a token.
            Some(lease) if now >= lease.refresh && now < lease.end => {
                if !self.renewing.swap(true, Ordering::AcqRel) {
                    let (this, scope) = (Arc::clone(self), scope.to_owned());
                    tokio::spawn(async move {
                        let result = this.cache.get(|_before| this.fetch(&scope)).await;
                        if let Err(error) = result {
                            debug!(%error, "the token could not be renewed yet; the present one stays in use");
                        }
                        this.renewing.store(false, Ordering::Release);
                    });
                }
                Ok(current)
            }
            _ => self.cache.get(fetch).await,
        }
    }

    /// Requests a token from Entra ID, with a new credential each time. The SDK's credentials have a cache of their
    /// own, which would return the same token again after the vault has refused it.
    async fn fetch(&self, scope: &str) -> Result<Token<Claims>> {
        let credential = self.credential()?;
        let server = match &self.source {
            Source::Managed { .. } => "the metadata service of this host",
            _ => "Entra ID",
        };
        let get = async { credential.get_token(&[scope], None).await.map_err(|error| from_sdk(&error)) };
        let token =
            limited(step_limit(LIMIT), waiting_for(|| server, get)).await.map_err(|error| {
                match error.kind() {
                    ErrorKind::Unauthenticated => error
                        .context("credential", self.source.describe())
                        .context("setting", self.source.setting()),
                    _ => error,
                }
            })?;
        let end = SystemTime::from(token.expires_on);
        let left = end.duration_since(SystemTime::now()).unwrap_or_default();
        let text = token.token.secret();
        let claims = Claims::of(text);
        debug!(identity = claims.describe(), seconds = left.as_secs(), "got a new token");
        Ok(Token::new(SecretString::from(text), Some(Lease::from_now(left, MARGIN)), claims))
    }

    fn credential(&self) -> Result<Arc<dyn TokenCredential>> {
        let mut custom = CustomConfiguration::default();
        self.authority.as_str().trim_end_matches('/').clone_into(&mut custom.authority_host);
        let mut client_options = options(self.entra.clone());
        client_options.cloud = Some(Arc::new(CloudConfiguration::Custom(custom)));
        let assertion_options = |client_options| Some(ClientAssertionCredentialOptions { client_options });
        let made: azure_core::Result<Arc<dyn TokenCredential>> = match &self.source {
            Source::Certificate { tenant, client, certificate, send_chain } => {
                let signed = Signed {
                    certificate: Arc::clone(certificate),
                    client: client.clone(),
                    audience: self.token_url(tenant),
                    send_chain: *send_chain,
                };
                let options = assertion_options(client_options);
                ClientAssertionCredential::new(tenant.clone(), client.clone(), signed, options)
                    .map(|credential| credential as Arc<dyn TokenCredential>)
            }
            Source::Workload { tenant, client, file } => {
                let federated = Federated { file: file.clone() };
                let options = assertion_options(client_options);
                ClientAssertionCredential::new(tenant.clone(), client.clone(), federated, options)
                    .map(|credential| credential as Arc<dyn TokenCredential>)
            }
            Source::Secret { tenant, client, secret } => {
                let secret = Secret::new(secret.expose_secret().to_owned());
                let options = ClientSecretCredentialOptions { client_options };
                ClientSecretCredential::new(tenant, client.clone(), secret, Some(options))
                    .map(|credential| credential as Arc<dyn TokenCredential>)
            }
            Source::Managed { client } => {
                let user_assigned_id = client.clone().map(UserAssignedId::ClientId);
                let options = ManagedIdentityCredentialOptions { user_assigned_id, client_options };
                ManagedIdentityCredential::new(Some(options))
                    .map(|credential| credential as Arc<dyn TokenCredential>)
            }
        };
        made.map_err(|error| from_sdk(&error))
    }

    /// The address at which the SDK requests a token of this tenant.
    fn token_url(&self, tenant: &str) -> String {
        format!("{}/{tenant}/oauth2/v2.0/token", self.authority.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("source", &self.source)
            .field("authority", &self.authority.as_str())
            .finish_non_exhaustive()
    }
}

/// The SDK's view of [`Auth`].
#[derive(Debug)]
pub(crate) struct Credential(pub(crate) Arc<Auth>);

#[async_trait]
impl TokenCredential for Credential {
    async fn get_token(
        &self,
        scopes: &[&str],
        _options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let scope = scopes.first().copied().unwrap_or_default();
        let token = self.0.token(scope).await.map_err(wrapped)?;
        // Declare the token expired, so that the SDK calls this for each request: `Auth` decides whether a token is
        // valid.
        Ok(AccessToken::new(token.value.expose_secret().to_owned(), OffsetDateTime::now_utc()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_any_version_shows_its_identity() {
        for (claims, expected) in [
            (r#"{"oid":"o","appid":"a","tid":"t"}"#, "object id o, application id a, tenant t"),
            (
                r#"{"oid":"o","azp":"a","appid":"a","tid":"t","ver":"2.0"}"#,
                "object id o, application id a, tenant t",
            ),
            (r#"{"oid":["x"],"sub":"o","azp":"a","tid":7}"#, "object id o, application id a, tenant unknown"),
            ("[]", "object id unknown, application id unknown, tenant unknown"),
        ] {
            let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
            assert_eq!(Claims::of(&token).describe(), expected, "{claims}");
        }
    }
}
