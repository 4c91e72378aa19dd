//! Putting another KEK in the place of one that is there.
//!
//! Key Protect cannot replace the material of a standard key, and cannot move an alias in one step. So the new KEK is
//! imported as a key of its own, under an alias that only a successor of this name has; the service gives it to one
//! writer at a time. Then the name's alias is taken from the old key and given to the new one, the result is read
//! back, and the alias of the successor is removed.
//!
//! | after | the alias leads to | a read gives |
//! | --- | --- | --- |
//! | the import | the old key | the old KEK |
//! | taking the alias | nothing; that of the successor to the new key | the new KEK |
//! | giving it | the new key | the new KEK |
//!
//! Whoever stops anywhere in between leaves one of these rows. The next update, and the next fresh read, finish the
//! second one; the next update tidies up the first and the third.

use std::time::{Duration, SystemTime};

use kms_core::{Error, ErrorKind, Existing, Kek, KeyVersion, Result, Retry};
use tokio::{
    sync::MutexGuard,
    time::{Instant, sleep},
};
use tracing::{debug, warn};

use crate::{
    get::{Imported, Located, Look, States, Want, changing},
    name::Names,
    provider::IbmKeyProtect,
    stored::Key,
};

/// How often an update starts anew when it meets another one.
const ROUNDS: usize = 5;
/// How long the successor of somebody else is left alone: longer than an update with all its repeats takes.
const UNDER_WAY: Duration = Duration::from_secs(120);

/// How long an overwrite waits for the update of somebody else before it takes that one's place.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long an overwrite tries.
const OVERWRITE_LIMIT: Duration = Duration::from_secs(10);
/// The longest pause between two tries of an overwrite.
const PAUSE: Duration = Duration::from_millis(100);

/// What an update expects.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected<'a> {
    Anything {
        /// Whether an update of somebody else that has just begun may be pushed aside.
        pushing: bool,
    },
    Version(&'a KeyVersion),
}

/// A successor that is there already.
enum Pending {
    /// Ours, from a try whose answer was lost.
    Ours(String),
    /// It is out of the way now.
    Cleared,
    Busy,
}

impl IbmKeyProtect {
    async fn update(&self, names: &Names, kek: &Kek, expected: Expected<'_>) -> Result<KeyVersion> {
        for _ in 0..ROUNDS {
            let located = self.locate(names, Want::Metadata).await?;
            let aliased = matches!(located, Located::Here(_));
            let Some(current) = located.key() else {
                return Err(Error::new(ErrorKind::NotFound, "there is no such key"));
            };
            self.check_owner(&current)?;
            if let Expected::Version(version) = expected
                && version.as_str() != current.id
            {
                return Err(changed());
            }
            if !aliased && !self.finish(names, &current).await? {
                continue;
            }
            if aliased && current.has_alias(&names.next) {
                self.remove_alias(&current.id, &names.next).await?;
            }
            let id = match self.import(names, kek, &names.next, Some(&current.id)).await? {
                Imported::Id(id) => id,
                Imported::AliasTaken(_) => match self.pending(names, kek, &current, expected).await? {
                    Pending::Ours(id) => id,
                    Pending::Cleared => continue,
                    Pending::Busy => {
                        return Err(Error::new(
                            ErrorKind::Conflict,
                            "another update of this key is under way, or was interrupted less than two minutes ago",
                        ));
                    }
                },
            };
            return self.move_alias(names, kek, &current.id, &id).await;
        }
        Err(changing())
    }

    /// Gives a key that was found without its alias that alias. `false` if another key has got it meanwhile.
    pub(crate) async fn finish(&self, names: &Names, key: &Key) -> Result<bool> {
        if !self.add_alias(&key.id, &names.alias).await? {
            return Ok(false);
        }
        warn!(alias = names.alias, id = key.id, "gave the key its missing alias back");
        if key.has_alias(&names.next) {
            self.remove_alias(&key.id, &names.next).await?;
        }
        Ok(true)
    }

