//! Builds and sends requests: URLs, headers, redirects of standbys, and reads that see every write.
//!
//! `vaultrs` provides method, path and body of each request. We do not use its client: it shows the token in `Debug`,
//! passes responses that hold keys to its errors and traces, and reads the environment (decision 0003).

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_core::{Error, ErrorKind, ExposeSecret, Freshness, Result, Retry, SecretString};
use kms_http::{
    Call, HttpClient, HttpResponse,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    json::parse,
    send::{Body, endpoint, sensitive},
    token::RateLimit,
};
use rustify::Endpoint;
use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use tracing::debug;
use url::Url;
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Refusal, from_answer, wrapped};

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// The storage index that a write has produced, or that a read has to see.
const INDEX: HeaderName = HeaderName::from_static("x-vault-index");
/// How a server handles a read whose index it has not reached.
const INCONSISTENT: HeaderName = HeaderName::from_static("x-vault-inconsistent");
/// Forwards a request to the active node (Vault Enterprise; other servers ignore the header).
const FORWARD: HeaderName = HeaderName::from_static("x-vault-forward");

/// How long after a write by this client every read is forwarded to the active node: a standby that has reached the
/// index of a write invalidates its cache a little later.
const JUST_WRITTEN: Duration = Duration::from_secs(2);

/// An index that no storage reaches. A standby forwards a read with this index; the active node answers it.
const NEVER_REACHED: &str = "999999999999";

/// The namespace of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scope {
    /// The namespace of the KV mount.
    Data,
    /// The namespace of the login.
    Auth,
}

/// One configured server.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) http: HttpClient,
    /// The address with `/v1` at its end.
    pub(crate) base: Url,
    pub(crate) data_namespace: Option<HeaderValue>,
    pub(crate) auth_namespace: Option<HeaderValue>,
    pub(crate) follow_redirects: bool,
    pub(crate) rate_limit: Option<RateLimit>,
    pub(crate) seen: Mutex<Seen>,
}

/// What the client has learnt about the server's storage from its responses.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The index of the last write by this client, and the time of its response.
    written: Option<(HeaderValue, Instant)>,
    /// The id of the raft cluster. `None` if it is not known yet; `Some(None)` if the server sends no index, so that
    /// every read is fresh.
    cluster: Option<Option<String>>,
}

/// The content of an index header, as JSON in base64 (OpenBao with raft storage).
#[derive(Deserialize, Serialize)]
struct Index {
    cluster: String,
    value: String,
}

impl Api {
    /// Builds a request that writes `body`, which is wiped afterwards.
    pub(crate) fn write(&self, path: &str, body: Zeroizing<Vec<u8>>, scope: Scope) -> Result<Call> {
        // This is the only request of `vaultrs` that takes its body as bytes; the others keep secrets in strings that
        // are never wiped. It joins mount and path with a slash, so any path works.
        let (mount, path) = path.split_once('/').unwrap_or((path, ""));
        let mut endpoint = vaultrs::api::kv1::requests::SetSecretRequest {
            mount: mount.to_owned(),
            path: path.to_owned(),
            data: body.to_vec(),
        };
        let call = self.request(&endpoint, scope);
        endpoint.data.zeroize();
        call
    }

    /// Builds a read.
    pub(crate) fn read(&self, path: &str, scope: Scope) -> Result<Call> {
        let (mount, path) = path.split_once('/').unwrap_or((path, ""));
        self.request(
            &vaultrs::api::kv1::requests::GetSecretRequest { mount: mount.to_owned(), path: path.to_owned() },
            scope,
        )
    }

    /// Builds a read of the server's own state, which has no namespace and needs no token.
    pub(crate) fn read_state(&self, path: &str) -> Result<Call> {
        let mut call = self.read(path, Scope::Data)?;
        call.headers.remove(NAMESPACE);
        Ok(call)
    }

    /// Builds a request of `vaultrs`.
    pub(crate) fn request(&self, endpoint: &impl Endpoint, scope: Scope) -> Result<Call> {
        let wrong = || Error::new(ErrorKind::Unexpected, "the request could not be built");
        // The causes may quote the body, so the errors drop them.
        let body = Zeroizing::new(endpoint.body().map_err(|_cause| wrong())?.unwrap_or_default());
        let method: Method = endpoint.method().into();
        let mut url = self.base.clone();
        url.path_segments_mut().map_err(|()| wrong())?.extend(endpoint.path().split('/'));
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(REQUEST, HeaderValue::from_static("true"));
        if !body.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let namespace = if scope == Scope::Auth { &self.auth_namespace } else { &self.data_namespace };
        if let Some(namespace) = namespace {
            headers.insert(NAMESPACE, namespace.clone());
        }
        Ok(Call { method, url, headers, body: Body::secret(body) })
    }

