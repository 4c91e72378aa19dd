//! LUKS devices in memory, with the semantics of cryptsetup on a real header.
//!
//! `slot_store.rs` runs the same tests on these devices and on real images, so that cryptsetup judges this double.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use kms_core::{Error, ErrorKind, Kek, Result};
use kms_rotation::{
    Added, Blocked, KeySlot, Proof, Slot, SlotKdf, SlotLock, SlotStore, SlotTable, SlotToken,
};

/// The exit codes of cryptsetup.
pub(crate) const DONE: i32 = 0;
pub(crate) const FAILED: i32 = 1;
pub(crate) const WRONG_KEY: i32 = 2;

/// A key slot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Keyslot {
    /// The text of the KEK that opens the slot.
    pub(crate) kek: String,
    pub(crate) salt: String,
    /// Whether the slot holds the volume key.
    pub(crate) bound: bool,
    /// A slot of priority "ignore" opens only if a call names it.
    pub(crate) ignored: bool,
}

impl Keyslot {
    /// ceph-volume and Rook leave the key derivation to cryptsetup; all others write the cheapest.
    fn kdf(&self) -> SlotKdf {
        if self.salt.starts_with("format") || self.salt.starts_with("Rook") {
            SlotKdf::Argon2 { variant: "argon2id".to_owned(), passes: 4, memory_kib: 1 << 20, threads: 4 }
        } else {
            SlotKdf::Pbkdf2 { hash: "sha256".to_owned(), iterations: 1000 }
        }
    }
}

/// The header of a device. Each of its methods is one run of cryptsetup, and so one atomic write.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) slots: BTreeMap<u8, Keyslot>,
    /// The slots that tokens refer to, by the number of the token.
    pub(crate) tokens: BTreeMap<u8, u8>,
    pub(crate) reencrypting: bool,
    pub(crate) vanished: bool,
}

impl Disk {
    /// Whether a KEK opens the data by a named slot, as `cryptsetup open --key-slot`.
    pub(crate) fn opens_slot(&self, slot: u8, kek: &str) -> bool {
        self.slots.get(&slot).is_some_and(|slot| slot.bound && slot.kek == kek)
    }

    /// Whether a KEK opens the data by any slot, as `cryptsetup open`.
    pub(crate) fn opens(&self, kek: &str) -> bool {
        self.slots.values().any(|slot| slot.bound && !slot.ignored && slot.kek == kek)
    }

    /// `luksAddKey --new-key-slot`, with or without `--key-slot`.
    pub(crate) fn add(&mut self, from: Option<u8>, current: &str, slot: u8, new: &str, salt: String) -> i32 {
        if self.slots.contains_key(&slot) {
            return FAILED;
        }
        let opens = match from {
            Some(from) => self.opens_slot(from, current),
            None => self.opens(current),
        };
        if !opens {
            return WRONG_KEY;
        }
        self.slots.insert(slot, Keyslot { kek: new.to_owned(), salt, bound: true, ignored: false });
        DONE
    }

    /// `luksKillSlot --key-file`: the KEK must open another slot, or this one if it is the last.
    pub(crate) fn kill(&mut self, kek: &str, slot: u8) -> i32 {
        if !self.slots.contains_key(&slot) {
            return FAILED;
        }
        let mut others =
            self.slots.iter().filter(|(other, keyslot)| **other != slot && keyslot.bound).peekable();
        let opens = if others.peek().is_some() {
            others.any(|(_, keyslot)| keyslot.kek == kek)
        } else {
            self.opens_slot(slot, kek)
        };
        if !opens {
            return WRONG_KEY;
        }
        self.slots.remove(&slot);
        self.tokens.retain(|_, of| *of != slot);
        DONE
    }

    /// `luksChangeKey --key-slot` from a KEK to itself.
    pub(crate) fn change(&mut self, kek: &str, slot: u8, salt: String) -> i32 {
        if !self.opens_slot(slot, kek) {
            return WRONG_KEY;
        }
        if let Some(keyslot) = self.slots.get_mut(&slot) {
            keyslot.salt = salt;
        }
        DONE
    }

