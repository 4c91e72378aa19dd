//! Proves that the KEKs of the target open the devices of this host.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use kms_core::{Error, ErrorKind, KeyName, KmsProvider, Result, Stored};
use kms_luks::{Cryptsetup, OsdFolder};
use kms_migrate::Proof;
use kms_rotation::{Osd, Silent, verify};
use tokio::sync::Semaphore;

use crate::output::chain;

/// How many OSDs have their devices tried at a time by default: each try costs memory and a processor.
const PARALLEL: usize = 2;

/// The devices of the OSDs of this host, by the name of their key.
pub(super) struct OnDevices {
    to: Arc<dyn KmsProvider>,
    osds: BTreeMap<KeyName, Vec<Osd>>,
    opened: AtomicUsize,
    permits: Semaphore,
}

impl OnDevices {
    /// Finds the OSDs in Rook's folders.
    ///
    /// # Errors
    ///
    /// `NotFound` if this host has none: a proof that opens no device proves nothing. Errors of reading the folders.
    pub(super) fn find(
        to: Arc<dyn KmsProvider>,
        data_dir: &[PathBuf],
        kube_namespace: Option<&str>,
        cryptsetup: &Cryptsetup,
        jobs: Option<NonZeroUsize>,
    ) -> Result<Self> {
        let folders: Vec<_> = data_dir.iter().filter(|folder| folder.exists()).cloned().collect();
        let mut osds: BTreeMap<KeyName, Vec<Osd>> = BTreeMap::new();
        for (name, folders) in OsdFolder::find(&folders, kube_namespace)? {
            for folder in folders {
                let osd = Osd::new(name.clone(), cryptsetup.devices(folder.nodes().to_vec()))?;
                osds.entry(name.clone()).or_default().push(osd);
            }
        }
        if osds.is_empty() {
            return Err(Error::new(
                ErrorKind::NotFound,
                "this host has no encrypted OSD on a PVC, so no device can be opened: run it on a host of OSDs, or give \
                 --data-dir",
            ));
        }
        let parallel = jobs.map_or(PARALLEL, NonZeroUsize::get);
        Ok(Self { to, osds, opened: AtomicUsize::new(0), permits: Semaphore::new(parallel) })
    }

    /// How many devices were opened.
    pub(super) fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }
}

impl Proof for OnDevices {
    async fn try_kek(&self, name: &KeyName, target: &Stored) -> Result<()> {
        // An error means that the semaphore is closed, and no code closes it.
        let _permit = self.permits.acquire().await;
        for osd in self.osds.get(name).into_iter().flatten() {
            let verified = verify(&*self.to, osd, &Silent).await?;
            if verified.version != target.version {
                return Err(Error::key_changed(name));
            }
            for device in verified.devices {
                device.slot.map_err(|error| {
                    Error::new(
                        error.kind(),
                        format!("the KEK of the target does not open a device: {}", chain(&error)),
                    )
                    .context("key", name.as_str())
                })?;
                self.opened.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}
