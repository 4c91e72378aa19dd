//! The new KEK: into the slots, then into the KMS.

use kms_core::{Error, ErrorKind, Kek, KeyVersion, Result, Stored};
use kms_luks::{Added, KeySlot, Proof, Slot};
use tokio::time::Instant;

use crate::{
    Step,
    kms::{Put, changed},
    report::{DeviceReport, Report},
    run::Run,
    survey::{Place, at, no_slot},
    undo::{Made, both_stay},
};

/// A rotation whose new KEK is in the KMS, and whose old slots are still there.
#[derive(Debug)]
pub(crate) struct Committed {
    /// What is known so far.
    pub(crate) report: Report,
    /// Until when the old slots stay.
    pub(crate) until: Instant,
    /// What is to be removed.
    pub(crate) devices: Vec<Switched>,
    /// The new KEK and the proofs that it opens the devices, unless they are made again after the grace.
    pub(crate) fresh: Option<(Kek, Vec<Proof>)>,
}

/// The slots of a device.
#[derive(Debug)]
pub(crate) struct Switched {
    pub(crate) new: Slot,
    /// The slot of the old KEK, as it was, if it is one of the rotation's.
    pub(crate) old: Option<KeySlot>,
}

impl<'a> Run<'a> {
    /// Makes a new KEK and puts it in place of the one that is stored.
    pub(crate) async fn switch(
        &self,
        stored: Stored,
        mut places: Vec<Place<'a>>,
        mut report: Report,
    ) -> Result<Committed> {
        self.prove(&mut places, &stored.kek, false).await?;
        // A version other than the one that was found is one that we have stored: so we may.
        let stored =
            if stored.version == report.from_version { self.prove_right(stored).await? } else { stored };
        let new = Kek::generate()?;
        let made = self.add_all(&mut places, &stored.kek, &new).await?;
        let version = match self.store_new(&stored, &new).await {
            Put::Stored(version) => version,
            Put::Refused(error) => return Err(self.undo(&places, &made, &new, error).await),
            Put::Unknown(error) => self.resolve(&stored, &places, &made, &new, error).await?,
        };
        let back = self.read(Step::ReadBack).await.map_err(both_stay)?;
        if !back.kek.ct_eq(&new) {
            return Err(both_stay(if back.kek.ct_eq(&stored.kek) { stale(&version) } else { changed() }));
        }
        let mut proofs = Vec::with_capacity(made.len());
        for (Made { slot, .. }, place) in made.iter().zip(&places) {
            match self.verify(place.device, *slot, &new).await {
                Ok(proof) => proofs.push(proof),
                Err(error) => return Err(self.put_back(&stored, &back.version, &places, error).await),
            }
        }
        let now = self.options.now();
        report.to_fingerprint = new.fingerprint();
        report.switched(&back, now, self.kms.capability().versions);
        let mut devices = Vec::with_capacity(places.len());
        for ((Made { slot, .. }, place), device) in made.into_iter().zip(places).zip(&mut report.devices) {
            report.warnings.extend(place.warnings());
            let old = place.header.slot(place.at).filter(|old| old.slot.is_rotation()).cloned();
            let removed = std::mem::take(&mut device.removed);
            *device = DeviceReport::new(device.path.clone(), slot, &place.header);
            device.removed = removed;
            device.pending = old.as_ref().map(|old| old.slot);
            devices.push(Switched { new: slot, old });
        }
        let until = Instant::now() + self.options.grace;
        Ok(Committed { report, until, devices, fresh: Some((new, proofs)) })
    }

    /// Adds the new KEK on every device, and proves that it opens it. If one fails, all is as it was.
    async fn add_all(&self, places: &mut [Place<'a>], current: &Kek, new: &Kek) -> Result<Vec<Made>> {
        let mut made = Vec::with_capacity(places.len());
        for index in 0..places.len() {
            if let Some(place) = places.get_mut(index)
                && let Err(error) = self.add_to(index, place, current, new, &mut made).await
            {
                return Err(self.undo(places, &made, new, error).await);
            }
        }
        Ok(made)
    }

    async fn add_to(
        &self,
        index: usize,
        place: &mut Place<'a>,
        current: &Kek,
        new: &Kek,
        made: &mut Vec<Made>,
    ) -> Result<()> {
        let device = place.device;
        let mut slot = place.free()?;
        let mut added = self.add(device, place.at, current, slot, new).await;
        if matches!(added, Ok(Added::WrongKey)) && !place.proven {
            // The one slot of the pair was presumed to be that of the KEK, and is not.
            *place = self.locate(device, place.header.clone(), current).await?;
            slot = place.free()?;
            added = self.add(device, place.at, current, slot, new).await;
        }
        let refused = match added {
            Ok(Added::Done) => {
                made.push(Made { device: index, slot });
                return self.verify(device, slot, new).await.map(drop);
            }
            Ok(Added::WrongKey) => no_slot(),
            Ok(_) => Error::new(
                ErrorKind::Conflict,
                format!(
                    "key slot {slot} was free and is in use now: somebody else is at work on this device"
                ),
            ),
            Err(error) => {
                // It may be there, for example after a time limit.
                made.push(Made { device: index, slot });
                error
            }
        };
        Err(at(device, refused))
    }

    /// Finds out what has become of the new KEK when the storing of it ended without a clear answer.
    ///
    /// The KMS may hold the old one now and the new one in a moment, so the slots of the new one are removed only if
    /// that cannot be.
    async fn resolve(
        &self,
        stored: &Stored,
        places: &[Place<'a>],
        made: &[Made],
        new: &Kek,
        cause: Error,
    ) -> Result<KeyVersion> {
        let Ok(found) = self.read(Step::ReadBack).await else { return Err(both_stay(cause)) };
        if found.kek.ct_eq(new) {
            return Ok(found.version);
        }
        if !self.is_atomic() || !found.kek.ct_eq(&stored.kek) {
            return Err(both_stay(cause));
        }
        match self.fence(found).await {
            Ok(_) => Err(self.undo(places, made, new, cause).await),
            // It may have arrived just now.
            Err(_) => match self.read(Step::ReadBack).await {
                Ok(found) if found.kek.ct_eq(new) => Ok(found.version),
                _ => Err(both_stay(cause)),
            },
        }
    }
}

/// The KMS has said that the new KEK is stored, and returns the old one.
fn stale(version: &KeyVersion) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the KMS has stored the new KEK and still returns the old one: it may have been asked at a server that lags \
         behind",
    )
    .context("version", version.as_str())
}
