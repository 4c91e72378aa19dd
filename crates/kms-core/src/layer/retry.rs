//! Repeats what is worth repeating.

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

use crate::{
    Capability, DeleteMode, Error, ErrorKind, Existing, Freshness, Kek, KeyName, KeyStream, KeyVersion,
    KmsProvider, Probe, PutMode, Result, Retry, Stored, provider::Deleted,
};

/// How often and how long to try.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// How many tries there are at most. 1 means no repeat.
    pub attempts: u32,
    /// The shortest pause, and the least that a `Retry-After` counts for: a server that says 0 must not make us
    /// spin.
    pub floor: Duration,
    /// The longest pause that is not asked for by the server.
    pub cap: Duration,
    /// When to give up, measured from the first try.
    pub deadline: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 12,
            floor: Duration::from_millis(100),
            cap: Duration::from_secs(5),
            deadline: Duration::from_secs(60),
        }
    }
}

/// A provider that repeats what failed for a passing reason.
///
/// Pauses grow by decorrelated jitter: each is a random time between the floor and three times the one before.
/// An operation of which nobody knows whether it was applied is not blindly repeated: what is stored is read, fresh,
/// and compared first.
#[derive(Debug)]
pub struct Retried<P> {
    inner: P,
    policy: RetryPolicy,
}

/// The state of one operation with its repeats.
struct Tries {
    policy: RetryPolicy,
    made: u32,
    pause: Duration,
    deadline: Instant,
}

impl Tries {
    fn new(policy: RetryPolicy) -> Self {
        Self { policy, made: 1, pause: policy.floor, deadline: Instant::now() + policy.deadline }
    }

    /// Cuts a try off at the deadline of the whole operation.
    async fn bounded<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        match timeout_at(self.deadline, call).await {
            Ok(result) => result,
            Err(_) => {
                Err(Error::new(ErrorKind::Timeout, format!("not done within {:?}", self.policy.deadline))
                    .retry(Retry::IfIdempotent)
                    .operation(operation))
            }
        }
    }

    /// Waits until the next try, or gives the error back, marked so that nobody above starts again.
    async fn pause_after(&mut self, error: Error) -> Result<()> {
        if error.retryable() == Retry::Never {
            return Err(error);
        }
        self.pause = jitter(self.policy.floor, self.pause.saturating_mul(3)).min(self.policy.cap);
        // What the server asks for is the least: below it, to try again only makes things worse.
        let pause = error.wait().map_or(self.pause, |wait| wait.max(self.pause));
        let out_of_time = Instant::now() + pause >= self.deadline;
        if self.made >= self.policy.attempts || out_of_time {
            let tries = self.made.to_string();
            return Err(error.retry(Retry::Never).context("tries", tries));
        }
        debug!(
            tries = self.made,
            pause_milliseconds = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            kind = error.kind().as_str(),
            %error,
            "trying again"
        );
        self.made += 1;
        sleep(pause).await;
        Ok(())
    }
}