    /// Sends a request and returns the response, whatever its status. Follows one redirect. Adds the token to the headers
    /// of `call`, in place of one from before.
    ///
    /// # Errors
    ///
    /// The errors of [`HttpClient::send`].
    pub(crate) async fn send(&self, call: &mut Call, token: Option<&SecretString>) -> Result<HttpResponse> {
        if let Some(token) = token {
            call.headers.insert(TOKEN, sensitive("the Vault token", token.expose_secret())?);
        }
        // These two paths need no token, and their responses carry no index.
        let shows_index = !["/sys/health", "/sys/leader"].iter().any(|path| call.url.path().ends_with(path));
        let reads = call.method == Method::GET || call.method.as_str() == "LIST";
        if let Some(limit) = &self.rate_limit {
            limit.wait().await;
        }
        let answer = self.http.send(call).await?;
        let answer = match is_of_a_standby(answer.status) && self.follow_redirects {
            false => answer,
            true if reads => self.follow(call, &answer).await?,
            // A standby also redirects after it has forwarded a write and lost the response: the active node may have
            // executed the write and crashed. So the outcome is unknown from here on, and a 400 may mean that this very
            // write has made `cas` stale.
            true => match self.follow(call, &answer).await {
                Ok(answer) if answer.status == StatusCode::BAD_REQUEST => {
                    return Err(from_answer(&answer).retry(Retry::IfIdempotent));
                }
                Ok(answer) => answer,
                Err(error) if error.retryable() == Retry::Always => {
                    return Err(error.retry(Retry::IfIdempotent));
                }
                Err(error) => return Err(error),
            },
        };
        self.note_index(&answer, !reads, shows_index);
        if answer.status.is_success() { Ok(answer) } else { Ok(without_echo(answer, call, token)) }
    }

    /// Sends the same request once to the address of a redirect: a standby that does not forward redirects to the
    /// active node.
    async fn follow(&self, call: &Call, answer: &HttpResponse) -> Result<HttpResponse> {
        let location = self.http.redirect_target(&call.url, answer.header("location"))?;
        debug!(from = endpoint(&call.url), to = endpoint(&location), "following the redirect of a standby");
        let (http, url) = self.http.clone().at(&location).await?;
        let answer = http.send(&Call { url, ..call.clone() }).await?;
        if answer.status.is_redirection() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "two servers redirect to each other: no server is active",
            )
            .retry(Retry::Always)
            .context("server", endpoint(&location)));
        }
        Ok(answer)
    }

    /// Records what a response shows about the storage. With raft, every success has an index and no refusal has one.
    fn note_index(&self, answer: &HttpResponse, wrote: bool, shows_index: bool) {
        if !(answer.status.is_success() && shows_index) {
            return;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match answer.headers.get(INDEX) {
            Some(index) => {
                if wrote {
                    seen.written = Some((index.clone(), Instant::now()));
                }
                if !matches!(seen.cluster, Some(Some(_))) {
                    seen.cluster = Some(cluster_of(index));
                }
            }
            None => {
                seen.cluster.get_or_insert(None);
            }
        }
    }

    /// Whether the client knows how this server makes reads fresh.
    pub(crate) fn knows_freshness(&self) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).cluster.is_some()
    }

    /// Whether the client knows that this server has no standbys.
    pub(crate) fn has_no_standbys(&self) -> bool {
        matches!(self.seen.lock().unwrap_or_else(PoisonError::into_inner).cluster, Some(None))
    }

    /// Stops looking for the cluster's id. From then on only the header of Vault Enterprise forwards reads.
    pub(crate) fn stop_learning(&self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).cluster.get_or_insert(None);
    }

    /// Adds the headers that make a read see this client's writes, or every write, and that make the active node
    /// execute a write.
    ///
    /// A standby serves reads from its own copy, which is 50 to 130 ms old. It forwards a read to the active node if
    /// the read carries an index that the standby has not replicated. It always forwards a read whose index no storage
    /// reaches.
    ///
    /// Writes need the same headers: a standby first looks into its own copy, and forwards a write only if the write
    /// changes that copy. It answers the delete of a key that it has not replicated with 204, and never forwards that
    /// delete.
    pub(crate) fn freshen(&self, call: &mut Call, freshness: Freshness) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let written = seen.written.as_ref();
        let just_written = written.is_some_and(|(_, at)| at.elapsed() < JUST_WRITTEN);
        let index = if freshness == Freshness::Fresh || just_written {
            call.headers.insert(FORWARD, HeaderValue::from_static("active-node"));
            seen.cluster.as_ref().and_then(Option::as_deref).and_then(future_index)
        } else {
            None
        };
        let index = index.or_else(|| written.map(|(index, _)| index.clone()));
        if let Some(index) = index {
            call.headers.insert(INDEX, index);
            call.headers.insert(INCONSISTENT, HeaderValue::from_static("forward-active-node"));
        }
    }
}

