//! A LUKS device: its header, and tests of its slots.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use kms_core::{Error, ErrorKind, Kek, Result};
use kms_rotation::{Refusal, Slot, SlotTable};

use crate::{
    Cryptsetup, DeviceLock, Header,
    error::{at, code, failed},
    lock::Held,
    memory::Memory,
    on_disk::{self, OnDisk},
    process::{Call, CommandOutput, Ended},
};

/// A token type that does not exist. With it cryptsetup tries no token: otherwise a token that can open the slot (from
/// the kernel's keyring or a TPM) makes every passphrase look right.
pub(crate) const NO_TOKEN: [&str; 2] = ["--token-type", "kms-none"];

/// A LUKS device, or an image of one.
///
/// Clones share the lock.
#[derive(Clone, Debug)]
pub struct Device {
    cryptsetup: Cryptsetup,
    path: PathBuf,
    held: Arc<Mutex<Weak<Held>>>,
    /// The memory that the path leads to, for a copy of a header.
    memory: Option<Arc<Memory>>,
}

impl Device {
    /// The device at `path`. Does no I/O.
    pub fn new(cryptsetup: Cryptsetup, path: impl Into<PathBuf>) -> Self {
        Self { cryptsetup, path: path.into(), held: Arc::default(), memory: None }
    }

    /// A device in memory that has this header and no data: the header of an escrow, restored to where no disk has it.
    ///
    /// # Errors
    ///
    /// `Unexpected` if the system has no memory for it.
    pub fn in_memory(cryptsetup: Cryptsetup, header: &[u8]) -> Result<Self> {
        let memory = Arc::new(Memory::holding(header).map_err(|cause| {
            Error::new(ErrorKind::Unexpected, "the header cannot be restored to memory").source(cause)
        })?);
        Ok(Self { memory: Some(Arc::clone(&memory)), ..Self::new(cryptsetup, memory.path()) })
    }

    /// The path of the device.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The program that the device uses.
    pub fn cryptsetup(&self) -> &Cryptsetup {
        &self.cryptsetup
    }

    /// Reads the header: one run of cryptsetup for LUKS2, none for LUKS1.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if there is no such device, or if it has no LUKS header; `Protocol` or `Unexpected` if
    /// the header is damaged. The cause is [`Refusal::Header`] if no header is there that cryptsetup can use.
    pub async fn header(&self) -> Result<Header> {
        let header = async {
            let (identity, json) = match on_disk::read(&self.path)? {
                OnDisk::Luks1(header) => return Ok(header),
                OnDisk::Luks2 { identity, json } => (identity, json),
            };
            let answer =
                self.run(Call::new(["luksDump", "--dump-json-metadata", "--"]).arg(&self.path)).await?;
            match answer.ended {
                Ended::Code(code::DONE) => Header::luks2(identity, &answer.output),
                Ended::Code(code::FAILED) => {
                    // A release that is too old says nothing about the header.
                    self.cryptsetup.version().await?;
                    let error = failed(&answer);
                    // The code stands for any failure, such as one to lock. A header is gone only if the copies on the disk are
                    // damaged too; one whole copy would be enough for cryptsetup.
                    let is_whole = json.is_some_and(|json| Header::luks2(identity, &json).is_ok());
                    Err(if is_whole { error } else { error.source(Refusal::Header) })
                }
                _ => Err(failed(&answer)),
            }
        };
        header.await.map_err(at(&self.path)).map_err(|error| error.operation("read the LUKS header"))
    }

    /// Reads the header without cryptsetup if both copies agree, otherwise as [`header`](Self::header).
    pub(crate) async fn header_now(&self) -> Result<Header> {
        match on_disk::read(&self.path).map_err(at(&self.path))? {
            OnDisk::Luks1(header) => Ok(header),
            OnDisk::Luks2 { identity, json: Some(json) } => match Header::luks2(identity, &json) {
                Ok(header) => Ok(header),
                Err(_) => self.header().await,
            },
            OnDisk::Luks2 { json: None, .. } => self.header().await,
        }
    }

    /// Tests whether the KEK opens the device by this slot, or by any slot. Changes nothing. `false` for a slot that is
    /// not in use, and for an unbound slot.
    ///
    /// # Errors
    ///
    /// Errors of the device and of the program.
    pub async fn opens(&self, slot: Option<Slot>, kek: &Kek) -> Result<bool> {
        let opens = async {
            // The program accepts unbound slots too.
            let header = self.header_now().await?;
            match slot {
                Some(slot) if !header.opens_data(slot) => Ok(false),
                None if header.slots().any(|slot| !slot.opens_data) => {
                    Ok(self.first_passed(&header, kek).await?.is_some())
                }
                _ => self.passes(slot, kek).await,
            }
        };
        opens.await.map_err(at(&self.path)).map_err(|error| error.operation("test a key slot"))
    }

