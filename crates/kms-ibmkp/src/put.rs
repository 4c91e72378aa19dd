//! Stores a KEK: create, update and overwrite.
//!
//! Key Protect cannot replace the material of a standard key, and cannot move an alias in one step. An update
//! therefore imports the new KEK as a key of its own, under an alias that only a successor of this name has; the
//! service gives that alias to one writer at a time. Then the update takes the name's alias from the old key, marks
//! the old key as superseded, gives the alias to the new key, reads the result back, and removes the alias of the
//! successor.
//!
//! | step done | the name's alias leads to | a read returns | after a delete by Rook |
//! | --- | --- | --- | --- |
//! | import | the old key | the old KEK | nothing: the old key is deleted, so its successor does not count |
//! | alias taken | nothing; the successor's alias leads to the new key | the new KEK | Rook finds no key |
//! | old key marked | the same | the new KEK | Rook finds no key |
//! | alias given | the new key | the new KEK | nothing: the old key is marked |
//!
//! A writer that stops in between leaves one of these states. The next update and the next fresh read complete the
//! second and the third state; the next update cleans up the first and the fourth.

use std::time::{Duration, SystemTime};

use kms_core::{Error, ErrorKind, Existing, Kek, KeyName, KeyVersion, PutMode, Result, Retry};
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use crate::{
    api::{Api, Imported, Look, States, Want},
    error::changing,
    get::{Located, finish, locate, search},
    name::Names,
    stored::{Key, is_verbatim},
};

/// The maximum number of attempts of a create that meets an alias without a key.
const CREATE_ROUNDS: usize = 4;
/// The maximum number of times that an update starts again after it has met another update.
const UPDATE_ROUNDS: usize = 5;
/// The age up to which the successor of another writer counts as in flight: longer than an update with all retries.
const IN_FLIGHT: Duration = Duration::from_secs(120);

/// How long an overwrite waits for an update in flight before it removes that update's successor.
const GRACE: Duration = Duration::from_secs(1);
/// The time after which an overwrite stops retrying.
const OVERWRITE_LIMIT: Duration = Duration::from_secs(10);
/// The longest pause between two attempts of an overwrite.
const PAUSE: Duration = Duration::from_millis(100);

/// The state that an update expects.
#[derive(Clone, Copy, Debug)]
enum Expected<'a> {
    /// Any version.
    Anything {
        /// Whether the update may remove the successor of another update in flight.
        displaces: bool,
    },
    /// This version.
    Version(&'a KeyVersion),
}

/// The state of a successor that was stored before this update.
enum Pending {
    /// This update stored it: the response to an earlier attempt was lost.
    Ours(String),
    /// This update has removed it.
    Cleared,
    /// It belongs to another update in flight.
    Busy,
}

/// Stores a KEK, and returns the version that it got.
pub(crate) async fn put(api: &Api, name: &KeyName, kek: &Kek, mode: &PutMode) -> Result<KeyVersion> {
    let names = &Names::of(name);
    if !is_verbatim(kek) {
        warn!(
            key = %name,
            "the KEK is not base64, which is all that Key Protect takes: it is stored encoded, and Rook would take the \
             encoded text for the KEK"
        );
    }
    match mode {
        PutMode::Create => create(api, names, kek).await,
        PutMode::Update(version) => {
            let _lock = api.locks.lock(&names.alias).await;
            update(api, names, kek, Expected::Version(version)).await
        }
        PutMode::Overwrite => {
            let _lock = api.locks.lock(&names.alias).await;
            overwrite(api, names, kek).await
        }
    }
}

/// Creates a key. The service gives the alias to one of several concurrent writers.
async fn create(api: &Api, names: &Names, kek: &Kek) -> Result<KeyVersion> {
    // While an update moves the alias, no key has the alias. A key created under it would hide the update's old and new
    // key.
    if !search(api, names, States::Alive).await?.is_empty()
        && let Some(key) = locate(api, names, Want::Material).await?.key()
    {
        return Err(exists(api, names, &key, kek));
    }
    let mut freed = false;
    for _ in 0..CREATE_ROUNDS {
        let taken = match api.import(names, kek, &names.alias, None).await? {
            Imported::Id(id) => return Ok(KeyVersion::new(id)),
            Imported::AliasTaken(error) => error,
        };
        match api.look(&names.alias, Want::Material).await? {
            Look::Found(key) => return Err(exists(api, names, &key, kek)),
            Look::Absent(_) => {}
            Look::Destroyed(Some(id)) if !freed => {
                freed = true;
                if !api.remove_alias(&id, &names.alias).await? {
                    return Err(blocked(&taken));
                }
            }
            Look::Destroyed(_) => return Err(blocked(&taken)),
        }
    }
    Err(changing())
}

