//! The key slots of a device, as its header lists them.

use std::collections::BTreeMap;

use crate::Slot;

/// The key derivation function of a key slot: how the passphrase becomes the key of the slot.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum SlotKdf {
    /// `argon2i` or `argon2id`
    Argon2 {
        /// `argon2i` or `argon2id`.
        variant: String,
        /// Passes over the memory ("time cost").
        passes: u64,
        /// Memory in KiB.
        memory_kib: u64,
        /// Threads.
        threads: u64,
    },
    /// PBKDF2
    Pbkdf2 {
        /// The hash.
        hash: String,
        /// The number of iterations.
        iterations: u64,
    },
    /// Another kind of slot, such as one of a re-encryption. Holds the name of the kind.
    Unknown(String),
}

impl SlotKdf {
    /// The name of the function, as cryptsetup spells it.
    pub fn name(&self) -> &str {
        match self {
            Self::Argon2 { variant, .. } => variant,
            Self::Pbkdf2 { .. } => "pbkdf2",
            Self::Unknown(kind) => kind,
        }
    }

    /// The approximate cost of one try, in units of half a microsecond. Use it only to compare slots.
    pub fn cost(&self) -> u64 {
        match self {
            Self::Argon2 { passes, memory_kib, .. } => passes.saturating_mul(*memory_kib),
            Self::Pbkdf2 { iterations, .. } => *iterations,
            Self::Unknown(_) => u64::MAX,
        }
    }
}

/// A key slot in use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeySlot {
    /// The number of the slot.
    pub slot: Slot,
    /// The key derivation function.
    pub kdf: SlotKdf,
    /// `true` if the slot holds the volume key. An unbound slot does not, and opens no data.
    pub opens_data: bool,
    /// The salt of the key derivation, which is no secret. Every write of a slot makes a new salt, so two equal looks
    /// at a slot mean that no program wrote to it in between.
    pub salt: String,
}

/// The key slots of a device. Holds no secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SlotTable {
    uuid: String,
    slots: BTreeMap<Slot, KeySlot>,
    reencrypting: bool,
}

impl SlotTable {
    /// The table of the device with this LUKS UUID. `reencrypting` says that a re-encryption of the device has not
    /// finished.
    pub fn new(
        uuid: impl Into<String>,
        slots: impl IntoIterator<Item = KeySlot>,
        reencrypting: bool,
    ) -> Self {
        let slots = slots.into_iter().map(|slot| (slot.slot, slot)).collect();
        Self { uuid: uuid.into(), slots, reencrypting }
    }

    /// The LUKS UUID of the device.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The slots in use, in the order of their numbers.
    pub fn slots(&self) -> impl Iterator<Item = &KeySlot> {
        self.slots.values()
    }

    /// A slot. `None` if it is not in use.
    pub fn slot(&self, slot: Slot) -> Option<&KeySlot> {
        self.slots.get(&slot)
    }

    /// Whether a slot is in use.
    pub fn in_use(&self, slot: Slot) -> bool {
        self.slots.contains_key(&slot)
    }

    /// Whether a slot is in use and holds the volume key.
    pub fn opens_data(&self, slot: Slot) -> bool {
        self.slot(slot).is_some_and(|slot| slot.opens_data)
    }

    /// Whether both tables are of the same device, and no slot was written between the two looks.
    pub fn has_slots_of(&self, other: &Self) -> bool {
        let salts = |table: &Self| {
            table.slots.iter().map(|(slot, key)| (*slot, key.salt.clone())).collect::<Vec<_>>()
        };
        self.uuid == other.uuid && salts(self) == salts(other)
    }

    /// The slots in use that do not belong to the rotation.
    pub fn foreign(&self) -> impl Iterator<Item = &KeySlot> {
        self.slots().filter(|slot| !slot.slot.is_rotation())
    }

    /// Whether a re-encryption of the device has not finished. Its slots must not be changed until then.
    pub fn is_reencrypting(&self) -> bool {
        self.reencrypting
    }
}