    /// Whether the program accepts the KEK for this slot, or for any slot.
    async fn passes(&self, slot: Option<Slot>, kek: &Kek) -> Result<bool> {
        let mut call = Call::new(["open", "--test-passphrase"]).args(NO_TOKEN.map(Into::into));
        if let Some(slot) = slot {
            call = call.arg("--key-slot").arg(slot.to_string());
        }
        let answer = self.run(call.arg("--key-file").key(kek)?.arg("--").arg(&self.path)).await?;
        match answer.ended {
            Ended::Code(code::DONE) => Ok(true),
            Ended::Code(code::WRONG_KEY) => Ok(false),
            // This code means that the slot is not in use, or any other failure.
            Ended::Code(code::FAILED) => {
                let header = self.header_now().await?;
                let usable = match slot {
                    Some(slot) => header.in_use(slot),
                    None => header.slots().next().is_some(),
                };
                if usable { Err(self.cryptsetup.explain(&answer).await) } else { Ok(false) }
            }
            _ => Err(self.cryptsetup.explain(&answer).await),
        }
    }

    /// The first slot that the KEK opens, in the order of [`find`](Self::find).
    async fn first_passed(&self, table: &SlotTable, kek: &Kek) -> Result<Option<Slot>> {
        let mut slots: Vec<_> = table.slots().filter(|slot| slot.opens_unnamed()).collect();
        slots.sort_by_key(|slot| (!slot.slot.is_rotation(), slot.kdf.cost(), slot.slot));
        // During a re-encryption cryptsetup refuses a call that names a slot.
        if table.is_reencrypting() {
            let passes = self.passes(None, kek).await?;
            return Ok(slots.first().filter(|_| passes).map(|slot| slot.slot));
        }
        for slot in slots {
            if self.passes(Some(slot.slot), kek).await? {
                return Ok(Some(slot.slot));
            }
        }
        Ok(None)
    }

    /// Finds the slot that the KEK opens: the slots of the rotation first, then the others, and within each group the
    /// slots with a cheap key derivation first. Passes over slots of the priority *ignore*, as cryptsetup does. `None` if
    /// the KEK opens no slot. Of a device that is being re-encrypted it is the first slot that can be the one, since
    /// cryptsetup does not tell which one it is.
    ///
    /// # Errors
    ///
    /// As [`opens`](Self::opens).
    pub async fn find(&self, table: &SlotTable, kek: &Kek) -> Result<Option<Slot>> {
        let found = self.first_passed(table, kek).await;
        found.map_err(at(&self.path)).map_err(|error| error.operation("find the key slot"))
    }

    /// Takes the exclusive right to change the slots of this device, until the returned lock is dropped.
    ///
    /// The lock holds across processes and containers that use the same node of the device.
    /// Waits for a cryptsetup that an earlier run left running, up to the time limit of one run.
    ///
    /// # Errors
    ///
    /// `Conflict` if another process holds the lock, or if that cryptsetup does not end.
    pub async fn lock(&self) -> Result<DeviceLock> {
        let lock = async {
            if self.held().is_some() {
                return Err(Error::new(ErrorKind::Conflict, "this process has locked the device already"));
            }
            let held = Arc::new(Held::take(&self.path, self.cryptsetup.limit()).await?);
            *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&held);
            Ok(DeviceLock::new(held))
        };
        lock.await.map_err(at(&self.path)).map_err(|error| error.operation("lock the device"))
    }

    /// The lock that this process holds already, or a new one.
    pub(crate) async fn locked(&self) -> Result<DeviceLock> {
        match self.held() {
            Some(held) => Ok(DeviceLock::new(held)),
            None => self.lock().await,
        }
    }

    fn held(&self) -> Option<Arc<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    /// Runs the program, which inherits the lock if this process holds it.
    pub(crate) async fn run(&self, call: Call) -> Result<CommandOutput> {
        let call = match self.held() {
            Some(held) => call.inherit(held.for_child()?),
            None => call,
        };
        let call = match &self.memory {
            Some(memory) => memory.inherited_by(call)?,
            None => call,
        };
        self.cryptsetup.run(call).await
    }
}

impl Cryptsetup {
    /// The devices at these paths, for use with this program.
    pub fn devices(&self, paths: impl IntoIterator<Item = PathBuf>) -> impl Iterator<Item = Device> {
        paths.into_iter().map(|path| Device::new(self.clone(), path))
    }
}
