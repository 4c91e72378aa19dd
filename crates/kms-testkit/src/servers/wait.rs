//! Waiting for a server: its response is polled until a deadline; no wait has a fixed length.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The pause between two looks at a server.
pub const STEP: Duration = Duration::from_millis(50);

/// The longest start of a server, on a machine that compiles at the same time.
pub const START: Duration = Duration::from_secs(90);

/// Calls `look` until it returns a value.
///
/// # Errors
///
/// If `look` fails, which ends the wait at once, or if there is no value after `limit`. `what` names the awaited event in
/// the message.
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
