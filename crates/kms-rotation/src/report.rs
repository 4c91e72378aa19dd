//! The report of a rotation.

use std::{path::PathBuf, time::SystemTime};

use kms_core::{KeyName, KeyVersion, Stored};

use crate::{KeySlot, Osd, Slot, SlotTable};

/// The result of a rotation that did not fail.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// There is a new KEK, and the old one opens no device any more.
    Rotated,
    /// There is a new KEK, and the old one still opens the devices: the next run removes its slots.
    Pending,
    /// Leftover slots of an earlier run were removed, or superseded versions destroyed; there is no new KEK.
    Finished,
    /// There was nothing to finish.
    NothingToFinish,
    /// Another writer stored another KEK during the grace period; no slot was removed.
    Superseded,
    /// A dry run: nothing was changed.
    DryRun,
}

impl Outcome {
    /// The stable name, as in JSON output and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rotated => "rotated",
            Self::Pending => "pending",
            Self::Finished => "finished",
            Self::NothingToFinish => "nothing-to-finish",
            Self::Superseded => "superseded",
            Self::DryRun => "dry-run",
        }
    }
}

/// A rotation, without any key material.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The name of the KEK.
    pub name: KeyName,
    /// The result.
    pub outcome: Outcome,
    /// The version of the KEK at the beginning.
    pub from_version: KeyVersion,
    /// The fingerprint of the KEK at the beginning.
    pub from_fingerprint: String,
    /// The version that the KMS has now.
    pub to_version: KeyVersion,
    /// The fingerprint of the KEK that the KMS has now; the same as before if there is no new KEK.
    pub to_fingerprint: String,
    /// When the rotation began.
    pub started: SystemTime,
    /// When the KEK that the KMS has now was stored. `None` if that is unknown.
    pub stored: Option<SystemTime>,
    /// How many times a KEK was stored under this name. `None` if the KMS does not count that.
    pub generation: Option<u64>,
    /// The devices, data first.
    pub devices: Vec<DeviceReport>,
    /// Whether it is [confirmed](Osd::confirmed) that the OSD has no other devices.
    pub confirmed: bool,
    /// How many superseded versions were destroyed or disabled in the KMS. `None` if that was not asked for, or failed.
    pub retired: Option<usize>,
    /// What a run would do, in order; empty but for a dry run.
    pub plan: Vec<String>,
    /// Oddities, and tasks for an operator.
    pub warnings: Vec<String>,
}

/// A device of a [`Report`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeviceReport {
    /// The path of the device.
    pub path: PathBuf,
    /// The slot that the KEK of the KMS opens.
    pub slot: Slot,
    /// The key derivation of that slot. `None` if this run added the slot.
    pub kdf: Option<String>,
    /// The slot that the old KEK still opens. `None` if there is no such slot.
    pub pending: Option<Slot>,
    /// The slots that were removed.
    pub removed: Vec<Slot>,
    /// Slots in use that do not belong to the rotation, which never writes to them.
    pub foreign: Vec<Slot>,
}

impl DeviceReport {
    pub(crate) fn new(path: PathBuf, slot: Slot, table: &SlotTable) -> Self {
        Self {
            path,
            slot,
            kdf: table.slot(slot).map(|slot| slot.kdf.name().to_owned()),
            pending: None,
            removed: Vec::new(),
            foreign: table.foreign().map(|KeySlot { slot, .. }| *slot).collect(),
        }
    }
}

impl Report {
    /// The report at the beginning. `counts` says whether the KMS numbers its versions.
    pub(crate) fn begun(
        osd: &Osd,
        stored: &Stored,
        devices: Vec<DeviceReport>,
        started: SystemTime,
        counts: bool,
    ) -> Self {
        let fingerprint = stored.kek.fingerprint();
        Self {
            name: osd.name().clone(),
            outcome: Outcome::NothingToFinish,
            from_version: stored.version.clone(),
            from_fingerprint: fingerprint.clone(),
            to_version: stored.version.clone(),
            to_fingerprint: fingerprint,
            started,
            stored: stored.updated,
            generation: generation(&stored.version, counts),
            devices,
            confirmed: osd.is_confirmed(),
            retired: None,
            plan: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Ends the report. Warns if a device may have been left out.
    pub(crate) fn end(&mut self, outcome: Outcome) {
        self.outcome = outcome;
        if !self.confirmed {
            let paths: Vec<_> = self.devices.iter().map(|device| device.path.display().to_string()).collect();
            self.warnings.push(format!(
                "nothing confirms that the OSD has no other device than {}: the new KEK does not open a device that \
                 was left out",
                paths.join(", ")
            ));
        }
    }

    /// Records that a new KEK was read back.
    pub(crate) fn switched(&mut self, back: &Stored, now: SystemTime, counts: bool) {
        self.outcome = Outcome::Pending;
        self.to_version = back.version.clone();
        self.stored = back.updated.or(Some(now));
        self.generation = generation(&back.version, counts);
    }

    /// Records a slot that was removed.
    pub(crate) fn removed(&mut self, device: usize, slot: Slot) {
        if let Some(device) = self.devices.get_mut(device) {
            device.removed.push(slot);
            device.pending = None;
        }
    }
}

/// The number of a version. `None` if the KMS does not number its versions.
fn generation(version: &KeyVersion, counts: bool) -> Option<u64> {
    if counts { version.as_str().parse().ok() } else { None }
}
