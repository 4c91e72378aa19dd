//! What is taken back when a rotation cannot go on.

use kms_core::{Error, Kek, PutMode, Result, Stored};
use kms_luks::Slot;
use tracing::warn;

use crate::{
    Step,
    kms::changed,
    run::Run,
    survey::{Place, at},
};

/// What an error says of the devices.
const STATE: &str = "devices";
/// Everything was taken back.
const AS_BEFORE: &str = "as before";
/// Both slots stay.
pub(crate) const BOTH: &str = "they open with the old KEK and with the new one; the next run finishes";

/// A slot that was made for the new KEK, or may have been.
#[derive(Debug)]
pub(crate) struct Made {
    /// The number of the device.
    pub(crate) device: usize,
    /// The slot.
    pub(crate) slot: Slot,
}

/// Adds that both slots stay.
pub(crate) fn both_stay(error: Error) -> Error {
    error.context(STATE, BOTH)
}

impl Run<'_> {
    /// Removes the slots of a new KEK that is not in the KMS and will never be there. Gives `cause` back, with what
    /// has become of the devices.
    pub(crate) async fn undo(&self, places: &[Place<'_>], made: &[Made], new: &Kek, cause: Error) -> Error {
        if made.is_empty() {
            return cause;
        }
        match self.take_back(places, made, new).await {
            Ok(()) => cause.context(STATE, AS_BEFORE),
            Err(error) => {
                warn!(%error, "the key slots of the new KEK are left for the next run to remove");
                both_stay(cause)
            }
        }
    }

    async fn take_back(&self, places: &[Place<'_>], made: &[Made], new: &Kek) -> Result<()> {
        // Only what the KMS holds now may decide which slot stays.
        let fresh = self.read(Step::ReadKek).await?;
        if fresh.kek.ct_eq(new) {
            return Err(changed());
        }
        for Made { device, slot } in made {
            let Some(Place { device, at: old, .. }) = places.get(*device) else { continue };
            let header = self.header(device).await?;
            // Somebody else may have removed it, and put a key of theirs there.
            if !header.in_use(*slot) || !self.opens(device, *slot, new).await? {
                continue;
            }
            let keep = if self.opens(device, *old, &fresh.kek).await? {
                *old
            } else {
                self.find(device, &header, &fresh.kek).await?.ok_or_else(|| at(device, changed()))?
            };
            let proof = self.verify(device, keep, &fresh.kek).await?;
            self.kill(device, *slot, &proof, &fresh.kek).await?;
        }
        Ok(())
    }

    /// The new KEK is in the KMS and does not open all devices, since somebody else has written to a device meanwhile:
    /// puts the old one back, if that still opens them all.
    pub(crate) async fn put_back(
        &self,
        old: &Stored,
        new_version: &kms_core::KeyVersion,
        places: &[Place<'_>],
        cause: Error,
    ) -> Error {
        let put_back = async {
            for place in places {
                if !self.opens(place.device, place.at, &old.kek).await? {
                    return Err(at(place.device, changed()));
                }
            }
            let mode = PutMode::Update(new_version.clone());
            self.step(Step::PutBack, self.kms.put(self.osd.name(), &old.kek, mode)).await
        };
        match put_back.await {
            Ok(_) => cause.context("kms", "holds the old KEK again, which opens all devices"),
            Err(error) => {
                warn!(%error, "the old KEK was not put back");
                cause.context(
                    "kms",
                    "holds the new KEK, which may not open all devices: look at them (kms verify)",
                )
            }
        }
    }
}
