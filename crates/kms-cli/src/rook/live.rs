//! Asks the Kubernetes API about the Rook cluster.

use kms_core::{KeyName, Result};
use kms_kube::ClusterRef;
use kms_rook::{Discovery, client::RookNamespace, rook_rotates};
use tracing::warn;

use crate::{args::Global, kubernetes::Kubernetes, output::chain};

/// The Rook cluster whose OSDs are rotated.
#[derive(Debug)]
pub(crate) struct Rook {
    /// `keyRotation.enabled`, as the settings say. The cluster may say another thing by now.
    enabled: bool,
    cluster: Option<(Kubernetes, ClusterRef)>,
    has_own_cron_job: bool,
}

impl Rook {
    /// The cluster whose `security` block has this `keyRotation.enabled`. It cannot be asked about anything else.
    pub(crate) fn new(enabled: Option<bool>) -> Self {
        Self { enabled: enabled.unwrap_or(false), cluster: None, has_own_cron_job: false }
    }

    /// Asks this cluster.
    pub(crate) fn at(self, global: &Global, cluster: &ClusterRef) -> Self {
        let kubernetes = Kubernetes::new(global, global.timeout);
        Self { cluster: Some((kubernetes, cluster.clone())), ..self }
    }

    /// For the pod of a CronJob that replaces Rook's: while its account may not list CronJobs, it takes for granted that
    /// its own CronJob stands in place of Rook's, and so Rook starts no Job for this OSD.
    pub(crate) fn with_own_cron_job(self) -> Self {
        Self { has_own_cron_job: true, ..self }
    }

    /// Checks that Rook does not rotate these keys. Warns if the cluster cannot be asked.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if Rook's CronJobs rotate them, or may do so and cannot be seen; `Conflict` if Rook rotates keys
    /// at the moment.
    pub(crate) async fn check_rotation(&self, keys: &[&KeyName]) -> Result<()> {
        let may_rotate = self.enabled && !self.has_own_cron_job;
        let Some((kubernetes, cluster)) = &self.cluster else {
            let not_asked = || rook_rotates().context("cluster", "not asked; name it with --cluster");
            return if may_rotate { Err(not_asked()) } else { Ok(()) };
        };
        let seen = async {
            let live = kubernetes.cluster(cluster).await?.spec.security.key_rotation.enabled;
            kubernetes.rook(&cluster.kube_namespace).await?.rook_rotation(live || self.enabled).await
        };
        match seen.await {
            Ok(seen) => seen.check(keys),
            Err(error) if may_rotate => Err(rook_rotates().source(error)),
            Err(error) => {
                warn!("kms cannot see whether Rook rotates keys at the same time: {}", chain(&error));
                Ok(())
            }
        }
    }

    /// Reads the Deployments of OSDs; with `only`, that of one key. Warns if they cannot be read.
    pub(crate) async fn deployments(&self, only: Option<&KeyName>) -> Deployments {
        let Some((kubernetes, cluster)) = &self.cluster else { return Deployments(None) };
        let found = async {
            let place: RookNamespace = kubernetes.rook(&cluster.kube_namespace).await?;
            match only {
                Some(name) => place.osds_with_key(name).await,
                None => place.osds().await,
            }
        };
        match found.await {
            Ok(found) => Deployments(Some(found)),
            Err(error) => {
                warn!("kms cannot see which devices the Deployments of the OSDs have: {}", chain(&error));
                Deployments(None)
            }
        }
    }
}

/// The Deployments of OSDs, if they could be read.
#[derive(Debug, Default)]
pub(crate) struct Deployments(Option<Discovery>);

impl Deployments {
    /// Whether the Deployment of an OSD has as many devices as are named. `false` if no Deployment is known. `id` is the
    /// number of the OSD, if that is known.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the Deployment has other devices, or cannot be understood.
    pub(crate) fn confirms(&self, name: &KeyName, id: Option<u32>, devices: usize) -> Result<bool> {
        let Some(found) = &self.0 else { return Ok(false) };
        match found.osd_of(name, id)? {
            Some(osd) => osd.check_devices(devices).map(|()| true),
            None => Ok(false),
        }
    }
}
