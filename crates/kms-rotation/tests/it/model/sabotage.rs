//! Devices that break an assumption of the state machine, to check that the model notices.

use std::path::Path;

use async_trait::async_trait;
use kms_core::{Kek, Result};
use kms_rotation::{Added, KeySlot, Proof, Slot, SlotLock, SlotStore, SlotTable};

use crate::memory::Device;

/// The broken assumption.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sabotage {
    /// The old slot goes as soon as the new one is added, before the KMS has the new KEK.
    RemovesBeforeStoring,
    /// A write to a slot does not change its salt.
    HidesSalts,
    /// No slot is added, and every KEK seems to open every slot.
    SkipsProofs,
}

#[derive(Debug)]
pub(super) struct Broken {
    pub(super) device: Device,
    pub(super) how: Sabotage,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl SlotStore for Broken {
    fn path(&self) -> &Path {
        self.device.path()
    }

    async fn lock(&self) -> Result<SlotLock> {
        self.device.lock().await
    }

    async fn table(&self) -> Result<SlotTable> {
        let table = self.device.table().await?;
        if self.how != Sabotage::HidesSalts {
            return Ok(table);
        }
        let slots = table.slots().map(|slot| KeySlot { salt: String::new(), ..slot.clone() });
        Ok(SlotTable::new(table.uuid(), slots, None))
    }

    async fn uuid(&self) -> Result<String> {
        self.device.uuid().await
    }

    async fn opens(&self, slot: Slot, kek: &Kek) -> Result<bool> {
        Ok(self.device.opens(slot, kek).await? || self.how == Sabotage::SkipsProofs)
    }

    async fn find(&self, table: &SlotTable, kek: &Kek) -> Result<Option<Slot>> {
        self.device.find(table, kek).await
    }

    async fn add(&self, from: Slot, current: &Kek, new_slot: Slot, new: &Kek) -> Result<Added> {
        if self.how == Sabotage::SkipsProofs {
            return Ok(Added::Done);
        }
        let added = self.device.add(from, current, new_slot, new).await?;
        if self.how == Sabotage::RemovesBeforeStoring {
            let proof = Proof::by_opening(&self.device, new_slot, new).await?;
            self.device.remove(from, &proof, new).await?;
        }
        Ok(added)
    }

    async fn remove(&self, victim: Slot, proof: &Proof, kek: &Kek) -> Result<()> {
        if self.how == Sabotage::HidesSalts {
            // The last look sees no salts either.
            let unbound = Proof::by_opening(&self.device, proof.slot(), kek).await?;
            return self.device.remove(victim, &unbound, kek).await;
        }
        self.device.remove(victim, proof, kek).await
    }
}
