//! Copies of whole headers, and their way back to a device.

use std::{fs::OpenOptions, io, os::unix::fs::OpenOptionsExt as _};

use kms_core::{Error, ErrorKind, Result};
use nix::libc::O_EXCL;

use crate::{
    Device,
    error::{at, code, not_read},
    memory::Memory,
    on_disk,
    process::{Call, Ended},
};

impl Device {
    /// Reads the whole header: the metadata and the areas of the key slots, as `cryptsetup luksHeaderBackup` saves them.
    ///
    /// The copy opens the data for ever with each KEK that has a slot in it, also after the KEK was replaced on the device.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if there is no such device, or if it has no LUKS header; `Conflict` if a program writes to the header
    /// meanwhile; `Protocol` if the header is damaged; `Unsupported` if it is detached from its data.
    pub fn copy_header(&self) -> Result<Vec<u8>> {
        let copied = on_disk::read_whole(self.path()).map_err(at(self.path()));
        copied.map_err(|error| error.operation("copy the LUKS header"))
    }

    /// Replaces the header of the device by a copy, with all its key slots.
    ///
    /// Looks at the device first: it must have the header of the same UUID, or none and no other signature that `blkid`
    /// knows. Where the header is lost, the caller has made sure that the copy belongs to the data: another header makes
    /// them unreadable.
    ///
    /// # Errors
    ///
    /// `Conflict` if the device has another header or other data, or is in use; errors of the copy, the device, the lock and
    /// the program.
    pub async fn restore_header(&self, copy: &[u8]) -> Result<()> {
        let restored = async {
            let of_copy = Self::in_memory(self.cryptsetup().clone(), copy)?.luks_uuid()?;
            let of_copy = of_copy.ok_or_else(|| Error::config("the copy has no LUKS header"))?;
            let _lock = self.locked().await?;
            self.check_restore(&of_copy).await?;
            let memory = Memory::holding(copy).map_err(|cause| {
                Error::new(ErrorKind::Unexpected, "the header cannot be handed to cryptsetup").source(cause)
            })?;
            let call =
                Call::new(["luksHeaderRestore", "--batch-mode", "--header-backup-file"]).arg(memory.path());
            let answer = self.run(memory.inherited_by(call.arg("--").arg(self.path()))?).await?;
            match answer.ended {
                Ended::Code(code::DONE) => Ok(()),
                _ => Err(self.cryptsetup().explain(&answer).await),
            }
        };
        restored.await.map_err(at(self.path())).map_err(|error| error.operation("restore the LUKS header"))
    }

    /// Refuses a device that is not the one of the header with this UUID, as far as can be seen.
    async fn check_restore(&self, uuid: &str) -> Result<()> {
        let refused = |why: String| Error::new(ErrorKind::Conflict, why);
        // The kernel refuses this for a block device that a mapping or a file system uses.
        let opened = OpenOptions::new().read(true).custom_flags(O_EXCL).open(self.path());
        if let Err(cause) = opened {
            return Err(match cause.kind() {
                io::ErrorKind::ResourceBusy => {
                    refused("the device is in use: close it first (kms close)".to_owned())
                }
                _ => not_read(cause),
            });
        }
        match self.luks_uuid()? {
            Some(found) if found == uuid => Ok(()),
            Some(found) => Err(refused(format!("the device has the LUKS header of another UUID, {found}"))),
            None => match self.probed().await? {
                None => Ok(()),
                Some(found) => Err(refused(format!("the device has other data: blkid finds {found}"))),
            },
        }
    }
}
