//! Replaces the cluster in a build that cannot reach Kubernetes.

use std::time::Duration;

use async_trait::async_trait;
use kms_core::{Error, ErrorKind, Result};
use kms_dispatch::Provider;
use kms_migrate::{Cluster, OsdView, Plan, Side};

use super::super::sides::Sides;
use crate::{args::Global, cmd::clusters::accounts::Account};

/// No cluster.
pub(in super::super) enum Live {}

impl Live {
    /// `None` without `--cluster`.
    ///
    /// # Errors
    ///
    /// `Disabled` with it.
    #[expect(clippy::unused_async, reason = "the build with Kubernetes awaits")]
    pub(in super::super) async fn find(_: &Sides, global: &Global, _: Duration) -> Result<Option<Self>> {
        match global.cluster {
            None => Ok(None),
            Some(_) => Err(Error::new(ErrorKind::Disabled, "this build cannot change a CephCluster")
                .context("feature", Provider::KubernetesSecret.feature())),
        }
    }

    #[expect(clippy::unused_async, reason = "the build with Kubernetes awaits")]
    pub(in super::super) async fn stops(&self) -> Result<Vec<String>> {
        match *self {}
    }

    #[expect(clippy::unused_async, reason = "the build with Kubernetes awaits")]
    pub(in super::super) async fn check_accounts(
        &self,
        _: &Sides,
        _: Option<&Account>,
        _: &Global,
        _: &mut Plan,
    ) -> Result<()> {
        match *self {}
    }
}

#[async_trait]
impl Cluster for Live {
    async fn osds(&self) -> Result<Vec<OsdView>> {
        match *self {}
    }

    async fn side(&self) -> Result<Option<Side>> {
        match *self {}
    }

    async fn switch(&self, _: Side) -> Result<()> {
        match *self {}
    }

    async fn hold(&self, _: &OsdView) -> Result<()> {
        match *self {}
    }

    async fn release(&self, _: &OsdView) -> Result<()> {
        match *self {}
    }

    async fn pause(&self, _: &[&OsdView]) -> Result<()> {
        match *self {}
    }
}
