//! Finds the KEK that opens the devices of an OSD among all KEKs that the KMS still has, and makes it current.

use std::time::SystemTime;

use kms_core::{
    Error, ErrorKind, Freshness, HistoryMode, Kek, KekState, KeyVersion, KmsProvider, PutMode, Result, Stored,
};

use crate::{Osd, Slot, SlotTable, state::on_device};

/// Where a candidate comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Origin {
    /// A version in the KMS.
    Version {
        /// The version.
        version: KeyVersion,
        /// Whether it is current, superseded or deleted.
        state: KekState,
        /// When it was stored, if the KMS knows.
        stored: Option<SystemTime>,
    },
    /// A KEK of the caller, by its place in the caller's list.
    Given(usize),
}

/// A KEK that may open the devices.
#[derive(Debug)]
#[non_exhaustive]
pub struct Candidate {
    /// Where it comes from.
    pub origin: Origin,
    /// The fingerprint of the KEK. `None` if the KEK could not be read.
    pub fingerprint: Option<String>,
    /// The slot that the KEK opens on each device of the OSD, in order; `None` for a device that it does not open.
    /// Empty if the KEK was not tried: it could not be read, or a newer one opens every device.
    pub slots: Vec<Option<Slot>>,
}

impl Candidate {
    /// Whether the KEK opens every device.
    pub fn opens_all(&self) -> bool {
        !self.slots.is_empty() && self.slots.iter().all(Option::is_some)
    }
}

/// The result of [`Recovery::find`].
pub struct Recovery {
    /// The candidates: the versions in the KMS, the newest first, and then those of the caller.
    pub candidates: Vec<Candidate>,
    /// The KEK that opens every device, and its place among the candidates.
    found: Option<(usize, Kek)>,
    /// The key when the search began. `None` if it was absent.
    current: Option<Stored>,
}

impl std::fmt::Debug for Recovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { candidates, found: _, current: _ } = self;
        f.debug_struct("Recovery").field("candidates", candidates).finish_non_exhaustive()
    }
}

impl Recovery {
    /// Tries every KEK that the KMS still has, and then those in `given`, until one opens every device. Changes no
    /// device, and nothing in the KMS beyond what `mode` allows.
    ///
    /// # Errors
    ///
    /// Errors of the KMS; errors of reading a device, since an unread device is not one that a KEK does not open.
    pub async fn find(kms: &dyn KmsProvider, osd: &Osd, given: &[Kek], mode: HistoryMode) -> Result<Self> {
        let mut tables = Vec::with_capacity(osd.devices().len());
        for device in osd.devices() {
            tables.push(device.table().await.map_err(|error| on_device(&**device, error))?);
        }
        let current = match kms.get(osd.name(), Freshness::Fresh).await {
            Ok(stored) => Some(stored),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let past = match kms.history(osd.name(), mode).await {
            Ok(past) => past,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            // The KEKs of the caller and the current one are tried all the same.
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                let stored = current.as_ref();
                stored
                    .map(|stored| Stored::new(stored.kek.duplicate(), stored.version.clone()).into())
                    .into_iter()
                    .collect()
            }
            Err(error) => return Err(error),
        };
        let versions = past.into_iter().map(|past| {
            (Origin::Version { version: past.version, state: past.state, stored: past.stored }, past.kek)
        });
        let given =
            given.iter().enumerate().map(|(place, kek)| (Origin::Given(place), Some(kek.duplicate())));
        let mut recovery = Self { candidates: Vec::new(), found: None, current };
        for (origin, kek) in versions.chain(given) {
            recovery.add(osd, &tables, origin, kek).await?;
        }
        Ok(recovery)
    }

    /// Adds a candidate, and tries it unless an earlier one opens every device.
    async fn add(&mut self, osd: &Osd, tables: &[SlotTable], origin: Origin, kek: Option<Kek>) -> Result<()> {
        let fingerprint = kek.as_ref().map(Kek::fingerprint);
        let mut candidate = Candidate { origin, fingerprint, slots: Vec::new() };
        if let Some(kek) = kek.filter(|_| self.found.is_none()) {
            for (device, table) in osd.devices().iter().zip(tables) {
                let slot = device.find(table, &kek).await.map_err(|error| on_device(&**device, error))?;
                candidate.slots.push(slot);
            }
            if candidate.opens_all() {
                self.found = Some((self.candidates.len(), kek));
            }
        }
        self.candidates.push(candidate);
        Ok(())
    }

    /// The candidate that opens every device. `None` if no candidate does.
    pub fn found(&self) -> Option<&Candidate> {
        self.candidates.get(self.found.as_ref()?.0)
    }

    /// Whether the KEK that opens every device is the one that the KMS returns already.
    pub fn is_current(&self) -> bool {
        match (&self.found, &self.current) {
            (Some((_, kek)), Some(current)) => kek.ct_eq(&current.kek),
            _ => false,
        }
    }

    /// Makes the KEK that opens every device current, and returns its version. Creates the key if it was absent.
    ///
    /// # Errors
    ///
    /// `Conflict` if no candidate opens every device, or if the key has changed since the search began;
    /// `AlreadyExists` if the key was absent then and exists now; errors of the KMS.
    pub async fn write(&self, kms: &dyn KmsProvider, osd: &Osd) -> Result<KeyVersion> {
        let Some((_, kek)) = &self.found else { return Err(nothing_opens()) };
        let mode = match &self.current {
            Some(current) if kek.ct_eq(&current.kek) => return Ok(current.version.clone()),
            Some(current) => PutMode::Update(current.version.clone()),
            None => PutMode::Create,
        };
        let version = kms.put(osd.name(), kek, mode).await?;
        // Without compare-and-set another write may have come in between.
        let stored = kms.get(osd.name(), Freshness::Fresh).await?;
        if stored.kek.ct_eq(kek) { Ok(version) } else { Err(Error::key_changed(osd.name())) }
    }
}

/// The error of a search without a result.
pub(crate) fn nothing_opens() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "no KEK opens all of these devices: nothing was changed (name a backup of the KEK with --kek, read deleted \
         versions with --deleted, check the devices)",
    )
}
