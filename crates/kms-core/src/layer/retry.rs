//! The layer that retries failed calls.

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::attempt::until;
use crate::{
    Capability, DeleteMode, Error, ErrorKind, Existing, Freshness, HistoryMode, Kek, KeyName, KeyStream,
    KeyVersion, KmsProvider, PastKek, Probe, PutMode, Result, Retry, Stored, UpdateRight, WriteOutcome,
    provider::Deleted,
};

/// The longest deadline, since the clock cannot represent every duration.
const FAR_AWAY: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The text in the last error of a put whose outcome is unknown.
const MAYBE_STORED: &str = "unknown: it may have been stored";
/// The text in the last error of a delete whose outcome is unknown.
const MAYBE_DELETED: &str = "unknown: it may have been deleted";
/// The text in the last error of an undelete whose outcome is unknown.
const MAYBE_UNDELETED: &str = "unknown: the key may be back";
/// How often a probe is tried at most. A connection that breaks once is no finding.
const PROBES: u32 = 3;
/// How long an operation retries silently. After that a person waits, and sees why.
const SILENT: Duration = Duration::from_secs(2);

/// How often and how long to retry.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// The largest number of tries. 1 means no retry. By default only the deadline ends the tries.
    pub attempts: u32,
    /// The shortest pause. It also replaces a shorter `Retry-After`: a server that sends 0 must not make us spin.
    pub floor: Duration,
    /// The longest pause, unless the server asks for a longer one.
    pub cap: Duration,
    /// When to give up, measured from the first try.
    pub deadline: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: u32::MAX,
            floor: Duration::from_millis(100),
            cap: Duration::from_secs(5),
            deadline: Duration::from_secs(60),
        }
    }
}

/// A provider that retries calls after a transient failure.
///
/// Pauses grow by decorrelated jitter: each is a random time between the floor and three times the previous pause.
/// A `Retry-After` of the server is the shortest pause. The jitter is added to it, so that clients that the server
/// refused together do not come back together.
/// If the outcome of a put is unknown, this layer does a fresh read and compares the stored KEK before it retries.
#[derive(Debug)]
pub struct Retried<P> {
    inner: P,
    policy: RetryPolicy,
}

/// Retries a call as [`Retried`] does. For idempotent calls outside a provider, such as reading the settings of a
/// provider.
///
/// # Errors
///
/// The error of the last try, marked so that no caller retries it; `Timeout` if the deadline cut the last try off.
pub async fn retry<T, F>(policy: &RetryPolicy, operation: &'static str, call: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    Tries::new(None, *policy).run(operation, call).await
}

/// The state of one operation with its retries.
struct Tries<'a> {
    provider: Option<&'static str>,
    key: Option<&'a str>,
    policy: RetryPolicy,
    made: u32,
    /// The error of the last try.
    last: Option<Error>,
    pause: Duration,
    begin: Instant,
    deadline: Instant,
}

impl<'a> Tries<'a> {
    fn new(provider: Option<&'static str>, policy: RetryPolicy) -> Self {
        let now = Instant::now();
        let deadline = now.checked_add(policy.deadline).unwrap_or_else(|| now + FAR_AWAY);
        Self { provider, key: None, policy, made: 1, last: None, pause: policy.floor, begin: now, deadline }
    }

    /// Sets the key that errors name.
    fn of(mut self, name: &'a KeyName) -> Self {
        self.key = Some(name.as_str());
        self
    }

