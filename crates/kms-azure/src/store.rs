//! Creating, updating and overwriting.

use std::time::Duration;

use kms_core::{Error, ErrorKind, Existing, Kek, KeyName, KeyVersion, Result, Retry};
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use crate::{
    api::Bundle,
    error::{RECOVERABLE, has_code},
    name::Names,
    provider::{AzureKeyVault, SoftDeleted},
    settle::Decided,
    value::State,
};

/// What has become of a name that could not be written to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Freed {
    /// We have brought the soft-deleted secret back.
    Recovered,
    /// A secret of somebody else is there by now.
    Taken,
    /// It is worth another try.
    Free,
}

/// What the vault completes some time after it has been asked to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// A purge: the secret cannot be seen among the deleted ones any more.
    Purged,
    /// A recovery: it can be read again.
    Recovered,
}

/// How long we still wait for the vault.
pub(crate) struct Patience {
    limit: Duration,
    deadline: Instant,
    pause: Duration,
}

impl Patience {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, deadline: Instant::now() + limit, pause: Duration::from_millis(100) }
    }

    /// Waits a moment, a longer one each time.
    pub(crate) async fn pause(&mut self) -> Result<()> {
        if Instant::now() + self.pause > self.deadline {
            let seconds = self.limit.as_secs();
            return Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "the vault has not completed a deletion, recovery or purge of that name within {seconds} s; try \
                     again later, or raise AZURE_SOFT_DELETE_WAIT"
                ),
            )
            .retry(Retry::IfIdempotent));
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_secs(2));
        Ok(())
    }
}

impl AzureKeyVault {
    /// The key as it counts now.
    pub(crate) async fn current(&self, names: &Names, heal: bool) -> Result<Option<Decided>> {
        let Some(current) = self.api.get(names, None).await? else { return Ok(None) };
        if current.state() == State::New {
            return self.undecided(names, current, heal).await.map(Some);
        }
        Ok(Some(Decided { kek: current.kek(names)?, current }))
    }

