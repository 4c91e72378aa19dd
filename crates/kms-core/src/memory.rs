//! A provider that keeps its keys in memory: the reference for other providers, and for tests of their callers.
//!
//! `kms-dispatch` does not offer it: when the process ends its keys are gone, and the data on the disks with them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use futures_util::stream;

use crate::{
    Capability, DeleteMode, Error, Existing, Freshness, HistoryMode, Kek, KekState, KeyInfo, KeyName,
    KeyStream, KeyVersion, KmsProvider, PastKek, Probe, PutMode, Result, Stored, UpdateRight,
    provider::Deleted,
};

/// A KMS in memory.
#[derive(Debug, Default)]
pub struct Memory {
    keys: Mutex<BTreeMap<KeyName, Key>>,
}

#[derive(Debug)]
struct Key {
    created: SystemTime,
    /// The stored versions by their numbers. The last version is the current one.
    versions: BTreeMap<u64, Version>,
    deleted: bool,
}

#[derive(Debug)]
struct Version {
    kek: Kek,
    stored: SystemTime,
}

impl Key {
    fn current(&self) -> Option<(u64, &Version)> {
        self.versions.last_key_value().filter(|_| !self.deleted).map(|(number, version)| (*number, version))
    }
}

impl Memory {
    /// An empty KMS.
    pub fn new() -> Self {
        Self::default()
    }

    fn keys(&self) -> MutexGuard<'_, BTreeMap<KeyName, Key>> {
        // A panic of another thread leaves no entry half written.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl KmsProvider for Memory {
    fn provider(&self) -> &'static str {
        "memory"
    }

    fn capability(&self) -> Capability {
        Capability::full()
    }

    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        let mut keys = self.keys();
        let current = keys.get(name).and_then(Key::current);
        match (&mode, current) {
            (PutMode::Create, Some((_, version))) => {
                let same = version.kek.ct_eq(kek);
                return Err(Error::already_exists(
                    name,
                    if same { Existing::Same } else { Existing::Different },
                ));
            }
            (PutMode::Update(_), None) => {
                return Err(Error::key_not_found(name));
            }
            (PutMode::Update(expected), Some((number, _))) if number.to_string() != expected.as_str() => {
                return Err(Error::key_changed(name));
            }
            _ => {}
        }
        let now = SystemTime::now();
        let key = keys.entry(name.clone()).or_insert_with(|| Key {
            created: now,
            versions: BTreeMap::new(),
            deleted: false,
        });
        let number = key.versions.keys().next_back().map_or(1, |last| last + 1);
        key.versions.insert(number, Version { kek: kek.duplicate(), stored: now });
        key.deleted = false;
        Ok(KeyVersion::new(number.to_string()))
    }

    async fn get(&self, name: &KeyName, _: Freshness) -> Result<Stored> {
        let keys = self.keys();
        let key = keys.get(name);
        let (Some(key), Some((number, version))) = (key, key.and_then(Key::current)) else {
            return Err(Error::key_not_found(name));
        };
        Ok(Stored::new(version.kek.duplicate(), KeyVersion::new(number.to_string()))
            .with_times(Some(key.created), Some(version.stored)))
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        let mut keys = self.keys();
        match (keys.get_mut(name), mode) {
            (None, _) => Err(Error::key_not_found(name)),
            (Some(key), DeleteMode::Soft) if key.deleted => Err(Error::key_not_found(name)),
            (Some(key), DeleteMode::Soft) => {
                key.deleted = true;
                Ok(Deleted::Recoverable { until: None })
            }
            (Some(_), DeleteMode::Destroy) => {
                keys.remove(name);
                Ok(Deleted::Destroyed)
            }
        }
    }

    fn list(&self) -> KeyStream<'_> {
        let found: Vec<_> = self
            .keys()
            .iter()
            .filter_map(|(name, key)| {
                let (number, version) = key.current()?;
                Some(Ok(KeyInfo::new(name.clone())
                    .with_version(KeyVersion::new(number.to_string()))
                    .with_times(Some(key.created), Some(version.stored))))
            })
            .collect();
        Box::pin(stream::iter(found))
    }

    async fn undelete(&self, name: &KeyName) -> Result<KeyVersion> {
        let mut keys = self.keys();
        let key = keys.get_mut(name).ok_or_else(|| Error::key_not_found(name))?;
        if !key.deleted {
            return Err(Error::not_deleted(name));
        }
        key.deleted = false;
        let (number, _) = key.current().ok_or_else(|| Error::key_not_found(name))?;
        Ok(KeyVersion::new(number.to_string()))
    }

    async fn history(&self, name: &KeyName, mode: HistoryMode) -> Result<Vec<PastKek>> {
        let keys = self.keys();
        let key = keys.get(name).ok_or_else(|| Error::key_not_found(name))?;
        let current = key.current().map(|(number, _)| number);
        let past = key.versions.iter().rev().map(|(number, version)| {
            let state = match current {
                Some(current) if current == *number => KekState::Current,
                Some(_) => KekState::Superseded,
                None => KekState::Deleted,
            };
            let readable = state != KekState::Deleted || mode == HistoryMode::Restore;
            PastKek::new(KeyVersion::new(number.to_string()), state)
                .with_kek(readable.then(|| version.kek.duplicate()))
                .with_stored(Some(version.stored))
        });
        Ok(past.collect())
    }

    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
        let mut keys = self.keys();
        let Some(key) = keys.get_mut(name).filter(|key| !key.deleted) else {
            return Err(Error::key_not_found(name));
        };
        let number = key.current().map(|(number, _)| number).unwrap_or_default();
        if number.to_string() != current.as_str() {
            return Err(Error::key_changed(name));
        }
        let before = key.versions.len();
        key.versions.retain(|version, _| *version == number);
        Ok(before - key.versions.len())
    }

    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        Ok(vec![UpdateRight::Granted; names.len()])
    }

    async fn probe(&self, probe: &mut Probe) {
        probe.pass("store", format!("{} keys in memory", self.keys().len()));
    }
}
