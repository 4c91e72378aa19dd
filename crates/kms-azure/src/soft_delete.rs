//! Recovers or purges soft-deleted secrets, and waits for the vault to complete these operations.

use std::time::Duration;

use kms_core::{Error, ErrorKind, Result, Retry};
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::{
    api::Api,
    error::{RECOVERABLE, has_code},
    name::Names,
};

/// The action of a create on a soft-deleted secret of the same name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SoftDeleted {
    /// Recovers the secret, and succeeds if the secret holds the same KEK.
    Recover,
    /// Purges the secret.
    Purge,
}

impl SoftDeleted {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Recover => "recover",
            Self::Purge => "purge",
        }
    }
}

/// The settings for soft-deleted secrets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SoftDelete {
    pub(crate) policy: SoftDeleted,
    /// How long to wait for the vault to complete a deletion, recovery or purge.
    pub(crate) wait: Duration,
}

impl SoftDelete {
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::new(self.wait)
    }
}

/// The result of freeing a name whose write met a conflict.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Freed {
    /// The soft-deleted secret has been recovered.
    Recovered,
    /// Another writer has stored a secret meanwhile.
    Taken,
    /// The write is worth a retry.
    Free,
}

/// An operation that the vault completes some time after the request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// A deletion: the secret is listed as deleted.
    Deleted,
    /// A purge: the secret is no longer listed as deleted.
    Purged,
    /// A recovery: the secret can be read again.
    Recovered,
}

/// The time at which to stop waiting for the vault, and the next pause.
pub(crate) struct Deadline {
    limit: Duration,
    end: Instant,
    pause: Duration,
}

impl Deadline {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, end: Instant::now() + limit, pause: Duration::from_millis(100) }
    }

    /// Sleeps, each time twice as long as before, up to 2 s.
    ///
    /// # Errors
    ///
    /// `Timeout` if the sleep would end after the deadline.
    pub(crate) async fn pause(&mut self) -> Result<()> {
        if Instant::now() + self.pause > self.end {
            let seconds = self.limit.as_secs();
            return Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "the vault has not completed a deletion, recovery or purge of this name within {seconds} s; retry \
                     later, or raise AZURE_SOFT_DELETE_WAIT"
                ),
            )
            .retry(Retry::IfIdempotent));
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_secs(2));
        Ok(())
    }
}

/// Frees a name whose write met `conflict`: recovers or purges a soft-deleted secret as the settings say, or waits for
/// another writer's operation.
pub(crate) async fn free(
    api: &Api,
    policy: SoftDeleted,
    names: &Names,
    conflict: Error,
    deadline: &mut Deadline,
) -> Result<Freed> {
    // Other implementations use other codes, so look for a soft-deleted secret too.
    if has_code(&conflict, RECOVERABLE) || api.deleted(names).await?.is_some() {
        let (result, freed, event) = match policy {
            SoftDeleted::Recover => (api.recover(names).await, Freed::Recovered, Event::Recovered),
            SoftDeleted::Purge => (api.purge(names).await, Freed::Free, Event::Purged),
        };
        match result {
            Ok(()) => {
                debug!(secret = names.secret, policy = policy.as_str(), "freed the name");
                until(api, names, event, deadline).await?;
                return Ok(freed);
            }
            // Another client is doing the same, or the deletion is not complete yet.
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {}
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Err(error.context(
                    "what to do",
                    format!(
                        "a soft-deleted secret occupies the name, and the permission \"{}\" is needed to free it (or \
                         purge protection forbids it)",
                        policy.as_str()
                    ),
                ));
            }
            Err(error) => return Err(error),
        }
    }
    if api.get(names, None).await?.is_some() {
        return Ok(Freed::Taken);
    }
    deadline.pause().await.map_err(|error| error.source(conflict))?;
    Ok(Freed::Free)
}

/// Waits until the vault has completed an operation.
pub(crate) async fn until(api: &Api, names: &Names, event: Event, deadline: &mut Deadline) -> Result<()> {
    loop {
        let seen = match event {
            Event::Deleted => api.deleted(names).await.map(|found| found.is_some()),
            Event::Recovered => api.get(names, None).await.map(|found| found.is_some()),
            Event::Purged => api.deleted(names).await.map(|found| found.is_none()),
        };
        match seen {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // While a secret changes between present and deleted, the vault may show it as neither.
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) => return Err(error),
        }
        deadline.pause().await?;
    }
}
