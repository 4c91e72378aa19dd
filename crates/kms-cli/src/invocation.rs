//! One call of the program: its options, its environment and its providers.

use std::sync::Arc;

use kms_core::{KmsProvider, Result};
use kms_dispatch::Registry;
use kms_luks::Cryptsetup;

use crate::{args::Global, environment::Environment, kubernetes::Kubernetes, target::Target};

/// The variable that makes device-mapper work without udev, for example in an initramfs.
const WITHOUT_UDEV: &str = "DM_DISABLE_UDEV";

/// How the program was called.
#[derive(Debug)]
pub(crate) struct Invocation<'a> {
    pub(crate) global: Global,
    pub(crate) environment: &'a Environment,
    /// Further providers, in addition to those of this workspace.
    pub(crate) registry: Registry,
    /// The options of a rotation, before those of the command line.
    pub(crate) rotation: kms_rotation::Options,
}

impl Invocation<'_> {
    /// Finds the name of the CephCluster if the command line has its namespace only.
    pub(crate) async fn find_cluster(&mut self) -> Result<()> {
        if let Some(cluster) = self.global.cluster.as_ref().filter(|cluster| cluster.name.is_empty()) {
            let kubernetes = Kubernetes::new(&self.global, self.global.timeout);
            self.global.cluster = Some(kubernetes.only_cluster(&cluster.kube_namespace).await?);
        }
        Ok(())
    }

    /// Determines the KMS from the options and the environment.
    pub(crate) async fn target(&self) -> Result<Target> {
        Target::find(&self.global, self.environment, &self.registry).await
    }

    /// Connects to the KMS.
    pub(crate) async fn connect(&self) -> Result<Arc<dyn KmsProvider>> {
        self.target().await?.connect().await
    }

    /// Connects to the KMS to store keys.
    pub(crate) async fn connect_to_write(&self) -> Result<Arc<dyn KmsProvider>> {
        self.target().await?.connect_to_write().await
    }

    /// The program `cryptsetup`, from the search path or from the usual folders.
    pub(crate) fn cryptsetup(&self) -> Cryptsetup {
        let mut cryptsetup = Cryptsetup::new();
        if let Some(path) = self.environment.get("PATH") {
            cryptsetup = cryptsetup.with_search_path(path);
        }
        if let Some(value) = self.environment.get(WITHOUT_UDEV) {
            cryptsetup = cryptsetup.with_env(WITHOUT_UDEV, value);
        }
        cryptsetup
    }
}