    pub(crate) fn table(&self) -> SlotTable {
        let slot = |(number, keyslot): (&u8, &Keyslot)| KeySlot {
            slot: Slot::new(*number).unwrap(),
            kdf: keyslot.kdf(),
            opens_data: keyslot.bound,
            salt: keyslot.salt.clone(),
            ignored: keyslot.ignored,
            tokens: self
                .tokens
                .iter()
                .filter(|(_, of)| *of == number)
                .map(|(token, _)| SlotToken { number: *token, kind: "clevis".to_owned() })
                .collect(),
        };
        let blocked = self.reencrypting.then_some(Blocked::Reencryption);
        SlotTable::new("uuid", self.slots.iter().map(slot), blocked)
    }
}

/// One access of a user to a device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    Lock,
    Table,
    Opens(u8),
    Add(u8),
    /// The look at the slots that precedes a removal.
    Look(u8),
    Kill(u8),
}

/// What happens to an access.
#[derive(Debug)]
pub(crate) enum Verdict {
    Pass,
    /// Nothing is done.
    Fail(Error),
    /// The write is done, and the caller gets the error nevertheless.
    FailAfter(Error),
}

/// Decides when each access of a user happens, and whether it fails.
#[async_trait]
pub(crate) trait Gate: Send + Sync + 'static {
    async fn access(&self, device: usize, access: Access) -> Verdict;

    /// Receives what the access found.
    fn found(&self, _: &dyn fmt::Debug) {}
}

/// A gate that lets every access pass.
pub(crate) struct Open;

#[async_trait]
impl Gate for Open {
    async fn access(&self, _: usize, _: Access) -> Verdict {
        Verdict::Pass
    }
}

/// A device as one of its users sees it.
#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) disk: Arc<Mutex<Disk>>,
    pub(crate) number: usize,
    path: PathBuf,
    gate: Arc<dyn Gate>,
    /// The lock, which users share unless they are on different hosts.
    lock: Arc<AtomicBool>,
    /// The name of the user, for salts that do not depend on the order of all writes.
    user: String,
    writes: Arc<AtomicUsize>,
}

impl Device {
    pub(crate) fn new(number: usize, disk: Disk) -> Self {
        Self {
            disk: Arc::new(Mutex::new(disk)),
            number,
            path: PathBuf::from(format!("/dev/memory/{number}")),
            gate: Arc::new(Open),
            lock: Arc::default(),
            user: "first".to_owned(),
            writes: Arc::default(),
        }
    }

    /// A device with a KEK in slot 0, as ceph-volume formats it.
    pub(crate) fn formatted(number: usize, kek: &Kek) -> Self {
        Self::with_slot(number, 0, kek, "format")
    }

    /// A device whose KEK a rotation of ours has moved to slot 1.
    pub(crate) fn rotated(number: usize, kek: &Kek) -> Self {
        Self::with_slot(number, 1, kek, "ours")
    }

    fn with_slot(number: usize, slot: u8, kek: &Kek, salt: &str) -> Self {
        let mut disk = Disk::default();
        let (kek, salt) = (kek.expose_secret_text().unwrap().to_owned(), salt.to_owned());
        disk.slots.insert(slot, Keyslot { kek, salt, bound: true, ignored: false });
        Self::new(number, disk)
    }

    /// The same device as another user sees it.
    pub(crate) fn used_by(&self, user: &str, gate: Arc<dyn Gate>) -> Self {
        Self { user: user.to_owned(), gate, writes: Arc::default(), ..self.clone() }
    }

