//! The options for CronJobs, and the places where they are recorded.

use std::{collections::BTreeMap, time::Duration};

use kms_core::{
    Error, Result,
    config::{nearest, parse_bool, parse_duration},
};

use crate::names::Naming;

/// The beginning of the annotations of a CephCluster that record options.
const PREFIX: &str = "kms.ceph.rook.io/rotation-";

/// The ends of these annotations.
const NAMES: [&str; 5] = ["image", "service-account", "grace", "keep-superseded", "beside-rook"];

/// Options for the CronJobs of a cluster. Those that are not set have a default.
///
/// The annotations of the CephCluster record them, so that every run and every person applies the same ones.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct JobOptions {
    /// The image with `kms` and cryptsetup. It has no default.
    pub image: Option<String>,
    /// The names of the CronJobs.
    pub naming: Naming,
    /// The service account; `None` for the account of the OSD.
    pub service_account: Option<String>,
    /// The grace period, during which the old KEK still opens the devices for an OSD that is starting; `None` for the
    /// default of `kms`.
    pub grace: Option<Duration>,
    /// Whether the jobs destroy superseded KEKs after the grace period; `None` for the default of the provider: yes for
    /// Key Protect and KMIP, which keep each KEK as an object of its own.
    pub destroy_superseded: Option<bool>,
}

impl JobOptions {
    /// Options with this image and Rook's names.
    pub fn new(image: impl Into<String>) -> Self {
        Self { image: Some(image.into()), ..Self::default() }
    }

    /// The options that the annotations of a CephCluster record: `kms.ceph.rook.io/rotation-image`, `-service-account`,
    /// `-grace`, `-keep-superseded` and `-beside-rook`. An empty annotation counts as absent.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if one of them is not known or has an invalid value.
    pub fn of_annotations(annotations: &BTreeMap<String, String>) -> Result<Self> {
        let mut options = Self::default();
        for (annotation, value) in annotations {
            let Some(name) = annotation.strip_prefix(PREFIX) else { continue };
            let invalid = |why: &str| Error::config(format!("the annotation {annotation} is {why}"));
            match (name, value.trim()) {
                (name, _) if !NAMES.contains(&name) => {
                    let hint = nearest(name, NAMES).map(|known| format!("; did you mean {PREFIX}{known}?"));
                    return Err(invalid(&format!("not known{}", hint.unwrap_or_default())));
                }
                (_, "") => {}
                ("image", image) => options.image = Some(image.to_owned()),
                ("service-account", account) => options.service_account = Some(account.to_owned()),
                ("grace", grace) => options.grace = Some(parse_duration(grace).map_err(invalid)?),
                ("keep-superseded", keep) => {
                    options.destroy_superseded = Some(!parse_bool(keep).map_err(invalid)?);
                }
                (_, beside) => {
                    if parse_bool(beside).map_err(invalid)? {
                        options.naming = Naming::BesideRook;
                    }
                }
            }
        }
        Ok(options)
    }

    /// These options, and those of `other` where these are not set.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            image: self.image.or(other.image),
            naming: if self.naming == Naming::Rook { other.naming } else { self.naming },
            service_account: self.service_account.or(other.service_account),
            grace: self.grace.or(other.grace),
            destroy_superseded: self.destroy_superseded.or(other.destroy_superseded),
        }
    }

    /// The annotations that record these options, without those that are not set.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        let Self { image, naming, service_account, grace, destroy_superseded } = self;
        let values = [
            image.clone(),
            service_account.clone(),
            grace.map(|grace| format!("{}s", grace.as_secs())),
            destroy_superseded.map(|destroy| (!destroy).to_string()),
            (*naming == Naming::BesideRook).then(|| true.to_string()),
        ];
        let named = NAMES.iter().zip(values);
        named.filter_map(|(name, value)| Some((format!("{PREFIX}{name}"), value?))).collect()
    }

    /// Sets the names of the CronJobs.
    #[must_use]
    pub fn with_naming(mut self, naming: Naming) -> Self {
        self.naming = naming;
        self
    }

    /// Runs the jobs as this service account instead of that of the OSD.
    #[must_use]
    pub fn with_service_account(mut self, name: impl Into<String>) -> Self {
        self.service_account = Some(name.into());
        self
    }

    /// Sets whether the jobs destroy superseded KEKs.
    #[must_use]
    pub fn with_destroy_superseded(mut self, destroy: bool) -> Self {
        self.destroy_superseded = Some(destroy);
        self
    }

    /// Sets the grace period. Fractions of a second are dropped.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }
}

/// The error for CronJobs without an image.
pub(crate) fn no_image() -> Error {
    Error::config(format!(
        "no image is set for the rotation jobs, and there is no default: build the one of deploy/Containerfile, push it to \
         your registry, and record it at the CephCluster (kubectl annotate cephcluster -n NAMESPACE NAME \
         {PREFIX}image=IMAGE) or give --image"
    ))
}
