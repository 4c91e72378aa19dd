//! The states of a rotation, and what each of them knows.

use std::sync::Arc;

use kms_core::{Error, ErrorKind, Kek, KeyVersion, Result, Stored};
use tokio::time::Instant;
use tracing::warn;

use crate::{KeySlot, Proof, Report, Slot, SlotStore, SlotTable, report::Outcome, sight::Sight};

/// Where a rotation stands. [`Run::next`](crate::run::Run::next) names the transition out of each state.
///
/// K1 is the KEK that the KMS held at the beginning, K2 the new one. In every state the KEK that the KMS returns opens
/// every device.
#[derive(Debug)]
pub(crate) enum State {
    /// Nothing has been read.
    Start,
    /// A dry run has read K1 and the slots.
    Rehearsal(Box<Found>),
    /// K1 and the slots have been read.
    Surveyed(Box<Found>),
    /// The slots are unsettled: there are leftovers, or Rook may be between two of its steps. K1 opens every device,
    /// and the KMS and all slots have been seen unchanged for a grace period, so no program is at work on them.
    Obsolete(Box<Found>),
    /// The slots are unsettled, and have not been seen unchanged for long enough. The run pauses.
    Young(Young),
    /// The pause of [`Young`](Self::Young) is over.
    Grown(Young),
    /// As [`Obsolete`](Self::Obsolete), and the run makes no new KEK, since an earlier run has just made one.
    Outlived(Box<Found>),
    /// There are no leftover slots.
    Clean(Box<Found>),
    /// The KMS allows an update of K1, as far as it can be asked. No device has been written to.
    Permitted(Box<Found>),
    /// K2 has a proven slot on every device. It has not been sent to the KMS.
    Added(Box<Attempt>),
    /// K2 was sent to the KMS, and the error does not tell whether the KMS stored it.
    Unclear(Box<Attempt>, Error),
    /// The KMS reported this version for K2.
    Stored(Box<Attempt>, KeyVersion),
    /// The KMS returns K2, and K2 opens every device. The old slots are still there.
    Switched(Box<Switched>, Box<Fresh>),
    /// As [`Switched`](Self::Switched), and the run pauses until the end of the grace period. K2 is out of memory.
    Grace(Box<Switched>),
    /// The pause of [`Grace`](Self::Grace) is over.
    Expired(Box<Switched>),
    /// The end.
    Ended(Box<Report>),
}

impl State {
    /// The end of the pause, in the two states that pause.
    pub(crate) fn until(&self) -> Option<Instant> {
        match self {
            Self::Young(young) => Some(young.until),
            Self::Grace(switched) => Some(switched.until),
            _ => None,
        }
    }

    /// The state after the pause. A state that does not pause stays.
    pub(crate) fn woken(self) -> Self {
        match self {
            Self::Young(young) => Self::Grown(young),
            Self::Grace(switched) => Self::Expired(switched),
            other => other,
        }
    }

    pub(crate) fn ended(mut report: Report, outcome: Outcome) -> Self {
        report.end(outcome);
        Self::Ended(Box::new(report))
    }
}

/// K1 and the slots of all devices.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) stored: Stored,
    pub(crate) places: Vec<Place>,
    pub(crate) report: Report,
}

impl Found {
    pub(crate) fn has_leftovers(&self) -> bool {
        self.places.iter().any(|place| !place.leftovers.is_empty())
    }

    pub(crate) fn sight(&self) -> Sight {
        Sight::new(&self.stored.version, self.places.iter().map(|place| &place.table))
    }

    /// Warns of each leftover slot that kms cannot attribute to a rotation of its own, before the slot is removed: in
    /// the log, and in the report.
    pub(crate) fn warn_of_unattributed(&mut self) {
        for place in &self.places {
            let slots = place.leftovers.iter().filter_map(|slot| place.table.slot(*slot));
            for KeySlot { slot, kdf, .. } in slots.filter(|slot| slot.may_be_anothers()) {
                let warning = format!(
                    "{}: key slot {slot} is in use besides the slot of the KEK, with {}, which kms does not give to its \
                     slots: it may hold a passphrase of a person, or come from Rook. The rotation removes it. If the key is \
                     needed, add it in a slot from 2 on first (cryptsetup luksAddKey --new-key-slot 2)",
                    place.device.path().display(),
                    kdf.name(),
                );
                warn!(key = self.report.name.as_str(), "{warning}");
                self.report.warnings.push(warning);
            }
        }
    }

    /// Records in the report the slots that a later run removes.
    pub(crate) fn report_pending(&mut self) {
        for (device, place) in self.report.devices.iter_mut().zip(&self.places) {
            device.slot = place.at;
            device.pending = place.leftovers.first().copied();
        }
    }
}

