//! The check that the KEK of the KMS opens the devices.

use std::{path::PathBuf, time::SystemTime};

use kms_core::{Error, Kek, KeyName, KeyVersion, KmsProvider, Result};

use crate::{
    KeySlot, Observer, Options, Osd, Slot, SlotStore, SlotTable, Step,
    refusal::{Refusal, no_slot, refusal},
    run::Run,
    state::on_device,
};

/// The result of [`verify`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Verified {
    /// The name of the KEK.
    pub name: KeyName,
    /// The version that was read.
    pub version: KeyVersion,
    /// Its fingerprint.
    pub fingerprint: String,
    /// When it was stored. `None` if the KMS does not record it.
    pub stored: Option<SystemTime>,
    /// The devices, in the order of the OSD.
    pub devices: Vec<DeviceCheck>,
}

/// A device of a [`Verified`].
#[derive(Debug)]
#[non_exhaustive]
pub struct DeviceCheck {
    /// The path of the device.
    pub path: PathBuf,
    /// The slot that the KEK opens, or the reason why the KEK does not open the device.
    pub slot: Result<Slot>,
    /// The key derivation of that slot.
    pub kdf: Option<String>,
    /// Other slots of the rotation that are in use: the KEK before or after this one.
    pub leftovers: Vec<Slot>,
    /// Slots in use that do not belong to the rotation.
    pub foreign: Vec<Slot>,
}

impl DeviceCheck {
    /// The result for a device that has no other slots in use.
    pub fn new(path: impl Into<PathBuf>, slot: Result<Slot>) -> Self {
        Self { path: path.into(), slot, kdf: None, leftovers: Vec::new(), foreign: Vec::new() }
    }
}

impl Verified {
    /// The error of the first device from which the OSD was seen not to start ([`Refusal`]), otherwise that of the first
    /// device which could not be checked.
    pub fn failure(&self) -> Option<&Error> {
        let errors = || self.devices.iter().filter_map(|device| device.slot.as_ref().err());
        errors().find(|error| Refusal::of(error).is_some()).or_else(|| errors().next())
    }
}

/// Reads the KEK and tries it on every device. Nothing is changed.
///
/// # Errors
///
/// Errors of reading the KEK. An error of a device is in the result, and does not stop the check of the others.
pub async fn verify(kms: &dyn KmsProvider, osd: &Osd, observer: &dyn Observer) -> Result<Verified> {
    let options = Options::default();
    let run = Run::new(kms, osd, &options, observer);
    let stored = run.read(Step::ReadKek).await.map_err(|error| run.annotate_error(error))?;
    let mut devices = Vec::with_capacity(osd.devices().len());
    for device in osd.devices() {
        devices.push(check(&run, &**device, &stored.kek).await);
    }
    Ok(Verified {
        name: osd.name().clone(),
        version: stored.version,
        fingerprint: stored.kek.fingerprint(),
        stored: stored.updated,
        devices,
    })
}

async fn check(run: &Run<'_>, device: &dyn SlotStore, kek: &Kek) -> DeviceCheck {
    let mut checked = DeviceCheck::new(device.path(), Err(no_slot()));
    let found = async {
        let table = run.table(device).await?;
        checked.foreign = table.foreign().map(|KeySlot { slot, .. }| *slot).collect();
        let Some(slot) = run.find(device, &table, kek).await? else {
            return Err(on_device(
                device,
                passed_over(run, device, &table, kek).await?.unwrap_or_else(no_slot),
            ));
        };
        checked.kdf = table.slot(slot).map(|slot| slot.kdf.name().to_owned());
        checked.leftovers =
            Slot::PAIR.into_iter().filter(|other| *other != slot && table.in_use(*other)).collect();
        Ok(slot)
    };
    checked.slot = found.await;
    checked
}

/// The error of a KEK that opens only a slot of the priority *ignore*. `None` if the KEK opens no such slot.
async fn passed_over(
    run: &Run<'_>,
    device: &dyn SlotStore,
    table: &SlotTable,
    kek: &Kek,
) -> Result<Option<Error>> {
    for KeySlot { slot, .. } in table.slots().filter(|slot| slot.opens_data && slot.ignored) {
        if run.opens(device, *slot, kek).await? {
            return Ok(Some(refusal(format!(
                "the KEK opens only key slot {slot}, whose priority is ignore, so that cryptsetup passes it over: set \
                 the priority (cryptsetup config --key-slot {slot} --priority normal)"
            ))));
        }
    }
    Ok(None)
}
