//! Sends requests to the vault through the SDK's client, and parses the responses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use azure_core::{
    Bytes,
    http::{
        AsyncRawResponse, HttpClient as SdkHttpClient, Method, Pager, Request, Response,
        headers::AUTHORIZATION, response::ResponseBody,
    },
};
use azure_security_keyvault_secrets::{
    SecretClient, SecretClientOptions,
    models::{
        ListSecretPropertiesResult, SecretClientGetSecretOptions, SecretClientListSecretPropertiesOptions,
        SecretClientListSecretPropertiesVersionsOptions, SecretClientUpdateSecretPropertiesOptions,
    },
};
use futures_util::{Stream, StreamExt, TryStreamExt, stream, stream::BoxStream};
use kms_core::{Error, ErrorKind, Kek, KeyState, KeyVersion, Result, Retry};
use kms_http::{
    HttpClient,
    http::{HeaderValue, StatusCode, header::WWW_AUTHENTICATE},
    json::parse,
};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::timeout,
};
use tracing::debug;
use zeroize::Zeroizing;

use crate::{
    auth::{Auth, Credential},
    error::{DISABLED, from_answer, from_sdk, has_code, needed_permission, wrapped},
    name::Names,
    pages::{Course, Page},
    stored::{Labels, STATE_TAG, Secret, State, decode, encode, is_blank, tags},
    transport::{options, response, send},
};

/// How long concurrent requests wait for the first one to get the vault's challenge.
const FIRST_WAIT: Duration = Duration::from_secs(2);

/// A secret in a response of the vault.
#[derive(Debug, Deserialize)]
pub(crate) struct SecretBundle {
    #[serde(default)]
    value: Option<Secret>,
    /// Required: JSON without it is not a secret of Key Vault.
    pub(crate) id: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) attributes: Attributes,
    #[serde(default, deserialize_with = "or_default")]
    tags: BTreeMap<String, Option<String>>,
    #[serde(default, rename = "contentType")]
    content_type: Option<String>,
    /// The address at which to recover the secret. Only deleted secrets have it.
    #[serde(default, rename = "recoveryId")]
    recovery_id: Option<String>,
    /// When the secret was deleted. Only deleted secrets have it.
    #[serde(default, rename = "deletedDate", deserialize_with = "seconds")]
    deleted: Option<u64>,
    /// When the vault purges the secret by itself. Only deleted secrets have it.
    #[serde(default, rename = "scheduledPurgeDate", deserialize_with = "seconds")]
    purged: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Attributes {
    #[serde(default)]
    pub(crate) enabled: Option<bool>,
    #[serde(default, deserialize_with = "seconds")]
    pub(crate) created: Option<u64>,
    #[serde(default, deserialize_with = "seconds")]
    pub(crate) updated: Option<u64>,
    /// The time until which the secret is valid. Key Vault hands the secret out after it too.
    #[serde(default, rename = "exp", deserialize_with = "seconds")]
    expires: Option<u64>,
    #[serde(default, rename = "recoveryLevel")]
    recovery_level: Option<String>,
}

/// Deserializes a part that may be `null`; `null` is treated as absent.
fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(part: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(part).map(Option::unwrap_or_default)
}

/// Deserializes a time in seconds since 1970. An invalid time is treated as absent, so that the key stays readable.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "fractions of a second are dropped"
)]
fn seconds<'de, D: Deserializer<'de>>(part: D) -> Result<Option<u64>, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(part)?.unwrap_or_default();
    Ok(value.as_u64().or_else(|| value.as_f64().filter(|time| *time >= 0.0).map(|time| time as u64)))
}

impl Attributes {
    /// The times at which the version was created and last updated.
    pub(crate) fn times(&self) -> (Option<SystemTime>, Option<SystemTime>) {
        let time = |seconds: Option<u64>| UNIX_EPOCH.checked_add(Duration::from_secs(seconds?));
        (time(self.created), time(self.updated))
    }

