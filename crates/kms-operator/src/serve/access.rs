//! Who may see metrics and page: the users whom the cluster allows it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, header::AUTHORIZATION};
use kms_core::{ExposeSecret as _, Result, SecretString};
use sha2::{Digest as _, Sha256};
use tokio::{sync::Semaphore, time::Instant};
use zeroize::Zeroizing;

/// How long a verdict of the cluster holds. A token that was revoked, or a right that was taken away, works so long.
const VERDICT_AGE: Duration = Duration::from_secs(60);
/// The most verdicts that are kept.
const VERDICTS: usize = 256;
/// How many questions the API server gets at a time: a flood of wrong tokens must not become a flood there.
const REVIEWS: usize = 4;

/// Who may see metrics and page.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Access {
    /// Everyone who reaches the server.
    Everyone,
    /// The users whom a reviewer allows it.
    Reviewed(Arc<dyn Reviewer>),
}

/// Decides about tokens.
#[async_trait]
pub trait Reviewer: fmt::Debug + Send + Sync + 'static {
    /// Whether the owner of a token may GET a path of the operator.
    ///
    /// # Errors
    ///
    /// Those of the connection to the API server. Then nothing is shown.
    async fn review(&self, token: &SecretString, path: &str) -> Result<Verdict>;
}

/// What the cluster says of a token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Verdict {
    /// Its user may see the path.
    Allowed,
    /// Its user may not.
    Denied,
    /// It belongs to no user.
    Unknown,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refusal {
    /// There is no token, or the cluster does not know it.
    Unauthenticated,
    /// The user may not see the path.
    Forbidden,
    /// The cluster could not be asked.
    Unavailable,
}

/// Asks the reviewer, and remembers its verdicts.
#[derive(Debug)]
pub(super) struct Gate {
    access: Access,
    /// The verdicts by the hash of path and token: a token itself is kept nowhere.
    verdicts: Mutex<HashMap<[u8; 32], (Instant, Verdict)>>,
    reviews: Semaphore,
}

impl Gate {
    pub(super) fn new(access: Access) -> Self {
        Self { access, verdicts: Mutex::default(), reviews: Semaphore::new(REVIEWS) }
    }

    /// Whether a request with these headers may see a path.
    pub(super) async fn check(&self, headers: &HeaderMap, path: &str) -> Result<(), Refusal> {
        let Access::Reviewed(reviewer) = &self.access else { return Ok(()) };
        let token = token(headers).ok_or(Refusal::Unauthenticated)?;
        let digest = digest(&token, path);
        let verdict = match self.known(&digest) {
            Some(verdict) => verdict,
            None => self.ask(&**reviewer, &token, path, digest).await?,
        };
        match verdict {
            Verdict::Allowed => Ok(()),
            Verdict::Denied => Err(Refusal::Forbidden),
            Verdict::Unknown => Err(Refusal::Unauthenticated),
        }
    }

    async fn ask(
        &self,
        reviewer: &dyn Reviewer,
        token: &SecretString,
        path: &str,
        digest: [u8; 32],
    ) -> Result<Verdict, Refusal> {
        // The semaphore is never closed.
        let _permit = self.reviews.acquire().await.map_err(|_closed| Refusal::Unavailable)?;
        // Another request with the same token may have been answered meanwhile.
        if let Some(verdict) = self.known(&digest) {
            return Ok(verdict);
        }
        // The verdict ages from the question, not from the response.
        let asked = Instant::now();
        let verdict = reviewer.review(token, path).await.map_err(|error| {
            tracing::warn!("the API server cannot be asked who may see {path}: {error}");
            Refusal::Unavailable
        })?;
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if verdicts.len() >= VERDICTS {
            verdicts.retain(|_, (asked, _)| asked.elapsed() < VERDICT_AGE);
        }
        if verdicts.len() >= VERDICTS {
            verdicts.clear();
        }
        verdicts.insert(digest, (asked, verdict));
        Ok(verdict)
    }

    fn known(&self, digest: &[u8; 32]) -> Option<Verdict> {
        let verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        let (asked, verdict) = verdicts.get(digest)?;
        (asked.elapsed() < VERDICT_AGE).then_some(*verdict)
    }
}

