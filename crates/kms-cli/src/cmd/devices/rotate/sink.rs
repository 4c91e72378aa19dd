//! Notes the result of a rotation.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use kms_core::{Error, KeyName, Result};
use kms_rotation::Report;
use tracing::warn;

use crate::output::chain;

/// The end of a rotation.
#[derive(Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) name: &'a KeyName,
    pub(crate) result: Result<&'a Report, &'a Error>,
    /// The time when the rotation ended.
    pub(crate) at: SystemTime,
    /// The duration. With many OSDs, the time since the start of the whole run.
    pub(crate) took: Duration,
}

/// Notes the results of rotations, in a file of metrics or at an object in Kubernetes.
///
/// A failure to note a result is a warning: the rotation itself has ended.
#[async_trait]
pub(crate) trait ResultSink: Send {
    /// Notes the result for one OSD.
    async fn ended(&mut self, ended: &Ended<'_>) -> Result<()>;
}

/// The places for the results of rotations in Kubernetes: empty in a build without it.
#[cfg(not(feature = "k8s-secret"))]
pub(crate) fn at_deployments(_: &crate::invocation::Invocation<'_>) -> Vec<Box<dyn ResultSink>> {
    Vec::new()
}

/// Passes a result to all sinks.
pub(crate) async fn note_everywhere(sinks: &mut [Box<dyn ResultSink>], ended: &Ended<'_>) {
    for sink in sinks {
        if let Err(error) = sink.ended(ended).await {
            warn!("the result of {} was not noted: {}", ended.name, chain(&error));
        }
    }
}