    /// What a list marks at the version.
    pub(crate) fn mark(&self, now: SystemTime) -> Option<KeyState> {
        let end = self.expires.and_then(|end| UNIX_EPOCH.checked_add(Duration::from_secs(end)));
        if self.enabled == Some(false) {
            Some(KeyState::Disabled)
        } else {
            end.filter(|end| *end <= now).map(|_| KeyState::Expired)
        }
    }
}

impl SecretBundle {
    /// One path segment of the id: 0 is `secrets`, 1 the name, 2 the version.
    fn part(&self, at: usize) -> Option<&str> {
        let path = self.id.split_once("://")?.1;
        path.split('/').filter(|part| !part.is_empty()).nth(at + 1)
    }

    /// The name of the secret, from its id.
    pub(crate) fn name(&self) -> Option<&str> {
        self.part(1)
    }

    /// The version of the secret; `None` if the id has none.
    pub(crate) fn version_part(&self) -> Option<&str> {
        self.part(2)
    }

    /// The version of the secret.
    ///
    /// # Errors
    ///
    /// `Protocol` if the id has no version.
    pub(crate) fn version(&self) -> Result<KeyVersion> {
        self.version_part().map(KeyVersion::new).ok_or_else(|| {
            Error::new(ErrorKind::Protocol, "the vault's response names no version of the secret")
        })
    }

    /// The value of a tag.
    pub(crate) fn tag(&self, name: &str) -> Option<&str> {
        self.tags.get(name)?.as_deref()
    }

    /// The labels that operators have given this version.
    pub(crate) fn labels(&self) -> Labels {
        Labels::of(&self.tags, self.content_type.as_deref())
    }

    /// The [`State`] of this version, from its tag.
    pub(crate) fn state(&self) -> State {
        State::of(self.tag(STATE_TAG))
    }

    /// Whether the value holds the empty string as KEK. Rook overwrites such a value.
    pub(crate) fn is_empty(&self, names: &Names) -> bool {
        self.value.as_ref().is_some_and(|Secret(value)| is_blank(names, value))
    }

    /// Whether the vault says that purge protection forbids a purge of this secret.
    pub(crate) fn is_protected(&self) -> bool {
        self.attributes.recovery_level.as_deref().is_some_and(|level| !level.contains("Purgeable"))
    }

    /// Whether the response to a delete says that the secret can be recovered. `None` if the response does not say.
    pub(crate) fn is_recoverable(&self) -> Option<bool> {
        if self.recovery_id.is_some() || self.deleted.is_some() || self.purged.is_some() {
            return Some(true);
        }
        // A vault without soft delete has the level `Purgeable`.
        self.attributes.recovery_level.as_deref().map(|level| level.contains("Recoverable"))
    }

    /// When the vault purges this deleted secret by itself. `None` if it does not say.
    pub(crate) fn purged_at(&self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.purged?))
    }

    /// The KEK in the value.
    ///
    /// # Errors
    ///
    /// `Protocol` if there is no value, or the value does not hold the KEK of this key.
    pub(crate) fn kek(&self, names: &Names) -> Result<Kek> {
        match &self.value {
            Some(Secret(value)) => decode(names, value),
            None => Err(no_value()),
        }
    }

    /// Checks that the response is about this secret.
    fn about(self, names: &Names) -> Result<Self> {
        if self.name().is_some_and(|name| name.eq_ignore_ascii_case(&names.secret)) {
            return Ok(self);
        }
        Err(Error::new(ErrorKind::Protocol, "the vault's response is about another secret"))
    }
}

fn no_value() -> Error {
    Error::new(ErrorKind::Protocol, "the vault's response holds no value")
}

/// The body of a request that stores a version.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SetSecret<'a> {
    value: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<&'a str, &'a str>,
}

