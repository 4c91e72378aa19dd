//! A LUKS device as the [`SlotStore`] of a rotation.

use std::path::Path;

use async_trait::async_trait;
use kms_core::{Kek, Result};
use kms_rotation::{Added, Proof, Slot, SlotLock, SlotStore, SlotTable};

use crate::Device;

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl SlotStore for Device {
    fn path(&self) -> &Path {
        self.path()
    }

    async fn lock(&self) -> Result<SlotLock> {
        self.lock().await.map(SlotLock::new)
    }

    async fn table(&self) -> Result<SlotTable> {
        self.header().await.map(Into::into)
    }

    async fn uuid(&self) -> Result<String> {
        Ok(self.header_now().await?.uuid().to_owned())
    }

    async fn opens(&self, slot: Slot, kek: &Kek) -> Result<bool> {
        self.opens(Some(slot), kek).await
    }

    async fn find(&self, table: &SlotTable, kek: &Kek) -> Result<Option<Slot>> {
        self.find(table, kek).await
    }

    async fn add(&self, from: Slot, current: &Kek, new_slot: Slot, new: &Kek) -> Result<Added> {
        self.add(Some(from), current, new_slot, new).await
    }

    async fn remove(&self, victim: Slot, proof: &Proof, kek: &Kek) -> Result<()> {
        self.kill(victim, proof, kek).await
    }
}
