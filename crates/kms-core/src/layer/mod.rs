//! The layers around every provider: retries, time limits, traces, and the shared part of the contract.
//!
//! A layer is a [`KmsProvider`] that wraps another one.
//! [`standard`] puts the [`Contract`] next to the provider, and around it the layer that limits, traces and repeats calls.

mod attempt;
mod contract;
mod retry;
mod tries;

use std::{sync::Arc, time::Duration};

pub use self::{
    attempt::{limited, preparing, step_limit, waiting_for},
    contract::Contract,
    retry::Retried,
    tries::{RetryPolicy, TRIED, retry},
};
use crate::KmsProvider;

/// The settings of the standard layers.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LayerOptions {
    /// The time limit of one try. If a second try is allowed, it is at most half of the time for all tries.
    pub attempt_timeout: Duration,
    /// How often and how long to retry.
    pub retry: RetryPolicy,
}

impl LayerOptions {
    /// Sets the time for all tries. A try gets a third of it, unless its own limit is longer, or is set to a shorter
    /// time than usual.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.retry.deadline = deadline;
        if self.attempt_timeout >= Self::default().attempt_timeout {
            self.attempt_timeout = self.attempt_timeout.max(deadline / 3);
        }
        self
    }

    /// The time limit of one try. A try that hangs must leave time for another one.
    pub fn try_limit(&self) -> Duration {
        let RetryPolicy { attempts, deadline, .. } = self.retry;
        self.attempt_timeout.min(if attempts > 1 { deadline / 2 } else { deadline })
    }
}

impl Default for LayerOptions {
    fn default() -> Self {
        Self { attempt_timeout: Duration::from_secs(20), retry: RetryPolicy::default() }
    }
}

/// Puts the standard layers around a provider.
pub fn standard(provider: Arc<dyn KmsProvider>, options: &LayerOptions) -> Arc<dyn KmsProvider> {
    Arc::new(Retried::new(Contract::new(provider), *options))
}
