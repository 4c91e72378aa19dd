//! The interface to the key slots of one device.

use std::{any::Any, fmt, path::Path, path::PathBuf};

use async_trait::async_trait;
use kms_core::{Error, ErrorKind, Kek, Result};

use crate::{KeySlot, Slot, SlotTable};

/// The key slots of one LUKS device.
///
/// `kms-luks` implements it with the program cryptsetup. Every write of a header is atomic: after a crash the header
/// is the one before the write or the one after it.
#[async_trait]
pub trait SlotStore: fmt::Debug + Send + Sync + 'static {
    /// The path of the device.
    fn path(&self) -> &Path;

    /// Takes the exclusive right to change the slots. It ends when the returned lock is dropped.
    ///
    /// # Errors
    ///
    /// `Conflict` if another process holds the lock.
    async fn lock(&self) -> Result<SlotLock>;

    /// Reads the key slots.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if there is no such device or it has no LUKS header; `Protocol` or `Unexpected` if the header
    /// is damaged. The cause is [`Refusal::Header`](crate::Refusal::Header) if no header is there that can be used.
    async fn table(&self) -> Result<SlotTable>;

    /// Reads the LUKS UUID that the device has now.
    ///
    /// # Errors
    ///
    /// As [`table`](Self::table).
    async fn uuid(&self) -> Result<String>;

    /// Tests whether a KEK opens the data by this slot. Changes nothing. `false` for a slot that is not in use, and
    /// for an unbound slot.
    ///
    /// # Errors
    ///
    /// Errors of reading the device.
    async fn opens(&self, slot: Slot, kek: &Kek) -> Result<bool>;

    /// Finds the slot that a KEK opens: first among the two slots of the rotation, then among the others, and within
    /// each group the slots with a cheap key derivation first. Passes over slots of the priority *ignore*, since
    /// cryptsetup does so unless a call names them. `None` if the KEK opens no slot.
    ///
    /// # Errors
    ///
    /// As [`opens`](Self::opens).
    async fn find(&self, table: &SlotTable, kek: &Kek) -> Result<Option<Slot>>;

    /// Adds a KEK in `new_slot`, with the volume key from slot `from`. Writes nothing unless `current` opens `from`.
    ///
    /// # Errors
    ///
    /// Errors of the device and of the lock. After a `Timeout` the slot may exist.
    async fn add(&self, from: Slot, current: &Kek, new_slot: Slot, new: &Kek) -> Result<Added>;

    /// Removes slot `victim`. `proof` is the proof of another slot of this device, and `kek` the KEK that it was made
    /// with. Succeeds if the slot is not in use.
    ///
    /// The implementation reads the slots again and asks [`Proof::allows_removal`] before it writes.
    ///
    /// # Errors
    ///
    /// Errors of [`Proof::allows_removal`], of the device and of the lock.
    async fn remove(&self, victim: Slot, proof: &Proof, kek: &Kek) -> Result<()>;
}

/// The exclusive right to change the slots of a device. Dropping it gives the right up.
pub struct SlotLock {
    _held: Box<dyn Any + Send + Sync>,
}

impl SlotLock {
    /// A lock that drops `held` when it is dropped itself.
    pub fn new(held: impl Any + Send + Sync) -> Self {
        Self { _held: Box::new(held) }
    }
}

impl fmt::Debug for SlotLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotLock").finish_non_exhaustive()
    }
}

/// What [`SlotStore::add`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Added {
    /// The slot was added. The current KEK opened the slot `from`.
    Done,
    /// Nothing was written: the new slot is in use.
    SlotTaken,
    /// Nothing was written: the current KEK does not open the slot `from`.
    WrongKey,
}

/// Evidence that a KEK opened a key slot. [`Proof::by_opening`] is the only way to make one, so a slot can be removed
/// only after another slot of the same device has been opened.
#[derive(Clone, Debug)]
pub struct Proof {
    slot: Slot,
    path: PathBuf,
    uuid: String,
    /// The slots that the device must still have.
    unchanged: Option<SlotTable>,
}

impl Proof {
    /// Opens a slot with a KEK.
    ///
    /// # Errors
    ///
    /// `Conflict` if the KEK does not open the slot; errors of reading the device.
    pub async fn by_opening(store: &dyn SlotStore, slot: Slot, kek: &Kek) -> Result<Self> {
        if !store.opens(slot, kek).await? {
            return Err(Error::new(ErrorKind::Conflict, format!("the KEK does not open key slot {slot}"))
                .operation("verify a key slot")
                .context("device", store.path().display().to_string()));
        }
        let uuid = store.uuid().await?;
        Ok(Self { slot, path: store.path().to_owned(), uuid, unchanged: None })
    }

    /// Binds the proof to the slots of an earlier look: it allows no removal once another program has written a slot.
    #[must_use]
    pub fn while_slots_are(mut self, table: &SlotTable) -> Self {
        self.unchanged = Some(table.clone());
        self
    }

    /// The slot that was opened.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Whether `victim` may be removed from the device at `path`, whose slots are `table` at this moment. `false` if
    /// the slot is not in use, so that there is nothing to do.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` for the proof of another device or of `victim` itself; `Conflict` if another device is at this
    /// path now, if a token refers to `victim`, if the slot of the proof is gone or has the priority *ignore*, or if a
    /// slot is not what it was in the look that the proof is bound to; as [`SlotTable::refuse_blocked`].
    pub fn allows_removal(&self, victim: Slot, path: &Path, table: &SlotTable) -> Result<bool> {
        let slot = self.slot;
        if slot == victim {
            return Err(Error::config(format!(
                "key slot {victim} is the one that was proven to open the device"
            )));
        }
        if self.path != path {
            return Err(Error::config("the proof is of another device"));
        }
        if table.uuid() != self.uuid {
            return Err(Error::new(ErrorKind::Conflict, "there is another LUKS device at this path now"));
        }
        let Some(used) = table.slot(victim) else { return Ok(false) };
        table.refuse_blocked()?;
        used.refuse_token()?;
        if self.unchanged.as_ref().is_some_and(|before| !before.has_slots_of(table)) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "another program has written key slots of the device meanwhile: key slot {victim} was not removed; \
                     find out which program it is, and run this again when it has ended"
                ),
            ));
        }
        if !table.slot(slot).is_some_and(KeySlot::opens_unnamed) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "key slot {slot}, which was to remain, has gone meanwhile: key slot {victim} was not removed, since \
                     nothing might open the device then"
                ),
            ));
        }
        Ok(true)
    }
}
