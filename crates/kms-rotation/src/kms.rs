//! Requests to the KMS, and whether a write that was sent can still arrive.

use kms_core::{
    Error, ErrorKind, Freshness, Guarantee, Kek, KeyVersion, PutMode, Result, Stored, UpdateRight,
    WriteOutcome,
};

use crate::{Step, run::Run};

impl Run<'_> {
    /// Reads the KEK, fresh, since every decision depends on it.
    pub(crate) async fn read(&self, step: Step) -> Result<Stored> {
        self.step(step, self.kms.get(self.osd.name(), Freshness::Fresh)).await
    }

    /// Whether the server has compare-and-set.
    pub(crate) fn is_atomic(&self) -> bool {
        self.kms.capability().update == Guarantee::Atomic
    }

    /// Fails if this provider can never update a key.
    pub(crate) fn check_capability(&self) -> Result<()> {
        if self.kms.capability().update == Guarantee::Unsupported {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "this provider cannot update a key, so it cannot rotate",
            )
            .provider(self.kms.provider()));
        }
        Ok(())
    }

    /// Asks the KMS whether the KEK may be updated, unless [`Options::right`](crate::Options) has the answer.
    pub(crate) async fn ask_right(&self) -> Result<UpdateRight> {
        if let Some(right) = self.options.right {
            return Ok(right);
        }
        let names = std::slice::from_ref(self.osd.name());
        let rights = self.step(Step::AskRight, self.kms.may_update(names)).await?;
        Ok(rights.first().copied().unwrap_or(UpdateRight::Unknown))
    }

    /// The error of an update that the KMS does not allow.
    pub(crate) fn denied(&self) -> Error {
        Error::new(
            ErrorKind::PermissionDenied,
            "the KMS lets our account read the KEK and not update it: nothing was changed (grant update on this key; a \
             Secret must not be immutable or of another type)",
        )
        .provider(self.kms.provider())
    }

    /// Makes sure that the KEK may be updated, before any device is written to.
    ///
    /// If the server cannot tell, but has compare-and-set, this stores the current KEK once more: that needs the same
    /// rights, and the KMS returns the same KEK throughout. Without compare-and-set such a write could arrive late and
    /// undo a later rotation, which sees no trace of it on the devices; there the write of the new KEK, whose slot is
    /// the trace, shows whether it is allowed.
    pub(crate) async fn prove_right(&self, stored: Stored) -> Result<Stored> {
        match self.ask_right().await? {
            UpdateRight::Denied => Err(self.denied()),
            UpdateRight::Unknown if self.is_atomic() => self.store_again(stored).await,
            _ => Ok(stored),
        }
    }

    /// Stores the current KEK once more.
    async fn store_again(&self, stored: Stored) -> Result<Stored> {
        let mode = PutMode::Update(stored.version.clone());
        let version = self.step(Step::StoreAgain, self.kms.put(self.osd.name(), &stored.kek, mode)).await?;
        let Stored { kek, created, updated, .. } = stored;
        Ok(Stored::new(kek, version).with_times(created, updated))
    }

    /// Makes sure that no earlier write can still arrive and change what the KMS holds.
    ///
    /// A killed run may have sent its new KEK a moment ago. The KMS still returns the old KEK, and would return the
    /// new one a moment later, after its key slot has been removed. Where the server has compare-and-set, this stores
    /// the KEK once more: that makes a new version, so that every write for an earlier version fails. Elsewhere the
    /// observation that precedes every removal was longer than a write can be in flight, and this reads once more.
    ///
    /// # Errors
    ///
    /// `Conflict` if another KEK has arrived; errors of the KMS.
    pub(crate) async fn fence(&self, stored: Stored) -> Result<Stored> {
        if self.is_atomic() {
            let before = stored.version.clone();
            let fenced = self.store_again(stored).await?;
            if fenced.version == before {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "the KMS made no new version when the KEK was stored once more, so an earlier write may still be in \
                     flight: nothing was removed, run it again",
                )
                .provider(self.kms.provider()));
            }
            return Ok(fenced);
        }
        let again = self.read(Step::ReadKek).await?;
        if again.version == stored.version && again.kek.ct_eq(&stored.kek) {
            Ok(again)
        } else {
            Err(changed())
        }
    }

    /// Stores the new KEK in place of `stored`.
    pub(crate) async fn store_new(&self, stored: &Stored, new: &Kek) -> Put {
        let mode = PutMode::Update(stored.version.clone());
        match self.step(Step::StoreNew, self.kms.put(self.osd.name(), new, mode)).await {
            Ok(version) => Put::Stored(version),
            Err(error) if self.is_final(&error) => Put::Refused(error),
            Err(error) => Put::Unknown(error),
        }
    }

    /// Whether a write that failed with this error can never be applied later.
    fn is_final(&self, error: &Error) -> bool {
        // The outcome of an earlier try is unknown, but with compare-and-set it can only fail now.
        error.write_outcome() == WriteOutcome::NotApplied
            && (error.kind() != ErrorKind::Conflict || self.is_atomic())
    }
}

/// The result of storing the new KEK.
#[derive(Debug)]
pub(crate) enum Put {
    /// The KMS stored it.
    Stored(KeyVersion),
    /// The KMS did not store it, and never will.
    Refused(Error),
    /// The KMS may have stored it, or may do so later.
    Unknown(Error),
}

/// The error of a KEK that another writer has replaced.
pub(crate) fn changed() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "another writer has changed the KEK meanwhile: the devices open with the one that the KMS holds; run it again \
         to finish",
    )
}
