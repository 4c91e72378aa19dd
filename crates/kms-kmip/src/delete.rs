//! Destroying: whole keys, and objects that were replaced.

use std::sync::PoisonError;

use kms_core::{Error, ErrorKind, KeyName, Result, Retry};

use crate::{
    index::{IndexEntry, KeyIndex},
    object::Object,
    provider::Kmip,
    put::{as_conflict, changed, dangling, entry},
};

/// How often a delete starts anew when somebody else writes the same key at the same moment.
const ROUNDS: usize = 8;

impl Kmip {
    /// Destroys a key with all that was ever stored under its name, the KEK last.
    pub(crate) async fn remove(&self, name: &KeyName) -> Result<()> {
        let Some(index) = &self.index else { return self.remove_alone(name).await };
        for _ in 0..ROUNDS {
            let entry = match entry(index.as_ref(), name).await? {
                Some(entry) => entry,
                None => {
                    // It gets an entry first, so that a writer that is about to write it down comes too late.
                    let line = self.line(name, true).await?.ok_or_else(|| Error::key_not_found(name))?;
                    match index.create(name, &line.current.uid).await {
                        Ok(version) => IndexEntry::new(line.current.uid, version),
                        Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                        Err(error) => return Err(error),
                    }
                }
            };
            match self.remove_indexed(index.as_ref(), name, entry).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                result => return result,
            }
        }
        Err(Error::new(ErrorKind::Conflict, "others write the same key all the time").retry(Retry::Always))
    }

    async fn remove_indexed(
        &self,
        index: &dyn KeyIndex,
        name: &KeyName,
        mut entry: IndexEntry,
    ) -> Result<()> {
        // An entry for an object that is not there may be the only trace of a key on another server.
        let current = self.object(&entry.uid).await?.ok_or_else(|| dangling(name, &entry.uid))?;
        let others = self.leftovers(name, &current).await?;
        if !others.is_empty() {
            entry.version = index.swap(name, &entry.version, &entry.uid).await?;
            self.destroy_all(&others).await?;
        }
        if current.keys.contains(name) {
            // Found by its name if we are stopped after this: the next delete goes on.
            index.delete(name, &entry.version).await?;
            self.destroy(&entry.uid).await?;
        } else {
            // Rook's objects have no name, so the entry is what leads to it until it is gone.
            self.destroy(&entry.uid).await?;
            index.delete(name, &entry.version).await?;
        }
        Ok(())
    }

    async fn remove_alone(&self, name: &KeyName) -> Result<()> {
        let line = self.line(name, true).await?.ok_or_else(|| Error::key_not_found(name))?;
        self.destroy_all(&line.strays).await?;
        self.destroy_all(&line.superseded).await?;
        if self.destroy(&line.current.uid).await? { Ok(()) } else { Err(Error::key_not_found(name)) }
    }

    /// Destroys what was replaced by the object `current`, and what dead writers have left; gives their number.
    pub(crate) async fn retire(&self, name: &KeyName, current: &str) -> Result<usize> {
        let Some(index) = &self.index else {
            let line = self.line(name, true).await?.ok_or_else(|| Error::key_not_found(name))?;
            if line.current.uid != current {
                return Err(changed());
            }
            let strays = self.destroy_all(&line.strays).await?;
            return Ok(strays + self.destroy_all(&line.superseded).await?);
        };
        let entry = match entry(index.as_ref(), name).await? {
            Some(entry) => entry,
            None => {
                let line = self.line(name, true).await?.ok_or_else(|| Error::key_not_found(name))?;
                let version = index.create(name, &line.current.uid).await.map_err(as_conflict)?;
                IndexEntry::new(line.current.uid, version)
            }
        };
        if *entry.uid != current {
            return Err(changed());
        }
        let object = self.object(current).await?.ok_or_else(|| dangling(name, current))?;
        let others = self.leftovers(name, &object).await?;
        if others.is_empty() {
            return Ok(0);
        }
        if others.iter().any(|other| other.tag.is_some() && other.generation() >= object.generation()) {
            index.swap(name, &entry.version, current).await?;
        }
        self.destroy_all(&others).await
    }

    /// All other objects of the key, those that may be taken for the KEK first: objects of dead writers, then what
    /// was replaced. An object that Rook has registered has no name, and is known by its successor only.
    async fn leftovers(&self, name: &KeyName, current: &Object) -> Result<Vec<Object>> {
        let mut others = self.others(name, &current.uid).await?;
        let nameless: Vec<_> = std::iter::once(current)
            .chain(&others)
            .filter_map(|object| object.tag.as_ref()?.predecessor.clone())
            .filter(|uid| *uid != current.uid && !others.iter().any(|other| other.uid == *uid))
            .collect();
        let replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        for uid in nameless.into_iter().chain(replaced.unwrap_or_default()) {
            if uid != current.uid
                && let Some(object) = self.object(&uid).await?.filter(|object| object.tag.is_none())
            {
                others.push(object);
            }
        }
        // An object without a tag is none that a look by name could take for the KEK.
        others.sort_by_key(|object| {
            let replaced = object.tag.is_none() || object.generation() < current.generation();
            (replaced, object.generation())
        });
        Ok(others)
    }
}
