//! Deleting, and what the vault makes of it.

use std::time::Duration;

use kms_core::{DeleteMode, Error, ErrorKind, KeyName, Result, provider::Deleted};
use tracing::warn;

use crate::{
    api::Bundle,
    name::Names,
    provider::AzureKeyVault,
    store::{Event, Patience},
};

/// A vault that says nothing of a way back, and does not show for so long what it has deleted, keeps nothing.
const UNSEEN: Duration = Duration::from_secs(12);

impl AzureKeyVault {
    pub(crate) async fn remove(&self, name: &KeyName, names: &Names, mode: DeleteMode) -> Result<Deleted> {
        let _turn = self.turn(names).lock().await;
        let mut patience = self.patience();
        let deleted = loop {
            match self.api.delete(names).await {
                Ok(Some(deleted)) => break deleted,
                // A destroy that was interrupted after its first half goes on here.
                Ok(None) if mode == DeleteMode::Destroy => match self.deleted_before(names).await? {
                    Some(deleted) => break deleted,
                    None => return Err(Error::key_not_found(name)),
                },
                Ok(None) => return Err(Error::key_not_found(name)),
                // Somebody deletes it at this moment, or brings it back: which of them shows a moment later.
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    patience.pause().await.map_err(|late| late.source(error))?;
                }
                Err(error) => return Err(error),
            }
        };
        // A vault without soft delete keeps nothing.
        if !self.is_kept(names, &deleted).await? {
            return Ok(Deleted::Destroyed);
        }
        if mode != DeleteMode::Destroy {
            return Ok(Deleted::Recoverable);
        }
        if deleted.is_protected() {
            warn!(
                secret = names.secret,
                "the vault's purge protection forbids destroying the key; it stays recoverable until its time has come"
            );
            return Ok(Deleted::Recoverable);
        }
        self.purge_deleted(names, &mut patience).await
    }

    /// The secret of that name that was deleted before and can be purged.
    async fn deleted_before(&self, names: &Names) -> Result<Option<Bundle>> {
        match self.api.deleted(names).await {
            Ok(found) => Ok(found.filter(|found| !found.is_protected())),
            // Whoever may not look there may not purge either.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the vault keeps what was just deleted.
    async fn is_kept(&self, names: &Names, deleted: &Bundle) -> Result<bool> {
        if let Some(known) = deleted.is_recoverable() {
            return Ok(known);
        }
        let mut patience = Patience::new(self.wait.min(UNSEEN));
        loop {
            match self.api.deleted(names).await {
                Ok(Some(_)) => return Ok(true),
                Ok(None) => {}
                Err(error) => match error.kind() {
                    ErrorKind::PermissionDenied => return Ok(true),
                    // It knows no deleted secrets.
                    ErrorKind::Protocol | ErrorKind::ConfigInvalid => return Ok(false),
                    _ => return Err(error),
                },
            }
            if patience.pause().await.is_err() {
                return Ok(false);
            }
        }
    }

    /// Purges, as soon as the deletion is complete.
    async fn purge_deleted(&self, names: &Names, patience: &mut Patience) -> Result<Deleted> {
        let mut seen = false;
        loop {
            match self.api.purge(names).await {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    warn!(
                        secret = names.secret, %error,
                        "the key is deleted and not destroyed: we may not purge it; it stays recoverable until its time \
                         has come, or until somebody with the permission \"purge\" purges it"
                    );
                    return Ok(Deleted::Recoverable);
                }
                // The deletion is not complete.
                Err(error) if error.kind() == ErrorKind::Conflict => seen = true,
                // Somebody else has purged it.
                Err(error) if error.kind() == ErrorKind::NotFound && seen => break,
                // Or the deletion is not complete, on a server that does not say so.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    seen = match self.api.deleted(names).await {
                        Ok(found) => found.is_some(),
                        Err(error) if error.kind() == ErrorKind::PermissionDenied => false,
                        Err(error) => return Err(error),
                    };
                }
                Err(error) => return Err(error),
            }
            if let Err(error) = patience.pause().await {
                warn!(secret = names.secret, %error, "the key is deleted and not destroyed, and may be recoverable");
                return Ok(Deleted::Recoverable);
            }
        }
        // It is gone already; the name is free a moment later.
        self.until(names, Event::Purged, patience).await.ok();
        Ok(Deleted::Destroyed)
    }

    /// Brings a soft-deleted key back.
    ///
    /// # Errors
    ///
    /// `NotFound` if no soft-deleted secret of that name is there.
    pub async fn restore(&self, name: &KeyName) -> Result<()> {
        let names = Names::of(name);
        let result = async {
            self.api.recover(&names).await?;
            self.until(&names, Event::Recovered, &mut self.patience()).await
        };
        result.await.map_err(|error| self.told(error, "restore", name))
    }
}