fn digest(token: &SecretString, path: &str) -> [u8; 32] {
    // A path has no zero byte, so no two pairs give the same text.
    let hash = Sha256::new().chain_update(path).chain_update([0]).chain_update(token.expose_secret());
    hash.finalize().into()
}

/// The token of a request: that of `Bearer`, or the password of `Basic`. A browser has a dialogue for the second one, and
/// can send the first one only by a script.
fn token(headers: &HeaderMap) -> Option<SecretString> {
    let (scheme, text) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let text = text.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return (!text.is_empty()).then(|| SecretString::from(text));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = Zeroizing::new(STANDARD.decode(text).ok()?);
    let (_, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    (!password.is_empty()).then(|| SecretString::from(password))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::HeaderValue;
    use kms_core::{Error, ErrorKind};

    use super::*;

    /// Allows one token everything, knows another, and counts the questions.
    #[derive(Debug, Default)]
    struct Counting(AtomicUsize);

    #[async_trait]
    impl Reviewer for Counting {
        async fn review(&self, token: &SecretString, _: &str) -> Result<Verdict> {
            self.0.fetch_add(1, Ordering::Relaxed);
            match token.expose_secret() {
                "good" => Ok(Verdict::Allowed),
                "poor" => Ok(Verdict::Denied),
                "down" => Err(Error::new(ErrorKind::Unavailable, "no")),
                _ => Ok(Verdict::Unknown),
            }
        }
    }

    fn with(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
    }

    #[tokio::test(start_paused = true)]
    async fn a_verdict_holds_for_a_minute_and_for_one_path() {
        let reviewer = Arc::new(Counting::default());
        let gate = Gate::new(Access::Reviewed(Arc::clone(&reviewer) as Arc<dyn Reviewer>));
        let asked = || reviewer.0.load(Ordering::Relaxed);
        let basic = format!("basic {}", STANDARD.encode("anything:good"));
        for header in ["Bearer good", "bearer  good", &basic] {
            assert_eq!(gate.check(&with(header), "/").await, Ok(()), "{header}");
        }
        assert_eq!(asked(), 1);
        assert_eq!(gate.check(&with("Bearer good"), "/metrics").await, Ok(()));
        assert_eq!(asked(), 2);
        tokio::time::advance(VERDICT_AGE).await;
        assert_eq!(gate.check(&with("Bearer good"), "/").await, Ok(()));
        assert_eq!(asked(), 3);
        assert!(!format!("{gate:?}").contains("good"));
    }

    #[tokio::test(start_paused = true)]
    async fn no_token_a_wrong_one_and_a_poor_one_are_refused_and_a_failure_is_asked_again() {
        let reviewer = Arc::new(Counting::default());
        let gate = Gate::new(Access::Reviewed(Arc::clone(&reviewer) as Arc<dyn Reviewer>));
        assert_eq!(gate.check(&HeaderMap::new(), "/").await, Err(Refusal::Unauthenticated));
        for (header, refusal) in [
            ("Bearer ", Refusal::Unauthenticated),
            ("good", Refusal::Unauthenticated),
            ("Basic good", Refusal::Unauthenticated),
            ("Digest good", Refusal::Unauthenticated),
            ("Bearer odd", Refusal::Unauthenticated),
            ("Bearer poor", Refusal::Forbidden),
            ("Bearer down", Refusal::Unavailable),
            ("Bearer down", Refusal::Unavailable),
        ] {
            assert_eq!(gate.check(&with(header), "/").await, Err(refusal), "{header}");
        }
        assert_eq!(reviewer.0.load(Ordering::Relaxed), 4);
        // However many tokens come, few verdicts are kept.
        for number in 0..2 * VERDICTS {
            let _refused = gate.check(&with(&format!("Bearer {number}")), "/").await;
        }
        assert!(gate.verdicts.lock().unwrap().len() <= VERDICTS);
        assert_eq!(Gate::new(Access::Everyone).check(&HeaderMap::new(), "/").await, Ok(()));
    }
}
