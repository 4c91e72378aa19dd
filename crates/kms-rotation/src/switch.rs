//! The transitions from the old KEK to the new one: into the slots, then into the KMS.

use kms_core::{Error, ErrorKind, Kek, KeyVersion, Result};

use crate::{
    Added, Step,
    kms::{Put, changed},
    refusal::no_slot,
    report::{DeviceReport, Outcome},
    run::Run,
    sight::Sight,
    state::{Attempt, Found, Fresh, Made, Place, SlotPair, State, Switched, on_device},
    survey::SLOTS_CHANGED,
    undo::both_stay,
};

impl Run<'_> {
    /// `Clean` → `Permitted`, or `Ended` if the run makes no new KEK.
    ///
    /// This does not prove the KEK on the first device: adding the new slot proves the same and writes nothing if the
    /// KEK is wrong, so a slot with a costly key derivation is opened once only.
    pub(crate) async fn permit(&self, mut found: Found) -> Result<State> {
        if self.options.finish_only {
            return self.finish(found).await;
        }
        if let Some((_, others)) = found.places.split_first_mut() {
            self.prove_places(others, &found.stored.kek).await?;
        }
        for place in &found.places {
            place.free()?;
        }
        // If the version is not the one that the run found, this run has stored it, so it may update the KEK.
        if found.stored.version == found.report.from_version {
            found.stored = self.prove_right(found.stored).await?;
        }
        Ok(State::Permitted(Box::new(found)))
    }

    /// `Permitted` → `Added`: makes K2, adds it on every device, and proves that it opens them. If one device fails,
    /// all devices end as before.
    pub(crate) async fn add_new(&self, mut found: Found) -> Result<State> {
        let new = Kek::generate()?;
        let mut made = Vec::with_capacity(found.places.len());
        for place in &mut found.places {
            if let Err(error) = self.add_to(place, &found.stored.kek, &new, &mut made).await {
                return Err(self.undo(&made, &new, error).await);
            }
        }
        Ok(State::Added(Box::new(Attempt { found, new, made })))
    }

    async fn add_to(&self, place: &mut Place, current: &Kek, new: &Kek, made: &mut Vec<Made>) -> Result<()> {
        let mut slot = place.free()?;
        let mut added = self.add(&*place.device, place.at, current, slot, new).await;
        if matches!(added, Ok(Added::WrongKey)) && !place.proven {
            // The only slot of the pair in use is not that of the KEK.
            *place = self.locate(&place.device, place.table.clone(), current).await?;
            slot = place.free()?;
            added = self.add(&*place.device, place.at, current, slot, new).await;
        }
        let device = &place.device;
        let refused = match added {
            Ok(Added::Done) => {
                made.push(Made { device: device.clone(), slot, old: place.at });
                return self.prove(&**device, slot, new).await.map(drop);
            }
            Ok(Added::WrongKey) => no_slot(),
            Ok(Added::SlotTaken) => Error::new(
                ErrorKind::Conflict,
                format!("key slot {slot} was free and is in use now: another program writes to this device"),
            ),
            Err(error) => {
                // The slot may exist, for example after a time limit.
                made.push(Made { device: device.clone(), slot, old: place.at });
                error
            }
        };
        Err(on_device(&**device, refused))
    }

    /// `Added` → `Stored`, `Unclear`.
    pub(crate) async fn store(&self, attempt: Attempt) -> Result<State> {
        match self.store_new(&attempt.found.stored, &attempt.new).await {
            Put::Stored(version) => Ok(State::Stored(Box::new(attempt), version)),
            Put::Refused(error) => Err(self.undo(&attempt.made, &attempt.new, error).await),
            Put::Unknown(error) => Ok(State::Unclear(Box::new(attempt), error)),
        }
    }

    /// `Unclear` → `Stored`: finds out whether the KMS stored K2.
    ///
    /// The KMS may hold K1 now and K2 a moment later, so the slots of K2 are removed only if that cannot happen.
    pub(crate) async fn settle(&self, attempt: Attempt, cause: Error) -> Result<State> {
        let Ok(current) = self.read(Step::ReadBack).await else { return Err(both_stay(cause)) };
        if current.kek.ct_eq(&attempt.new) {
            return Ok(State::Stored(Box::new(attempt), current.version));
        }
        if !self.is_atomic() || !current.kek.ct_eq(&attempt.found.stored.kek) {
            return Err(both_stay(cause));
        }
        if self.fence(current).await.is_ok() {
            return Err(self.undo(&attempt.made, &attempt.new, cause).await);
        }
        // The fence fails if K2 has arrived since.
        match self.read(Step::ReadBack).await {
            Ok(current) if current.kek.ct_eq(&attempt.new) => {
                Ok(State::Stored(Box::new(attempt), current.version))
            }
            _ => Err(both_stay(cause)),
        }
    }

    /// `Stored` → `Switched`: reads K2 back, and proves it on every device. `Ended` if another program has written to
    /// a device since the first look.
    pub(crate) async fn confirm(&self, attempt: Attempt, version: KeyVersion) -> Result<State> {
        let back = self.read(Step::ReadBack).await.map_err(both_stay)?;
        let Attempt { found: Found { stored, places, mut report }, new, made } = attempt;
        if !back.kek.ct_eq(&new) {
            return Err(both_stay(if back.kek.ct_eq(&stored.kek) { stale(&version) } else { changed() }));
        }
        let mut proofs = Vec::with_capacity(made.len());
        for Made { device, slot, .. } in &made {
            match self.prove(&**device, *slot, &new).await {
                Ok(proof) => proofs.push(proof),
                Err(error) => return Err(self.put_back(&stored, &back.version, &made, error).await),
            }
        }
        report.to_fingerprint = new.fingerprint();
        report.switched(&back, self.options.now(), self.kms.capability().versions);
        let mut devices = Vec::with_capacity(places.len());
        let mut only_ours = true;
        for ((Made { device, slot, .. }, place), reported) in
            made.into_iter().zip(places).zip(&mut report.devices)
        {
            let table = self.table(&*device).await.map_err(both_stay)?;
            only_ours &= place.has_only_ours(slot, &table);
            report.warnings.extend(place.warning());
            let old = Some(place.at).filter(|old| old.is_rotation());
            *reported = DeviceReport::new(reported.path.clone(), slot, &place.table);
            reported.removed = place.removed;
            reported.pending = old;
            devices.push(SlotPair { device, new: slot, old, table });
        }
        let sight = Sight::new(&back.version, devices.iter().map(|pair| &pair.table));
        // A later run counts from now on.
        let _kept = self.seen_for(devices.first().map(|pair| &pair.table), &sight);
        if !only_ours {
            report.warnings.push(SLOTS_CHANGED.to_owned());
            return Ok(State::ended(report, Outcome::Pending));
        }
        let grace = self.grace();
        if grace > self.options.grace {
            report.warnings.push(format!(
                "the grace period is {} s instead of {} s: this KMS has no conditional writes, so until then a write \
                 that an earlier run sent may still arrive",
                grace.as_secs(),
                self.options.grace.as_secs()
            ));
        }
        let until = self.options.timer.now() + grace;
        let fresh = Fresh { kek: new, proofs };
        Ok(State::Switched(Box::new(Switched { report, until, devices }), Box::new(fresh)))
    }
}

/// The KMS reported that it stored the new KEK, and returns the old one.
fn stale(version: &KeyVersion) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the KMS has stored the new KEK and still returns the old one: the read may have gone to a server that lags \
         behind",
    )
    .context("version", version.as_str())
}