    /// What to do with a successor that is there already.
    async fn pending(
        &self,
        names: &Names,
        kek: &Kek,
        current: &Key,
        expected: Expected<'_>,
    ) -> Result<Pending> {
        let successor = match self.look(&names.next, Want::Material).await? {
            Look::Found(key) => *key,
            Look::Destroyed(Some(id)) => {
                self.remove_alias(&id, &names.next).await?;
                return Ok(Pending::Cleared);
            }
            Look::Destroyed(None) => return Ok(Pending::Busy),
            Look::Absent(_) => return Ok(Pending::Cleared),
        };
        self.check_owner(&successor)?;
        if successor.id == current.id {
            self.remove_alias(&successor.id, &names.next).await?;
            return Ok(Pending::Cleared);
        }
        let follows = successor.comes_after(&current.id);
        if follows && successor.kek().is_ok_and(|stored| stored.ct_eq(kek)) {
            return Ok(Pending::Ours(successor.id));
        }
        let old = successor
            .created()
            .is_none_or(|created| SystemTime::now().duration_since(created).is_ok_and(|age| age > UNDER_WAY));
        // Who expects a version must not disturb another update of it; who expects nothing may, but only after it was
        // given its time: two who push each other aside at once would both get nowhere.
        if follows && !old && !matches!(expected, Expected::Anything { pushing: true }) {
            return Ok(Pending::Busy);
        }
        debug!(alias = names.alias, id = successor.id, "removing the key of an update that was interrupted");
        self.discard(names, &successor.id).await?;
        Ok(Pending::Cleared)
    }

    /// Removes a successor that is not to become current.
    async fn discard(&self, names: &Names, id: &str) -> Result<()> {
        self.remove_alias(id, &names.next).await?;
        self.destroy(id).await?;
        Ok(())
    }

    /// The same where there is an error to tell already.
    async fn discard_after(&self, names: &Names, id: &str, error: Error) -> Error {
        if let Err(second) = self.discard(names, id).await {
            warn!(error = %second, id, "the key of a failed update could not be removed; the next update does it");
        }
        error
    }

    /// Moves the alias from the current key to its successor, and reads back what came of it.
    async fn move_alias(
        &self,
        names: &Names,
        kek: &Kek,
        current: &str,
        successor: &str,
    ) -> Result<KeyVersion> {
        // From here on a step without an answer leaves the successor behind: it is known what to store, but not what
        // is stored.
        let unknown = |error: Error| match error.retryable() {
            Retry::Never => error,
            _ => error.retry(Retry::IfIdempotent),
        };
        // Between our look and our import somebody may have finished another update. To take an alias from a key that
        // does not have it fails as well, on the double: of the service that is not documented.
        match self.look(&names.alias, Want::Metadata).await.map_err(unknown)? {
            Look::Found(key) if key.id == current => {}
            _ => return Err(self.discard_after(names, successor, changed()).await),
        }
        match self.remove_alias(current, &names.alias).await {
            Ok(true) => {}
            Ok(false) => return Err(self.discard_after(names, successor, changed()).await),
            Err(error) if error.retryable() == Retry::Never => {
                return Err(self.discard_after(names, successor, error).await);
            }
            Err(error) => return Err(unknown(error)),
        }
        match self.add_alias(successor, &names.alias).await {
            Ok(_) => {}
            Err(error) if error.retryable() == Retry::Never => {
                return Err(self.roll_back(names, current, successor, error).await);
            }
            Err(error) => return Err(unknown(error)),
        }
        match self.look(&names.alias, Want::Material).await.map_err(unknown)? {
            Look::Found(key) if key.id == successor => {
                if !key.kek()?.ct_eq(kek) {
                    return Err(Error::new(
                        ErrorKind::Protocol,
                        "the new key holds another KEK than was stored",
                    )
                    .context("id", successor));
                }
            }
            _ => return Err(self.discard_after(names, successor, changed()).await),
        }
        if let Err(error) = self.remove_alias(successor, &names.next).await {
            // The update is done; the next one tidies up.
            debug!(%error, "the alias of the successor is still there");
        }
        Ok(KeyVersion::new(successor))
    }