/// Unsettled slots, which have to stay unchanged until the end of the pause.
#[derive(Debug)]
pub(crate) struct Young {
    pub(crate) fingerprint: String,
    pub(crate) sight: Sight,
    /// When the slots will have been unchanged for long enough.
    pub(crate) until: Instant,
    /// Whether the run makes a new KEK after the pause.
    pub(crate) rotates: bool,
}

/// A new KEK that has slots on the devices, and is not yet known to be in the KMS.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) found: Found,
    /// K2.
    pub(crate) new: Kek,
    /// The slots of K2, in the order of the devices.
    pub(crate) made: Vec<Made>,
}

/// A slot that the run added for the new KEK, or may have added.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) device: Arc<dyn SlotStore>,
    pub(crate) slot: Slot,
    /// The slot of the old KEK, which the device keeps if the new one is taken back.
    pub(crate) old: Slot,
}

/// A rotation whose new KEK is in the KMS, and whose old slots have not been removed.
#[derive(Debug)]
pub(crate) struct Switched {
    pub(crate) report: Report,
    /// The end of the grace period.
    pub(crate) until: Instant,
    /// The slots of each device, in the order of the devices.
    pub(crate) devices: Vec<SlotPair>,
}

/// The new KEK, and a proof for each device that it opens the device. Neither outlives a pause: ten minutes are a long
/// time for a KEK to lie in memory, and for a proof to stay true.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(crate) kek: Kek,
    pub(crate) proofs: Vec<Proof>,
}

/// The slot of the new KEK, and the slot of the old one.
#[derive(Debug)]
pub(crate) struct SlotPair {
    pub(crate) device: Arc<dyn SlotStore>,
    pub(crate) new: Slot,
    /// The slot of the old KEK. `None` if it does not belong to the rotation.
    pub(crate) old: Option<Slot>,
    /// All slots right after the switch.
    pub(crate) table: SlotTable,
}

/// A device, and the slot that the KEK opens.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) device: Arc<dyn SlotStore>,
    pub(crate) table: SlotTable,
    /// The slot of the KEK.
    pub(crate) at: Slot,
    /// Whether this run has opened [`at`](Self::at) with the KEK. Otherwise it is the only slot of the pair in use.
    pub(crate) proven: bool,
    /// The other slots of the pair that are in use.
    pub(crate) leftovers: Vec<Slot>,
    /// The slots that this run has removed.
    pub(crate) removed: Vec<Slot>,
}

impl Place {
    /// A slot of the pair for a new KEK.
    ///
    /// # Errors
    ///
    /// `Conflict` if both slots are in use, or if the header has no room for another slot.
    pub(crate) fn free(&self) -> Result<Slot> {
        // The header has room again once the run has removed a leftover slot.
        let is_leftover = |slot: Slot| slot != self.at && self.table.in_use(slot);
        if !Slot::PAIR.into_iter().any(is_leftover) {
            self.table.refuse_full().map_err(|error| on_device(&*self.device, error))?;
        }
        let mut free =
            Slot::PAIR.into_iter().filter(|slot| *slot != self.at && !self.leftovers.contains(slot));
        free.next().ok_or_else(|| {
            on_device(&*self.device, Error::new(ErrorKind::Conflict, "no key slot is free for a new KEK"))
        })
    }

    /// Whether Rook's rotation may be between two of its steps, though there is no leftover slot.
    ///
    /// After its second step Rook has the KEK in slot 1 alone, and then writes slot 0 (rook-behaviour §12.2). Rook
    /// leaves the key derivation to cryptsetup, which makes a costly one; a slot of ours has the cheapest.
    pub(crate) fn may_be_rooks(&self) -> bool {
        let in_pair = |slot: &Slot| self.table.in_use(*slot);
        Slot::PAIR.into_iter().filter(in_pair).eq([Slot::OTHER])
            && self.table.slot(Slot::OTHER).is_some_and(KeySlot::may_be_anothers)
    }

    /// Whether `now` has the slots of the first look, without the ones that this run has removed, and with `added`.
    pub(crate) fn has_only_ours(&self, added: Slot, now: &SlotTable) -> bool {
        let before = self.table.salts().filter(|(slot, _)| *slot != added && !self.removed.contains(slot));
        self.table.uuid() == now.uuid() && before.eq(now.salts().filter(|(slot, _)| *slot != added))
    }

    /// The warning about a slot of the KEK that does not belong to the rotation, and so stays.
    pub(crate) fn warning(&self) -> Option<String> {
        if self.at.is_rotation() {
            return None;
        }
        Some(format!(
            "{}: the KEK was in key slot {}, which is not one of the rotation's (0 and 1): the superseded KEK still \
             opens it; remove it yourself",
            self.device.path().display(),
            self.at
        ))
    }
}

/// Adds the path of the device to an error.
pub(crate) fn on_device(device: &dyn SlotStore, error: Error) -> Error {
    error.context("device", device.path().display().to_string())
}
