//! Requests on the wire: addresses, headers, tokens, correlation ids.

use kms_core::{Error, ErrorKind, Result};
use kms_http::{
    Answer, Call, HttpClient,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    send::Body,
};
use tracing::debug;
use url::Url;
use zeroize::Zeroizing;

use crate::{
    auth::{Auth, accepted, authorization},
    error::{from_answer, from_answer_to_key},
};

const INSTANCE: HeaderName = HeaderName::from_static("bluemix-instance");
const CORRELATION: HeaderName = HeaderName::from_static("correlation-id");
const KEY_RING: HeaderName = HeaderName::from_static("x-kms-key-ring");
const PREFER: HeaderName = HeaderName::from_static("prefer");
/// The name of the correlation id in errors.
pub(crate) const CORRELATION_ID: &str = "correlation id";

/// What a key is called in bodies and headers.
pub(crate) const KEY_TYPE: &str = "application/vnd.ibm.kms.key+json";

/// One request, before it has a token and an id.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    method: Method,
    /// What follows `/api/v2/`. Each part is escaped.
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

/// An answer and the id of its request.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) answer: Answer,
    pub(crate) correlation_id: String,
    /// Whether the request held a key, so that the server's words may quote it.
    held_key: bool,
}

impl Reply {
    pub(crate) fn status(&self) -> StatusCode {
        self.answer.status
    }

    /// What the answer means, where it is no success.
    pub(crate) fn refused(&self) -> Error {
        let error = if self.held_key { from_answer_to_key(&self.answer) } else { from_answer(&self.answer) };
        self.about(error)
    }

    /// An error about this answer.
    pub(crate) fn about(&self, error: Error) -> Error {
        error.context(CORRELATION_ID, &self.correlation_id)
    }
}

/// One configured instance.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) http: HttpClient,
    /// The address with `/api/v2` at its end.
    pub(crate) base: Url,
    pub(crate) instance: HeaderValue,
    pub(crate) key_ring: Option<HeaderValue>,
    pub(crate) auth: Auth,
}

impl Api {
    /// Sends a request with a token, and gives the answer, whatever its status.
    ///
    /// A 401 to a token that has been in use is followed by one new token and one repeat.
    ///
    /// # Errors
    ///
    /// Those of IAM and of the way there.
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
            // A 401 says that nothing was done, so the same request may go out again, a write too.
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
        let id = HeaderValue::from_str(&correlation_id)
            .map_err(|cause| Error::new(ErrorKind::Unexpected, "the request has no id").source(cause))?;
        call.headers.insert(CORRELATION, id);
        let (method, path) = (call.method.clone(), call.url.path().to_owned());
        let sent = self.http.send(call).await;
        let status = sent.as_ref().map_or(0, |answer| answer.status.as_u16());
        debug!(%method, path, correlation_id, status, "asked Key Protect");
        match sent {
            Ok(answer) => Ok(Reply { answer, correlation_id, held_key }),
            Err(error) => Err(error.context(CORRELATION_ID, correlation_id)),
        }
    }
}

/// A random UUID (version 4), by which IBM's support can find a request.
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
    fn a_random_uuid_is_one_of_version_4() {
        let (one, two) = (random_uuid().unwrap(), random_uuid().unwrap());
        assert_ne!(one, two);
        for uuid in [one, two] {
            assert!(crate::name::is_uuid(&uuid), "{uuid}");
            assert_eq!(&uuid[14..15], "4", "{uuid}");
            assert!("89ab".contains(&uuid[19..20]), "{uuid}");
        }
    }
}
