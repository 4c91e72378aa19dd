//! Takes back a new KEK when the rotation cannot go on.

use kms_core::{Error, Kek, KeyVersion, PutMode, Result, Stored};
use tracing::warn;

use crate::{
    Step,
    kms::changed,
    run::Run,
    state::{Made, on_device},
};

/// The context of an error that describes the devices.
const STATE: &str = "devices";
/// Everything was taken back.
const AS_BEFORE: &str = "as before";
/// Both slots stay.
const BOTH: &str = "they open with the old KEK and with the new one; the next run finishes";

/// Adds to an error that both slots stay.
pub(crate) fn both_stay(error: Error) -> Error {
    error.context(STATE, BOTH)
}

impl Run<'_> {
    /// Removes the slots of a new KEK that is not in the KMS and will never be there. Returns `cause`, with the state
    /// of the devices added.
    pub(crate) async fn undo(&self, made: &[Made], new: &Kek, cause: Error) -> Error {
        if made.is_empty() {
            return cause;
        }
        match self.take_back(made, new).await {
            Ok(()) => cause.context(STATE, AS_BEFORE),
            Err(error) => {
                warn!(%error, "the key slots of the new KEK are left for the next run to remove");
                both_stay(cause)
            }
        }
    }

    async fn take_back(&self, made: &[Made], new: &Kek) -> Result<()> {
        // Only the KEK that the KMS holds now decides which slot stays.
        let fresh = self.read(Step::ReadKek).await?;
        if fresh.kek.ct_eq(new) {
            return Err(changed());
        }
        for Made { device, slot, old } in made {
            let device = &**device;
            let table = self.table(device).await?;
            // Another program may have removed the slot and put a key of its own there.
            if !table.in_use(*slot) || !self.opens(device, *slot, new).await? {
                continue;
            }
            let keep = if self.opens(device, *old, &fresh.kek).await? {
                *old
            } else {
                self.find(device, &table, &fresh.kek).await?.ok_or_else(|| on_device(device, changed()))?
            };
            let proof = self.prove(device, keep, &fresh.kek).await?.while_slots_are(&table);
            self.remove(device, *slot, &proof, &fresh.kek).await?;
        }
        Ok(())
    }

    /// Stores the old KEK again, if it still opens every device. Called when the new KEK is in the KMS and does not
    /// open every device, because another program has written to a device.
    pub(crate) async fn put_back(
        &self,
        old: &Stored,
        new_version: &KeyVersion,
        made: &[Made],
        cause: Error,
    ) -> Error {
        let put_back = async {
            for Made { device, old: slot, .. } in made {
                if !self.opens(&**device, *slot, &old.kek).await? {
                    return Err(on_device(&**device, changed()));
                }
            }
            let mode = PutMode::Update(new_version.clone());
            self.step(Step::PutBack, self.kms.put(self.osd.name(), &old.kek, mode)).await
        };
        match put_back.await {
            Ok(_) => cause.context("kms", "holds the old KEK again, which opens all devices"),
            Err(error) => {
                warn!(%error, "the old KEK was not stored again");
                cause.context(
                    "kms",
                    "holds the new KEK, which may not open all devices: look at them (kms verify)",
                )
            }
        }
    }
}