    /// The same device, seen from a host that shares no lock with the others.
    pub(crate) fn elsewhere(&self) -> Self {
        Self { lock: Arc::default(), ..self.clone() }
    }

    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap()
    }

    pub(crate) fn salt(&self) -> String {
        format!("{}-{}", self.user, self.writes.fetch_add(1, Ordering::Relaxed))
    }

    fn error(&self, kind: ErrorKind, message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
        Error::new(kind, message).context("device", self.path.display().to_string())
    }

    /// One atomic access: waits for the gate, and then acts on the disk.
    pub(crate) async fn act<T: fmt::Debug>(
        &self,
        access: Access,
        act: impl FnOnce(&mut Disk) -> T,
    ) -> Result<T> {
        let verdict = self.gate.access(self.number, access).await;
        let mut disk = self.disk();
        if disk.vanished {
            return Err(self.error(ErrorKind::ConfigInvalid, "there is no such device"));
        }
        let result = match verdict {
            Verdict::Pass => Ok(act(&mut disk)),
            Verdict::Fail(error) => Err(error),
            Verdict::FailAfter(error) => {
                act(&mut disk);
                Err(error)
            }
        };
        drop(disk);
        self.gate.found(&result.as_ref().map_err(Error::kind));
        result
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A lock that is held.
struct Held(Arc<AtomicBool>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl SlotStore for Device {
    fn path(&self) -> &Path {
        &self.path
    }

    async fn lock(&self) -> Result<SlotLock> {
        if self.act(Access::Lock, |_| self.lock.swap(true, Ordering::Relaxed)).await? {
            return Err(self.error(
                ErrorKind::Conflict,
                "another process is at work on the key slots of this device: wait until it ends and try again",
            ));
        }
        Ok(SlotLock::new(Held(self.lock.clone())))
    }

    async fn table(&self) -> Result<SlotTable> {
        self.act(Access::Table, |disk| disk.table()).await
    }

    async fn uuid(&self) -> Result<String> {
        Ok("uuid".to_owned())
    }

    async fn opens(&self, slot: Slot, kek: &Kek) -> Result<bool> {
        let slot = slot.number();
        self.act(Access::Opens(slot), |disk| disk.opens_slot(slot, kek.expose_secret_text().unwrap())).await
    }

    async fn find(&self, table: &SlotTable, kek: &Kek) -> Result<Option<Slot>> {
        let mut slots: Vec<&KeySlot> = table.slots().filter(|slot| slot.opens_unnamed()).collect();
        slots.sort_by_key(|slot| (!slot.slot.is_rotation(), slot.slot));
        for KeySlot { slot, .. } in slots {
            if self.opens(*slot, kek).await? {
                return Ok(Some(*slot));
            }
        }
        Ok(None)
    }

    async fn add(&self, from: Slot, current: &Kek, new_slot: Slot, new: &Kek) -> Result<Added> {
        let (from, to) = (from.number(), new_slot.number());
        let (current, new) = (current.expose_secret_text().unwrap(), new.expose_secret_text().unwrap());
        let code = self.act(Access::Add(to), |disk| {
            disk.table().refuse_blocked()?;
            Ok::<_, Error>(disk.add(Some(from), current, to, new, self.salt()))
        });
        Ok(match code.await?? {
            DONE => Added::Done,
            WRONG_KEY => Added::WrongKey,
            _ => Added::SlotTaken,
        })
    }

    async fn remove(&self, victim: Slot, proof: &Proof, kek: &Kek) -> Result<()> {
        let slot = victim.number();
        let table = self.act(Access::Look(slot), |disk| disk.table()).await?;
        if !proof.allows_removal(victim, &self.path, &table)? {
            return Ok(());
        }
        let kek = kek.expose_secret_text().unwrap();
        match self.act(Access::Kill(slot), |disk| disk.kill(kek, slot)).await? {
            WRONG_KEY => Err(self.error(
                ErrorKind::Conflict,
                format!("the KEK opens no key slot but {victim}, which was not removed"),
            )),
            // Done, or another program has removed it.
            _ => Ok(()),
        }
    }
}
