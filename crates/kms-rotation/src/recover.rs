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
    current: Current,
}

/// The key when the search began.
enum Current {
    /// There is none.
    Absent,
    /// This version; without a KEK if its value is not one.
    Version(KeyVersion, Option<Kek>),
    /// There is one, whose KEK and version are not known.
    Unknown,
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
    /// A current value that is not a KEK, or is disabled, ends the search only if there is no other candidate.
    ///
    /// # Errors
    ///
    /// Errors of the KMS; errors of reading a device, since an unread device is not one that a KEK does not open.
    pub async fn find(kms: &dyn KmsProvider, osd: &Osd, given: &[Kek], mode: HistoryMode) -> Result<Self> {
        let mut tables = Vec::with_capacity(osd.devices().len());
        for device in osd.devices() {
            tables.push(device.table().await.map_err(|error| on_device(&**device, error))?);
        }
        let current = kms.get(osd.name(), Freshness::Fresh).await;
        let past = match kms.history(osd.name(), mode).await {
            Ok(past) => past,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            // The KEKs of the caller and the current one are tried all the same.
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                let stored = current.as_ref().ok();
                stored
                    .map(|stored| Stored::new(stored.kek.duplicate(), stored.version.clone()).into())
                    .into_iter()
                    .collect()
            }
            // Where the history is the current value alone, it fails as the read of that value does.
            Err(error) if current.as_ref().is_err_and(|of_read| of_read.kind() == error.kind()) => Vec::new(),
            Err(error) => return Err(error),
        };
        let current = match current {
            Ok(stored) => Current::Version(stored.version, Some(stored.kek)),
            Err(error) if error.kind() == ErrorKind::NotFound => Current::Absent,
            Err(error) if !is_of_value(&error) || (past.is_empty() && given.is_empty()) => return Err(error),
            Err(_) => match past.iter().find(|past| past.state == KekState::Current) {
                Some(past) => Current::Version(past.version.clone(), past.kek.as_ref().map(Kek::duplicate)),
                None => Current::Unknown,
            },
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
            (Some((_, kek)), Current::Version(_, Some(current))) => kek.ct_eq(current),
            _ => false,
        }
    }

    /// Makes the KEK that opens every device current, and returns its version. Creates the key if it was absent.
    ///
    /// # Errors
    ///
    /// `Conflict` if no candidate opens every device, if the key has changed since the search began, or if the version to
    /// replace is not known; `AlreadyExists` if the key was absent then and exists now; errors of the KMS.
    pub async fn write(&self, kms: &dyn KmsProvider, osd: &Osd) -> Result<KeyVersion> {
        let Some((_, kek)) = &self.found else { return Err(nothing_opens()) };
        let mode = match &self.current {
            Current::Version(version, Some(current)) if kek.ct_eq(current) => return Ok(version.clone()),
            Current::Version(version, _) => PutMode::Update(version.clone()),
            Current::Absent => PutMode::Create,
            Current::Unknown => return Err(unknown_version()),
        };
        let version = kms.put(osd.name(), kek, mode).await?;
        // Without compare-and-set another write may have come in between.
        let stored = kms.get(osd.name(), Freshness::Fresh).await?;
        if stored.kek.ct_eq(kek) { Ok(version) } else { Err(Error::key_changed(osd.name())) }
    }
}

/// Whether a read failed since the stored value is not a KEK, or is disabled, so that older versions may help.
fn is_of_value(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Disabled)
}

/// The error of a write in place of a value of unknown version, which might replace what another writer has stored since.
fn unknown_version() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "a KEK opens all devices, and what the KMS holds now is not a KEK or is disabled, and its version is not known: \
         nothing was changed, since that could undo a change of another program (enable the current version if it is \
         disabled; or make sure that no other program writes, and store the KEK with kms put --replace)",
    )
}

/// The error of a search without a result.
pub(crate) fn nothing_opens() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "no KEK opens all of these devices: nothing was changed (name a backup of the KEK with --kek, read deleted \
         versions with --deleted, check the devices)",
    )
}
