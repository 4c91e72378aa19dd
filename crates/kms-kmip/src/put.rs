//! Writing, with an index and without.
//!
//! With an index, the index decides: an object counts when its identifier is written down, and whoever loses destroys
//! the object that it has just registered. Without one, whoever registers looks again and takes its own object back
//! if another one counts. At each step either the KEK before or the new one is what is read, and at most one object
//! more than needed is on the server; the next writer, or a delete, takes it away.

use std::sync::PoisonError;

use kms_core::{Error, ErrorKind, Kek, KeyName, Result, Retry};
use subtle::ConstantTimeEq as _;
use tracing::{debug, warn};

use crate::{
    index::{IndexEntry, KeyIndex, check_identifier},
    object::{Object, Tag},
    provider::Kmip,
    store::decoded,
};

/// How often an overwrite starts anew when somebody else writes the same key at the same moment.
const ROUNDS: usize = 16;

/// What has become of a step that another one may have made vain.
enum Step<T> {
    Done(T),
    /// Somebody else was faster; this object of theirs is the KEK now.
    Lost(String),
}

impl Kmip {
    /// Stores a key that must not be there, and gives its identifier.
    pub(crate) async fn create(&self, name: &KeyName, kek: &Kek, material: &[u8]) -> Result<String> {
        let step = match &self.index {
            Some(index) => self.create_indexed(index.as_ref(), name, material).await?,
            None => self.create_alone(name, material).await?,
        };
        match step {
            Step::Done(uid) => Ok(uid),
            Step::Lost(uid) => Err(self.already(name, &uid, kek).await),
        }
    }

