//! Requests on the wire: URLs, headers, redirects of standbys, and reads that see every write.
//!
//! The requests are `vaultrs`' own types, asked for their method, path and body.
//! They are not sent by its client: that one shows the token in `Debug`, hands answers with keys to its errors and
//! traces, and reads the environment (docs/decisions/0003-vaultrs.md).

use std::sync::{Mutex, PoisonError};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_core::{Error, ErrorKind, ExposeSecret, Freshness, Result, Retry, SecretString};
use kms_http::{
    Answer, Call, HttpClient,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    send::{Body, endpoint, sensitive},
    token::RateLimit,
};
use rustify::Endpoint;
use serde::{Deserialize, Serialize};
use tracing::debug;
use url::Url;
use zeroize::{Zeroize, Zeroizing};

use crate::error::from_answer;

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// The state of the storage that a write has led to, or that a read has to see.
const INDEX: HeaderName = HeaderName::from_static("x-vault-index");
/// What a server is to do with a read whose index it has not reached.
const INCONSISTENT: HeaderName = HeaderName::from_static("x-vault-inconsistent");
/// Sends a request to the active node at once, where the server knows the header (Vault Enterprise).
const FORWARD: HeaderName = HeaderName::from_static("x-vault-forward");

/// A value of an index that no storage reaches: the active node answers all the same, a standby forwards.
const NEVER_REACHED: &str = "999999999999";

/// Which of the two namespaces a request is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scope {
    Data,
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

/// What the server's answers have shown of its storage.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The index of our own last write.
    written: Option<HeaderValue>,
    /// The id of the raft cluster. The inner `None`: the server sends no index, so every read is fresh.
    cluster: Option<Option<String>>,
}

/// The content of an index header: base64 of this JSON (OpenBao with raft storage).
#[derive(Deserialize, Serialize)]
struct Index {
    cluster: String,
    value: String,
}

impl Api {
    /// A request without a body.
    pub(crate) fn request(&self, endpoint: &impl Endpoint, scope: Scope) -> Result<Call> {
        self.prepare(endpoint, scope)
    }

    /// A request that writes `body`, which is wiped afterwards.
    pub(crate) fn write(&self, path: &str, body: Zeroizing<Vec<u8>>, scope: Scope) -> Result<Call> {
        // `vaultrs` has one request that takes its body as bytes; the others keep secrets in strings that nobody
        // wipes. Its path is mount and path with a slash between, so it serves for any path.
        let (mount, path) = path.split_once('/').unwrap_or((path, ""));
        let mut endpoint = vaultrs::api::kv1::requests::SetSecretRequest {
            mount: mount.to_owned(),
            path: path.to_owned(),
            data: body.to_vec(),
        };
        let call = self.prepare(&endpoint, scope);
        endpoint.data.zeroize();
        call
    }

    /// A plain read.
    pub(crate) fn read(&self, path: &str, scope: Scope) -> Result<Call> {
        let (mount, path) = path.split_once('/').unwrap_or((path, ""));
        self.prepare(
            &vaultrs::api::kv1::requests::GetSecretRequest { mount: mount.to_owned(), path: path.to_owned() },
            scope,
        )
    }

    /// A read of the server's own state, which has no namespace and needs no token.
    pub(crate) fn read_state(&self, path: &str) -> Result<Call> {
        let mut call = self.read(path, Scope::Data)?;
        call.headers.remove(NAMESPACE);
        Ok(call)
    }

