//! An encrypted OSD: one KEK, and the devices that it opens.

use std::{collections::BTreeSet, sync::Arc};

use kms_core::{Error, KeyName, Result};

use crate::{SlotStore, identity::DeviceIdentity};

/// The most devices that an OSD has: data, metadata, write-ahead log.
const MOST_DEVICES: usize = 3;

/// An encrypted OSD: the name of its KEK, and the devices that the KEK opens, data first.
#[derive(Debug)]
pub struct Osd {
    name: KeyName,
    devices: Vec<Arc<dyn SlotStore>>,
    is_confirmed: bool,
}

impl Osd {
    /// An OSD with these devices: data, and then metadata and write-ahead log if it has them. That it has no other device
    /// is not [confirmed](Self::confirmed).
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` without a device, with more than three devices, or if a device is named twice.
    pub fn new<S: SlotStore>(name: KeyName, devices: impl IntoIterator<Item = S>) -> Result<Self> {
        let devices: Vec<Arc<dyn SlotStore>> =
            devices.into_iter().map(|device| Arc::new(device) as Arc<dyn SlotStore>).collect();
        let wrong = |what: String| Err(Error::config(what).context("key", name.as_str()));
        if !(1..=MOST_DEVICES).contains(&devices.len()) {
            return wrong(format!(
                "an OSD has one to {MOST_DEVICES} devices (data, metadata, write-ahead log), not {}",
                devices.len()
            ));
        }
        let mut seen = BTreeSet::new();
        for path in devices.iter().map(|device| device.path()) {
            if !seen.insert(DeviceIdentity::of(path)) {
                return wrong(format!("the device {} is named twice", path.display()));
            }
        }
        Ok(Self { name, devices, is_confirmed: false })
    }

    /// Marks the list of devices as complete: a source other than the caller's own list, such as the OSD's Deployment,
    /// shows that the OSD has no other device.
    ///
    /// A device that is left out does not open with the new KEK. So without this mark a rotation warns, and destroys no
    /// superseded version in the KMS.
    #[must_use]
    pub fn confirmed(mut self) -> Self {
        self.is_confirmed = true;
        self
    }

    /// Whether the list of devices is [confirmed](Self::confirmed).
    pub fn is_confirmed(&self) -> bool {
        self.is_confirmed
    }

    /// The name of its KEK.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// Its devices, data first.
    pub fn devices(&self) -> &[Arc<dyn SlotStore>] {
        &self.devices
    }
}
