//! Stores a KEK: create, update and overwrite, with an index and without.
//!
//! With an index, the index decides between two writers: an object is the KEK once the index holds its identifier, and
//! the writer that loses destroys the object that it has just registered. Without an index, the order of the objects
//! decides: after its Register a writer [looks](crate::find) until no object can come before the first one any more, and
//! destroys its own object if another object is the KEK.
//!
//! At each step a reader gets the old KEK or the new one, and the server has at most one superfluous object. The next
//! writer or a delete destroys that object. The last step of an update marks the object that it has replaced.

use std::sync::PoisonError;

use kms_core::{
    Error, ErrorKind, Existing, IndexEntry, Kek, KeyIndex, KeyName, KeyVersion, PutMode, Result, Retry,
    WriteOutcome,
};
use subtle::ConstantTimeEq as _;
use tracing::{debug, warn};

use crate::{
    answers::{Answers, unanswered},
    api::{self, Api},
    classify::{Object, Objects},
    delete::{check_ours, destroy, destroy_all, others},
    error::{Class, busy},
    get::fetch,
    index::{Index, adopt, as_conflict, dangling, entry},
    label::{Label, Shape, Tag, Texts},
    message::{Operation, Part},
    stored::{Body, encode},
    superseded::{mark_all, rename, restore_name},
};

/// The maximum number of times that an update or an overwrite starts again because another client writes the same key.
const ROUNDS: usize = 16;

/// The outcome of a write that competes with other writers.
enum Race {
    /// Our object, with this identifier, is the KEK.
    Won(String),
    /// Another writer was faster; its object, with this identifier, is the KEK.
    Lost(String),
}

/// Stores a KEK.
pub(crate) async fn put(
    api: &Api,
    index: Index<'_>,
    name: &KeyName,
    kek: &Kek,
    mode: &PutMode,
) -> Result<KeyVersion> {
    let material = encode(kek)?;
    let uid = match mode {
        PutMode::Create => create(api, index, name, kek, &material).await,
        PutMode::Overwrite => overwrite(api, index, name, &material).await,
        PutMode::Update(expected) => update(api, index, name, &material, expected.as_str()).await,
    };
    Ok(KeyVersion::new(uid?))
}

async fn create(api: &Api, index: Index<'_>, name: &KeyName, kek: &Kek, material: &[u8]) -> Result<String> {
    let race = match index {
        Some(index) => create_indexed(api, index, name, material).await?,
        None => create_found(api, name, material).await?,
    };
    match race {
        Race::Won(uid) => Ok(uid),
        Race::Lost(uid) => Err(match fetch(api, &uid).await {
            Ok(stored) if stored.ct_eq(kek) => Error::already_exists(name, Existing::Same),
            Ok(_) => Error::already_exists(name, Existing::Different),
            Err(failed) if failed.class == Class::Gone && index.is_some() => {
                Error::already_exists(name, Existing::Unknown).source(dangling(name, &uid))
            }
            Err(failed) => Error::already_exists(name, Existing::Unknown).source(failed.error),
        }),
    }
}

