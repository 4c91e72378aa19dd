//! Retries of requests that may safely be sent more than once.

use std::{future::Future, pin::pin};

use kms_core::{
    ErrorKind, Result,
    layer::{self, LayerOptions, RetryPolicy},
};

use super::names::KUBERNETES;

/// Sends a request, and retries it as the policy says. A try that hangs ends early enough for another one.
///
/// The request must be safe to send more than once, since the outcome of a try that timed out is unknown.
///
/// # Errors
///
/// The error of the last try, marked so that no caller retries again.
pub async fn retry<T, F>(
    policy: &RetryPolicy,
    operation: &'static str,
    request: impl Fn() -> F + Send + Sync,
) -> Result<T>
where
    F: Future<Output = Result<T>> + Send,
    T: Send,
{
    let limit = LayerOptions::default().with_deadline(policy.deadline).try_limit();
    let limited = || async {
        let result = layer::limited(limit, layer::waiting_for(|| "the API server", pin!(request()))).await;
        result.map_err(|error| match error.kind() {
            ErrorKind::Timeout => error.operation(operation).provider(KUBERNETES),
            _ => error,
        })
    };
    layer::retry(policy, operation, limited).await
}
