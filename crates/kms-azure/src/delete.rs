//! Deleting, and what the vault makes of it.

use std::time::Duration;

use kms_core::{DeleteMode, Error, ErrorKind, KeyName, Result, provider::Deleted};
use tokio::time::Instant;
use tracing::warn;

use crate::{api::Bundle, name::Names, provider::AzureKeyVault, store::Event};

/// A deleted secret that cannot be seen for so long is gone.
const UNSEEN: Duration = Duration::from_secs(12);

impl AzureKeyVault {
    pub(crate) async fn remove(&self, name: &KeyName, names: &Names, mode: DeleteMode) -> Result<Deleted> {
        let _turn = self.turn(names).lock().await;
        let mut patience = self.patience();
        let deleted = match self.api.delete(names).await {
            Ok(Some(deleted)) => deleted,
            // A destroy that was interrupted after its first half goes on here.
            Ok(None) if mode == DeleteMode::Destroy => match self.api.deleted(names).await {
                Ok(Some(deleted)) if !is_protected(&deleted) => deleted,
                _ => return Err(Error::key_not_found(name)),
            },
            Ok(None) => return Err(Error::key_not_found(name)),
            // Somebody else is deleting it at this moment.
            Err(error) if error.kind() == ErrorKind::Conflict => return Err(Error::key_not_found(name)),
            Err(error) => return Err(error),
        };
        // A vault from before soft delete keeps nothing.
        if deleted.recovery_id.is_none() {
            return Ok(Deleted::Destroyed);
        }
        if mode != DeleteMode::Destroy {
            return Ok(Deleted::Recoverable);
        }
        if is_protected(&deleted) {
            warn!(
                secret = names.secret,
                "the vault's purge protection forbids destroying the key; it stays recoverable until its time has come"
            );
            return Ok(Deleted::Recoverable);
        }
        let (start, mut seen) = (Instant::now(), false);
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
                // Somebody else has purged it; or it cannot be seen yet, on a server that does not say so.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if seen || start.elapsed() >= UNSEEN {
                        break;
                    }
                    seen = self.api.deleted(names).await?.is_some();
                }
                Err(error) => return Err(error),
            }
            patience.pause().await?;
        }
        // It is gone already; the name is free a moment later.
        self.until(names, Event::Purged, &mut patience).await.ok();
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

/// Whether the vault says that this secret cannot be purged.
fn is_protected(deleted: &Bundle) -> bool {
    deleted.attributes.recovery_level.as_deref().is_some_and(|level| !level.contains("Purgeable"))
}
