//! The options for CronJobs.

use std::time::Duration;

use crate::names::Naming;

/// How CronJobs are made.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct JobOptions {
    /// The image with `kms` and cryptsetup.
    pub image: String,
    /// Whose names the CronJobs have.
    pub naming: Naming,
    /// The service account; without one, that of the OSD.
    pub service_account: Option<String>,
    /// How long the old key stays valid, so that an OSD that is just starting with it comes up; without it, what
    /// `kms` takes by itself.
    pub grace: Option<Duration>,
}

impl JobOptions {
    /// CronJobs with Rook's names and this image.
    pub fn new(image: impl Into<String>) -> Self {
        Self { image: image.into(), naming: Naming::Rook, service_account: None, grace: None }
    }

    /// Gives them these names.
    #[must_use]
    pub fn with_naming(mut self, naming: Naming) -> Self {
        self.naming = naming;
        self
    }

    /// Lets them run as this service account, and not as that of the OSD.
    #[must_use]
    pub fn with_service_account(mut self, name: impl Into<String>) -> Self {
        self.service_account = Some(name.into());
        self
    }

    /// Lets the old key stay valid for this long, in whole seconds.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }
}
