//! Stores a KEK: create, update and overwrite.

use std::time::Duration;

use kms_core::{Error, ErrorKind, Existing, Kek, KeyName, KeyVersion, PutMode, Result, Retry, WriteOutcome};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::{
    api::{Api, SecretBundle},
    get::{Decided, SETTLE, current, decide, decided, is_final, keep},
    name::Names,
    soft_delete::{Freed, SoftDelete, free},
    stored::{Labels, State},
};

/// How long after its creation a creator may mark a version without competitors `kept`: less than [`SETTLE`].
const ALONE: Duration = Duration::from_millis(900);

/// Stores a KEK.
pub(crate) async fn put(
    api: &Api,
    soft_delete: &SoftDelete,
    name: &KeyName,
    kek: &Kek,
    mode: &PutMode,
) -> Result<KeyVersion> {
    let names = &Names::of(name);
    match mode {
        PutMode::Create => create(api, soft_delete, name, names, kek).await,
        PutMode::Update(version) => update(api, name, names, kek, version).await,
        PutMode::Overwrite => overwrite(api, soft_delete, names, kek).await,
    }
}

async fn create(
    api: &Api,
    soft_delete: &SoftDelete,
    name: &KeyName,
    names: &Names,
    kek: &Kek,
) -> Result<KeyVersion> {
    let mut deadline = soft_delete.deadline();
    loop {
        let labels = match api.get(names, None).await? {
            // Overwrite an empty value, as Rook does. Other writers may do so at the same time, so settle the result as
            // well.
            Some(found) if found.is_empty(names) => found.labels(),
            Some(found) => return Err(existing(api, name, names, kek, found).await),
            None => Labels::default(),
        };
        match api.put(names, kek, State::New, &labels).await {
            Ok(made) => {
                let made = Made { version: made.version()?, labels };
                return settle(api, name, names, kek, made).await.map_err(after_write);
            }
            Err(error) if error.kind() == ErrorKind::Conflict => {
                match free(api, soft_delete.policy, names, error, &mut deadline).await? {
                    Freed::Recovered => return recovered(api, name, names, kek).await,
                    Freed::Taken | Freed::Free => {}
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// The error for an existing key, which says whether the key has the same KEK.
async fn existing(api: &Api, name: &KeyName, names: &Names, kek: &Kek, found: SecretBundle) -> Error {
    match decided(api, names, found, true).await {
        Ok(Decided { kek: stored, .. }) if stored.ct_eq(kek) => Error::already_exists(name, Existing::Same),
        Ok(_) => Error::already_exists(name, Existing::Different),
        Err(error) if error.kind() == ErrorKind::Protocol => {
            Error::already_exists(name, Existing::Unknown).source(error)
        }
        Err(error) => error,
    }
}

/// The outcome of a create that has recovered a soft-deleted key: a success if the key holds the same KEK.
async fn recovered(api: &Api, name: &KeyName, names: &Names, kek: &Kek) -> Result<KeyVersion> {
    let Some(Decided { kek: stored, current }) = current(api, names, true).await? else {
        return Err(Error::new(ErrorKind::Conflict, "the recovered key was deleted again at once"));
    };
    if stored.ct_eq(kek) {
        info!(secret = names.secret, "the soft-deleted secret held the same KEK, and has been recovered");
        return current.version();
    }
    Err(Error::already_exists(name, Existing::Different).context(
        "what to do",
        "a soft-deleted secret of this name held another KEK and has been recovered: use it, or delete and purge it \
         first, or set AZURE_SOFT_DELETED to purge",
    ))
}

/// A version that we have just created.
struct Made {
    version: KeyVersion,
    labels: Labels,
}

/// Decides whether `mine` counts.
async fn settle(api: &Api, name: &KeyName, names: &Names, kek: &Kek, mine: Made) -> Result<KeyVersion> {
    let start = Instant::now();
    match api.versions(names).await {
        Ok(versions) => {
            let is_other = |one: &SecretBundle| one.version().is_ok_and(|version| version != mine.version);
            if !versions.is_empty() && !versions.iter().any(is_other) {
                let marked = keep(api, names, &mine.version, &mine.labels).await?;
                if marked && start.elapsed() < ALONE {
                    return Ok(mine.version);
                }
            }
        }
        Err(error) if is_final(&error) => {
            warn!(
                %error,
                "concurrent creators of this key cannot be detected, since its versions may not be listed; the last \
                 writer is taken to have created it"
            );
            return settle_without_list(api, name, names, kek, mine).await;
        }
        Err(error) => return Err(error),
    }
    sleep(SETTLE).await;
    let Some(Decided { kek: stored, current }) = decide(api, names).await? else {
        return Err(deleted_meanwhile());
    };
    if stored.ct_eq(kek) {
        return current.version();
    }
    debug!("another writer has created the key first");
    Err(Error::already_exists(name, Existing::Different))
}

/// Settles without a list: waits for other creators that have found the name free, and then uses the current version.
async fn settle_without_list(
    api: &Api,
    name: &KeyName,
    names: &Names,
    kek: &Kek,
    mine: Made,
) -> Result<KeyVersion> {
    sleep(SETTLE).await;
    match api.get(names, None).await? {
        Some(current) if current.version()? == mine.version => {
            keep(api, names, &mine.version, &mine.labels).await?;
            Ok(mine.version)
        }
        Some(current) if current.kek(names)?.ct_eq(kek) => current.version(),
        Some(_) => Err(Error::already_exists(name, Existing::Different)),
        None => Err(deleted_meanwhile()),
    }
}

fn deleted_meanwhile() -> Error {
    Error::new(ErrorKind::Conflict, "the key was deleted while it was created")
}

async fn update(
    api: &Api,
    name: &KeyName,
    names: &Names,
    kek: &Kek,
    expected: &KeyVersion,
) -> Result<KeyVersion> {
    let current = match api.get(names, None).await? {
        Some(found) if found.state() == State::New => decided(api, names, found, true).await?.current,
        // Its version alone counts, so a value that is not a KEK can be replaced.
        Some(found) => found,
        None => return Err(Error::key_not_found(name)),
    };
    if current.version()? != *expected {
        return Err(Error::key_changed(name));
    }
    let made = match api.put(names, kek, State::Plain, &current.labels()).await {
        Ok(made) => made.version()?,
        Err(error) if error.kind() == ErrorKind::Conflict => {
            return Err(Error::new(ErrorKind::NotFound, "the key was deleted meanwhile").source(error));
        }
        Err(error) => return Err(error),
    };
    // The vault accepts every write, so only reading back shows that another writer has replaced ours.
    match api.get(names, None).await.map_err(after_write)? {
        Some(after) if after.version()? == made || after.kek(names).is_ok_and(|found| found.ct_eq(kek)) => {
            after.version()
        }
        Some(_) => {
            Err(Error::new(ErrorKind::Conflict, "another writer has updated the key at the same time"))
        }
        None => Err(Error::new(ErrorKind::NotFound, "the key was deleted at the same time")),
    }
}

async fn overwrite(api: &Api, soft_delete: &SoftDelete, names: &Names, kek: &Kek) -> Result<KeyVersion> {
    let mut deadline = soft_delete.deadline();
    let labels = match api.get(names, None).await {
        Ok(found) => found.map(|found| found.labels()).unwrap_or_default(),
        // A write needs no right to read. While a secret is recovered or deleted, it cannot be read.
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Conflict) => {
            Labels::default()
        }
        Err(error) => return Err(error),
    };
    loop {
        match api.put(names, kek, State::Plain, &labels).await {
            Ok(made) => return made.version(),
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let conflict = error.clone();
                // While a recovery completes, a read of the secret succeeds before a write does.
                if free(api, soft_delete.policy, names, error, &mut deadline).await? == Freed::Taken {
                    deadline.pause().await.map_err(|late| late.source(conflict))?;
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Converts an error after a write that has succeeded: the write has effects, whatever the error says of the last
/// request. The retry layer reads the key before it writes again.
fn after_write(error: Error) -> Error {
    let error = match error.retryable() {
        Retry::Always => error.retry(Retry::IfIdempotent),
        _ => error,
    };
    match error.kind() {
        // Another writer has replaced the version.
        ErrorKind::AlreadyExists | ErrorKind::Conflict => error,
        _ => error.outcome(WriteOutcome::Unknown),
    }
}