/// A random time between the two. The clock's own jitter is enough where there are no random bytes.
fn jitter(low: Duration, high: Duration) -> Duration {
    let span = high.saturating_sub(low);
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    low + span.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

impl<P: KmsProvider> Retried<P> {
    /// Wraps a provider.
    pub fn new(inner: P, policy: RetryPolicy) -> Self {
        Self { inner, policy }
    }

    /// Repeats an operation that does no harm when done twice.
    async fn repeated<T, F>(&self, operation: &'static str, call: impl Fn() -> F + Send + Sync) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let mut tries = Tries::new(self.policy);
        loop {
            match tries.bounded(operation, call()).await {
                Ok(value) => return Ok(value),
                Err(error) => tries.pause_after(error).await?,
            }
        }
    }

    /// After a put whose outcome is unknown: what is stored now?
    ///
    /// `None` says that the put was not applied and may be repeated.
    async fn settle(&self, name: &KeyName, kek: &Kek, mode: &PutMode) -> Result<Option<KeyVersion>> {
        let stored = match self.inner.get(name, Freshness::Fresh).await {
            Ok(stored) => stored,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return match mode {
                    PutMode::Update(_) => Err(error),
                    PutMode::Create | PutMode::Overwrite => Ok(None),
                };
            }
            Err(error) => return Err(error),
        };
        if stored.kek.ct_eq(kek) {
            return Ok(Some(stored.version));
        }
        match mode {
            PutMode::Create => Err(Error::already_exists(name, Existing::Different)
                .operation("put")
                .provider(self.inner.provider())),
            PutMode::Update(expected) if *expected != stored.version => {
                Err(Error::new(ErrorKind::Conflict, "the key has changed since it was read")
                    .operation("put")
                    .provider(self.inner.provider())
                    .context("key", name.as_str()))
            }
            PutMode::Update(_) | PutMode::Overwrite => Ok(None),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<P: KmsProvider> KmsProvider for Retried<P> {
    fn provider(&self) -> &'static str {
        self.inner.provider()
    }

    fn capability(&self) -> Capability {
        self.inner.capability()
    }

    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        let mut tries = Tries::new(self.policy);
        let mut unknown = false;
        loop {
            // While an outcome is unknown, only a look at what is stored can tell whether to write again.
            let result = if unknown {
                match tries.bounded("put", self.settle(name, kek, &mode)).await {
                    Ok(Some(version)) => return Ok(version),
                    Ok(None) => tries.bounded("put", self.inner.put(name, kek, mode.clone())).await,
                    Err(error) if error.retryable() == Retry::Never => return Err(error),
                    Err(error) => Err(error),
                }
            } else {
                tries.bounded("put", self.inner.put(name, kek, mode.clone())).await
            };
            let error = match result {
                Ok(version) => return Ok(version),
                Err(error) => error,
            };
            // Our own first write may have arrived late, after the look.
            if unknown && matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::Conflict) {
                return match tries.bounded("put", self.settle(name, kek, &mode)).await {
                    Ok(Some(version)) => Ok(version),
                    _ => Err(error),
                };
            }
            unknown |= error.retryable() == Retry::IfIdempotent;
            tries.pause_after(error).await.map_err(|error| {
                if unknown { error.context("outcome", "unknown: it may have been stored") } else { error }
            })?;
        }
    }

    async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
        self.repeated("get", || self.inner.get(name, freshness)).await
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        let mut tries = Tries::new(self.policy);
        let mut unknown = false;
        loop {
            let error = match tries.bounded("delete", self.inner.delete(name, mode)).await {
                Ok(deleted) => return Ok(deleted),
                Err(error) => error,
            };
            if unknown && error.kind() == ErrorKind::NotFound {
                return Ok(match mode {
                    DeleteMode::Destroy => Deleted::Destroyed,
                    DeleteMode::Soft => Deleted::Recoverable,
                });
            }
            unknown |= error.retryable() == Retry::IfIdempotent;
            tries.pause_after(error).await.map_err(|error| {
                if unknown { error.context("outcome", "unknown: it may have been deleted") } else { error }
            })?;
        }
    }

    /// A list is started anew as long as nothing of it has been handed out; after that an error is final.
    fn list(&self) -> KeyStream<'_> {
        struct State<'a> {
            keys: KeyStream<'a>,
            tries: Tries,
            begun: bool,
        }

        let start = State { keys: self.inner.list(), tries: Tries::new(self.policy), begun: false };
        Box::pin(stream::unfold(Some(start), move |state| async move {
            let mut state = state?;
            loop {
                let error = match state.keys.next().await? {
                    Ok(info) => {
                        state.begun = true;
                        return Some((Ok(info), Some(state)));
                    }
                    Err(error) if state.begun => return Some((Err(error), None)),
                    Err(error) => error,
                };
                if let Err(error) = state.tries.pause_after(error).await {
                    return Some((Err(error), None));
                }
                state.keys = self.inner.list();
            }
        }))
    }

    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
        self.repeated("retire", || self.inner.retire_superseded(name, current)).await
    }

    async fn probe(&self) -> Probe {
        let mut tries = Tries::new(self.policy);
        loop {
            let mut probe = self.inner.probe().await;
            let Some((step, error)) = probe.failed.take() else { return probe };
            if let Err(error) = tries.pause_after(error).await {
                probe.failed = Some((step, error));
                return probe;
            }
        }
    }
}
