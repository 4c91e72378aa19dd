//! Copies of whole headers, and their way back to a device.

use kms_core::{Error, ErrorKind, Result};

use crate::{
    Device,
    error::{at, code},
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
    /// The caller has made sure that the copy belongs to the data of this device: another header makes them unreadable.
    ///
    /// # Errors
    ///
    /// Errors of the device, the lock and the program.
    pub async fn restore_header(&self, copy: &[u8]) -> Result<()> {
        let restored = async {
            let _lock = self.locked().await?;
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
}
