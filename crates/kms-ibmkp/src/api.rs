//! Sends requests to Key Protect: addresses, headers, tokens, correlation ids.

use kms_core::{Error, ErrorKind, Kek, KeyLocks, Result};
use kms_http::{
    Call, HttpClient, HttpResponse,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    send::Body,
};
use tracing::debug;
use url::Url;
use zeroize::Zeroizing;

use crate::{
    auth::{Auth, accepted, authorization},
    error::{
        ALIAS_TAKEN, CODE, CORRELATION_ID, KEY_DELETED, TOO_BROAD, from_answer, from_answer_to_key, has_code,
        says_absent,
    },
    name::{Names, is_uuid, superseded_alias},
    stored::{Cluster, Envelope, KEY_TYPE, Key, import_body},
};

const INSTANCE: HeaderName = HeaderName::from_static("bluemix-instance");
const CORRELATION: HeaderName = HeaderName::from_static("correlation-id");
const KEY_RING: HeaderName = HeaderName::from_static("x-kms-key-ring");
const PREFER: HeaderName = HeaderName::from_static("prefer");

/// The states of keys that are not destroyed: pre-active, active, suspended, deactivated.
const ALIVE: &str = "0,1,2,3";
/// All states.
const ALL: &str = "0,1,2,3,5";
/// The state of destroyed keys.
const GONE: &str = "5";

/// The states of keys that a search returns.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum States {
    Alive,
    All,
    Gone,
}

/// The result of looking up an id or alias.
#[derive(Debug)]
pub(crate) enum Look {
    Found(Box<Key>),
    /// The key has been deleted. Holds its id if the service still shows the key.
    Destroyed(Option<String>),
    /// There is no such key. Holds the correlation id of the request.
    Absent(String),
}

/// The data of a key to read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Want {
    Material,
    Metadata,
}

/// The result of an import.
#[derive(Debug)]
pub(crate) enum Imported {
    Id(String),
    AliasTaken(Error),
}

/// A request without its token and correlation id.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    method: Method,
    /// The path segments after `/api/v2/`. Each is escaped.
    path: Vec<&'a str>,
    query: Vec<(&'a str, &'a str)>,
    body: Option<Zeroizing<Vec<u8>>>,
    prefer: Option<&'static str>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(method: Method, path: impl IntoIterator<Item = &'a str>) -> Self {
        Self { method, path: path.into_iter().collect(), query: Vec::new(), body: None, prefer: None }
    }

    pub(crate) fn get(path: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn query(mut self, name: &'a str, value: &'a str) -> Self {
        self.query.push((name, value));
        self
    }

    pub(crate) fn body(mut self, body: Zeroizing<Vec<u8>>) -> Self {
        self.body = Some(body);
        self
    }

    pub(crate) fn prefer(mut self, what: &'static str) -> Self {
        self.prefer = Some(what);
        self
    }
}

/// A response and the correlation id of its request.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) answer: HttpResponse,
    pub(crate) correlation_id: String,
    /// Whether the request held a key, which the server's message may quote.
    held_key: bool,
    /// The service role that the request needs.
    role: &'static str,
}

impl Reply {
    pub(crate) fn status(&self) -> StatusCode {
        self.answer.status
    }

    /// The error for an unsuccessful response.
    pub(crate) fn refused(&self) -> Error {
        let error = if self.held_key { from_answer_to_key(&self.answer) } else { from_answer(&self.answer) };
        // A refusal with a code has another cause than a missing role.
        let is_right =
            error.kind() == ErrorKind::PermissionDenied && !error.contexts().any(|(name, _)| name == CODE);
        self.about(if is_right { error.context("needed service role", self.role) } else { error })
    }

    /// Adds the correlation id to an error.
    pub(crate) fn about(&self, error: Error) -> Error {
        error.context(CORRELATION_ID, &self.correlation_id)
    }
}

/// One configured instance.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) http: HttpClient,
    /// The address, which ends in `/api/v2`.
    pub(crate) base: Url,
    pub(crate) instance: HeaderValue,
    pub(crate) key_ring: Option<HeaderValue>,
    pub(crate) auth: Auth,
    /// The cluster that owns the keys. `None` if the caller has not named a cluster.
    pub(crate) cluster: Option<Cluster>,
    /// The number of keys in a page of a list.
    pub(crate) page_size: usize,
    /// Serialises the updates of one process, so that they do not compete at the service.
    pub(crate) locks: KeyLocks,
}

impl Api {
    /// Sends a request with a token, and returns the response with any status.
    ///
    /// After a 401 to a token that Key Protect has accepted before, the client gets one new token and retries once.
    ///
    /// # Errors
    ///
    /// The errors of IAM and of the connection.
    pub(crate) async fn send(&self, request: Request<'_>) -> Result<Reply> {
        let held_key = request.body.is_some();
        let call = self.prepare(request)?;
        let token = self.auth.token().await?;
        let reply = self.once(&call, authorization(&token)?, held_key).await?;
        if reply.status() != StatusCode::UNAUTHORIZED {
            accepted(&token);
            return Ok(reply);
        }
        match self.auth.another(&token).await {
            // After a 401 the server has done nothing, so even a write may be sent again.
            Ok(Some(token)) => {
                let reply = self.once(&call, authorization(&token)?, held_key).await?;
                if reply.status() != StatusCode::UNAUTHORIZED {
                    accepted(&token);
                }
                Ok(reply)
            }
            Ok(None) => Ok(reply),
            Err(error) => Err(reply.about(error)),
        }
    }