impl SetSecret<'_> {
    /// Encodes the body in a buffer that never grows, and so leaves no copy of the KEK behind.
    fn body(names: &Names, kek: &Kek, state: State, labels: &Labels) -> Result<Zeroizing<Vec<u8>>> {
        let value = encode(names, kek)?;
        let mut body = Zeroizing::new(Vec::with_capacity(2 * value.len() + labels.size() + 1024));
        let content_type = labels.content_type();
        let secret = SetSecret { value: &value, content_type, tags: tags(names, state, labels) };
        serde_json::to_writer(&mut *body, &secret)
            .map_err(|_cause| Error::new(ErrorKind::Unexpected, "the KEK cannot be written as JSON"))?;
        Ok(body)
    }
}

/// The body of a request that changes the properties of a version.
#[derive(Serialize)]
struct Change<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<Enabled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<BTreeMap<&'a str, &'a str>>,
}

#[derive(Serialize)]
struct Enabled {
    enabled: bool,
}

/// The vault's response to a delete.
#[derive(Debug)]
pub(crate) enum Removal {
    /// The secret is deleted; with soft delete, the vault keeps it.
    Done(Box<SecretBundle>),
    /// There is no such secret, and the response to an earlier delete of it was lost.
    Unsettled,
    /// There is no such secret.
    Absent,
}

/// One vault, with its client and credential.
pub(crate) struct Api {
    client: SecretClient,
    /// The client of the requests to the vault, for probes.
    pub(crate) http: HttpClient,
    pub(crate) auth: Arc<Auth>,
    first: Mutex<()>,
    /// The secrets whose last delete has no response: it may have been applied.
    unanswered: std::sync::Mutex<BTreeSet<String>>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client: _, http: _, auth, first: _, unanswered: _ } = self;
        f.debug_struct("Api").field("vault", &auth.vault.as_str()).field("auth", auth).finish_non_exhaustive()
    }
}

impl Api {
    pub(crate) fn new(auth: Auth, http: HttpClient) -> Result<Self> {
        let auth = Arc::new(auth);
        let transport = ToVault { http: http.clone(), auth: Arc::clone(&auth) };
        let sdk = SecretClientOptions {
            client_options: options(transport),
            // `Auth` checks the resource of a challenge, so that a vault behind another host name works too.
            verify_challenge_resource: Some(false),
            ..SecretClientOptions::default()
        };
        let credential = Arc::new(Credential(Arc::clone(&auth)));
        let client = SecretClient::new(auth.vault.as_str(), credential, Some(sdk))
            .map_err(|error| from_sdk(&error))?;
        Ok(Self { client, http, auth, first: Mutex::new(()), unanswered: std::sync::Mutex::default() })
    }

