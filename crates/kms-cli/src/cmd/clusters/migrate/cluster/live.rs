//! Switches a CephCluster by the Kubernetes API.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use kms_core::{Error, ErrorKind, Result, Retry, SecuritySpec};
use kms_migrate::{Cluster, Hold, OsdView, Side};
use kms_rook::{
    client::RookNamespace,
    switch::{HOLD_VALUE, SwitchedOsd, has_same_kms},
};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::super::sides::Sides;
use crate::{args::Global, progress::write_line};

/// The pause between two looks at the OSDs.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How many OSDs a message names.
const SHOWN: usize = 10;

/// The cluster given with `--cluster`.
pub(in super::super) struct Live<'a> {
    place: RookNamespace,
    name: String,
    from: &'a SecuritySpec,
    to: &'a SecuritySpec,
    quiet: bool,
    wait: Duration,
    /// When the wait ends.
    end: Instant,
    /// How many OSDs were awaited at the last message.
    said: AtomicUsize,
}

impl<'a> Live<'a> {
    /// The cluster that the user has named. `None` without `--cluster`.
    pub(in super::super) async fn find(
        sides: &'a Sides,
        global: &Global,
        wait: Duration,
    ) -> Result<Option<Self>> {
        let Some(named) = &global.cluster else { return Ok(None) };
        let [from, to] = sides.targets();
        let place = from.kubernetes().rook(&named.kube_namespace).await?;
        let end = Instant::now() + wait;
        Ok(Some(Self {
            place,
            name: named.name.clone(),
            from: from.security(),
            to: to.security(),
            quiet: global.quiet,
            wait,
            end,
            said: AtomicUsize::new(0),
        }))
    }

    /// What the CephCluster says against a switch: Rook would restart OSDs without asking Ceph whether that is safe, or would
    /// rotate keys, which makes copies stale.
    pub(in super::super) async fn stops(&self) -> Result<Vec<String>> {
        let cluster = self.place.switchable_cluster(&self.name).await?;
        let mut stops = Vec::new();
        if !cluster.unsafe_settings.is_empty() {
            stops.push(format!(
                "Rook would restart OSDs without asking Ceph whether that is safe: set {} of the CephCluster to false",
                cluster.unsafe_settings.join(" and ")
            ));
        }
        if cluster.security.key_rotation.enabled {
            stops.push(
                "keyRotation.enabled of the CephCluster is true, and a rotation makes copies stale: set it to false until \
                 the migration is finished"
                    .to_owned(),
            );
        }
        Ok(stops)
    }

    /// The namespace of the cluster.
    pub(super) fn place(&self) -> &RookNamespace {
        &self.place
    }

    /// The name of the CephCluster.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn block(&self, side: Side) -> &'a SecuritySpec {
        match side {
            Side::Source => self.from,
            Side::Target => self.to,
        }
    }
}

#[async_trait]
impl Cluster for Live<'_> {
    async fn osds(&self) -> Result<Vec<OsdView>> {
        let found = self.place.switched_osds([self.from, self.to]).await?;
        Ok(found.into_iter().map(view).collect())
    }

    async fn side(&self) -> Result<Option<Side>> {
        let security = self.place.switchable_cluster(&self.name).await?.security;
        let is = |side: &Side| has_same_kms(&security, self.block(*side));
        Ok([Side::Source, Side::Target].into_iter().find(is))
    }

    async fn switch(&self, to: Side) -> Result<()> {
        let other = if to == Side::Target { Side::Source } else { Side::Target };
        let read = self.place.switchable_cluster(&self.name).await?;
        if !has_same_kms(&read.security, self.block(other)) {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the KMS settings of the CephCluster have changed meanwhile: look at them, and run the command again",
            ));
        }
        self.place.switch_kms(&self.name, &read, self.block(to)).await
    }

    async fn hold(&self, osd: &OsdView) -> Result<()> {
        self.place.set_hold(&osd.object, true).await
    }

    async fn release(&self, osd: &OsdView) -> Result<()> {
        self.place.set_hold(&osd.object, false).await
    }

    async fn pause(&self, waiting: &[&OsdView]) -> Result<()> {
        let more = waiting.len().saturating_sub(SHOWN);
        let named: Vec<String> = waiting.iter().take(SHOWN).map(|osd| osd.id.to_string()).collect();
        let named = named.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() };
        if Instant::now() >= self.end {
            return Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "these OSDs have not restarted within {:?}: {named}. Look at their pods and at the log of the Rook operator, \
                     restart the operator if it does nothing, and run the same command again",
                    self.wait
                ),
            )
            .retry(Retry::Always));
        }
        let is_new = self.said.swap(waiting.len(), Ordering::Relaxed) != waiting.len();
        if is_new && !self.quiet {
            write_line(format_args!("waiting for OSDs to restart: {named}"));
        }
        sleep(LOOK_EVERY.min(self.end.saturating_duration_since(Instant::now()))).await;
        Ok(())
    }
}

fn view(osd: SwitchedOsd) -> OsdView {
    let mut view = OsdView::new(osd.id, osd.name, osd.deployment);
    view.hold = match osd.hold.as_deref() {
        None => Hold::No,
        Some(HOLD_VALUE) => Hold::Ours,
        Some(_) => {
            warn!("OSD {}: another program or a person keeps Rook from changing it", view.id);
            Hold::Others
        }
    };
    view.reads = match osd.block {
        Some(0) => Some(Side::Source),
        Some(_) => Some(Side::Target),
        None => None,
    };
    view.is_running = osd.is_running;
    view
}