    /// Looks up an id or alias.
    pub(crate) async fn look(&self, which: &str, want: Want) -> Result<Look> {
        let mut path = vec!["keys", which];
        if want == Want::Metadata {
            path.push("metadata");
        }
        let reply = self.send(Request::get(path)).await?;
        match reply.status() {
            StatusCode::OK => {
                let key = Envelope::of(&reply.answer).and_then(Envelope::first);
                let mut key = key.map_err(|error| reply.about(error))?;
                key.correlation_id.clone_from(&reply.correlation_id);
                if is_uuid(which) && key.id != which {
                    return Err(
                        reply.about(Error::new(ErrorKind::Protocol, "the response holds another key"))
                    );
                }
                if key.is_destroyed() {
                    Ok(Look::Destroyed(Some(key.id)))
                } else {
                    Ok(Look::Found(Box::new(key)))
                }
            }
            // Only these codes say that there is no key. A 404 or 410 without them comes from a proxy, or concerns
            // something else, such as the path or the key ring.
            _ if has_code(&reply.answer, KEY_DELETED) => Ok(Look::Destroyed(None)),
            _ if says_absent(&reply.answer) => Ok(Look::Absent(reply.correlation_id)),
            _ => Err(reply.refused()),
        }
    }

    /// Reads one page of the list.
    pub(crate) async fn page(
        &self,
        states: States,
        search: Option<&str>,
        offset: usize,
    ) -> Result<Envelope, Searched> {
        let (limit, offset) = (self.page_size.to_string(), offset.to_string());
        let states = match states {
            States::Alive => ALIVE,
            States::All => ALL,
            States::Gone => GONE,
        };
        let mut request =
            Request::get(["keys"]).query("limit", &limit).query("offset", &offset).query("state", states);
        if let Some(search) = search {
            request = request.query("search", search);
        }
        let reply = self.send(request).await?;
        match reply.status() {
            StatusCode::OK => {
                let envelope = Envelope::of(&reply.answer).and_then(Envelope::listed);
                let mut envelope = envelope.map_err(|error| reply.about(error))?;
                for key in envelope.resources.iter_mut().flatten() {
                    key.correlation_id.clone_from(&reply.correlation_id);
                }
                Ok(envelope)
            }
            _ if has_code(&reply.answer, TOO_BROAD) => Err(Searched::TooBroad),
            _ => Err(reply.refused().into()),
        }
    }

    /// Imports a KEK under an alias. The service gives an alias to one key only.
    pub(crate) async fn import(
        &self,
        names: &Names,
        kek: &Kek,
        alias: &str,
        successor_of: Option<&str>,
    ) -> Result<Imported> {
        let body = import_body(names, kek, self.cluster.as_ref(), alias, successor_of)?;
        let reply = self.send(Request::new(Method::POST, ["keys"]).body(body)).await?;
        match reply.status() {
            StatusCode::CREATED | StatusCode::OK => {
                if let Ok(key) = Envelope::of(&reply.answer).and_then(Envelope::first) {
                    return Ok(Imported::Id(key.id));
                }
                // The import succeeded, but the response does not hold the id.
                debug!(
                    alias,
                    reply.correlation_id, "the response to an import holds no key; looking up its id"
                );
                match self.look(alias, Want::Metadata).await? {
                    Look::Found(key) => Ok(Imported::Id(key.id)),
                    _ => Err(reply.about(Error::new(ErrorKind::Protocol, "the imported key is absent"))),
                }
            }
            _ if has_code(&reply.answer, ALIAS_TAKEN) => Ok(Imported::AliasTaken(reply.refused())),
            _ => Err(reply.refused()),
        }
    }

    /// Adds an alias to a key. `false` if this key or another one has the alias already.
    pub(crate) async fn add_alias(&self, id: &str, alias: &str) -> Result<bool> {
        let reply = self.send(Request::new(Method::POST, ["keys", id, "aliases", alias])).await?;
        match reply.status() {
            StatusCode::CREATED | StatusCode::OK => Ok(true),
            _ if has_code(&reply.answer, ALIAS_TAKEN) => Ok(false),
            _ => Err(reply.refused()),
        }
    }

    /// Removes an alias from a key. `false` if the key does not have the alias.
    pub(crate) async fn remove_alias(&self, id: &str, alias: &str) -> Result<bool> {
        let reply = self.send(Request::new(Method::DELETE, ["keys", id, "aliases", alias])).await?;
        done_or_absent(&reply)
    }

    /// Marks a key as superseded, so that it is never the current key again. Marking it twice has no further effect.
    pub(crate) async fn mark(&self, id: &str) -> Result<()> {
        self.add_alias(id, &superseded_alias(id)).await.map(drop)
    }