    /// Retries an idempotent operation.
    async fn run<T, F>(mut self, operation: &'static str, call: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            match self.bounded(operation, call()).await {
                Ok(value) => return Ok(value),
                Err(error) => self.pause_after(error).await?,
            }
        }
    }

    /// Cuts a try off at the deadline of the whole operation.
    async fn bounded<T>(&self, operation: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        match until(self.deadline, self.policy.deadline, call).await {
            Ok(result) => result,
            Err(server) => Err(self.too_late(operation, server)),
        }
    }

    /// Retries a change. A server reports `done` for a change that was made before.
    ///
    /// `None` if an earlier try of this call has made the change, and its response was lost. `maybe` is the text in the
    /// last error if the outcome is unknown.
    async fn run_change<T, F>(
        mut self,
        operation: &'static str,
        maybe: &'static str,
        done: ErrorKind,
        call: impl Fn() -> F,
    ) -> Result<Option<T>>
    where
        F: Future<Output = Result<T>>,
    {
        let mut unknown = false;
        loop {
            let error = match self.bounded(operation, call()).await {
                Ok(result) => return Ok(Some(result)),
                Err(error) => error,
            };
            if unknown && error.kind() == done {
                return Ok(None);
            }
            unknown |= error.retryable() == Retry::IfIdempotent;
            self.pause_after(error)
                .await
                .map_err(|error| if unknown { unknown_outcome(error, maybe) } else { error })?;
        }
    }

    /// Makes the error for a try that the deadline cut off while it waited for `server`. The server may or may not have
    /// applied it.
    fn too_late(&self, operation: &'static str, server: Option<String>) -> Error {
        let mut message = format!("not done within {:?}", self.policy.deadline);
        if let Some(server) = server {
            message = format!("{message}: {server} has not answered");
        }
        let mut error =
            Error::new(ErrorKind::Timeout, message).retry(Retry::IfIdempotent).operation(operation);
        if let Some(provider) = self.provider {
            error = error.provider(provider);
        }
        if let Some(key) = self.key {
            error = error.context("key", key);
        }
        if let Some(last) = &self.last {
            error = error.context("the try before", last.message());
        }
        error
    }

    /// Waits until the next try, or returns the error, marked so that no caller retries it.
    async fn pause_after(&mut self, error: Error) -> Result<()> {
        if error.retryable() == Retry::Never {
            return Err(error);
        }
        let RetryPolicy { floor, cap, .. } = self.policy;
        self.pause = jitter(floor, self.pause.saturating_mul(3)).min(cap.max(floor));
        // A client that comes back before `Retry-After`, or together with all others, adds to the overload.
        let pause = match error.wait() {
            Some(wait) => wait.max(floor).saturating_add(self.pause.saturating_sub(floor)),
            None => self.pause,
        };
        // The code compares durations, since the clock may not be able to represent the server's pause as an instant.
        let out_of_time = pause >= self.deadline.saturating_duration_since(Instant::now());
        if self.made >= self.policy.attempts || out_of_time {
            let error = match error.wait().filter(|wait| !wait.is_zero()) {
                // The caller sees when a retry is worthwhile.
                Some(wait) => error.context("the server asks to wait", format!("{wait:?}")),
                None => error,
            };
            return Err(error.retry(Retry::Never).context("tries", self.made.to_string()));
        }
        debug!(
            tries = self.made,
            pause_milliseconds = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            kind = error.kind().as_str(),
            %error,
            "trying again"
        );
        let waited = self.begin.elapsed();
        if waited.saturating_add(pause) >= SILENT {
            warn!("retrying ({}): {error}", self.progress(waited));
        }
        self.made += 1;
        self.last = Some(error);
        sleep(pause).await;
        Ok(())
    }

    /// How far the tries have got: `3 of 12`, or `try 3, 9 s of 60 s` if only the deadline ends them.
    fn progress(&self, waited: Duration) -> String {
        let RetryPolicy { attempts, deadline, .. } = self.policy;
        match attempts {
            u32::MAX => format!("try {}, {} s of {} s", self.made, waited.as_secs(), deadline.as_secs()),
            attempts => format!("{} of {attempts}", self.made),
        }
    }
}

/// Marks the last error of a write that may have been applied.
fn unknown_outcome(error: Error, what: &'static str) -> Error {
    error.outcome(WriteOutcome::Unknown).context("outcome", what)
}

