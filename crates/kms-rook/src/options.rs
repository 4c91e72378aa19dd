//! The options for CronJobs.

use std::time::Duration;

use crate::names::Naming;

/// Options for the CronJobs of a cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct JobOptions {
    /// The image with `kms` and cryptsetup.
    pub image: String,
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
        Self {
            image: image.into(),
            naming: Naming::Rook,
            service_account: None,
            grace: None,
            destroy_superseded: None,
        }
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
