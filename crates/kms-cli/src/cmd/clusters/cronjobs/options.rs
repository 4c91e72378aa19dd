//! The options of CronJobs: those of the command line, those that the CephCluster records, those that are in use.

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use kms_core::Result;
use kms_rook::{JobOptions, Naming};
use tracing::warn;

use crate::{args::duration, cmd::clusters::source::Source};

/// How a CronJob is made. The annotations of the CephCluster have the same options.
#[derive(clap::Args, Debug)]
pub(super) struct Job {
    /// The image that the CronJobs run [default: the annotation kms.ceph.rook.io/rotation-image of the CephCluster]
    ///
    /// It must contain kms and cryptsetup, as the image of deploy/Containerfile does. Each option of the CronJobs has an
    /// annotation, which every command reads: rotation-image, rotation-service-account, rotation-grace,
    /// rotation-keep-superseded and rotation-beside-rook. What neither an option nor an annotation sets stays as it is in
    /// the CronJobs.
    #[arg(long, value_name = "IMAGE", value_parser = NonEmptyStringValueParser::new())]
    image: Option<String>,

    /// The service account of the CronJobs [default: the service account of the OSD]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    service_account: Option<String>,

    /// How long the old KEK still opens the devices after a rotation: 5m, 90s [default: as in kms rotate]
    #[arg(long, value_name = "D", value_parser = duration)]
    grace: Option<Duration>,

    /// Keep superseded KEKs in Key Protect or on a KMIP server; by default the CronJobs destroy them after the grace period
    #[arg(long)]
    keep_superseded: bool,

    #[command(flatten)]
    names: Names,
}

/// Whose names the CronJobs have.
#[derive(clap::Args, Debug)]
pub(super) struct Names {
    /// Give the CronJobs other names and labels than Rook's, for a cluster where keyRotation is not enabled
    ///
    /// While keyRotation is not enabled, Rook deletes every CronJob that has its label. With --beside-rook the CronJobs
    /// lack that label, so Rook leaves them alone.
    #[arg(long)]
    beside_rook: bool,
}

impl Names {
    fn said(&self) -> JobOptions {
        let naming = if self.beside_rook { Naming::BesideRook } else { Naming::Rook };
        JobOptions::default().with_naming(naming)
    }

    /// The names that the command line or the CephCluster asks for.
    pub(super) fn naming(&self, source: &Source) -> Result<Naming> {
        Ok(self.said().or(recorded(source)?).naming)
    }
}

impl Job {
    /// The options of the command line.
    fn said(&self) -> JobOptions {
        let mut options = self.names.said();
        options.image.clone_from(&self.image);
        options.service_account.clone_from(&self.service_account);
        options.grace = self.grace;
        options.destroy_superseded = self.keep_superseded.then_some(false);
        options
    }

    /// The options of the command line, then those that the CephCluster records, then those of the CronJobs as they are.
    /// Warns of options that another run would not know.
    pub(super) async fn options(&self, source: &Source) -> Result<JobOptions> {
        let (said, recorded) = (self.said(), recorded(source)?);
        let chosen = said.clone().or(recorded.clone());
        let options = chosen.clone().or(source.stored_options(chosen.naming).await?);
        let (known, given) = (recorded.annotations(), said.annotations());
        for (name, value) in &given {
            if known.get(name).is_some_and(|other| other != value) {
                warn!(
                    "the command line differs from the annotation {name} of the CephCluster, which every other run follows"
                );
            }
        }
        let mut kept = options.annotations();
        kept.retain(|name, _| !known.contains_key(name) && !given.contains_key(name));
        if !kept.is_empty() {
            let place = match &source.name {
                Some(cluster) => format!("-n {} {}", cluster.kube_namespace, cluster.name),
                None => "-n NAMESPACE NAME".to_owned(),
            };
            let annotations: Vec<_> = kept.iter().map(|(name, value)| format!("{name}={value}")).collect();
            warn!(
                "options of the CronJobs stay as they are, though the CephCluster does not record them; record them: kubectl \
                 annotate cephcluster {place} {}",
                annotations.join(" ")
            );
        }
        Ok(options)
    }
}

/// The options that the CephCluster records.
pub(super) fn recorded(source: &Source) -> Result<JobOptions> {
    JobOptions::of_annotations(&source.annotations)
}
