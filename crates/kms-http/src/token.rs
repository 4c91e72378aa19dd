//! A cache for a token that many callers share. One caller at a time renews it.

use std::{
    fmt,
    future::Future,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use kms_core::{Error, Result, Retry};
use secrecy::SecretString;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};
use tracing::debug;

/// The longest lease: ten years.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How long a token is valid, by the response of the server that issued it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Lease {
    /// When the token is due for renewal.
    pub refresh: Instant,
    /// When the token expires.
    pub end: Instant,
}

impl Lease {
    /// A lease that begins now. Renewal is due after two thirds of it, and earlier if less than `margin` would be left,
    /// since a token must outlive the slowest call that uses it.
    pub fn from_now(length: Duration, margin: Duration) -> Self {
        let now = Instant::now();
        // A server may send any length. A longer lease would never be renewed anyway.
        let length = length.min(LONGEST);
        let early = length.saturating_sub(margin).max(length / 2);
        Self { refresh: now + early.min(length * 2 / 3), end: now + length }
    }

    /// A lease that is due for renewal `refresh` from now and expires `end` from now.
    pub fn starting(refresh: Duration, end: Duration) -> Self {
        let now = Instant::now();
        Self { refresh: now + refresh.min(LONGEST), end: now + end.min(LONGEST) }
    }
}

/// A token with its lease and details.
pub struct Token<T> {
    /// The token itself.
    pub value: SecretString,
    /// How long the token is valid. `None` if this is unknown, or if the token never expires.
    pub lease: Option<Lease>,
    /// Other data that the provider stores with the token.
    pub details: T,
    generation: u64,
}

impl<T> Token<T> {
    /// Makes a token.
    pub fn new(value: SecretString, lease: Option<Lease>, details: T) -> Self {
        Self { value, lease, details, generation: 0 }
    }

    /// The number of the token within its cache.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn due(&self) -> bool {
        self.lease.is_some_and(|lease| Instant::now() >= lease.refresh)
    }

    fn over(&self) -> bool {
        self.lease.is_some_and(|lease| Instant::now() >= lease.end)
    }
}

impl<T: fmt::Debug> fmt::Debug for Token<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value: _, lease, details, generation } = self;
        f.debug_struct("Token")
            .field("lease", lease)
            .field("details", details)
            .field("generation", generation)
            .finish_non_exhaustive()
    }
}

/// The result of the last fetch, for callers that waited for it.
#[derive(Default)]
struct Turn {
    /// The number of fetches that have ended.
    ended: u64,
    failure: Option<Error>,
}

/// Keeps one token for all callers of a client.
///
/// If several callers need a token at once, one caller fetches it. The others wait and share the token or the failure,
/// so that a server in trouble gets one request and not many.
pub struct TokenCache<T> {
    current: RwLock<Option<Arc<Token<T>>>>,
    turn: Mutex<Turn>,
    /// The same number as in `turn`, readable without waiting.
    ended: std::sync::atomic::AtomicU64,
}

impl<T> Default for TokenCache<T> {
    fn default() -> Self {
        Self {
            current: RwLock::default(),
            turn: Mutex::default(),
            ended: std::sync::atomic::AtomicU64::new(0),
        }
    }
}

impl<T> TokenCache<T> {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the current token, even if it is due for renewal or has expired.
    pub fn peek(&self) -> Option<Arc<Token<T>>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns a valid token. `fetch` gets the previous token, if there is one, and renews it or makes a new one.
    ///
    /// It returns a token that is due for renewal but has not expired while another caller renews it, and also if the
    /// renewal fails for a transient reason.
    ///
    /// # Errors
    ///
    /// The error of the fetch. It leaves no write in doubt, so that `Retry::IfIdempotent` becomes `Always`.
    pub async fn get<F, R>(&self, fetch: F) -> Result<Arc<Token<T>>>
    where
        F: FnOnce(Option<Arc<Token<T>>>) -> R,
        R: Future<Output = Result<Token<T>>>,
    {
        match self.peek() {
            Some(token) if !token.due() => Ok(token),
            Some(token) if !token.over() => match self.turn.try_lock() {
                Ok(_) if self.peek().is_some_and(|now| now.generation != token.generation) => {
                    // Another caller renewed the token between our check and our turn.
                    Ok(self.peek().unwrap_or(token))
                }
                Ok(turn) => match self.fetch(turn, Some(Arc::clone(&token)), fetch).await {
                    Err(error) if error.retryable() != Retry::Never => {
                        debug!(%error, "the token could not be renewed yet, and is used on");
                        Ok(token)
                    }
                    result => result,
                },
                Err(_) => Ok(token),
            },
            before => self.replace(before.map_or(0, |token| token.generation), fetch).await,
        }
    }

    /// Returns a token other than the one of `generation`, which a server has refused.
    ///
    /// # Errors
    ///
    /// The error of the fetch, as [`get`](Self::get) returns it.
    pub async fn replace<F, R>(&self, generation: u64, fetch: F) -> Result<Arc<Token<T>>>
    where
        F: FnOnce(Option<Arc<Token<T>>>) -> R,
        R: Future<Output = Result<Token<T>>>,
    {
        use std::sync::atomic::Ordering;
        let ended = self.ended.load(Ordering::Acquire);
        let turn = self.turn.lock().await;
        match self.peek() {
            Some(token) if token.generation != generation && !token.over() => Ok(token),
            before => {
                // Another caller tried while we waited for our turn, and we would fail the same way.
                if turn.ended != ended
                    && let Some(failure) = &turn.failure
                {
                    return Err(failure.clone());
                }
                self.fetch(turn, before, fetch).await
            }
        }
    }

