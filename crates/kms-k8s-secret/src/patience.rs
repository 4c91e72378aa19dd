//! Requests that do no harm when they are sent twice, sent as often as it is worth it.

use std::future::Future;

use kms_core::{
    Error, ErrorKind, Result, Retry,
    layer::{LayerOptions, RetryPolicy, retry},
};

use crate::PROVIDER;

/// Sends something as often as it is worth it. A try that hangs leaves time for another one.
///
/// # Errors
///
/// The last one, marked so that nobody above starts again.
pub async fn repeated<T, F>(
    policy: &RetryPolicy,
    operation: &'static str,
    request: impl Fn() -> F + Send + Sync,
) -> Result<T>
where
    F: Future<Output = Result<T>> + Send,
    T: Send,
{
    let limit = LayerOptions::default().attempt_timeout.min(policy.deadline / 2);
    let limited = || async {
        tokio::time::timeout(limit, request()).await.unwrap_or_else(|_elapsed| {
            Err(Error::new(ErrorKind::Timeout, format!("no answer within {limit:?}"))
                .retry(Retry::IfIdempotent)
                .operation(operation)
                .provider(PROVIDER))
        })
    };
    retry(policy, operation, limited).await
}