/// Whether a status may be the redirect of a standby: it asks for the same method and body elsewhere. Rook's client
/// follows these too (rook-behaviour §4.2).
fn is_of_a_standby(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    )
}

/// Replaces the body of a refusal that repeats part of the request. Errors quote the server's message, and the request
/// holds the KEK or a credential. The server may quote parts of the path, so those stay.
fn without_echo(mut answer: HttpResponse, sent: &Call, token: Option<&SecretString>) -> HttpResponse {
    /// The minimum length of a repeated piece. Shorter pieces occur by chance.
    const PIECE: usize = 8;

    let token = token.map(|token| token.expose_secret().as_bytes()).unwrap_or_default();
    let echoed = answer.body.windows(PIECE).any(|piece| {
        let within = |text: &[u8]| text.windows(PIECE).any(|window| window == piece);
        (within(sent.body.bytes()) || within(token)) && !within(sent.url.path().as_bytes())
    });
    if echoed {
        // Only words are replaced by words: a reason turns a 404 into a missing mount.
        answer.body = Zeroizing::new(match Refusal::of(&answer).is_some_and(|refusal| refusal.has_words()) {
            true => br#"{"errors":["(not shown: it repeats what was sent)"]}"#.to_vec(),
            false => Vec::new(),
        });
    }
    answer
}

/// Parses the `data` of a response body.
///
/// # Errors
///
/// `Protocol` if there are no data: a wrapped response, or one of another server, says nothing about a key.
pub(crate) fn data<'a, D: Deserialize<'a>>(body: &'a [u8]) -> Result<D> {
    #[derive(Deserialize)]
    struct Envelope<D> {
        data: Option<D>,
        wrap_info: Option<IgnoredAny>,
    }

    match parse::<Envelope<D>>(body)? {
        Envelope { data: Some(data), .. } => Ok(data),
        Envelope { wrap_info: Some(_), .. } => Err(wrapped()),
        Envelope { .. } => Err(Error::new(ErrorKind::Protocol, "the server's response has no data")),
    }
}

/// Parses the `data` of a response, which must have status 200.
pub(crate) fn data_of<D: DeserializeOwned>(answer: &HttpResponse) -> Result<D> {
    if answer.status == StatusCode::OK { data(&answer.body) } else { Err(from_answer(answer)) }
}

/// Checks that a response confirms a change that has no result: 204, or a whole response of Vault that is not wrapped.
pub(crate) fn confirmed(answer: &HttpResponse) -> Result<()> {
    #[derive(Deserialize)]
    struct Envelope {
        #[serde(rename = "request_id")]
        _request_id: String,
        wrap_info: Option<IgnoredAny>,
    }

    match answer.status {
        StatusCode::NO_CONTENT => Ok(()),
        StatusCode::OK => match parse::<Envelope>(&answer.body)? {
            Envelope { wrap_info: None, .. } => Ok(()),
            _ => Err(wrapped()),
        },
        _ => Err(from_answer(answer)),
    }
}

fn cluster_of(index: &HeaderValue) -> Option<String> {
    let json = STANDARD.decode(index.as_bytes()).ok()?;
    serde_json::from_slice::<Index>(&json).ok().map(|index| index.cluster)
}

fn future_index(cluster: &str) -> Option<HeaderValue> {
    let index = Index { cluster: cluster.to_owned(), value: NEVER_REACHED.to_owned() };
    HeaderValue::from_str(&STANDARD.encode(serde_json::to_vec(&index).ok()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_is_read_from_an_index_of_the_server() {
        // A raft node of OpenBao 2.7.2 sent this index.
        let index = HeaderValue::from_static(
            "eyJjbHVzdGVyIjoiN2Q2ODhiNjctMDdjMi1jMDg3LWNmM2EtODM4NTcxZmI1ZjEzIiwidmFsdWUiOiI1NyJ9",
        );
        let cluster = cluster_of(&index).unwrap();
        assert_eq!(cluster, "7d688b67-07c2-c087-cf3a-838571fb5f13");
        let future = future_index(&cluster).unwrap();
        assert_eq!(cluster_of(&future).as_deref(), Some(cluster.as_str()));
        assert_ne!(future, index);
        assert_eq!(cluster_of(&HeaderValue::from_static("v1:opaque")), None);
    }
}
