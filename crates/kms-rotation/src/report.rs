//! What a rotation has come to.

use std::{path::PathBuf, time::SystemTime};

use kms_core::{KeyName, KeyVersion, Stored};
use kms_luks::{Header, KeySlot, Slot};

use crate::{Osd, engine::Progress, survey::Place};

/// How a rotation ended that did not fail.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// There is a new KEK, and the old one opens nothing any more.
    Rotated,
    /// There is a new KEK, and the old one still opens the devices: the next run removes it.
    Pending,
    /// What an earlier run had left was removed; there is no new KEK.
    Finished,
    /// There was nothing to finish.
    NothingToFinish,
    /// While the end of the grace was waited for, somebody else stored another KEK; the devices were left as they were.
    Superseded,
    /// Nothing was to be done.
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
    /// How it ended.
    pub outcome: Outcome,
    /// The version of the KEK that was found.
    pub from_version: KeyVersion,
    /// The fingerprint of the KEK that was found.
    pub from_fingerprint: String,
    /// The version that the KMS has now.
    pub to_version: KeyVersion,
    /// The fingerprint of the KEK that the KMS has now; the same as before if there is no new KEK.
    pub to_fingerprint: String,
    /// When it began.
    pub started: SystemTime,
    /// When the KEK that the KMS has now was stored, if that is known.
    pub stored: Option<SystemTime>,
    /// How often a KEK was stored under this name, if the KMS counts that.
    pub generation: Option<u64>,
    /// The devices, data first.
    pub devices: Vec<DeviceReport>,
    /// How many superseded versions were destroyed or disabled in the KMS, if that was asked for and done.
    pub retired: Option<usize>,
    /// What is odd, or has to be done by hand.
    pub warnings: Vec<String>,
}

/// A device of a [`Report`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeviceReport {
    /// Where it is.
    pub path: PathBuf,
    /// The slot that the KEK of the KMS opens.
    pub slot: Slot,
    /// The key derivation of that slot, if it was there before.
    pub kdf: Option<String>,
    /// The slot that the old KEK still opens.
    pub pending: Option<Slot>,
    /// The slots that were removed.
    pub removed: Vec<Slot>,
    /// Slots in use that are not the rotation's. They are never touched.
    pub foreign: Vec<Slot>,
}

impl DeviceReport {
    pub(crate) fn new(path: PathBuf, slot: Slot, header: &Header) -> Self {
        Self {
            path,
            slot,
            kdf: header.slot(slot).map(|slot| slot.kdf.name().to_owned()),
            pending: None,
            removed: Vec::new(),
            foreign: header.foreign().map(|KeySlot { slot, .. }| *slot).collect(),
        }
    }
}

impl Report {
    /// What is known at the beginning.
    pub(crate) fn begun(
        osd: &Osd,
        stored: &Stored,
        places: &[Place<'_>],
        started: SystemTime,
        counts: bool,
    ) -> Self {
        let fingerprint = stored.kek.fingerprint();
        let device =
            |place: &Place<'_>| DeviceReport::new(place.device.path().to_owned(), place.at, &place.header);
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
            devices: places.iter().map(device).collect(),
            retired: None,
            warnings: Vec::new(),
        }
    }

    /// Notes that a new KEK was read back.
    pub(crate) fn switched(&mut self, back: &Stored, now: SystemTime, counts: bool) {
        self.outcome = Outcome::Pending;
        self.to_version = back.version.clone();
        self.stored = back.updated.or(Some(now));
        self.generation = generation(&back.version, counts);
    }

    /// Notes the slots that are still to be removed.
    pub(crate) fn pending(&mut self, places: &[Place<'_>]) {
        for (device, place) in self.devices.iter_mut().zip(places) {
            device.slot = place.at;
            device.pending = place.leftovers.first().copied();
        }
    }

    /// Notes a slot that was removed.
    pub(crate) fn removed(&mut self, device: usize, slot: Slot) {
        if let Some(device) = self.devices.get_mut(device) {
            device.removed.push(slot);
            device.pending = None;
        }
    }

    pub(crate) fn ended(mut self, outcome: Outcome) -> Progress {
        self.outcome = outcome;
        Progress::Ended(Box::new(self))
    }
}

/// The number of a version, where the KMS keeps versions and numbers them.
fn generation(version: &KeyVersion, counts: bool) -> Option<u64> {
    if counts { version.as_str().parse().ok() } else { None }
}
