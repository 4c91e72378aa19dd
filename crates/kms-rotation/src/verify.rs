//! Whether the KEK that the KMS holds opens the devices.

use std::{path::PathBuf, time::SystemTime};

use kms_core::{Error, KeyName, KeyVersion, KmsProvider, Result};
use kms_luks::{Device, KeySlot, Slot};

use crate::{
    Observer, Options, Osd, Step,
    run::Run,
    survey::{at, no_slot},
};

/// What [`verify`] has found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Verified {
    /// The name of the KEK.
    pub name: KeyName,
    /// The version that was read.
    pub version: KeyVersion,
    /// Its fingerprint.
    pub fingerprint: String,
    /// When it was stored, if the KMS knows.
    pub stored: Option<SystemTime>,
    /// The devices, in the order in which they were given.
    pub devices: Vec<DeviceCheck>,
}

/// A device of a [`Verified`].
#[derive(Debug)]
#[non_exhaustive]
pub struct DeviceCheck {
    /// Where it is.
    pub path: PathBuf,
    /// The slot that the KEK opens, or why it opens none.
    pub slot: Result<Slot>,
    /// The key derivation of that slot.
    pub kdf: Option<String>,
    /// Slots of the rotation that are in use besides: the KEK before or after this one.
    pub leftovers: Vec<Slot>,
    /// Slots in use that are not the rotation's.
    pub foreign: Vec<Slot>,
}

impl Verified {
    /// The first device that the KEK does not open.
    pub fn failure(&self) -> Option<&Error> {
        self.devices.iter().find_map(|device| device.slot.as_ref().err())
    }
}

/// Reads the KEK and tries it on every device. Nothing is changed.
///
/// # Errors
///
/// Those of reading the KEK. What is wrong with a device is in the answer, and keeps no other from being looked at.
pub async fn verify(kms: &dyn KmsProvider, osd: &Osd, observer: &dyn Observer) -> Result<Verified> {
    let options = Options::default();
    let run = Run::new(kms, osd, &options, observer);
    let stored = run.read(Step::ReadKek).await.map_err(|error| run.named(error))?;
    let mut devices = Vec::with_capacity(osd.devices().len());
    for device in osd.devices() {
        devices.push(check(&run, device, &stored.kek).await);
    }
    Ok(Verified {
        name: osd.name().clone(),
        version: stored.version,
        fingerprint: stored.kek.fingerprint(),
        stored: stored.updated,
        devices,
    })
}

async fn check(run: &Run<'_>, device: &Device, kek: &kms_core::Kek) -> DeviceCheck {
    let mut checked = DeviceCheck {
        path: device.path().to_owned(),
        slot: Err(no_slot()),
        kdf: None,
        leftovers: Vec::new(),
        foreign: Vec::new(),
    };
    let found = async {
        let header = run.header(device).await?;
        checked.foreign = header.foreign().map(|KeySlot { slot, .. }| *slot).collect();
        let slot = run.find(device, &header, kek).await?.ok_or_else(|| at(device, no_slot()))?;
        checked.kdf = header.slot(slot).map(|slot| slot.kdf.name().to_owned());
        checked.leftovers =
            Slot::PAIR.into_iter().filter(|other| *other != slot && header.in_use(*other)).collect();
        Ok(slot)
    };
    checked.slot = found.await;
    checked
}