    pub(crate) async fn create(&self, name: &KeyName, names: &Names, kek: &Kek) -> Result<KeyVersion> {
        let _turn = self.turn(names).lock().await;
        let mut patience = self.patience();
        loop {
            match self.api.get(names, None).await? {
                Some(current) if !current.is_empty() => {
                    return Err(self.taken(name, names, kek, current).await);
                }
                // Rook writes over an empty value too. Others may do so at this moment, so that it is settled likewise.
                _ => {}
            }
            match self.api.put(names, kek, State::New).await {
                Ok(made) => {
                    let settled = self.settle(name, names, kek, &made.version()?).await;
                    return settled.map_err(written);
                }
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    match self.free(names, error, &mut patience).await? {
                        Freed::Recovered => return self.recovered(name, names, kek).await,
                        Freed::Taken | Freed::Free => {}
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What is known of the key that is there already.
    async fn taken(&self, name: &KeyName, names: &Names, kek: &Kek, current: Bundle) -> Error {
        let stored = if current.state() == State::New {
            self.undecided(names, current, true).await.map(|decided| decided.kek)
        } else {
            current.kek(names)
        };
        match stored {
            Ok(stored) if stored.ct_eq(kek) => Error::already_exists(name, Existing::Same),
            Ok(_) => Error::already_exists(name, Existing::Different),
            Err(error) if error.kind() == ErrorKind::Protocol => {
                Error::already_exists(name, Existing::Unknown).source(error)
            }
            Err(error) => error,
        }
    }

    /// A soft-deleted key has come back: it is the one that was to be created, or an obstacle.
    async fn recovered(&self, name: &KeyName, names: &Names, kek: &Kek) -> Result<KeyVersion> {
        let Some(Decided { kek: stored, current }) = self.current(names, true).await? else {
            return Err(Error::new(ErrorKind::Conflict, "the recovered key was deleted again at once"));
        };
        if stored.ct_eq(kek) {
            info!(secret = names.secret, "the soft-deleted secret held the same KEK, and has been recovered");
            return current.version();
        }
        Err(Error::already_exists(name, Existing::Different).context(
            "what to do",
            "a soft-deleted secret of that name held another KEK and has been recovered: use it, or delete and purge it \
             first, or set AZURE_SOFT_DELETED to purge",
        ))
    }

    /// Deals with what keeps a name, as the settings say: a soft-deleted secret is recovered or purged, and what others
    /// have under way is waited for.
    async fn free(&self, names: &Names, conflict: Error, patience: &mut Patience) -> Result<Freed> {
        // The code alone does not decide: other implementations have others.
        if has_code(&conflict, RECOVERABLE) || self.api.deleted(names).await?.is_some() {
            let (result, freed, event, permission) = match self.soft_deleted {
                SoftDeleted::Recover => {
                    (self.api.recover(names).await, Freed::Recovered, Event::Recovered, "recover")
                }
                SoftDeleted::Purge => (self.api.purge(names).await, Freed::Free, Event::Purged, "purge"),
            };
            match result {
                Ok(()) => {
                    debug!(secret = names.secret, policy = self.soft_deleted.as_str(), "freed the name");
                    self.until(names, event, patience).await?;
                    return Ok(freed);
                }
                // Somebody else is at it, or its deletion is not complete yet.
                Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {}
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    return Err(error.context(
                        "what to do",
                        format!(
                            "a soft-deleted secret keeps the name, and the permission \"{permission}\" is needed to \
                             deal with it (or purge protection forbids it)"
                        ),
                    ));
                }
                Err(error) => return Err(error),
            }
        }
        if self.api.get(names, None).await?.is_some() {
            return Ok(Freed::Taken);
        }
        patience.pause().await.map_err(|error| error.source(conflict))?;
        Ok(Freed::Free)
    }

    /// Waits until the vault has completed something.
    pub(crate) async fn until(&self, names: &Names, event: Event, patience: &mut Patience) -> Result<()> {
        loop {
            let seen = match event {
                Event::Recovered => self.api.get(names, None).await.map(|found| found.is_some()),
                Event::Purged => self.api.deleted(names).await.map(|found| found.is_none()),
            };
            match seen {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // A secret may have neither of its names while it moves from one to the other.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
            patience.pause().await?;
        }
    }

    pub(crate) fn patience(&self) -> Patience {
        Patience::new(self.wait)
    }

    pub(crate) async fn update(&self, names: &Names, kek: &Kek, expected: &KeyVersion) -> Result<KeyVersion> {
        let _turn = self.turn(names).lock().await;
        let Some(Decided { current, .. }) = self.current(names, true).await? else {
            return Err(Error::new(ErrorKind::NotFound, "there is no such key"));
        };
        if current.version()? != *expected {
            return Err(Error::new(ErrorKind::Conflict, "the key has changed since it was read"));
        }
        let made = match self.api.put(names, kek, State::Plain).await {
            Ok(made) => made.version()?,
            Err(error) if error.kind() == ErrorKind::Conflict => {
                return Err(Error::new(ErrorKind::NotFound, "the key was deleted meanwhile").source(error));
            }
            Err(error) => return Err(error),
        };
        // The vault takes every write: whoever was overtaken has to know it.
        match self.api.get(names, None).await? {
            Some(after)
                if after.version()? == made || after.kek(names).is_ok_and(|found| found.ct_eq(kek)) =>
            {
                after.version()
            }
            Some(_) => {
                Err(Error::new(ErrorKind::Conflict, "somebody else has updated the key at the same moment"))
            }
            None => Err(Error::new(ErrorKind::NotFound, "the key was deleted at the same moment")),
        }
    }

    pub(crate) async fn overwrite(&self, names: &Names, kek: &Kek) -> Result<KeyVersion> {
        let _turn = self.turn(names).lock().await;
        let mut patience = self.patience();
        loop {
            match self.api.put(names, kek, State::Plain).await {
                Ok(made) => return made.version(),
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    let told = error.clone();
                    // It can be read and not yet be written to.
                    if self.free(names, error, &mut patience).await? == Freed::Taken {
                        patience.pause().await.map_err(|late| late.source(told))?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Disables the versions before the current one.
    pub(crate) async fn retire(&self, names: &Names, current: &KeyVersion) -> Result<usize> {
        let _turn = self.turn(names).lock().await;
        // The list first: what is in it and is not the current version afterwards has surely been superseded.
        let versions = self.api.versions(names).await?;
        let Some(Decided { current: found, .. }) = self.current(names, true).await? else {
            return Err(Error::new(ErrorKind::NotFound, "there is no such key"));
        };
        if found.version()? != *current {
            return Err(Error::new(ErrorKind::Conflict, "the key has changed since it was read"));
        }
        let mut retired = 0;
        for old in versions {
            let version = old.version()?;
            if version == *current || old.attributes.enabled == Some(false) {
                continue;
            }
            self.api.disable(names, &version).await?;
            retired += 1;
        }
        Ok(retired)
    }
}

/// An error after a write that has succeeded: whatever it says of itself, something has been done.
fn written(error: Error) -> Error {
    match error.retryable() {
        Retry::Always => error.retry(Retry::IfIdempotent),
        _ => error,
    }
}
