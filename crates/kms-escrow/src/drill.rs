//! The drill: proves what an escrow would bring back, and changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use kms_core::{Error, ErrorKind, Freshness, Kek, KeyName, KmsProvider, Result};

use crate::{
    DrillRecord, Escrow, HeaderCopy, HeaderEntry, Identities, SavedKey,
    archive::Sum,
    folder::write_document,
    keys::{Seen, all_names, second},
    manifest::json,
};

/// How many KEKs are compared at a time.
const PARALLEL: usize = 8;

/// Restores a header to memory and tries a KEK on it. An escrow knows no LUKS.
#[async_trait]
pub trait HeaderTest: Send + Sync {
    /// The key slot of the header that the KEK opens. `None` if the KEK opens no slot. Writes nothing.
    ///
    /// # Errors
    ///
    /// If the header is damaged, or cannot be tried.
    async fn opened(&self, header: &[u8], kek: &Kek) -> Result<Option<u8>>;
}

/// A KEK of an escrow beside the KMS.
#[derive(Debug)]
#[non_exhaustive]
pub enum KekState {
    /// The KMS has no key of this name: a restore creates it.
    Absent,
    /// The KMS returns the same KEK.
    Current,
    /// The escrow does not have the key, and the KMS has it.
    Missing,
    /// The KEK was not compared with the KMS.
    NotCompared,
    /// The KMS returns another KEK: the key was rotated after the escrow was made, or before the KMS was restored.
    Other,
    /// The KMS does not return the KEK.
    Unread(Error),
}

impl KekState {
    /// The state as one word.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Current => "current",
            Self::Missing => "missing",
            Self::NotCompared => "not-compared",
            Self::Other => "other",
            Self::Unread(_) => "unread",
        }
    }
}

/// A LUKS header in a drill.
#[derive(Debug)]
#[non_exhaustive]
pub struct HeaderReport {
    /// The entry of the manifest.
    pub entry: HeaderEntry,
    /// The slot that the KEK of the escrow opens, or why it could not be tried. `None` if it opens no slot.
    pub opened: Result<Option<u8>>,
}

/// The header of a device beside the one of the escrow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum HeaderState {
    /// It has changed since the escrow was made.
    Changed,
    /// The escrow has no header of this device.
    NotSaved,
    /// It is the same.
    Same,
}

impl HeaderState {
    /// The state as one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::NotSaved => "not-saved",
            Self::Same => "same",
        }
    }
}

/// A device in a drill.
#[derive(Debug)]
#[non_exhaustive]
pub struct LiveHeader {
    /// The path of the device.
    pub device: String,
    /// The slot that the KEK of the escrow opens, or why it could not be tried. `None` if it opens no slot.
    pub opened: Result<Option<u8>>,
    /// Its header beside the one of the escrow.
    pub header: HeaderState,
}

/// A key in a drill.
#[derive(Debug)]
#[non_exhaustive]
pub struct KeyReport {
    /// The name of the key.
    pub name: KeyName,
    /// The version in the escrow. `None` if the escrow does not have the key.
    pub version: Option<String>,
    /// The KEK beside the KMS.
    pub kek: KekState,
    /// Its headers in the escrow.
    pub headers: Vec<HeaderReport>,
    /// Its devices.
    pub devices: Vec<LiveHeader>,
}

impl KeyReport {
    fn new(name: KeyName, version: Option<String>, kek: KekState) -> Self {
        Self { name, version, kek, headers: Vec::new(), devices: Vec::new() }
    }

    /// What would not come back. Empty if everything would.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        match &self.kek {
            KekState::Missing => found.push("the escrow does not have the key: make a new escrow".to_owned()),
            KekState::Other => {
                found.push("the KMS returns another KEK than the escrow has: make a new escrow".to_owned())
            }
            KekState::Unread(error) => found.push(format!("the KEK cannot be compared: {error}")),
            KekState::Absent | KekState::Current | KekState::NotCompared => {}
        }
        let tried = self
            .headers
            .iter()
            .map(|header| (format!("the saved header {}", header.entry.uuid), &header.opened));
        let devices = self.devices.iter().map(|device| (device.device.clone(), &device.opened));
        for (what, opened) in tried.chain(devices) {
            match opened {
                Ok(Some(_)) => {}
                Ok(None) => found.push(format!("the KEK of the escrow does not open {what}")),
                Err(error) => found.push(format!("{what} cannot be tried: {error}")),
            }
        }
        found
    }
}

/// A drill of one escrow.
#[derive(Debug)]
pub struct Drill {
    escrow: Escrow,
    keys: BTreeMap<KeyName, SavedKey>,
    reports: BTreeMap<KeyName, KeyReport>,
    /// The digests of the headers, by name and UUID.
    saved: BTreeMap<(KeyName, String), String>,
}

impl Drill {
    /// Begins a drill: checks the files, and decrypts every KEK.
    ///
    /// # Errors
    ///
    /// As [`Escrow::check_files`] and [`Escrow::keks`].
    pub fn begin(escrow: Escrow, identities: &Identities) -> Result<Self> {
        escrow.check_files()?;
        let keys = escrow.keks(identities)?.into_iter().map(|key| (key.entry.name.clone(), key));
        let keys: BTreeMap<_, _> = keys.collect();
        let report = |key: &SavedKey| {
            let (name, version) = (key.entry.name.clone(), Some(key.entry.version.clone()));
            (name.clone(), KeyReport::new(name, version, KekState::NotCompared))
        };
        let reports = keys.values().map(report).collect();
        Ok(Self { escrow, keys, reports, saved: BTreeMap::new() })
    }

