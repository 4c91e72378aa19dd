//! The key slots of a device, as its header lists them.

use std::{collections::BTreeMap, fmt};

use kms_core::{Error, ErrorKind, Result};

use crate::Slot;

/// The iterations of PBKDF2 in the slots that kms makes. cryptsetup gives a passphrase more, unless a call asks for so
/// few.
const MACHINE_ITERATIONS: u64 = 1000;

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
    /// `true` if the slot has the priority *ignore*: cryptsetup tries the slot only if a call names it.
    pub ignored: bool,
    /// The tokens that refer to the slot. The slot belongs to the program that made the token.
    pub tokens: Vec<SlotToken>,
}

impl KeySlot {
    /// Whether a `cryptsetup open` that names no slot can open the data by this slot.
    pub fn opens_unnamed(&self) -> bool {
        self.opens_data && !self.ignored
    }

    /// Whether the slot may have been made for a person, or by Rook: its key derivation is not the one of kms.
    pub fn may_be_anothers(&self) -> bool {
        !matches!(self.kdf, SlotKdf::Pbkdf2 { iterations: MACHINE_ITERATIONS, .. })
    }

    /// Refuses a slot that a token refers to: its removal or change would break the unlocking that the token is for.
    ///
    /// # Errors
    ///
    /// `Conflict` naming the token, the slot, and how to move the key to a slot that no rotation uses.
    pub fn refuse_token(&self) -> Result<()> {
        match self.tokens.first() {
            None => Ok(()),
            Some(token) => Err(Error::new(ErrorKind::Conflict, token.advice(self.slot))),
        }
    }
}

/// A LUKS2 token that refers to a key slot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SlotToken {
    /// The number of the token.
    pub number: u8,
    /// The type of the token, such as `clevis`, `systemd-tpm2` or `luks2-keyring`.
    pub kind: String,
}

impl SlotToken {
    /// What the token means for a slot, and how to move its key to a slot from 2 on.
    fn advice(&self, slot: Slot) -> String {
        let number = self.number;
        let steps = match self.kind.as_str() {
            "clevis" => format!(
                "bind it again in a slot from 2 on (clevis luks bind -s 2 -d DEVICE PIN CONFIG), then remove the old \
                 binding (clevis luks unbind -s {slot} -d DEVICE)"
            ),
            kind if kind.starts_with("systemd-") => format!(
                "remove the enrollment (systemd-cryptenroll --wipe-slot={slot} DEVICE), fill the slots 0 and 1 \
                 (cryptsetup luksAddKey DEVICE), enroll it again, which takes a slot from 2 on, and remove the slot \
                 that you added (cryptsetup luksKillSlot)"
            ),
            _ => format!(
                "add its key in a slot from 2 on (cryptsetup luksAddKey --new-key-slot 2 DEVICE) and make the token \
                 refer to that slot (cryptsetup token import --token-id {number} --token-replace), or remove the token \
                 if no program uses it (cryptsetup token remove --token-id {number} DEVICE)"
            ),
        };
        format!("key slot {slot} belongs to {self}, so the rotation neither removes nor changes it: {steps}")
    }
}

impl fmt::Display for SlotToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, kind } = self;
        write!(f, "token {number} of type {kind}")
    }
}

/// Why the key slots of a device cannot be changed now.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Blocked {
    /// A re-encryption of the device has not finished.
    Reencryption,
    /// The header demands this feature, which kms does not know.
    Requirement(String),
}

/// The key slots of a device. Holds no secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SlotTable {
    uuid: String,
    slots: BTreeMap<Slot, KeySlot>,
    blocked: Option<Blocked>,
    has_room: bool,
}

impl SlotTable {
    /// The table of the device with this LUKS UUID.
    pub fn new(
        uuid: impl Into<String>,
        slots: impl IntoIterator<Item = KeySlot>,
        blocked: Option<Blocked>,
    ) -> Self {
        let slots = slots.into_iter().map(|slot| (slot.slot, slot)).collect();
        Self { uuid: uuid.into(), slots, blocked, has_room: true }
    }

    /// Says whether the header has room for one more slot. Without this call it has.
    #[must_use]
    pub fn with_room(mut self, has_room: bool) -> Self {
        self.has_room = has_room;
        self
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
        self.uuid == other.uuid && self.salts().eq(other.salts())
    }

    /// The slots in use, each with its salt. They are the same as long as no program writes to a slot.
    pub(crate) fn salts(&self) -> impl Iterator<Item = (Slot, &str)> {
        self.slots.values().map(|slot| (slot.slot, slot.salt.as_str()))
    }

    /// The slots in use that do not belong to the rotation.
    pub fn foreign(&self) -> impl Iterator<Item = &KeySlot> {
        self.slots().filter(|slot| !slot.slot.is_rotation())
    }

    /// Whether a re-encryption of the device has not finished. Its slots must not be changed until then.
    pub fn is_reencrypting(&self) -> bool {
        self.blocked == Some(Blocked::Reencryption)
    }

    /// Refuses a device whose slots cannot be changed. cryptsetup refuses most changes of a device that is being
    /// re-encrypted, and the end of the re-encryption may undo the others.
    ///
    /// # Errors
    ///
    /// `Conflict` if the device is being re-encrypted; `Unsupported` if the header demands an unknown feature.
    pub fn refuse_blocked(&self) -> Result<()> {
        match &self.blocked {
            None => Ok(()),
            Some(Blocked::Reencryption) => Err(Error::new(
                ErrorKind::Conflict,
                "the device is being re-encrypted: finish that first (cryptsetup reencrypt --resume-only), then change \
                 its key slots",
            )),
            Some(Blocked::Requirement(name)) => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the header demands the feature {name:?}, which kms does not know: change its key slots with the \
                     program that made it"
                ),
            )),
        }
    }

    /// Refuses a device that a rotation must leave alone.
    ///
    /// # Errors
    ///
    /// `Conflict` naming the slot of the pair that a token refers to, that opens no data, or that has the priority
    /// *ignore*; as [`refuse_blocked`](Self::refuse_blocked).
    pub fn refuse_rotation(&self) -> Result<()> {
        self.refuse_blocked()?;
        for slot in self.slots().filter(|slot| slot.slot.is_rotation()) {
            slot.refuse_token()?;
            let KeySlot { slot, opens_data, ignored, .. } = slot;
            if !opens_data {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "key slot {slot} is one of the rotation's and does not open the data: find out which program \
                         made it, and remove it (cryptsetup luksKillSlot) if no program needs it"
                    ),
                ));
            }
            if *ignored {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "key slot {slot} is one of the rotation's and has the priority ignore, which no rotation sets: \
                         if its key is the KEK, set its priority (cryptsetup config --key-slot {slot} --priority \
                         normal); otherwise move its key to a slot from 2 on (cryptsetup luksAddKey --new-key-slot 2)"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Refuses a header that has no room for one more slot.
    ///
    /// # Errors
    ///
    /// `Conflict` if there is no room.
    pub fn refuse_full(&self) -> Result<()> {
        if self.has_room {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "the header has no room for another key slot: remove a slot or a token that no program needs (cryptsetup \
             luksDump shows them)",
        ))
    }
}
