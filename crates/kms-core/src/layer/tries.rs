//! The tries of one operation: each ends in time and leaves an event, and a transient failure is followed by another try.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::{
    LayerOptions,
    attempt::{no_answer, until},
};
use crate::{Error, ErrorKind, KeyName, Result, Retry, WriteOutcome};

/// The target of the event that each try leaves, even one that was cut off. Its fields are `provider`, `operation`, `key`,
/// `milliseconds` and `outcome`: `done`, or the kind of the error.
pub const TRIED: &str = "kms_core::tried";

/// The longest deadline, since the clock cannot represent every duration.
const FAR_AWAY: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
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

/// Retries a call as [`Retried`](super::Retried) does. For idempotent calls outside a provider, such as reading the
/// settings of a provider.
///
/// # Errors
///
/// The error of the last try, marked so that no caller retries it; `Timeout` if the deadline cut the last try off.
pub async fn retry<T, F>(policy: &RetryPolicy, operation: &'static str, call: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    // A call of a provider is in a box too: one that is not doubles with each function that it goes through.
    Tries::new(None, *policy, None).run(operation, || Box::pin(call())).await
}

/// The state of one operation with its tries.
pub(super) struct Tries<'a> {
    provider: Option<&'static str>,
    key: Option<&'a str>,
    policy: RetryPolicy,
    /// The time limit of one try, if it has one of its own.
    limit: Option<Duration>,
    made: u32,
    /// The error of the last try.
    last: Option<Error>,
    pause: Duration,
    begin: Instant,
    deadline: Instant,
}

impl<'a> Tries<'a> {
    fn new(provider: Option<&'static str>, policy: RetryPolicy, limit: Option<Duration>) -> Self {
        let begin = Instant::now();
        let deadline = begin.checked_add(policy.deadline).unwrap_or_else(|| begin + FAR_AWAY);
        Self { provider, key: None, policy, limit, made: 1, last: None, pause: policy.floor, begin, deadline }
    }

    /// The tries of an operation of a provider.
    pub(super) fn of_provider(provider: &'static str, options: &LayerOptions) -> Self {
        Self::new(Some(provider), options.retry, Some(options.try_limit()))
    }

    /// Sets the key that errors name.
    pub(super) fn of(mut self, name: &'a KeyName) -> Self {
        self.key = Some(name.as_str());
        self
    }

    /// Allows at most this many tries.
    pub(super) fn at_most(&mut self, attempts: u32) {
        self.policy.attempts = self.policy.attempts.min(attempts);
    }

    /// Leaves only the limit of one try.
    pub(super) fn lift_deadline(&mut self) {
        self.deadline = self.deadline.checked_add(FAR_AWAY).unwrap_or(self.deadline);
    }

    /// Retries an idempotent operation.
    pub(super) async fn run<T, F>(mut self, operation: &'static str, call: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            match self.one(operation, call()).await {
                Ok(value) => return Ok(value),
                Err(error) => self.pause_after(error).await?,
            }
        }
    }

    /// Makes one try, which leaves an event.
    pub(super) async fn one<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let start = Instant::now();
        let result = self.bounded(operation, call).await;
        self.trace(operation, start, result.as_ref().err());
        result
    }

    /// Cuts a call off at the limit of one try, and at the deadline of the whole operation.
    pub(super) async fn bounded<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let limited = self.limit.and_then(|limit| Some((limit, Instant::now().checked_add(limit)?)));
        let limited = limited.filter(|(_, end)| *end < self.deadline);
        let end = limited.map_or(self.deadline, |(_, end)| end);
        match until(end, self.policy.deadline, call).await {
            Ok(result) => result,
            Err(server) => Err(match limited {
                Some((limit, _)) => self.annotate(operation, no_answer(server, limit)),
                None => self.too_late(operation, server),
            }),
        }
    }

    /// Logs an event at level `DEBUG` for a try: operation, name of the key, duration and outcome.
    pub(super) fn trace(&self, operation: &'static str, start: Instant, failed: Option<&Error>) {
        // A call outside a provider is no request to a KMS.
        let Some(provider) = self.provider else { return };
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        let outcome = failed.map_or("done", |error| error.kind().as_str());
        let key = self.key.unwrap_or_default();
        debug!(target: TRIED, provider, operation, key, milliseconds, outcome, "tried");
    }

    /// Retries a change. A server reports `done` for a change that was made before.
    ///
    /// `None` if an earlier try of this call has made the change, and its response was lost. `maybe` is the text in the
    /// last error if the outcome is unknown.
    pub(super) async fn run_change<T, F>(
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
            let error = match self.one(operation, call()).await {
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
        let error = Error::new(ErrorKind::Timeout, message).retry(Retry::IfIdempotent);
        let error = self.annotate(operation, error);
        match &self.last {
            Some(last) => error.context("the try before", last.message()),
            None => error,
        }
    }

    /// Adds what the [`Contract`](super::Contract) adds to the errors of the provider itself.
    fn annotate(&self, operation: &'static str, mut error: Error) -> Error {
        error = error.operation(operation);
        if let Some(provider) = self.provider {
            error = error.provider(provider);
        }
        match self.key {
            Some(key) => error.context("key", key),
            None => error,
        }
    }

    /// Waits until the next try, or returns the error, marked so that no caller retries it.
    pub(super) async fn pause_after(&mut self, error: Error) -> Result<()> {
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
pub(super) fn unknown_outcome(error: Error, what: &'static str) -> Error {
    error.outcome(WriteOutcome::Unknown).context("outcome", what)
}

/// A random duration from `low` to `high`; the middle if the operating system has no random bytes.
fn jitter(low: Duration, high: Duration) -> Duration {
    let span = high.saturating_sub(low);
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    low + span.mul_f64(f64::from(random) / f64::from(u32::MAX))
}
