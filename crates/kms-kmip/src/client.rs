//! Sends operations to one server: negotiates the version, and puts operations into one request where the server
//! supports that.

use std::{
    fmt,
    sync::atomic::{AtomicI64, Ordering},
};

use kms_core::{Error, ErrorKind, Result};
use tokio::sync::OnceCell;
use tracing::debug;

use crate::{
    answers::{Answer, Answers, located, unanswered},
    connection::Broken,
    error::{Class, ExchangeError},
    habits::{Batches, Habits},
    message::{BatchId, Operation, Part, Subject, Version, discover, join, request, time_stamp, versions},
    pool::Pool,
    ttlv::{Field, Item},
};

/// A server, its connections, and what this process has learnt about its protocol.
pub(crate) struct Client {
    pub(crate) pool: Pool,
    version: OnceCell<Version>,
    /// The time stamp of the last response that had one; 0 until then.
    server_time: AtomicI64,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, version, server_time: _ } = self;
        f.debug_struct("Client").field("pool", pool).field("version", &version.get()).finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) fn new(pool: Pool, version: Option<Version>) -> Self {
        Self { pool, version: OnceCell::new_with(version), server_time: AtomicI64::new(0) }
    }

    /// The protocol version: from the settings, or negotiated once.
    pub(crate) async fn version(&self) -> Result<Version> {
        self.version.get_or_try_init(|| self.negotiate()).await.copied()
    }

    fn habits(&self) -> &Habits {
        &self.pool.habits
    }

    /// The server's time in its last response, in seconds since 1970. `None` if no response had a time.
    pub(crate) fn server_time(&self) -> Option<i64> {
        Some(self.server_time.load(Ordering::Relaxed)).filter(|seconds| *seconds > 0)
    }

    /// Sends one operation, and parses the payload of its response with `read`.
    pub(crate) async fn call<'a, T>(
        &self,
        operation: Operation,
        payload: impl Fn(Version) -> Vec<Field<'a>>,
        read: impl FnOnce(&Item<'_>) -> Result<T>,
    ) -> Result<T, ExchangeError> {
        let answers = self.all(|version| vec![Part::new(operation, payload(version))]).await;
        answers.read(0, read).unwrap_or_else(|| Err(unanswered()))
    }

    /// Sends operations, in one request if the server supports that, or else one after the other. Stops at the first
    /// failure.
    ///
    /// An operation that is [chained](Part::chained) is without a response unless its response is certainly about the
    /// only object of the response before it.
    ///
    /// The first request of a process asks for the server's versions too.
    pub(crate) async fn all<'a>(&self, parts: impl Fn(Version) -> Vec<Part<'a>>) -> Answers<'_> {
        let mut answers = Answers::new(&self.pool.endpoint);
        if let Err(failed) = self.send_all(parts, &mut answers).await {
            answers.failed = Some(failed);
        }
        answers
    }

    async fn send_all<'a>(
        &self,
        parts: impl Fn(Version) -> Vec<Part<'a>>,
        answers: &mut Answers<'_>,
    ) -> Result<(), ExchangeError> {
        // Whether a request with several operations has failed, and their number may be the reason.
        let mut suspicious = false;
        if self.version.get().is_none() && self.habits().batches() == Batches::Unknown {
            suspicious = !self.batch_with_discovery(&parts, answers).await?;
        }
        let version = match self.version.get() {
            Some(version) => *version,
            None => {
                let version = self.version().await?;
                if suspicious && version == Version::V1_4 {
                    self.habits().set_batches(Batches::Unsupported);
                }
                suspicious = false;
                version
            }
        };
        if answers.answers.is_empty()
            && let Some(batch) = self.batchable(parts(version))
        {
            suspicious = !self.batch(version, batch, answers).await?;
        }
        for part in parts(version).into_iter().skip(answers.answers.len()) {
            if part.object == Subject::Before || !answers.is_ok() {
                break;
            }
            answers.answers.extend(self.send(version, vec![part]).await?);
            if std::mem::take(&mut suspicious) && answers.is_ok() {
                self.habits().set_batches(Batches::Unsupported);
            }
        }
        Ok(())
    }

    /// Sends operations in one request with Discover Versions, in the version that we prefer. Returns whether the server
    /// has understood the request. If it prefers another version, there are no responses.
    async fn batch_with_discovery<'a>(
        &self,
        parts: impl Fn(Version) -> Vec<Part<'a>>,
        answers: &mut Answers<'_>,
    ) -> Result<bool, ExchangeError> {
        let discovery = Part::new(Operation::DiscoverVersions, discover(&Version::ALL));
        let parts: Vec<_> = std::iter::once(discovery).chain(parts(Version::V1_4)).collect();
        if !is_repeatable(&parts) {
            return Ok(true);
        }
        let understood = self.batch(Version::V1_4, parts, answers).await?;
        if let Some(Ok(theirs)) = answers.read(0, |payload| Ok(versions(payload)))
            && let Some(common) = common(&theirs)
        {
            // Another task may have been faster, with the same result.
            let _ = self.version.set(common);
            answers.answers.remove(0);
        }
        if self.version.get() != Some(&Version::V1_4) {
            answers.answers.clear();
        }
        Ok(understood)
    }

    /// The operations to send in one request. `None` if they are to be sent one after the other.
    fn batchable<'a>(&self, mut parts: Vec<Part<'a>>) -> Option<Vec<Part<'a>>> {
        let pairs = parts.iter().zip(parts.iter().skip(1));
        let broken = pairs.clone().position(|(before, part)| {
            part.object == Subject::Before && !self.habits().chains(before.operation)
        });
        parts.truncate(broken.map_or(parts.len(), |at| at + 1));
        let is_supported = match self.habits().batches() {
            Batches::Supported => true,
            // A write must not be the first try.
            Batches::Unknown => is_repeatable(&parts),
            Batches::Unsupported => false,
        };
        (is_supported && parts.len() > 1).then_some(parts)
    }

    /// Sends operations in one request, and adds their responses. Returns whether the server has understood the request;
    /// if not, the next operation is to be sent alone.
    async fn batch(
        &self,
        version: Version,
        parts: Vec<Part<'_>>,
        answers: &mut Answers<'_>,
    ) -> Result<bool, ExchangeError> {
        let is_known = self.habits().batches() == Batches::Supported;
        let count = parts.len();
        let subjects: Vec<_> = parts.iter().map(|part| part.object).collect();
        let mut received = match self.send(version, parts).await {
            Ok(received) => received,
            Err(failed) if is_known => return Err(failed),
            // A server may close the connection on a request that it does not understand, or wait for ever.
            Err(failed) if failed.class == Class::Closed => return Ok(false),
            Err(failed) => {
                if failed.error.kind() == ErrorKind::Timeout {
                    self.habits().set_batches(Batches::Unsupported);
                }
                return Err(failed);
            }
        };
        let done = received.iter().take_while(|answer| answer.class().is_none()).count();
        let failure = received.get(done).and_then(Answer::class);
        let is_about_form = matches!(failure, Some(Class::Form | Class::NoOperation | Class::Other));
        // A server without the ID placeholder refuses an operation for its form too.
        let is_chained = subjects.get(done) == Some(&Subject::Before);
        let understood = match done {
            0 if is_known => !(is_about_form && received.iter().all(Answer::is_anonymous)),
            0 => false,
            1 => is_known || is_chained || !is_about_form,
            _ => true,
        };
        if !understood || (done > 0 && is_about_form && !is_chained) {
            // The operation is sent again alone.
            received.truncate(done);
        }
        if understood && !is_known {
            let is_short = done == 1 && failure.is_none() && count > 1;
            self.habits().set_batches(if is_short { Batches::Unsupported } else { Batches::Supported });
        }
        self.keep_certain(&mut received, &subjects);
        answers.answers.extend(received);
        Ok(understood)
    }

    /// Removes the responses from the first on that may be about another object than the operation before it.
    ///
    /// If several objects were located, the ID placeholder is undefined (KMIP 1.4 §4.9). Some servers do not set it at
    /// all, and one takes the last object that any client has registered.
    fn keep_certain(&self, received: &mut Vec<Answer>, subjects: &[Subject<'_>]) {
        for (at, subject) in subjects.iter().enumerate() {
            let Some(answer) = received.get(at) else { return };
            let before = at.checked_sub(1).and_then(|at| received.get(at));
            let (object, expected) = (answer.object(), before.and_then(Answer::object));
            let is_certain = match subject {
                Subject::Any => true,
                // A refusal names no object.
                Subject::Known(uid) => object.is_none_or(|object| object == *uid),
                Subject::Before => object.is_some() && object == expected,
            };
            if is_certain {
                continue;
            }
            // The state of an object may forbid a Get.
            let is_forbidden = answer.operation() == Some(Operation::Get)
                && matches!(answer.class(), Some(Class::State | Class::Refused));
            match (subject, before.and_then(Answer::operation)) {
                // The server mixes up the responses.
                (Subject::Known(_), _) => self.habits().set_batches(Batches::Unsupported),
                (Subject::Before, Some(before))
                    if expected.is_some() && !is_forbidden && self.habits().chains(before) =>
                {
                    self.habits().set_unchained(before);
                }
                _ => {}
            }
            received.truncate(at);
            return;
        }
    }

    /// Sends operations in one request, and returns the responses to the first of them, at least one.
    async fn send(&self, version: Version, parts: Vec<Part<'_>>) -> Result<Vec<Answer>, ExchangeError> {
        let mut asked = Vec::with_capacity(parts.len());
        for part in &parts {
            let mut id: BatchId = [0; 16];
            getrandom::fill(&mut id).map_err(|cause| {
                Error::new(ErrorKind::Unexpected, "the operating system gave no random bytes")
                    .context("cause", cause.to_string())
            })?;
            asked.push((part.operation, id));
        }
        let (first, is_repeatable) = (parts.first().map(|part| part.operation), is_repeatable(&parts));
        let ids: Vec<_> = asked.iter().map(|(_, id)| *id).collect();
        let message = request(version, parts, &ids);
        let frame = self.pool.exchange(&message, is_repeatable).await.map_err(|broken| ExchangeError {
            class: match broken {
                Broken { closed: true, .. } => Class::Closed,
                Broken { too_large: true, .. } => Class::TooLarge,
                _ => Class::Other,
            },
            error: located(broken.error, &self.pool.endpoint)
                .context("request", first.map_or("none", Operation::as_str)),
        })?;
        if let Some(seconds) = time_stamp(&frame) {
            self.server_time.store(seconds, Ordering::Relaxed);
        }
        Ok(Answer::all(frame, asked))
    }

    /// Asks the server for its versions, and returns the common version that we prefer.
    ///
    /// The request Discover Versions itself needs a version. The client sends it in 1.4. If the server refuses that,
    /// the client sends it in 1.1, the oldest version that has the operation, and in 2.0 and 2.1. A server that refuses
    /// all of them does not know the operation, so it is taken for a KMIP 1.0 server.
    async fn negotiate(&self) -> Result<Version> {
        let mut closed = None;
        let mut answered = false;
        for asked in [Version::V1_4, Version::V1_1, Version::V2_0, Version::V2_1] {
            match self.discover(asked, &Version::ALL).await {
                Ok(theirs) => {
                    return match common(&theirs) {
                        Some(version) => Ok(version),
                        None => Err(self.no_common_version(asked, theirs).await),
                    };
                }
                Err(failed) => match failed.class {
                    Class::NoOperation | Class::Form => answered = true,
                    Class::Closed => {
                        closed.get_or_insert(failed.error);
                    }
                    _ => return Err(failed.error),
                },
            }
        }
        match closed {
            // The server has not responded at all, so the version is not the cause.
            Some(error) if !answered => Err(error),
            _ => {
                debug!("the server does not support Discover Versions, so KMIP 1.0 is used");
                Ok(Version::V1_0)
            }
        }
    }

    async fn no_common_version(&self, asked: Version, mut theirs: Vec<Version>) -> Error {
        if theirs.is_empty() {
            // The server returned the intersection with our versions. In response to an empty request it returns all
            // its versions.
            theirs = self.versions_at(asked).await.unwrap_or_default();
        }
        let error = Error::new(ErrorKind::Protocol, "the server and we have no KMIP version in common")
            .context("ours", join(&Version::ALL))
            .context("theirs", join(&theirs));
        located(error, &self.pool.endpoint)
    }

    /// Requests all versions that the server supports.
    pub(crate) async fn versions_at(&self, asked: Version) -> Result<Vec<Version>> {
        Ok(self.discover(asked, &[]).await?)
    }

    async fn discover(&self, asked: Version, ours: &[Version]) -> Result<Vec<Version>, ExchangeError> {
        let part = Part::new(Operation::DiscoverVersions, discover(ours));
        let mut answers = Answers::new(&self.pool.endpoint);
        answers.answers = self.send(asked, vec![part]).await?;
        answers.read(0, |payload| Ok(versions(payload))).unwrap_or_else(|| Err(unanswered()))
    }
}

/// The version that we prefer among the server's.
fn common(theirs: &[Version]) -> Option<Version> {
    Version::ALL.into_iter().find(|ours| theirs.contains(ours))
}

/// Whether a request with these operations changes nothing, so that it may be sent twice.
fn is_repeatable(parts: &[Part<'_>]) -> bool {
    parts.iter().all(|part| part.operation.is_idempotent())
}
