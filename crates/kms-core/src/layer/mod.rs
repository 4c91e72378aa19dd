//! Layers around every provider: retries, time limits, traces, and the shared part of the contract.
//!
//! A layer is a [`KmsProvider`] that wraps another one.
//! [`standard`] stacks them in the order that makes sense: the [`Contract`] next to the provider, the time limit inside
//! the retry, so that it holds for each try, and the trace between the two, so that each try is seen, one that was cut
//! off too.

mod contract;
mod retry;
mod timeout;
mod trace;

use std::{sync::Arc, time::Duration};

pub use self::{
    contract::Contract,
    retry::{Retried, RetryPolicy, retry},
    timeout::TimedOut,
    trace::Traced,
};
use crate::KmsProvider;

/// The settings of the standard layers.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LayerOptions {
    /// How long one try may take. Where a second try is allowed, it is never more than half of the time for all.
    pub attempt_timeout: Duration,
    /// How often and how long to try.
    pub retry: RetryPolicy,
}

impl Default for LayerOptions {
    fn default() -> Self {
        Self { attempt_timeout: Duration::from_secs(20), retry: RetryPolicy::default() }
    }
}

/// Puts the standard layers around a provider.
pub fn standard(provider: Arc<dyn KmsProvider>, options: &LayerOptions) -> Arc<dyn KmsProvider> {
    let RetryPolicy { attempts, deadline, .. } = options.retry;
    // One try that hangs must leave time for another one.
    let longest = if attempts > 1 { deadline / 2 } else { deadline };
    let timed = TimedOut::new(Contract::new(provider), options.attempt_timeout.min(longest));
    Arc::new(Retried::new(Traced::new(timed), options.retry))
}
