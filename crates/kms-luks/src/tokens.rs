//! LUKS2 tokens of our own, which mark a key slot.

use kms_core::{Error, ErrorKind, Result};
use kms_rotation::Slot;
use serde_json::json;

use crate::{
    Device,
    error::{at, code},
    memory::Memory,
    process::{Call, CommandOutput, Ended},
};

impl Device {
    /// Marks a slot with a token of this type, so that other programs and people see whose slot it is.
    ///
    /// # Errors
    ///
    /// `Unsupported` for LUKS1, which has no tokens; errors of the device, the lock and the program.
    pub async fn mark_slot(&self, slot: Slot, kind: &str) -> Result<()> {
        let marked = async {
            let _lock = self.locked().await?;
            // Slots are texts in the metadata ("LUKS2 On-Disk Format Specification" 1.1.1, section 3.5).
            let token = json!({"type": kind, "keyslots": [slot.to_string()]}).to_string();
            let memory = Memory::holding(token.as_bytes()).map_err(|cause| {
                Error::new(ErrorKind::Unexpected, "the token cannot be handed to cryptsetup").source(cause)
            })?;
            let call =
                Call::new(["token", "import", "--json-file"]).arg(memory.path()).arg("--").arg(self.path());
            self.done(self.run(memory.inherited_by(call)?).await?).await
        };
        marked.await.map_err(at(self.path())).map_err(|error| error.operation("mark a key slot"))
    }

    /// Removes the tokens of this type that refer to a slot. Succeeds if there is no such token.
    ///
    /// # Errors
    ///
    /// Errors of the device, the lock and the program.
    pub async fn unmark_slot(&self, slot: Slot, kind: &str) -> Result<()> {
        let unmarked = async {
            let _lock = self.locked().await?;
            let header = self.header_now().await?;
            let tokens = header.slot(slot).map(|slot| slot.tokens.as_slice()).unwrap_or_default();
            for token in tokens.iter().filter(|token| token.kind == kind) {
                let call = Call::new(["token", "remove", "--token-id"]).arg(token.number.to_string());
                self.done(self.run(call.arg("--").arg(self.path())).await?).await?;
            }
            Ok(())
        };
        unmarked
            .await
            .map_err(at(self.path()))
            .map_err(|error| error.operation("remove the mark of a key slot"))
    }

    async fn done(&self, answer: CommandOutput) -> Result<()> {
        match answer.ended {
            Ended::Code(code::DONE) => Ok(()),
            _ => Err(self.cryptsetup().explain(&answer).await),
        }
    }
}