    fn prepare(&self, endpoint: &impl Endpoint, scope: Scope) -> Result<Call> {
        let wrong = || Error::new(ErrorKind::Unexpected, "the request could not be built");
        // The causes are dropped: they may quote the body.
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

    /// Sends a request and gives the answer, whatever its status. One redirect is followed.
    ///
    /// # Errors
    ///
    /// Those of [`HttpClient::send`].
    pub(crate) async fn send(&self, mut call: Call, token: Option<&SecretString>) -> Result<Answer> {
        if let Some(token) = token {
            call.headers.insert(TOKEN, sensitive("the Vault token", token.expose_secret())?);
        }
        // The state of the server is told to everybody, without an index.
        let shows_index = !["/sys/health", "/sys/leader"].iter().any(|path| call.url.path().ends_with(path));
        let reads = call.method == Method::GET || call.method.as_str() == "LIST";
        if let Some(limit) = &self.rate_limit {
            limit.wait().await;
        }
        let answer = self.http.send(call.clone()).await?;
        let answer = match answer.status.is_redirection() && self.follow_redirects {
            false => answer,
            true if reads => self.follow(call, &answer).await?,
            // A standby redirects also when it has passed a write on and has not heard of it again: the active node
            // may have done it, and died. So from here on nobody knows, and the write's own mark would refuse it.
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
        self.remember(&answer, !reads, shows_index);
        Ok(answer)
    }

    /// A standby that does not forward sends us to the active node: the same request again, there, once.
    async fn follow(&self, mut call: Call, answer: &Answer) -> Result<Answer> {
        let refused = |why: &str| {
            Error::new(ErrorKind::Protocol, format!("the redirect of the server is not followed: {why}"))
                .context("server", endpoint(&self.base))
        };
        let location = answer.header("location").and_then(|location| call.url.join(location).ok());
        let Some(location) = location.filter(|url| url.host().is_some()) else {
            return Err(refused("it leads nowhere"));
        };
        if call.url.scheme() == "https" && location.scheme() != "https" {
            return Err(refused(
                "it leads from https to http, where everybody on the way could read the token",
            ));
        }
        if !location.username().is_empty() || location.password().is_some() {
            return Err(refused("it carries credentials"));
        }
        debug!(from = endpoint(&call.url), to = endpoint(&location), "following the redirect of a standby");
        let (http, url) = self.http.clone().at(&location).await?;
        call.url = url;
        let answer = http.send(call).await?;
        if answer.status.is_redirection() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "two servers redirect to each other: none is active now",
            )
            .retry(Retry::Always)
            .context("server", endpoint(&location)));
        }
        Ok(answer)
    }

    /// Keeps what an answer shows of the storage. With raft, every success has an index; refusals have none.
    fn remember(&self, answer: &Answer, wrote: bool, shows_index: bool) {
        if !(answer.status.is_success() && shows_index) {
            return;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match answer.headers.get(INDEX) {
            Some(index) => {
                if wrote {
                    seen.written = Some(index.clone());
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

    /// Whether it is known by now how this server makes reads fresh.
    pub(crate) fn knows_freshness(&self) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).cluster.is_some()
    }

    /// Gives up finding out: reads are sent on by the header of Vault Enterprise alone.
    pub(crate) fn stop_learning(&self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).cluster.get_or_insert(None);
    }

    /// Adds to a read what makes it see our own writes, or every write.
    ///
    /// A standby serves reads from its own copy, which is 50 to 130 ms old. With the index of a write and the
    /// wish to be forwarded, it passes the read on to the active node if it has not seen that write yet; with an
    /// index that is never reached it always does.
    pub(crate) fn freshen(&self, call: &mut Call, freshness: Freshness) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match (freshness, &seen.cluster) {
            (Freshness::Fresh, cluster) => {
                call.headers.insert(FORWARD, HeaderValue::from_static("active-node"));
                cluster
                    .as_ref()
                    .and_then(Option::as_deref)
                    .and_then(future_index)
                    .or_else(|| seen.written.clone())
            }
            _ => seen.written.clone(),
        };
        if let Some(index) = index {
            call.headers.insert(INDEX, index);
            call.headers.insert(INCONSISTENT, HeaderValue::from_static("forward-active-node"));
        }
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
        // As a raft node of OpenBao 2.7.2 sent it.
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