    async fn create_indexed(
        &self,
        index: &dyn KeyIndex,
        name: &KeyName,
        material: &[u8],
    ) -> Result<Step<String>> {
        if let Some(entry) = entry(index, name).await? {
            return Ok(Step::Lost(entry.uid.as_str().to_owned()));
        }
        // An object without an entry: of a writer that died, or of an index that was lost. It is taken for the key.
        if let Some(line) = self.line(name, true).await? {
            let uid = line.current.uid;
            return match index.create(name, &uid).await {
                Ok(_) => {
                    warn!(key = %name, object = uid, "the object had no entry in the index, and has one now");
                    Ok(Step::Lost(uid))
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => match entry(index, name).await? {
                    Some(entry) => Ok(Step::Lost(entry.uid.as_str().to_owned())),
                    None => Err(changed().retry(Retry::Always)),
                },
                Err(error) => Err(error),
            };
        }
        let uid = match self.register(name, material, &Tag::first(self.cluster.as_deref())).await {
            // Nobody knows whether it was registered. If so it needs its entry, or Rook would not find it.
            Err(error) if error.retryable() == Retry::IfIdempotent => {
                self.registered(name, material).await.ok_or(error)?
            }
            result => result?,
        };
        match index.create(name, &uid).await {
            Ok(version) => {
                // A delete that ran at the same time may have taken it for a leftover.
                if self.object(&uid).await?.is_none() {
                    index.delete(name, &version).await?;
                    return Err(changed().retry(Retry::Always));
                }
                Ok(Step::Done(uid))
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let theirs = entry(index, name).await?;
                match theirs {
                    // Somebody who found our object has written it down for us.
                    Some(entry) if *entry.uid == uid => Ok(Step::Done(uid)),
                    Some(entry) => {
                        self.take_back(&uid).await?;
                        Ok(Step::Lost(entry.uid.as_str().to_owned()))
                    }
                    None => {
                        self.take_back(&uid).await?;
                        Err(changed().retry(Retry::Always))
                    }
                }
            }
            Err(error) if error.retryable() == Retry::IfIdempotent => match entry(index, name).await? {
                Some(entry) if *entry.uid == uid => Ok(Step::Done(uid)),
                Some(entry) => {
                    self.take_back(&uid).await?;
                    Ok(Step::Lost(entry.uid.as_str().to_owned()))
                }
                // A repeat finds the object by its name. To look what is stored would not be enough: it is
                // stored, and has no entry.
                None => Err(error.retry(Retry::Always).context("object", uid)),
            },
            Err(error) => Err(error.context("object", uid)),
        }
    }

    /// After a registration whose outcome is unknown: the object, if it is there with what we have sent.
    async fn registered(&self, name: &KeyName, material: &[u8]) -> Option<String> {
        let uid = self.line(name, true).await.ok()??.current.uid;
        let stored = decoded(&self.fetch(&uid).await.ok()?).ok()?;
        bool::from(stored.ct_eq(material)).then_some(uid)
    }

    async fn create_alone(&self, name: &KeyName, material: &[u8]) -> Result<Step<String>> {
        if let Some(line) = self.line(name, true).await? {
            return Ok(Step::Lost(line.current.uid));
        }
        let uid = self.register(name, material, &Tag::first(self.cluster.as_deref())).await?;
        self.settle(name, uid).await
    }

    /// Looks whether the object that we have registered is the one that counts, and takes it back if not.
    async fn settle(&self, name: &KeyName, uid: String) -> Result<Step<String>> {
        // What the server has done is known, but not what it means.
        let line = self.line(name, true).await.map_err(|error| {
            if error.retryable() == Retry::Always { error.retry(Retry::IfIdempotent) } else { error }
        })?;
        let Some(line) = line else {
            self.take_back(&uid).await?;
            return Err(Error::new(
                ErrorKind::Conflict,
                "the object that was just registered is not found by its name: it was deleted meanwhile, or the \
                 server cannot find objects by their names",
            ));
        };
        let was_current = line.current.uid == uid
            || line.current.tag.as_ref().is_some_and(|tag| tag.predecessor.as_deref() == Some(&uid));
        if was_current {
            return Ok(Step::Done(uid));
        }
        self.take_back(&uid).await?;
        Ok(Step::Lost(line.current.uid))
    }

    /// Destroys the object that we have registered in vain.
    async fn take_back(&self, uid: &str) -> Result<()> {
        debug!(object = uid, "somebody else was faster; the object is taken back");
        self.destroy(uid).await.map(drop).map_err(|error| {
            // The write has failed in any case; whoever repeats it finds the leftover.
            error.context("left over", uid.to_owned())
        })
    }

    /// Replaces a key whose present object is `expected`, and gives the identifier of the new one.
    pub(crate) async fn update(&self, name: &KeyName, material: &[u8], expected: &str) -> Result<String> {
        let step = match &self.index {
            Some(index) => {
                let Some(entry) = entry(index.as_ref(), name).await? else {
                    // Without an entry the object is found by its name, and gets one.
                    let line = self.line(name, true).await?.ok_or_else(|| Error::key_not_found(name))?;
                    if line.current.uid != expected {
                        return Err(changed());
                    }
                    let version = index.create(name, &line.current.uid).await.map_err(as_conflict)?;
                    let entry = IndexEntry::new(line.current.uid, version);
                    return self
                        .update_indexed(index.as_ref(), name, material, entry, false)
                        .await
                        .and_then(won);
                };
                if *entry.uid != expected {
                    return Err(changed());
                }
                self.update_indexed(index.as_ref(), name, material, entry, false).await?
            }
            None => {
                let line = self.line(name, true).await?.ok_or_else(|| Error::key_not_found(name))?;
                if line.current.uid != expected {
                    return Err(changed());
                }
                self.update_alone(name, material, &line.current).await?
            }
        };
        won(step)
    }

    /// `anew` takes an object that is gone for one of generation 0 instead of failing.
    async fn update_indexed(
        &self,
        index: &dyn KeyIndex,
        name: &KeyName,
        material: &[u8],
        mut entry: IndexEntry,
        anew: bool,
    ) -> Result<Step<String>> {
        let current = match self.object(&entry.uid).await? {
            Some(object) => Some(object),
            None if anew => None,
            None => return Err(dangling(name, &entry.uid)),
        };
        let generation = current.as_ref().map_or(0, Object::generation);
        let strays = self.others(name, &entry.uid).await?;
        let strays: Vec<_> = strays.into_iter().filter(|object| object.generation() >= generation).collect();
        if !strays.is_empty() {
            // Whoever has registered one of these and is about to write it down is turned away by the new version.
            entry.version = index.swap(name, &entry.version, &entry.uid).await.map_err(as_conflict)?;
            self.destroy_all(&strays).await?;
        }
        let before = current.as_ref().and_then(|object| object.tag.as_ref());
        let tag = Tag::next(self.cluster.as_deref(), before, &entry.uid);
        let uid = self.register(name, material, &tag).await?;
        match index.swap(name, &entry.version, &uid).await {
            Ok(version) => {
                if self.object(&uid).await?.is_none() {
                    // Only a delete destroys what it does not find in the index, and it begins with the index.
                    index.swap(name, &version, &entry.uid).await?;
                    return Err(changed());
                }
                if !self.tells_generations() {
                    let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
                    replaced.entry(name.clone()).or_default().push(entry.uid.as_str().to_owned());
                }
                Ok(Step::Done(uid))
            }
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {
                self.take_back(&uid).await?;
                match self::entry(index, name).await? {
                    Some(entry) => Ok(Step::Lost(entry.uid.as_str().to_owned())),
                    None => Err(Error::key_not_found(name)),
                }
            }
            Err(error) if error.retryable() == Retry::Always => {
                self.take_back(&uid).await?;
                Err(error)
            }
            // Nobody knows whether it is written down. If not, the next update takes the object away.
            Err(error) => Err(error.context("object", uid)),
        }
    }

    async fn update_alone(&self, name: &KeyName, material: &[u8], current: &Object) -> Result<Step<String>> {
        let tag = Tag::next(self.cluster.as_deref(), current.tag.as_ref(), &current.uid);
        let uid = self.register(name, material, &tag).await?;
        self.settle(name, uid).await
    }

    /// Stores a key whatever is there, and gives its identifier.
    pub(crate) async fn overwrite(&self, name: &KeyName, material: &[u8]) -> Result<String> {
        for _ in 0..ROUNDS {
            let step = match &self.index {
                Some(index) => match entry(index.as_ref(), name).await? {
                    Some(entry) => self.update_indexed(index.as_ref(), name, material, entry, true).await,
                    None => self.create_indexed(index.as_ref(), name, material).await,
                },
                None => match self.line(name, true).await? {
                    Some(line) => self.update_alone(name, material, &line.current).await,
                    None => self.create_alone(name, material).await,
                },
            };
            match step {
                Ok(Step::Done(uid)) => return Ok(uid),
                Ok(Step::Lost(_)) => {}
                Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        // None of the writes has come to count.
        Err(Error::new(ErrorKind::Conflict, "others write the same key all the time").retry(Retry::Always))
    }

    /// Objects of the name of a key besides the one that the index names, of our cluster only.
    pub(crate) async fn others(&self, name: &KeyName, uid: &str) -> Result<Vec<Object>> {
        let mut found = self.named(name, true).await?;
        found.retain(|object| {
            object.uid != uid
                && object.keys.contains(name)
                && object.tag.as_ref().is_some_and(|tag| self.is_ours(&tag.cluster))
        });
        Ok(found)
    }

    pub(crate) async fn destroy_all(&self, objects: &[Object]) -> Result<usize> {
        let mut count = 0;
        for object in objects {
            count += usize::from(self.destroy(&object.uid).await?);
        }
        Ok(count)
    }
}

/// What the index holds for a key, unless it is a KEK.
pub(crate) async fn entry(index: &dyn KeyIndex, name: &KeyName) -> Result<Option<IndexEntry>> {
    let entry = index.get(name).await?;
    if let Some(entry) = &entry {
        check_identifier(&entry.uid)?;
    }
    Ok(entry)
}

fn won(step: Step<String>) -> Result<String> {
    match step {
        Step::Done(uid) => Ok(uid),
        Step::Lost(_) => Err(changed()),
    }
}

pub(crate) fn changed() -> Error {
    Error::new(ErrorKind::Conflict, "the key has changed since it was read")
}

/// A race for the entry that somebody else has won.
pub(crate) fn as_conflict(error: Error) -> Error {
    if error.kind() == ErrorKind::AlreadyExists { changed() } else { error }
}

/// The index names an object that the server does not know.
pub(crate) fn dangling(name: &KeyName, uid: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        "the Secret of the key names an object that the server does not know: it was destroyed there, or this is \
         another server. The Secret is left as it is",
    )
    .context("key", name.as_str())
    .context("object", uid)
}
