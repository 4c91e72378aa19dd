//! Waiting for a server: its own answer is polled until a deadline, never a fixed time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The pause between two looks at a server.
pub const STEP: Duration = Duration::from_millis(50);

/// The longest that a server may take to become ready, on a machine that is compiling at the same time.
pub const START: Duration = Duration::from_secs(90);

/// Calls `look` until it has an answer.
///
/// # Errors
///
/// When `look` fails, which ends the wait at once, or when there is no answer after `limit`; `what` says for what we
/// waited.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = look().await? {
            return Ok(answer);
        }
        if Instant::now() >= end {
            bail!("waited {limit:?} in vain for {what}");
        }
        tokio::time::sleep(STEP).await;
    }
}