    async fn fetch<F, R>(
        &self,
        mut turn: tokio::sync::MutexGuard<'_, Turn>,
        before: Option<Arc<Token<T>>>,
        fetch: F,
    ) -> Result<Arc<Token<T>>>
    where
        F: FnOnce(Option<Arc<Token<T>>>) -> R,
        R: Future<Output = Result<Token<T>>>,
    {
        use std::sync::atomic::Ordering;
        let generation = before.as_ref().map_or(0, |token| token.generation) + 1;
        let result = fetch(before).await;
        turn.ended += 1;
        self.ended.store(turn.ended, Ordering::Release);
        match result {
            Ok(mut token) => {
                token.generation = generation;
                let token = Arc::new(token);
                turn.failure = None;
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&token));
                Ok(token)
            }
            Err(error) => {
                // The request that needs the token has not been sent, and a second token does no harm.
                let passes = error.retryable() == Retry::IfIdempotent;
                let error = if passes { error.retry(Retry::Always) } else { error };
                turn.failure = Some(error.clone());
                Err(error)
            }
        }
    }
}

impl<T> fmt::Debug for TokenCache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").finish_non_exhaustive()
    }
}

/// Limits the requests per second, with bursts, for `VAULT_RATE_LIMIT`.
#[derive(Debug)]
pub struct RateLimit {
    interval: Duration,
    burst: u32,
    next: std::sync::Mutex<Option<Instant>>,
}

impl RateLimit {
    /// Makes a limit of `rate` requests a second, of which `burst` may come at once. `None` if the rate is below one an
    /// hour, above a million a second or not a number, or if the burst is above a million.
    pub fn new(rate: f64, burst: u32) -> Option<Self> {
        ((1.0 / 3600.0..=1e6).contains(&rate) && burst <= 1_000_000).then(|| Self {
            interval: Duration::from_secs_f64(1.0 / rate),
            burst: burst.max(1),
            next: std::sync::Mutex::new(None),
        })
    }

    /// Waits until one more request may be sent.
    pub async fn wait(&self) {
        let pause = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            // The generic cell rate algorithm: `due` is the time when a steady sender would send this request.
            let due = next.map_or(now, |due| due.max(now));
            *next = Some(due + self.interval);
            (due + self.interval).saturating_duration_since(now + self.interval * self.burst)
        };
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use kms_core::ErrorKind;

    use super::*;

    fn token(length: Option<u64>) -> Token<()> {
        let lease =
            length.map(|seconds| Lease::from_now(Duration::from_secs(seconds), Duration::from_secs(5)));
        Token::new(SecretString::from("canary"), lease, ())
    }

    #[tokio::test(start_paused = true)]
    async fn many_callers_cause_one_fetch() {
        let (cache, fetches) = (TokenCache::new(), AtomicU32::new(0));
        let get = || async {
            cache
                .get(async |_| {
                    fetches.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_secs(1)).await;
                    Ok(token(Some(60)))
                })
                .await
                .map(|token| token.generation())
        };
        let all = tokio::join!(get(), get(), get(), get(), get());
        assert_eq!(fetches.load(Ordering::Relaxed), 1);
        assert!([all.0, all.1, all.2, all.3, all.4].into_iter().all(|generation| generation.unwrap() == 1));
        assert!(!format!("{:?}{:?}", cache.peek(), cache).contains("canary"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_shared_by_those_who_waited_and_no_longer() {
        let (cache, fetches) = (TokenCache::<()>::new(), AtomicU32::new(0));
        let get = || {
            cache.get(async |_| {
                fetches.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_secs(1)).await;
                Err(Error::new(ErrorKind::Unavailable, "no"))
            })
        };
        let (a, b, c) = tokio::join!(get(), get(), get());
        assert!(a.is_err() && b.is_err() && c.is_err());
        assert_eq!(fetches.load(Ordering::Relaxed), 1);
        assert!(get().await.is_err());
        assert_eq!(fetches.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_renewed_ahead_of_its_end_and_used_on_while_that_fails() {
        let cache = TokenCache::new();
        cache.get(async |_| Ok(token(Some(60)))).await.unwrap();
        tokio::time::advance(Duration::from_secs(39)).await;
        let same = cache.get(async |_| panic!("not due yet")).await.unwrap();
        tokio::time::advance(Duration::from_secs(2)).await;
        let passing = || async { Err(Error::new(ErrorKind::Unavailable, "no").retry(Retry::Always)) };
        assert_eq!(cache.get(|_| passing()).await.unwrap().generation(), same.generation());
        let renewed = cache.get(async |before| {
            Ok({
                assert_eq!(before.unwrap().generation(), 1);
                token(None)
            })
        });
        assert_eq!(renewed.await.unwrap().generation(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_token_is_replaced_once() {
        let (cache, fetches) = (TokenCache::new(), AtomicU32::new(0));
        let fetch = async |_| {
            fetches.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_secs(1)).await;
            Ok(token(None))
        };
        let refused = cache.get(fetch).await.unwrap().generation();
        let (a, b) = tokio::join!(cache.replace(refused, fetch), cache.replace(refused, fetch));
        assert_eq!((a.unwrap().generation(), b.unwrap().generation()), (2, 2));
        assert_eq!(fetches.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_limit_lets_a_burst_pass_and_spaces_the_rest() {
        let (limit, start) = (RateLimit::new(2.0, 3).unwrap(), Instant::now());
        assert!(RateLimit::new(1e-20, 1).is_none() && RateLimit::new(f64::NAN, 1).is_none());
        for _ in 0..3 {
            limit.wait().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..4 {
            limit.wait().await;
        }
        assert_eq!(start.elapsed(), Duration::from_secs(2));
    }
}
