//! Changes of key slots: add, change, remove.

use kms_core::{Error, ErrorKind, Kek, Result};
use kms_rotation::{Added, Proof, Slot};

use crate::{
    Device, Version,
    error::{at, code},
    process::{Call, CommandOutput, Ended},
};

/// What [`Device::change`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Changed {
    /// The slot has the new KEK.
    Done,
    /// Nothing was written: the current KEK does not open it.
    WrongKey,
}

impl Device {
    /// Proves that the KEK opens a slot.
    ///
    /// # Errors
    ///
    /// `Conflict` if the KEK does not open the slot; otherwise as [`opens`](Self::opens).
    pub async fn verify(&self, slot: Slot, kek: &Kek) -> Result<Proof> {
        Proof::by_opening(self, slot, kek).await
    }

    /// Adds a slot for a new KEK, with the volume key from slot `from`, or from any slot that `current` opens.
    ///
    /// With `from`, nothing is written unless `current` opens that slot.
    ///
    /// # Errors
    ///
    /// Errors of the device, the lock and the program. After a `Timeout` the slot may exist.
    pub async fn add(&self, from: Option<Slot>, current: &Kek, new_slot: Slot, new: &Kek) -> Result<Added> {
        let added = async {
            let _lock = self.locked().await?;
            self.add_locked(from, current, new_slot, new).await
        };
        added.await.map_err(at(self.path())).map_err(|error| error.operation("add a key slot"))
    }

    async fn add_locked(
        &self,
        from: Option<Slot>,
        current: &Kek,
        new_slot: Slot,
        new: &Kek,
    ) -> Result<Added> {
        self.cryptsetup().kdf().check()?;
        if from == Some(new_slot) {
            return Err(Error::config(format!(
                "key slot {new_slot} cannot be added with the KEK of the same slot: name another slot"
            )));
        }
        let header = self.header_now().await?;
        header.refuse_blocked()?;
        if header.in_use(new_slot) {
            return Ok(Added::SlotTaken);
        }
        if from.is_some_and(|from| !header.opens_data(from)) {
            return Ok(Added::WrongKey);
        }
        let mut call = Call::new(["luksAddKey", "--batch-mode"]);
        if let Some(from) = from {
            call = call.arg("--key-slot").arg(from.to_string());
        }
        let answer = self.add_call(call.arg("--new-key-slot"), current, new_slot, new).await?;
        if let Some(added) = added(&answer) {
            return Ok(added);
        }
        if answer.ended == Ended::Code(code::FAILED) {
            // Another process may have taken the slot, or the program may not know the option.
            if self.header_now().await?.in_use(new_slot) {
                return Ok(Added::SlotTaken);
            }
            if self.cryptsetup().version().await? < Version::NAMED_SOURCE {
                return self.add_before_named_source(from, current, new_slot, new).await;
            }
        }
        Err(self.cryptsetup().explain(&answer).await)
    }

    /// Before 2.6 the new slot is called `--key-slot`, and the old one cannot be named.
    async fn add_before_named_source(
        &self,
        from: Option<Slot>,
        current: &Kek,
        new_slot: Slot,
        new: &Kek,
    ) -> Result<Added> {
        if let Some(from) = from
            && !self.opens(Some(from), current).await?
        {
            return Ok(Added::WrongKey);
        }
        let call = Call::new(["luksAddKey", "--batch-mode", "--key-slot"]);
        let answer = self.add_call(call, current, new_slot, new).await?;
        match added(&answer) {
            Some(added) => Ok(added),
            None => Err(self.cryptsetup().explain(&answer).await),
        }
    }

    /// `call` ends with the option that names the new slot.
    async fn add_call(&self, call: Call, current: &Kek, new_slot: Slot, new: &Kek) -> Result<CommandOutput> {
        let call = call.arg(new_slot.to_string()).args(self.cryptsetup().kdf().args());
        self.run(call.arg("--key-file").key(current)?.arg("--").arg(self.path()).new_key(new)?).await
    }