    /// The alias was taken from the old key and cannot be given to the new one: back to the old one.
    async fn roll_back(&self, names: &Names, current: &str, successor: &str, error: Error) -> Error {
        match self.add_alias(current, &names.alias).await {
            Ok(_) => {
                // The successor is gone when somebody else has removed it.
                let error = if error.kind() == ErrorKind::NotFound { changed() } else { error };
                self.discard_after(names, successor, error).await
            }
            Err(second) => {
                warn!(error = %second, alias = names.alias, "the key's alias is missing; reads find the key of the update");
                error.context("alias", "missing, reads find the new key")
            }
        }
    }

    /// Overwrites or creates, whichever it takes.
    pub(crate) async fn overwrite(
        &self,
        name: &kms_core::KeyName,
        names: &Names,
        kek: &Kek,
    ) -> Result<KeyVersion> {
        let _turn = self.turn(names).await;
        let start = Instant::now();
        loop {
            let expected = Expected::Anything { pushing: start.elapsed() >= PATIENCE };
            let result = match self.update(names, kek, expected).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    match self.create(name, names, kek).await {
                        // The alias is blocked by a deleted key, which will not change soon.
                        Err(error) if error.kind() == ErrorKind::Conflict => return Err(error),
                        result => result,
                    }
                }
                result => result,
            };
            match result {
                Err(error)
                    if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::Conflict)
                        && error.existing() != Some(Existing::Unknown)
                        && start.elapsed() < OVERWRITE_LIMIT =>
                {
                    debug!(%error, "somebody else changes the key; trying again");
                    let random = f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX);
                    sleep(PAUSE.mul_f64(random)).await;
                }
                result => return result,
            }
        }
    }

    /// Updates a key of this version.
    pub(crate) async fn replace(&self, names: &Names, kek: &Kek, version: &KeyVersion) -> Result<KeyVersion> {
        let _turn = self.turn(names).await;
        self.update(names, kek, Expected::Version(version)).await
    }

    /// Waits until nobody else of this process updates the key. Between processes the successor's alias does it.
    async fn turn(&self, names: &Names) -> Option<MutexGuard<'_, ()>> {
        // Any spread will do: two names that share a lock only wait for each other.
        let sum: usize = names.alias.bytes().map(usize::from).sum();
        match self.turns.get(sum % self.turns.len()) {
            Some(turn) => Some(turn.lock().await),
            None => None,
        }
    }

    /// Deletes the keys of a name that have been replaced.
    pub(crate) async fn retire(&self, names: &Names, current: &KeyVersion) -> Result<usize> {
        let Some(key) = self.locate(names, Want::Metadata).await?.key() else {
            return Err(Error::new(ErrorKind::NotFound, "there is no such key"));
        };
        if key.id != current.as_str() {
            return Err(changed());
        }
        self.check_owner(&key)?;
        let keys = self.search(names, States::All).await?;
        let mut retired = 0;
        for old in &keys {
            // A key of that name without a mark, which nothing follows, is none of an update.
            let replaced = old.is_tagged() || keys.iter().any(|other| other.comes_after(&old.id));
            let in_use = old.id == key.id || old.has_alias(&names.alias) || old.has_alias(&names.next);
            if replaced && !in_use && !old.is_destroyed() && self.check_owner(old).is_ok() {
                retired += usize::from(self.destroy(&old.id).await?);
            }
        }
        Ok(retired)
    }
}

pub(crate) fn changed() -> Error {
    Error::new(ErrorKind::Conflict, "the key has changed since it was read")
}