/// The error for an existing key, which says whether the key has the same KEK.
fn exists(api: &Api, names: &Names, key: &Key, kek: &Kek) -> Error {
    if let Err(foreign) = key.check_reader(api.cluster.as_ref()) {
        return foreign
            .contexts()
            .fold(Error::already_exists(&names.key, Existing::Unknown), |error, (what, value)| {
                error.context(what, value)
            })
            .context("reason", foreign.message());
    }
    match key.kek() {
        Ok(stored) if stored.ct_eq(kek) => Error::already_exists(&names.key, Existing::Same),
        Ok(_) => Error::already_exists(&names.key, Existing::Different).context(
            "hint",
            "an alias is unique in the whole instance: another cluster that shares it may have a PVC of that name",
        ),
        Err(cause) => Error::already_exists(&names.key, Existing::Unknown).source(cause),
    }
    .context("id", &key.id)
}

/// The error for an alias that a deleted key keeps.
fn blocked(taken: &Error) -> Error {
    let error = Error::new(
        ErrorKind::Conflict,
        "the alias still belongs to a deleted key; restore that key (within 30 days of its deletion) or purge it (from \
         4 hours after its deletion), and try again",
    );
    taken.contexts().fold(error, |error, (name, value)| error.context(name, value))
}

async fn update(api: &Api, names: &Names, kek: &Kek, expected: Expected<'_>) -> Result<KeyVersion> {
    for _ in 0..UPDATE_ROUNDS {
        let located = locate(api, names, Want::Metadata).await?;
        let aliased = matches!(located, Located::Here(_));
        let Some(current) = located.as_key() else {
            return Err(Error::key_not_found(&names.key));
        };
        current.check_owner(api.cluster.as_ref())?;
        if let Expected::Version(version) = expected
            && version.as_str() != current.id
        {
            return Err(Error::key_changed(&names.key));
        }
        if !aliased && !finish(api, names, &located).await? {
            continue;
        }
        if aliased && current.has_alias(&names.next) {
            api.remove_alias(&current.id, &names.next).await?;
        }
        // An update that could not move the alias has left the mark on the key, or an operator has given the alias back.
        if current.is_marked() {
            api.unmark(&current.id).await?;
        }
        let id = match api.import(names, kek, &names.next, Some(&current.id)).await? {
            Imported::Id(id) => id,
            Imported::AliasTaken(_) => match pending(api, names, kek, current, expected).await? {
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
        return move_alias(api, names, kek, &current.id, &id).await;
    }
    Err(changing())
}

/// Adopts, removes or leaves a successor that was stored before.
async fn pending(
    api: &Api,
    names: &Names,
    kek: &Kek,
    current: &Key,
    expected: Expected<'_>,
) -> Result<Pending> {
    let successor = match api.look(&names.next, Want::Material).await? {
        Look::Found(key) => *key,
        Look::Destroyed(Some(id)) => {
            api.remove_alias(&id, &names.next).await?;
            return Ok(Pending::Cleared);
        }
        Look::Destroyed(None) => return Ok(Pending::Busy),
        Look::Absent(_) => return Ok(Pending::Cleared),
    };
    successor.check_owner(api.cluster.as_ref())?;
    if successor.id == current.id {
        api.remove_alias(&successor.id, &names.next).await?;
        return Ok(Pending::Cleared);
    }
    let follows = successor.comes_after(&current.id);
    if follows && successor.kek().is_ok_and(|stored| stored.ct_eq(kek)) {
        return Ok(Pending::Ours(successor.id));
    }
    let old = successor
        .created()
        .is_none_or(|created| SystemTime::now().duration_since(created).is_ok_and(|age| age > IN_FLIGHT));
    // An update that expects a version must not disturb another update of that version. An overwrite may, but only
    // after a grace period: two overwrites that remove each other's successors at once would both fail.
    if follows && !old && !matches!(expected, Expected::Anything { displaces: true }) {
        return Ok(Pending::Busy);
    }
    debug!(alias = names.alias, id = successor.id, "removing the key of an interrupted update");
    discard(api, names, &successor.id).await?;
    Ok(Pending::Cleared)
}

/// Removes a successor. It is marked first, so that it never counts as the key if this stops after any step.
async fn discard(api: &Api, names: &Names, id: &str) -> Result<()> {
    match api.mark(id).await {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    api.remove_alias(id, &names.next).await?;
    api.destroy(id).await?;
    Ok(())
}

/// Removes a successor after an error, and returns that error.
async fn discard_after(api: &Api, names: &Names, id: &str, error: Error) -> Error {
    if let Err(second) = discard(api, names, id).await {
        warn!(error = %second, id, "the key of a failed update could not be removed; the next update removes it");
    }
    error
}

/// Moves the alias from the current key to its successor, and reads the result back.
async fn move_alias(
    api: &Api,
    names: &Names,
    kek: &Kek,
    current: &str,
    successor: &str,
) -> Result<KeyVersion> {
    // From here on a lost response leaves the successor behind, so whether the new KEK is stored is unknown.
    let unknown = |error: Error| match error.retryable() {
        Retry::Never => error,
        _ => error.retry(Retry::IfIdempotent),
    };
    // Another update may have completed between the look and the import. Removing the alias from a key that does
    // not have it also fails on the double; IBM does not document it for the service.
    match api.look(&names.alias, Want::Metadata).await.map_err(unknown)? {
        Look::Found(key) if key.id == current => {}
        _ => return Err(discard_after(api, names, successor, Error::key_changed(&names.key)).await),
    }
    match api.remove_alias(current, &names.alias).await {
        Ok(true) => {}
        Ok(false) => return Err(discard_after(api, names, successor, Error::key_changed(&names.key)).await),
        Err(error) if error.retryable() == Retry::Never => {
            return Err(discard_after(api, names, successor, error).await);
        }
        Err(error) => return Err(unknown(error)),
    }
    match api.mark(current).await {
        Ok(()) => {}
        Err(error) if error.retryable() == Retry::Never => {
            return Err(roll_back(api, names, current, successor, error).await);
        }
        Err(error) => return Err(unknown(error)),
    }
    match api.add_alias(successor, &names.alias).await {
        Ok(_) => {}
        Err(error) if error.retryable() == Retry::Never => {
            return Err(roll_back(api, names, current, successor, error).await);
        }
        Err(error) => return Err(unknown(error)),
    }
    match api.look(&names.alias, Want::Material).await.map_err(unknown)? {
        Look::Found(key) if key.id == successor => {
            if !key.kek()?.ct_eq(kek) {
                return Err(Error::new(
                    ErrorKind::Protocol,
                    "the new key holds another KEK than the one sent",
                )
                .context("id", successor));
            }
        }
        _ => return Err(discard_after(api, names, successor, Error::key_changed(&names.key)).await),
    }
    if let Err(error) = api.remove_alias(successor, &names.next).await {
        // The update is complete; the next one removes the alias.
        debug!(%error, "the alias of the successor could not be removed");
    }
    Ok(KeyVersion::new(successor))
}

/// Gives the alias back to the old key, after the new one could not get it.
async fn roll_back(api: &Api, names: &Names, current: &str, successor: &str, error: Error) -> Error {
    match api.add_alias(current, &names.alias).await {
        Ok(_) => {
            if let Err(second) = api.unmark(current).await {
                debug!(error = %second, "the mark could not be removed; the key has its alias, so it counts, and the next update removes it");
            }
            // `NotFound` means that another writer has removed the successor.
            let error =
                if error.kind() == ErrorKind::NotFound { Error::key_changed(&names.key) } else { error };
            discard_after(api, names, successor, error).await
        }
        Err(second) => {
            warn!(error = %second, alias = names.alias, "the key's alias is missing; reads find the key of the update");
            error.context("alias", "missing, reads find the new key")
        }
    }
}

/// Overwrites a key, or creates it if it is absent.
async fn overwrite(api: &Api, names: &Names, kek: &Kek) -> Result<KeyVersion> {
    let start = Instant::now();
    loop {
        let expected = Expected::Anything { displaces: start.elapsed() >= GRACE };
        let result = match update(api, names, kek, expected).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                match create(api, names, kek).await {
                    // A deleted key blocks the alias, which a retry does not change.
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
                debug!(%error, "another writer has changed the key; retrying");
                let random = f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX);
                sleep(PAUSE.mul_f64(random)).await;
            }
            result => return result,
        }
    }
}