    /// Removes a slot. `proof` is the proof of another slot of this device, and `kek` the KEK that it was made with.
    ///
    /// Reads the header again first: the slot of the proof must still be in use, so the last slot is never removed.
    /// Succeeds if the slot is not in use.
    ///
    /// # Errors
    ///
    /// As [`Proof::allows_removal`]; `Conflict` if the KEK opens no slot that would remain; errors of the device, the
    /// lock and the program.
    pub async fn kill(&self, victim: Slot, proof: &Proof, kek: &Kek) -> Result<()> {
        let killed = async {
            let _lock = self.locked().await?;
            self.kill_locked(victim, proof, kek).await
        };
        killed.await.map_err(at(self.path())).map_err(|error| error.operation("remove a key slot"))
    }

    async fn kill_locked(&self, victim: Slot, proof: &Proof, kek: &Kek) -> Result<()> {
        let header = self.header_now().await?;
        if !proof.allows_removal(victim, self.path(), &header)? {
            return Ok(());
        }
        let call = Call::new(["luksKillSlot", "--batch-mode", "--key-file"]).key(kek)?;
        let answer = self.run(call.arg("--").arg(self.path()).arg(victim.to_string())).await?;
        let gone = async || self.header_now().await.map(|header| !header.in_use(victim));
        match answer.ended {
            // The exit code alone is no evidence: the removal of a leaked KEK must not be reported in error.
            Ended::Code(code::DONE) if gone().await? => Ok(()),
            Ended::Code(code::DONE) => Err(Error::new(
                ErrorKind::Unexpected,
                format!(
                    "cryptsetup reports that it removed key slot {victim}, and the header still has the slot: find out \
                     which program writes to the device, and run it again"
                ),
            )),
            Ended::Code(code::WRONG_KEY) => Err(Error::new(
                ErrorKind::Conflict,
                format!("the KEK opens only key slot {victim}, so that slot was not removed"),
            )),
            // Another process has removed it.
            Ended::Code(code::FAILED) if gone().await? => Ok(()),
            _ => Err(self.cryptsetup().explain(&answer).await),
        }
    }

    /// Replaces the KEK of a slot.
    ///
    /// LUKS2 writes the new slot before it gives up the old one; LUKS1 without a free slot does not, so use
    /// [`add`](Self::add) and [`kill`](Self::kill) where a slot is free.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add); `Conflict` for a slot that a token refers to.
    pub async fn change(&self, slot: Slot, current: &Kek, new: &Kek) -> Result<Changed> {
        let changed = async {
            let _lock = self.locked().await?;
            self.cryptsetup().kdf().check()?;
            let header = self.header_now().await?;
            header.refuse_blocked()?;
            let Some(used) = header.slot(slot) else { return Ok(Changed::WrongKey) };
            used.refuse_token()?;
            let call = Call::new(["luksChangeKey", "--batch-mode", "--key-slot"]).arg(slot.to_string());
            let call = call.args(self.cryptsetup().kdf().args()).arg("--key-file").key(current)?;
            let answer = self.run(call.arg("--").arg(self.path()).new_key(new)?).await?;
            match answer.ended {
                Ended::Code(code::DONE) => Ok(Changed::Done),
                Ended::Code(code::WRONG_KEY) => Ok(Changed::WrongKey),
                // Another process has removed the slot.
                Ended::Code(code::FAILED) if !self.header_now().await?.in_use(slot) => Ok(Changed::WrongKey),
                _ => Err(self.cryptsetup().explain(&answer).await),
            }
        };
        changed.await.map_err(at(self.path())).map_err(|error| error.operation("change a key slot"))
    }
}

/// The meaning of the exit code of `luksAddKey`. `None` if the header must be read to find out.
fn added(answer: &CommandOutput) -> Option<Added> {
    match answer.ended {
        Ended::Code(code::DONE) => Some(Added::Done),
        Ended::Code(code::WRONG_KEY) => Some(Added::WrongKey),
        _ => None,
    }
}