async fn create_indexed(api: &Api, index: &dyn KeyIndex, name: &KeyName, material: &[u8]) -> Result<Race> {
    if let Some(entry) = entry(index, name).await? {
        return Ok(Race::Lost(entry.uid.as_str().to_owned()));
    }
    // The key may exist as an object without an entry: its writer crashed, or the index was lost.
    if let Some(objects) = api.find(name, true).await? {
        let uid = objects.current.uid;
        return match index.create(name, &uid).await {
            Ok(_) => {
                warn!(key = %name, object = uid, "the object had no entry in the index, and has one now");
                Ok(Race::Lost(uid))
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => match entry(index, name).await? {
                Some(entry) => Ok(Race::Lost(entry.uid.as_str().to_owned())),
                None => Err(Error::key_changed(name).retry(Retry::Always)),
            },
            Err(error) => Err(error),
        };
    }
    let uid = match register(api, true, name, material, &Tag::first(api.cluster.as_deref())).await {
        // The outcome is unknown. If the object exists, it needs an entry, since Rook finds objects by their entries.
        Err(error) if error.retryable() == Retry::IfIdempotent => {
            registered(api, name, material).await.ok_or(error)?
        }
        result => result?,
    };
    let error = match index.create(name, &uid).await {
        Ok(version) => {
            // A concurrent delete may have destroyed the object as a leftover.
            if api.object(&uid).await?.is_none() {
                index.delete(name, &version).await?;
                return Err(Error::key_changed(name).retry(Retry::Always));
            }
            return Ok(Race::Won(uid));
        }
        Err(error) => error,
    };
    let exists = error.kind() == ErrorKind::AlreadyExists;
    if !exists && error.retryable() != Retry::IfIdempotent {
        return Err(error.context("object", uid));
    }
    match entry(index, name).await? {
        // Our write has succeeded, or another client has found our object and written its entry.
        Some(entry) if *entry.uid == uid => Ok(Race::Won(uid)),
        Some(entry) => {
            take_back(api, &uid).await?;
            Ok(Race::Lost(entry.uid.as_str().to_owned()))
        }
        None if exists => {
            take_back(api, &uid).await?;
            Err(Error::key_changed(name).retry(Retry::Always))
        }
        // A retry finds the object by its name. A read would not be enough: the object is stored, but has no entry.
        None => Err(error.retry(Retry::Always).context("object", uid)),
    }
}

/// Finds the object of a Register whose outcome is unknown. `None` if no object holds this material.
async fn registered(api: &Api, name: &KeyName, material: &[u8]) -> Option<String> {
    let uid = api.find(name, true).await.ok()??.current.uid;
    let stored = encode(&fetch(api, &uid).await.ok()?).ok()?;
    bool::from(stored.ct_eq(material)).then_some(uid)
}

async fn create_found(api: &Api, name: &KeyName, material: &[u8]) -> Result<Race> {
    if let Some(objects) = api.find(name, true).await? {
        return Ok(Race::Lost(objects.current.uid));
    }
    match register(api, false, name, material, &Tag::first(api.cluster.as_deref())).await {
        Ok(uid) => settle(api, name, uid).await,
        // On a server whose names are unique, another writer was faster.
        Err(error) if error.kind() == ErrorKind::Unsupported => match api.find(name, true).await? {
            Some(objects) => Ok(Race::Lost(objects.current.uid)),
            None => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Checks whether the object that we have registered is the KEK, and destroys it if not.
async fn settle(api: &Api, name: &KeyName, uid: String) -> Result<Race> {
    let objects = api.find(name, true).await.map_err(|error| uncertain(error, &uid))?;
    let Some(objects) = objects else {
        take_back(api, &uid).await?;
        return Err(Error::new(
            ErrorKind::Conflict,
            "the object that was just registered is not found by its name: it was deleted meanwhile, or the server \
             cannot find objects by their names",
        ));
    };
    let was_current = objects.current.uid == uid
        || objects.current.tag.as_ref().is_some_and(|tag| tag.predecessor.as_deref() == Some(&uid));
    if was_current {
        return Ok(Race::Won(uid));
    }
    take_back(api, &uid).await?;
    Ok(Race::Lost(objects.current.uid))
}

/// The error for a failure after a Register. The object `uid` is on the server, so the outcome is unknown to the caller.
fn uncertain(error: Error, uid: &str) -> Error {
    let error = if error.retryable() == Retry::Always { error.retry(Retry::IfIdempotent) } else { error };
    error.outcome(WriteOutcome::Unknown).context("registered", uid)
}

/// Destroys our own object after we have lost a race.
async fn take_back(api: &Api, uid: &str) -> Result<()> {
    debug!(object = uid, "another writer was faster; our object is destroyed");
    destroy(api, uid).await.map(drop).map_err(|error| {
        // The write has failed in any case; a retry finds the leftover object.
        error.context("left over", uid.to_owned())
    })
}

/// Replaces a key whose current object is `expected`, and returns the identifier of the new object.
async fn update(
    api: &Api,
    index: Index<'_>,
    name: &KeyName,
    material: &[u8],
    expected: &str,
) -> Result<String> {
    for _ in 0..ROUNDS {
        let entry = match index {
            Some(index) => entry(index, name).await?,
            None => None,
        };
        let race = match (index, entry) {
            (Some(_), Some(entry)) if *entry.uid != expected => return Err(Error::key_changed(name)),
            (Some(index), Some(entry)) => update_indexed(api, index, name, material, entry, false).await,
            (index, None) | (index @ None, Some(_)) => {
                let objects = api.find(name, true).await?.ok_or_else(|| Error::key_not_found(name))?;
                if objects.current.uid != expected {
                    return Err(Error::key_changed(name));
                }
                match index {
                    // Without an entry, find the object by its name and create the entry.
                    Some(index) => {
                        let entry = adopt(index, name, objects.current.uid).await?;
                        update_indexed(api, index, name, material, entry, false).await
                    }
                    None => update_found(api, name, material, &objects).await,
                }
            }
        };
        match race {
            Ok(Race::Won(uid)) => return Ok(uid),
            // Another writer has changed the entry only to destroy our object as a leftover: the key is still the
            // expected one, and without another attempt a round of writers might have no winner.
            Ok(Race::Lost(uid)) if index.is_some() && uid == expected => {}
            Err(error) if index.is_some() && error.kind() == ErrorKind::Conflict => {}
            Ok(Race::Lost(_)) => return Err(Error::key_changed(name)),
            Err(error) => return Err(error),
        }
    }
    Err(busy())
}

/// Registers the successor of the object in `entry`, and swaps the entry. `anew`: whether to store a new object of
/// generation 0 if the object in `entry` is absent, instead of failing.
async fn update_indexed(
    api: &Api,
    index: &dyn KeyIndex,
    name: &KeyName,
    material: &[u8],
    mut entry: IndexEntry,
    anew: bool,
) -> Result<Race> {
    let current = api.object(&entry.uid).await?;
    if current.is_none() && !anew {
        return Err(dangling(name, &entry.uid));
    }
    if let Some(current) = &current
        && current.superseded.contains(name)
    {
        // An update was interrupted before it swapped the entry. Give the object its name back before its successor is
        // destroyed, so that it can be found without the entry too.
        restore_name(api, name, &current.uid).await?;
    }
    let generation = current.as_ref().map_or(0, Object::generation);
    let others = others(api, name, &entry.uid, current.as_ref()).await?;
    let (strays, mut old): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|object| object.generation() >= generation);
    if !strays.is_empty() {
        // Swap the entry for itself first: its new version makes a writer fail that has registered a leftover object
        // and is about to swap the entry.
        entry.version =
            index.swap(name, &entry.version, &entry.uid).await.map_err(|error| as_conflict(error, name))?;
        destroy_all(api, &strays).await?;
    }
    let before = current.as_ref().and_then(|object| object.tag.as_ref());
    let tag = Tag::next(api.cluster.as_deref(), before, &entry.uid);
    let uid = register(api, true, name, material, &tag).await?;
    rename(api, name, &entry.uid).await;
    let swapped = index.swap(name, &entry.version, &uid).await;
    if let Err(error) = &swapped
        && error.retryable() != Retry::IfIdempotent
        && !matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound)
        && let Err(error) = restore_name(api, name, &entry.uid).await
    {
        debug!(%error, object = *entry.uid, "the object did not get its name back; the next update gives it back");
    }
    match swapped {
        Ok(version) => {
            if api.object(&uid).await?.is_none() {
                // Only a delete destroys objects that are not in the index, and a delete begins with a swap of the
                // entry.
                index.swap(name, &version, &entry.uid).await?;
                restore_name(api, name, &entry.uid).await?;
                return Err(Error::key_changed(name));
            }
            let mut before = current.as_ref().and_then(Object::predecessor).map(ToOwned::to_owned);
            if !api.habits().shape().is_some_and(Shape::has_tag) {
                let mut replaced = api.replaced.lock().unwrap_or_else(PoisonError::into_inner);
                let replaced = replaced.entry(name.clone()).or_default();
                before = before.or_else(|| replaced.last().cloned());
                replaced.push(entry.uid.as_str().to_owned());
            }
            old.extend(current);
            mark_all(api, name, &old).await;
            if let Some(before) = before
                && let Err(error) = destroy_twin(api, name, &before, &entry.uid).await
            {
                debug!(%error, object = before, "whether two superseded objects hold the same KEK is unknown");
            }
            Ok(Race::Won(uid))
        }
        Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {
            take_back(api, &uid).await?;
            match self::entry(index, name).await? {
                Some(entry) => Ok(Race::Lost(entry.uid.as_str().to_owned())),
                None => Err(Error::key_not_found(name)),
            }
        }
        Err(error) if error.retryable() == Retry::Always => {
            take_back(api, &uid).await?;
            Err(error)
        }
        // The outcome is unknown. If the swap did not take effect, the next update destroys the object.
        Err(error) => Err(error.context("object", uid)),
    }
}

/// Destroys the predecessor of an object that has just been superseded if both hold the same KEK. A rotation stores the
/// KEK once more before it stores the new one, and would leave two superseded objects otherwise.
///
/// The index has named two other objects since, and can never name the predecessor again: an update goes back to the
/// object before its own only, and only while the index still names its own. A reader that has read the entry before both
/// updates [reads it again](crate::get).
async fn destroy_twin(api: &Api, name: &KeyName, predecessor: &str, uid: &str) -> Result<()> {
    let Some(twin) = api.object(predecessor).await? else { return Ok(()) };
    check_ours(api, name, &twin)?;
    // The label of the predecessor may be all that leads to an object without a name.
    if let Some(before) = twin.predecessor()
        && let Some(before) = api.object(before).await?
        && !before.is_of(name)
    {
        return Ok(());
    }
    if fetch(api, predecessor).await?.ct_eq(&fetch(api, uid).await?) {
        destroy(api, predecessor).await?;
    }
    Ok(())
}

async fn update_found(api: &Api, name: &KeyName, material: &[u8], objects: &Objects) -> Result<Race> {
    let current = &objects.current;
    let tag = Tag::next(api.cluster.as_deref(), current.tag.as_ref(), &current.uid);
    let uid = register(api, false, name, material, &tag).await?;
    let race = settle(api, name, uid).await?;
    if matches!(race, Race::Won(_)) {
        mark_all(api, name, &objects.superseded).await;
        mark_all(api, name, std::slice::from_ref(current)).await;
    }
    Ok(race)
}

/// Stores a KEK whatever is stored already, and returns the identifier of its object.
async fn overwrite(api: &Api, index: Index<'_>, name: &KeyName, material: &[u8]) -> Result<String> {
    for _ in 0..ROUNDS {
        let race = match index {
            Some(index) => match entry(index, name).await? {
                Some(entry) => update_indexed(api, index, name, material, entry, true).await,
                None => create_indexed(api, index, name, material).await,
            },
            None => match api.find(name, true).await? {
                Some(objects) => update_found(api, name, material, &objects).await,
                None => create_found(api, name, material).await,
            },
        };
        match race {
            Ok(Race::Won(uid)) => return Ok(uid),
            Ok(Race::Lost(_)) => {}
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Err(busy())
}

/// Registers a KEK in the first shape that the server accepts and keeps, and returns its identifier.
///
/// `api` remembers the shape for the life of the process.
async fn register(api: &Api, indexed: bool, name: &KeyName, material: &[u8], tag: &Tag) -> Result<String> {
    let texts = Texts::new(name, tag);
    let usable = |shape: &Shape| indexed || shape.is_found(tag);
    let remembered = api.habits().shape().filter(usable);
    let others = Shape::ALL.into_iter().filter(|shape| usable(shape) && Some(*shape) != remembered);
    let mut first_refusal = None;
    // A server that cannot process any request now refuses every form.
    let mut is_passing = true;
    let mut tried = Vec::new();
    for shape in remembered.into_iter().chain(others) {
        let payload = |version| api::register(version, shape.body, material, &texts.attributes(shape.label));
        // What the server has kept comes back with the response, if it knows the object of the operation before.
        let parts = |version| {
            let register = Part::new(Operation::Register, payload(version));
            vec![register, Part::chained(Operation::GetAttributes)]
        };
        let answers = api.client.all(parts).await;
        let registered = answers.read(0, api::unique_identifier).unwrap_or_else(|| Err(unanswered()));
        match registered {
            Ok(uid) if is_kept(api, indexed, shape, name, tag, &uid, &answers).await? => {
                if shape.body == Body::SecretData {
                    warn!(
                        key = %name,
                        "the server takes the KEK as secret data only, which Rook cannot read: it reads symmetric keys"
                    );
                }
                if api.habits().set_shape(shape) && !tried.is_empty() {
                    warn!(shape = shape.describe(), "the server keeps KEKs in this form only");
                }
                return Ok(uid);
            }
            Ok(_) => {
                debug!(shape = shape.describe(), "the server accepts this form, and loses a part of it");
                is_passing = false;
                tried.push(format!("{} (accepted, but not kept)", shape.describe()));
            }
            Err(failed) if failed.class == Class::Form => {
                debug!(shape = shape.describe(), error = %failed.error, "the server refuses this form");
                tried.push(shape.describe());
                is_passing &= failed.error.kind() == ErrorKind::Unavailable;
                first_refusal.get_or_insert(failed.error);
            }
            Err(failed) => return Err(failed.error),
        }
    }
    let error = match first_refusal {
        Some(error) if error.kind() == ErrorKind::Conflict => Error::new(
            ErrorKind::Unsupported,
            "the server has an object of this name already, and names are unique there: use an index in Kubernetes, with \
             which objects need no name",
        )
        .source(error),
        Some(error) => error,
        None => Error::new(
            ErrorKind::Unsupported,
            "the server keeps no attribute that tells an updated KEK from its predecessor; use an index in Kubernetes \
             for updates",
        ),
    };
    // A server that refuses its forms for good refuses them again.
    let error = if is_passing { error } else { error.retry(Retry::Never) };
    Err(error.context("refused forms", tried.join("; ")))
}

/// Reads back what the server has kept of an object that we have just registered. `false` if it has lost a label of the
/// object, which is then destroyed: the object could be taken for another generation, or for another cluster's.
///
/// # Errors
///
/// `Unsupported` if the server tells no Initial Date and there is no index, since nothing orders two writers then.
async fn is_kept(
    api: &Api,
    indexed: bool,
    shape: Shape,
    name: &KeyName,
    tag: &Tag,
    uid: &str,
    answers: &Answers<'_>,
) -> Result<bool> {
    let object = match answers.read(1, |payload| api::described(payload, uid)) {
        Some(attributes) => api.note(uid, attributes).map(|found| found.map(|(object, _)| object)),
        None => api.object(uid).await,
    };
    let object = match object {
        Ok(Some(object)) => object,
        // Another client has destroyed the object meanwhile, which the caller finds out.
        Ok(None) => return Ok(true),
        Err(error) => return Err(uncertain(error, uid)),
    };
    // Another client may have replaced the object already.
    let is_named =
        shape.label == Label::None || object.keys.iter().chain(&object.superseded).any(|key| key == name);
    let is_tagged = !shape.has_tag() || object.tag.as_ref() == Some(tag);
    let is_dated = indexed || object.initial_date.is_some();
    if is_named && is_tagged && is_dated {
        return Ok(true);
    }
    destroy(api, uid).await.map_err(|error| uncertain(error, uid))?;
    if is_dated {
        return Ok(false);
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        "the server tells no Initial Date of its objects, so two writers of one key could both succeed: use an index \
         in Kubernetes for writes. Nothing was stored",
    ))
}