    /// Removes the mark of a superseded key.
    pub(crate) async fn unmark(&self, id: &str) -> Result<()> {
        self.remove_alias(id, &superseded_alias(id)).await.map(drop)
    }

    /// Deletes a key, as Rook does. `false` if the key is absent.
    pub(crate) async fn destroy(&self, id: &str) -> Result<bool> {
        let request = Request::new(Method::DELETE, ["keys", id]).query("force", "true");
        done_or_absent(&self.send(request.prefer("return=representation")).await?)
    }

    fn prepare(&self, request: Request<'_>) -> Result<Call> {
        let Request { method, path, query, body, prefer } = request;
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| Error::new(ErrorKind::Unexpected, "the address cannot have a path"))?
            .extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(INSTANCE, self.instance.clone());
        if let Some(key_ring) = &self.key_ring {
            headers.insert(KEY_RING, key_ring.clone());
        }
        if let Some(prefer) = prefer {
            headers.insert(PREFER, HeaderValue::from_static(prefer));
        }
        if body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(KEY_TYPE));
        }
        Ok(Call { method, url, headers, body: body.map(Body::secret).unwrap_or_default() })
    }

    async fn once(&self, call: &Call, authorization: HeaderValue, held_key: bool) -> Result<Reply> {
        let correlation_id = random_uuid()?;
        let mut call = call.clone();
        call.headers.insert(header::AUTHORIZATION, authorization);
        let id = HeaderValue::from_str(&correlation_id).map_err(|cause| {
            Error::new(ErrorKind::Unexpected, "the correlation id is not a valid header value").source(cause)
        })?;
        call.headers.insert(CORRELATION, id);
        let role = needed_role(&call.method, call.url.path());
        let sent = self.http.send(&call).await;
        let status = sent.as_ref().map_or(0, |answer| answer.status.as_u16());
        debug!(method = %call.method, path = call.url.path(), correlation_id, status, "sent a request to Key Protect");
        match sent {
            Ok(answer) => Ok(Reply { answer, correlation_id, held_key, role }),
            Err(error) => Err(error.context(CORRELATION_ID, correlation_id)),
        }
    }
}

/// Why a search failed.
#[derive(Debug)]
pub(crate) enum Searched {
    TooBroad,
    Failed(Error),
}

impl From<Error> for Searched {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Searched> for Error {
    fn from(searched: Searched) -> Self {
        match searched {
            Searched::Failed(error) => error,
            Searched::TooBroad => {
                Self::new(ErrorKind::Protocol, "the service reports a plain list as too broad a search")
            }
        }
    }
}

/// The least service role that a request needs, as IBM's IAM calls it.
fn needed_role(method: &Method, path: &str) -> &'static str {
    let is_key = path.rsplit_once('/').is_some_and(|(before, _)| before.ends_with("/keys"));
    match *method {
        Method::DELETE if path.ends_with("/purge") => "KeyPurge",
        Method::DELETE if is_key => "Manager",
        Method::POST if path.ends_with("/restore") => "Manager",
        Method::GET if is_key => "ReaderPlus",
        Method::GET => "Reader",
        _ => "Writer",
    }
}

fn done_or_absent(reply: &Reply) -> Result<bool> {
    match reply.status() {
        StatusCode::NO_CONTENT | StatusCode::OK => Ok(true),
        _ if has_code(&reply.answer, KEY_DELETED) || says_absent(&reply.answer) => Ok(false),
        _ => Err(reply.refused()),
    }
}

/// A random UUID (version 4). IBM's support finds a request by this id.
fn random_uuid() -> Result<String> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|cause| {
        Error::new(ErrorKind::Unexpected, "the operating system gave no random bytes")
            .context("cause", cause.to_string())
    })?;
    let number = (u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{number:032x}");
    let mut text = String::with_capacity(36);
    for (at, digit) in hex.chars().enumerate() {
        if matches!(at, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_needs_the_least_role_that_may_do_it() {
        for (method, path, role) in [
            (Method::POST, "/api/v2/keys", "Writer"),
            (Method::POST, "/api/v2/keys/1/aliases/a", "Writer"),
            (Method::DELETE, "/api/v2/keys/1/aliases/a", "Writer"),
            (Method::DELETE, "/api/v2/keys/1", "Manager"),
            (Method::POST, "/api/v2/keys/1/restore", "Manager"),
            (Method::DELETE, "/api/v2/keys/1/purge", "KeyPurge"),
            (Method::GET, "/api/v2/keys/a", "ReaderPlus"),
            (Method::GET, "/api/v2/keys/a/metadata", "Reader"),
            (Method::GET, "/api/v2/keys", "Reader"),
        ] {
            assert_eq!(needed_role(&method, path), role, "{method} {path}");
        }
    }

    #[test]
    fn a_random_uuid_is_one_of_version_4() {
        let (one, two) = (random_uuid().unwrap(), random_uuid().unwrap());
        assert_ne!(one, two);
        for uuid in [one, two] {
            assert!(is_uuid(&uuid), "{uuid}");
            assert_eq!(&uuid[14..15], "4", "{uuid}");
            assert!("89ab".contains(&uuid[19..20]), "{uuid}");
        }
    }
}