    /// Compares every KEK with the KMS, and looks for keys that the escrow does not have. Reads only.
    /// `seen` receives the end of each read.
    ///
    /// # Errors
    ///
    /// Errors of the list, `Incomplete` too. A KEK that cannot be read is in the report.
    pub async fn compare(&mut self, kms: &dyn KmsProvider, seen: Seen<'_>) -> Result<()> {
        let listed: BTreeSet<_> = all_names(kms).await?.into_iter().collect();
        let compared = stream::iter(&self.keys).map(|(name, key)| async move {
            let state = match kms.get(name, Freshness::Fresh).await {
                Ok(stored) if stored.kek.ct_eq(&key.kek) => KekState::Current,
                Ok(_) => KekState::Other,
                Err(error) if error.kind() == ErrorKind::NotFound => KekState::Absent,
                Err(error) => KekState::Unread(error),
            };
            (name.clone(), state)
        });
        let mut compared = compared.buffer_unordered(PARALLEL);
        let mut done = 0;
        while let Some((name, state)) = compared.next().await {
            done += 1;
            seen(done, self.keys.len());
            if let Some(report) = self.reports.get_mut(&name) {
                report.kek = state;
            }
        }
        for name in listed {
            self.reports.entry(name.clone()).or_insert_with(|| KeyReport::new(name, None, KekState::Missing));
        }
        Ok(())
    }

    /// Tries the KEK of each header of the escrow on that header. `seen` receives the end of each try.
    ///
    /// # Errors
    ///
    /// As [`Escrow::headers`]. A header that cannot be tried is in the report.
    pub async fn try_headers(
        &mut self,
        identities: &Identities,
        test: &dyn HeaderTest,
        seen: Seen<'_>,
    ) -> Result<()> {
        let total = self.escrow.sidecar().headers.as_ref().map_or(0, |headers| headers.entries);
        let mut tried = BTreeMap::new();
        let keys = &self.keys;
        let entries = self.escrow.headers(identities, async |name, uuid, header| {
            let opened = match keys.get(name) {
                Some(key) => test.opened(header, &key.kek).await,
                None => Ok(None),
            };
            tried.insert((name.clone(), uuid.to_owned()), opened);
            seen(tried.len(), total);
            Ok(())
        });
        for entry in entries.await? {
            let place = (entry.name.clone(), entry.uuid.clone());
            let opened = tried.remove(&place).unwrap_or(Ok(None));
            self.saved.insert(place, entry.sha256.clone());
            let name = entry.name.clone();
            let report = self.reports.entry(name.clone());
            let report = report.or_insert_with(|| KeyReport::new(name, None, KekState::NotCompared));
            report.headers.push(HeaderReport { entry, opened });
        }
        Ok(())
    }

    /// Tries the KEK of the escrow on a device of this host, by a copy of its header, and compares that with the header of
    /// the escrow. Comes after [`try_headers`](Self::try_headers).
    pub async fn try_device(&mut self, copy: &HeaderCopy, test: &dyn HeaderTest) {
        let name = &copy.name;
        let header = match self.saved.get(&(name.clone(), copy.uuid.clone())) {
            None => HeaderState::NotSaved,
            Some(sha256) if *sha256 == Sum::of(&copy.bytes).sha256 => HeaderState::Same,
            Some(_) => HeaderState::Changed,
        };
        let opened = match self.keys.get(name) {
            Some(key) => test.opened(&copy.bytes, &key.kek).await,
            None => Ok(None),
        };
        self.add_device(name, LiveHeader { device: copy.device.clone(), opened, header });
    }

    /// Notes that a device of this host cannot be read.
    pub fn unread_device(&mut self, name: &KeyName, device: String, error: Error) {
        self.add_device(name, LiveHeader { device, opened: Err(error), header: HeaderState::NotSaved });
    }

    fn add_device(&mut self, name: &KeyName, device: LiveHeader) {
        let missing = || KeyReport::new(name.clone(), None, KekState::Missing);
        self.reports.entry(name.clone()).or_insert_with(missing).devices.push(device);
    }

    /// The escrow.
    pub fn escrow(&self) -> &Escrow {
        &self.escrow
    }

    /// The report of each key, sorted by name.
    pub fn reports(&self) -> impl Iterator<Item = &KeyReport> {
        self.reports.values()
    }

    /// Whether everything would come back, as far as it was looked at.
    pub fn is_ok(&self) -> bool {
        self.reports().all(|report| report.problems().is_empty())
    }

    /// The result of the drill, as of now.
    pub fn result(&self) -> DrillRecord {
        let drilled = second(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH);
        DrillRecord::new(self.escrow.sidecar(), drilled, self.is_ok())
    }

    /// Writes the result beside the archives, with the date.
    ///
    /// # Errors
    ///
    /// `Unexpected` if the folder cannot be written, such as one on a read-only medium.
    pub fn record(&self) -> Result<DrillRecord> {
        let record = self.result();
        write_document(&DrillRecord::path(self.escrow.folder()), &json(&record)?)?;
        Ok(record)
    }
}
