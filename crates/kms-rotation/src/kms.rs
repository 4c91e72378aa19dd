//! The side of the KMS: what is read, and what can still happen to what was sent.

use kms_core::{
    Error, ErrorKind, Freshness, Guarantee, Kek, KeyVersion, PutMode, Result, Stored, UpdateRight,
    WriteOutcome,
};
use tokio::time::Instant;

use crate::{Step, run::Run};

impl Run<'_> {
    /// Reads the KEK, fresh: every decision is made on it.
    pub(crate) async fn read(&self, step: Step) -> Result<Stored> {
        self.step(step, self.kms.get(self.osd.name(), Freshness::Fresh)).await
    }

    /// Whether the server itself decides between two updates.
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

    /// Asks whether the KEK may be updated, unless that was asked before.
    pub(crate) async fn ask_right(&self) -> Result<UpdateRight> {
        if let Some(right) = self.options.right {
            return Ok(right);
        }
        let names = std::slice::from_ref(self.osd.name());
        let rights = self.step(Step::AskRight, self.kms.may_update(names)).await?;
        Ok(rights.first().copied().unwrap_or(UpdateRight::Unknown))
    }

    /// The error of an update that is known not to be allowed.
    pub(crate) fn denied(&self) -> Error {
        Error::new(
            ErrorKind::PermissionDenied,
            "our account may read the KEK, but not update it: nothing was changed (grant update on this key)",
        )
        .provider(self.kms.provider())
    }

    /// Makes sure that the KEK may be updated, before any device is written to.
    ///
    /// Where the server does not say, the KEK that is in use is stored once more: that needs the same rights, and the
    /// KMS returns the same KEK throughout.
    pub(crate) async fn prove_right(&self, stored: Stored) -> Result<Stored> {
        match self.ask_right().await? {
            UpdateRight::Granted => Ok(stored),
            UpdateRight::Denied => Err(self.denied()),
            _ => self.store_again(stored).await,
        }
    }

    /// Stores the KEK that is in use once more.
    async fn store_again(&self, stored: Stored) -> Result<Stored> {
        let mode = PutMode::Update(stored.version.clone());
        let version = self.step(Step::StoreAgain, self.kms.put(self.osd.name(), &stored.kek, mode)).await?;
        let Stored { kek, created, updated, .. } = stored;
        Ok(Stored::new(kek, version).with_times(created, updated))
    }

    /// Makes sure that no write which was sent before can still arrive and change what the KMS holds.
    ///
    /// A run that was killed may have sent its new KEK a moment ago. The KMS returns the old one still, and would
    /// return the new one a moment later, when its key slot has been removed. So, where the server decides between
    /// updates, the KEK is stored once more: that makes a new version, and whatever was sent for the one before fails.
    /// Elsewhere there is only to wait, and to look again.
    ///
    /// # Errors
    ///
    /// `Conflict` if another KEK has arrived; those of the KMS.
    pub(crate) async fn fence(&self, stored: Stored) -> Result<Stored> {
        if self.is_atomic() {
            let before = stored.version.clone();
            let fenced = self.store_again(stored).await?;
            if fenced.version == before {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "the KMS did not note that the KEK was stored once more, so it is not known what else is under \
                     way: nothing was removed, run it again",
                )
                .provider(self.kms.provider()));
            }
            return Ok(fenced);
        }
        self.wait_until(Instant::now() + self.options.under_way()).await;
        let again = self.read(Step::ReadKek).await?;
        if again.version == stored.version && again.kek.ct_eq(&stored.kek) {
            Ok(again)
        } else {
            Err(changed())
        }
    }

    /// Stores the new KEK in place of `stored`, and says how that went.
    pub(crate) async fn store_new(&self, stored: &Stored, new: &Kek) -> Put {
        let mode = PutMode::Update(stored.version.clone());
        match self.step(Step::StoreNew, self.kms.put(self.osd.name(), new, mode)).await {
            Ok(version) => Put::Stored(version),
            Err(error) if self.is_final(&error) => Put::Refused(error),
            Err(error) => Put::Unknown(error),
        }
    }

    /// Whether a write that failed so can surely not be applied later.
    fn is_final(&self, error: &Error) -> bool {
        // The outcome of a try before a conflict is unknown, but where the server decides, that try can only fail now.
        error.write_outcome() == WriteOutcome::NotApplied
            && (error.kind() != ErrorKind::Conflict || self.is_atomic())
    }
}

/// How the storing of the new KEK went.
#[derive(Debug)]
pub(crate) enum Put {
    /// It is stored.
    Stored(KeyVersion),
    /// It is not stored, and will not be.
    Refused(Error),
    /// Nobody knows.
    Unknown(Error),
}

/// Somebody else has stored another KEK.
pub(crate) fn changed() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "somebody else has changed the KEK meanwhile: the devices open with the one that the KMS holds; run it again \
         to finish",
    )
}
