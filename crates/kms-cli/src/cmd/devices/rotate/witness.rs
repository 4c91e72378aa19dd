//! Who is told how the rotation of an OSD has ended.

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
    /// When it ended.
    pub(crate) at: SystemTime,
    /// How long it took; with many OSDs, since all were begun.
    pub(crate) took: Duration,
}

/// Somebody who notes results: a file of metrics, an annotation in Kubernetes.
///
/// A rotation that is done is done, so what goes wrong here is warned of and fails nothing.
#[async_trait]
pub(crate) trait Witness: Send {
    /// Notes how the rotation of one OSD has ended.
    async fn ended(&mut self, ended: &Ended<'_>) -> Result<()>;
}

/// Tells all of them.
pub(crate) async fn tell(witnesses: &mut [Box<dyn Witness>], ended: &Ended<'_>) {
    for witness in witnesses {
        if let Err(error) = witness.ended(ended).await {
            warn!("the result of {} was not noted: {}", ended.name, chain(&error));
        }
    }
}