/// A random duration from `low` to `high`; the middle if the operating system has no random bytes.
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

    fn tries<'a>(&self) -> Tries<'a> {
        Tries::new(Some(self.inner.provider()), self.policy)
    }

    /// Reads the key after a put with unknown outcome, and returns its version if the put was applied.
    ///
    /// `None` if the put was not applied and may be retried.
    async fn settle(&self, name: &KeyName, kek: &Kek, mode: &PutMode) -> Result<Option<KeyVersion>> {
        let stored = match self.inner.get(name, Freshness::Fresh).await {
            Ok(stored) => stored,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return match mode {
                    PutMode::Update(_) => Err(error),
                    PutMode::Create | PutMode::Overwrite => Ok(None),
                };
            }
            // Only this read could show the outcome, and it has failed.
            Err(error) => return Err(unknown_outcome(error, MAYBE_STORED)),
        };
        if stored.kek.ct_eq(kek) {
            return Ok(Some(stored.version));
        }
        match mode {
            PutMode::Create => Err(Error::already_exists(name, Existing::Different)
                .operation("put")
                .provider(self.inner.provider())),
            PutMode::Update(expected) if *expected != stored.version => {
                Err(Error::key_changed(name).operation("put").provider(self.inner.provider()))
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
        let mut tries = self.tries().of(name);
        let mut unknown = false;
        loop {
            // While an outcome is unknown, only the stored KEK shows whether to write again.
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
            // Schedule: our first put is in flight, `settle` finds it not applied, the first put arrives, and our
            // second put then loses against it. So the stored KEK may be ours.
            if unknown && matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::Conflict) {
                return match tries.bounded("put", self.settle(name, kek, &mode)).await {
                    Ok(Some(version)) => Ok(version),
                    _ => Err(error),
                };
            }
            unknown |= error.retryable() == Retry::IfIdempotent;
            tries
                .pause_after(error)
                .await
                .map_err(|error| if unknown { unknown_outcome(error, MAYBE_STORED) } else { error })?;
        }
    }

    async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
        self.tries().of(name).run("get", || self.inner.get(name, freshness)).await
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        let tries = self.tries().of(name);
        let call = || self.inner.delete(name, mode);
        let deleted = tries.run_change("delete", MAYBE_DELETED, ErrorKind::NotFound, call).await?;
        Ok(deleted.unwrap_or(match mode {
            DeleteMode::Destroy => Deleted::Destroyed,
            DeleteMode::Soft => Deleted::Recoverable { until: None },
        }))
    }

    /// Retries a list until its first key; after that an error is final.
    ///
    /// The deadline is for the first key, since the time for the rest depends on the reader.
    fn list(&self) -> KeyStream<'_> {
        struct State<'a> {
            keys: KeyStream<'a>,
            /// `None` until the reader asks for the first key: the time before that does not count.
            tries: Option<Tries<'a>>,
            begun: bool,
        }

        let start = State { keys: self.inner.list(), tries: None, begun: false };
        Box::pin(stream::unfold(Some(start), move |state| async move {
            let mut state = state?;
            if state.begun {
                let item = state.keys.next().await?;
                let rest = item.is_ok().then_some(state);
                return Some((item, rest));
            }
            let tries = state.tries.get_or_insert_with(|| self.tries());
            loop {
                let first = tries.bounded("list", async { state.keys.next().await.transpose() }).await;
                let error = match first {
                    Ok(info) => {
                        state.begun = true;
                        return Some((Ok(info?), Some(state)));
                    }
                    Err(error) => error,
                };
                if let Err(error) = tries.pause_after(error).await {
                    return Some((Err(error), None));
                }
                state.keys = self.inner.list();
            }
        }))
    }

    async fn undelete(&self, name: &KeyName) -> Result<KeyVersion> {
        let tries = self.tries().of(name);
        let call = || self.inner.undelete(name);
        match tries.run_change("undelete", MAYBE_UNDELETED, ErrorKind::AlreadyExists, call).await? {
            Some(version) => Ok(version),
            None => self.get(name, Freshness::Fresh).await.map(|stored| stored.version),
        }
    }

    async fn history(&self, name: &KeyName, mode: HistoryMode) -> Result<Vec<PastKek>> {
        self.tries().of(name).run("history", || self.inner.history(name, mode)).await
    }

    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
        self.tries().of(name).run("retire", || self.inner.retire_superseded(name, current)).await
    }

    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        self.tries().run("rights", || self.inner.may_update(names)).await
    }

    async fn probe(&self, probe: &mut Probe) {
        let mut tries = self.tries();
        // A person who looks for a fault wants to see it now.
        tries.policy.attempts = tries.policy.attempts.min(PROBES);
        loop {
            *probe = Probe::new();
            let call = self.inner.probe(probe);
            if let Err(server) = until(tries.deadline, tries.policy.deadline, call).await {
                probe.cut_off(tries.too_late("probe", server));
            }
            let Some((step, error)) = probe.failed.take() else { return };
            if let Err(error) = tries.pause_after(error).await {
                probe.failed = Some((step, error));
                return;
            }
        }
    }
}