    /// Lets the first request go ahead alone, so that only one request meets the vault's challenge.
    async fn after_first(&self) -> Option<MutexGuard<'_, ()>> {
        if self.auth.is_challenge_known() {
            return None;
        }
        let guard = timeout(FIRST_WAIT, self.first.lock()).await.ok()?;
        (!self.auth.is_challenge_known()).then_some(guard)
    }

    /// Converts an error of the SDK. The error for a missing right names the identity that needs the right.
    fn failed(&self, error: &azure_core::Error) -> Error {
        let error = match from_sdk(error) {
            // The SDK passes the first refusal of a token on without the vault's words. An error of Entra ID has its own.
            error
                if error.kind() == ErrorKind::Unauthenticated
                    && !error.contexts().any(|(name, _)| name == "credential") =>
            {
                self.auth.last_refusal(error)
            }
            error => error,
        };
        match (error.kind(), self.auth.claims()) {
            // An administrator who grants rights has to know the identity (field-reports UP-85).
            (ErrorKind::PermissionDenied | ErrorKind::Unauthenticated, Some(claims)) => {
                error.context("identity", claims)
            }
            _ => error,
        }
    }

    /// Parses the response of a request. `None` if the vault says that there is no such secret.
    fn found<R>(
        &self,
        names: &Names,
        result: azure_core::Result<Response<R>>,
    ) -> Result<Option<SecretBundle>> {
        match result {
            Ok(response) => parse::<SecretBundle>(&response.into_body())?.about(names).map(Some),
            Err(error) => match self.failed(&error) {
                error if error.kind() == ErrorKind::NotFound => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Checks that the response of a request confirms the change of this secret.
    fn changed<R>(&self, names: &Names, result: azure_core::Result<Response<R>>) -> Result<()> {
        let response = result.map_err(|error| self.failed(&error))?;
        parse::<SecretBundle>(&response.into_body())?.about(names).map(drop)
    }

    /// Reads a version of a secret, or the current version. `None` if there is no such secret.
    pub(crate) async fn get(
        &self,
        names: &Names,
        version: Option<&KeyVersion>,
    ) -> Result<Option<SecretBundle>> {
        let _first = self.after_first().await;
        let options = SecretClientGetSecretOptions {
            secret_version: version.map(|version| version.as_str().to_owned()),
            ..SecretClientGetSecretOptions::default()
        };
        let found = self.found(names, self.client.get_secret(&names.secret, Some(options)).await)?;
        // A secret without a value is not an empty one: a create must not write over it.
        if found.as_ref().is_some_and(|found| found.value.is_none()) {
            return Err(no_value());
        }
        Ok(found)
    }

    /// Stores a KEK as the next version, with these labels: the vault takes none over from the version before.
    pub(crate) async fn put(
        &self,
        names: &Names,
        kek: &Kek,
        state: State,
        labels: &Labels,
    ) -> Result<SecretBundle> {
        let body = SetSecret::body(names, kek, state, labels)?;
        let _first = self.after_first().await;
        let content = azure_core::http::Body::Bytes(Bytes::from_owner(body)).into();
        match self.client.set_secret(&names.secret, content, None).await {
            Ok(response) => parse::<SecretBundle>(&response.into_body())?.about(names),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Changes the [`State`] of a version that has these labels: the vault replaces all tags.
    pub(crate) async fn mark(
        &self,
        names: &Names,
        version: &KeyVersion,
        state: State,
        labels: &Labels,
    ) -> Result<()> {
        self.change(names, version, &Change { attributes: None, tags: Some(tags(names, state, labels)) })
            .await
    }

    /// Enables a version, or disables it, so that it cannot be read.
    pub(crate) async fn enable(&self, names: &Names, version: &KeyVersion, enabled: bool) -> Result<()> {
        self.change(names, version, &Change { attributes: Some(Enabled { enabled }), tags: None }).await
    }

    async fn change(&self, names: &Names, version: &KeyVersion, change: &Change<'_>) -> Result<()> {
        let body = serde_json::to_vec(change)
            .map_err(|_cause| Error::new(ErrorKind::Unexpected, "the change cannot be written as JSON"))?;
        let _first = self.after_first().await;
        let options = SecretClientUpdateSecretPropertiesOptions {
            secret_version: Some(version.as_str().to_owned()),
            ..SecretClientUpdateSecretPropertiesOptions::default()
        };
        let content = azure_core::http::Body::from(body).into();
        self.changed(names, self.client.update_secret_properties(&names.secret, content, Some(options)).await)
    }

    /// Lists every version of a secret, without values.
    ///
    /// # Errors
    ///
    /// `Incomplete` if versions may be missing.
    pub(crate) async fn versions(&self, names: &Names) -> Result<Vec<SecretBundle>> {
        let open = |maxresults| {
            let options = SecretClientListSecretPropertiesVersionsOptions {
                maxresults,
                ..SecretClientListSecretPropertiesVersionsOptions::default()
            };
            Ok(bodies(self.client.list_secret_properties_versions(&names.secret, Some(options))?))
        };
        self.walk(None, open).try_concat().await
    }

    /// Lists the secrets of the vault, page by page, without values. `size`: the maximum number of secrets on a page.
    ///
    /// # Errors
    ///
    /// `Incomplete` as the last item if secrets may be missing.
    pub(crate) fn pages(&self, size: Option<i32>) -> impl Stream<Item = Result<Vec<SecretBundle>>> + '_ {
        self.walk(size, |maxresults| {
            let options = SecretClientListSecretPropertiesOptions {
                maxresults,
                ..SecretClientListSecretPropertiesOptions::default()
            };
            Ok(bodies(self.client.list_secret_properties(Some(options))?))
        })
    }

    /// Reads a list to its end. `open` begins it, with a size of its pages.
    fn walk<'a>(
        &'a self,
        size: Option<i32>,
        open: impl Fn(Option<i32>) -> azure_core::Result<Bodies> + Send + 'a,
    ) -> impl Stream<Item = Result<Vec<SecretBundle>>> + 'a {
        let walk = Walk { open, size, bodies: None, course: Course::default(), cut: None };
        stream::try_unfold(walk, move |mut walk| async move {
            Ok(self.step(&mut walk).await?.map(|page| (page, walk)))
        })
    }

    /// Reads the next page of a list. `None` after the last one, if the list is whole.
    async fn step<F: Fn(Option<i32>) -> azure_core::Result<Bodies> + Send>(
        &self,
        walk: &mut Walk<F>,
    ) -> Result<Option<Vec<SecretBundle>>> {
        if let Some(cut) = walk.cut.take() {
            return Err(cut);
        }
        let mut bodies = match walk.bodies.take() {
            Some(bodies) => bodies,
            None => (walk.open)(walk.size).map_err(|error| self.failed(&error))?,
        };
        let read = async |bodies: &mut Bodies| match bodies.try_next().await {
            Ok(body) => body.map(|body| parse::<Page<SecretBundle>>(&body)).transpose(),
            Err(error) => Err(self.failed(&error)),
        };
        let first = if walk.course.has_begun() { None } else { self.after_first().await };
        let page = read(&mut bodies).await.map_err(|error| walk.course.failed(error))?;
        drop(first);
        if let Some(page) = page {
            let (new, cut) = walk.course.add(page, |one| &one.id);
            (walk.cut, walk.bodies) = (cut, Some(bodies));
            return Ok(Some(new));
        }
        if walk.course.needs_proof(walk.size) {
            let mut proof = (walk.open)(Some(1)).map_err(|error| self.failed(&error))?;
            if let Some(page) = read(&mut proof).await.map_err(|error| walk.course.failed(error))? {
                walk.course.prove(&page)?;
            }
        }
        Ok(None)
    }

    /// Deletes a secret with all its versions.
    pub(crate) async fn delete(&self, names: &Names) -> Result<Removal> {
        let _first = self.after_first().await;
        // A caller may drop this future, so the mark comes before the request.
        let unsettled = !self.unanswered().insert(names.secret.clone());
        let result = self.found(names, self.client.delete_secret(&names.secret, None).await);
        match &result {
            Ok(Some(_)) => self.settled(names),
            Err(error) if error.retryable() == Retry::IfIdempotent => {}
            _ if unsettled => {}
            _ => self.settled(names),
        }
        Ok(match result? {
            Some(secret) => Removal::Done(Box::new(secret)),
            None if unsettled => Removal::Unsettled,
            None => Removal::Absent,
        })
    }

    /// Notes that the effect of an earlier delete without a response is known.
    pub(crate) fn settled(&self, names: &Names) {
        self.unanswered().remove(&names.secret);
    }

    fn unanswered(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the soft-deleted secret of that name. `None` if there is no such secret, or its deletion is not complete.
    pub(crate) async fn deleted(&self, names: &Names) -> Result<Option<SecretBundle>> {
        let _first = self.after_first().await;
        self.found(names, self.client.get_deleted_secret(&names.secret, None).await)
    }

    /// Recovers a soft-deleted secret.
    pub(crate) async fn recover(&self, names: &Names) -> Result<()> {
        let _first = self.after_first().await;
        self.changed(names, self.client.recover_deleted_secret(&names.secret, None).await)
    }

    /// Purges a soft-deleted secret, which destroys it permanently.
    pub(crate) async fn purge(&self, names: &Names) -> Result<()> {
        let _first = self.after_first().await;
        let purged = self.client.purge_deleted_secret(&names.secret, None).await;
        let response = purged.map_err(|error| self.failed(&error))?;
        // Any other success is a proxy's: the vault confirms a purge without a body.
        if response.status() == azure_core::http::StatusCode::NoContent {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Protocol, "the vault's response does not confirm the purge"))
    }
}

/// The bodies of a list's pages.
type Bodies = BoxStream<'static, azure_core::Result<ResponseBody>>;

fn bodies(pager: Pager<ListSecretPropertiesResult>) -> Bodies {
    pager.into_pages().map_ok(Response::into_body).boxed()
}

/// A list while it is read.
struct Walk<F> {
    open: F,
    size: Option<i32>,
    /// The pages that are left. `None` before the first one.
    bodies: Option<Bodies>,
    course: Course,
    /// Why the list cannot go on after the page that was read last.
    cut: Option<Error>,
}

/// The SDK's transport to the vault.
#[derive(Debug)]
struct ToVault {
    http: HttpClient,
    auth: Arc<Auth>,
}

#[async_trait]
impl SdkHttpClient for ToVault {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        // The SDK follows the links of a list to any host, with our token, and a vault behind another host name writes
        // its own name into those links. So send every request to the configured vault, and the token to no other host.
        let mut url = self.auth.vault.clone();
        url.set_path(request.url().path());
        url.set_query(request.url().query());
        let token = request.headers().get_optional_str(&AUTHORIZATION);
        let mut answer = send(&self.http, request, &url).await.map_err(wrapped)?;
        let (status, held_key) = (answer.status, request.method() == Method::Put);
        debug!(
            method = request.method().as_ref(),
            path = request.url().path(),
            status = status.as_u16(),
            request_id = answer.header("x-ms-request-id"),
            "asked the vault"
        );
        // A proxy's page is neither a challenge nor a list of the vault, and says nothing about the token.
        if let Some(error) = answer.page_error(!held_key) {
            return Err(wrapped(error));
        }
        if status == StatusCode::UNAUTHORIZED {
            let error = from_answer(&answer, held_key);
            // One without a challenge says no more than a page, unless it has the form of the vault.
            if error.kind() == ErrorKind::Protocol {
                return Err(wrapped(error));
            }
            if let Some(token) = token {
                self.auth.refused(token, error);
            }
            // The SDK answers a challenge by itself, but understands only one form of challenge.
            let scope = self.auth.challenged(&answer.headers);
            if let Ok(header) = HeaderValue::from_str(&format!("Bearer scope=\"{scope}\"")) {
                answer.headers.insert(WWW_AUTHENTICATE, header);
            }
            return Ok(response(answer));
        }
        if let Some(token) = token {
            self.auth.accepted(token);
        }
        if status.is_success() {
            return Ok(response(answer));
        }
        let error = from_answer(&answer, held_key);
        // A disabled secret and a firewall are no matter of rights.
        let is_right = error.kind() == ErrorKind::PermissionDenied
            && ![DISABLED, "ForbiddenByFirewall", "ForbiddenByConnection"]
                .iter()
                .any(|code| has_code(&error, code));
        Err(wrapped(match is_right {
            true => {
                let needed = needed_permission(request.method().as_ref(), request.url().path());
                error.context("needed permission", needed)
            }
            false => error,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_create_and_a_tagged_one_have_these_bodies() {
        let kek = Kek::parse("YWJj".to_owned()).unwrap();
        let text = |name: &str, state| {
            String::from_utf8(
                SetSecret::body(&Names::of(&name.parse().unwrap()), &kek, state, &Labels::default())
                    .unwrap()
                    .to_vec(),
            )
            .unwrap()
        };
        assert_eq!(text("a", State::Plain), r#"{"value":"{\"rook-ceph-osd-encryption-key-a\":\"YWJj\"}"}"#);
        assert!(text("a", State::New).ends_with(r#","tags":{"rook-kms-state":"new"}}"#));
        assert!(text("a.b", State::Plain).ends_with(r#","tags":{"rook-kms-name":"a.b"}}"#));
    }
}
