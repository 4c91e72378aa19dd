//! The first transitions: they read the KEK and the slots of each device, and change nothing.

use std::sync::Arc;

use kms_core::{Error, ErrorKind, Kek, Result, UpdateRight};

use crate::{
    Report, Slot, SlotStore, SlotTable, Step,
    refusal::no_slot,
    report::{DeviceReport, Outcome},
    run::Run,
    state::{Found, Place, State, Young, on_device},
};

impl Run<'_> {
    /// `Start` → `Rehearsal`, `Surveyed`.
    pub(crate) async fn survey(&self) -> Result<State> {
        let found = self.look().await?;
        Ok(if self.options.dry_run { State::Rehearsal(found) } else { State::Surveyed(found) })
    }

    /// `Grown` → `Obsolete`, `Outlived` if the run makes no new KEK; `Ended` if another program has written to a device
    /// or to the KMS during the pause.
    pub(crate) async fn survey_again(&self, young: Young) -> Result<State> {
        let mut found = self.look().await?;
        if young.fingerprint != found.report.from_fingerprint {
            return Ok(State::ended(found.report, Outcome::Superseded));
        }
        if young.sight != found.sight() {
            found.report_pending();
            found.report.warnings.push(SLOTS_CHANGED.to_owned());
            return Ok(State::ended(found.report, Outcome::Pending));
        }
        self.prove_places(&mut found.places, &found.stored.kek).await?;
        found.warn_of_unattributed();
        Ok(if young.rotates { State::Obsolete(found) } else { State::Outlived(found) })
    }

    /// `Rehearsal` → `Ended`: proves all that can be proven without a write.
    pub(crate) async fn rehearse(&self, mut found: Found) -> Result<State> {
        self.prove_places(&mut found.places, &found.stored.kek).await?;
        found.warn_of_unattributed();
        // A run that only finishes an earlier one adds no slot, and leftover slots are removed before a slot is added.
        for place in
            found.places.iter().filter(|place| place.leftovers.is_empty() && !self.options.finish_only)
        {
            place.free()?;
        }
        match self.ask_right().await? {
            UpdateRight::Granted => {}
            UpdateRight::Denied => return Err(self.denied()),
            _ => found.report.warnings.push(
                "the KMS does not say whether the KEK may be updated; a rotation finds out when it stores a KEK".to_owned(),
            ),
        }
        found.report.plan = self.plan(&found.places);
        found.report_pending();
        let Found { places, mut report, .. } = found;
        report.warnings.extend(places.iter().filter_map(Place::warning));
        Ok(State::ended(report, Outcome::DryRun))
    }

    /// What a run would do with these slots, if nothing changes meanwhile.
    fn plan(&self, places: &[Place]) -> Vec<String> {
        let path = |place: &Place| place.device.path().to_owned();
        let mut plan = Vec::new();
        let left: Vec<_> = places
            .iter()
            .flat_map(|place| place.leftovers.iter().map(|slot| Step::Kill(path(place), *slot)))
            .collect();
        if !left.is_empty() {
            let watched = self.options.safe_grace().as_secs();
            plan.push(format!("see that the KMS and all key slots stay unchanged for {watched} s"));
            plan.extend(left.iter().map(Step::to_string));
        }
        if self.options.finish_only {
            return plan;
        }
        // The slots of leftovers are free by then.
        let free = |place: &Place| Slot::PAIR.into_iter().find(|slot| *slot != place.at);
        let added = places.iter().filter_map(|place| Some(Step::Add(path(place), free(place)?)));
        plan.extend(added.map(|step| step.to_string()));
        plan.extend([Step::StoreNew, Step::ReadBack].map(|step| step.to_string()));
        let grace = self.grace().as_secs();
        plan.push(match (grace, self.options.wait) {
            (0, _) => "go on at once, without a grace period".to_owned(),
            (_, true) => format!("wait for the end of the grace period, {grace} s"),
            (_, false) => format!("end; a later run goes on after the grace period, {grace} s"),
        });
        let old = places.iter().filter(|place| place.at.is_rotation());
        plan.extend(old.map(|place| Step::Kill(path(place), place.at).to_string()));
        if self.options.destroy_superseded {
            plan.push(Step::Retire.to_string());
        }
        plan
    }

    /// Reads the KEK and the slots of all devices.
    async fn look(&self) -> Result<Box<Found>> {
        let stored = self.read(Step::ReadKek).await?;
        self.check_capability()?;
        let mut places = Vec::with_capacity(self.osd.devices().len());
        for device in self.osd.devices() {
            places.push(self.look_at(device, &stored.kek).await?);
        }
        let counts = self.kms.capability().versions;
        let device =
            |place: &Place| DeviceReport::new(place.device.path().to_owned(), place.at, &place.table);
        let devices = places.iter().map(device).collect();
        let report = Report::begun(self.osd, &stored, devices, self.started, counts);
        Ok(Box::new(Found { stored, places, report }))
    }

    /// Reads the slots of one device.
    ///
    /// If one slot of the pair is in use, this takes it for the slot of the KEK without a try, since each try may cost
    /// seconds and a GiB; a later transition proves it.
    ///
    /// # Errors
    ///
    /// `Conflict` naming the device if the KEK opens none of its slots, or if both slots of the pair hold other keys;
    /// as [`SlotTable::refuse_rotation`]; errors of reading the device.
    async fn look_at(&self, device: &Arc<dyn SlotStore>, kek: &Kek) -> Result<Place> {
        let table = self.table(&**device).await?;
        table.refuse_rotation().map_err(|error| on_device(&**device, error))?;
        let pair: Vec<Slot> = Slot::PAIR.into_iter().filter(|slot| table.in_use(*slot)).collect();
        match pair.as_slice() {
            [one] => {
                let device = device.clone();
                Ok(Place {
                    device,
                    table,
                    at: *one,
                    proven: false,
                    leftovers: Vec::new(),
                    removed: Vec::new(),
                })
            }
            _ => self.locate(device, table, kek).await,
        }
    }

    /// Tries the slots of a device until the KEK opens one.
    pub(crate) async fn locate(
        &self,
        device: &Arc<dyn SlotStore>,
        table: SlotTable,
        kek: &Kek,
    ) -> Result<Place> {
        let Some(slot) = self.find(&**device, &table, kek).await? else {
            return Err(on_device(&**device, no_slot()));
        };
        let used = |other: &Slot| *other != slot && table.in_use(*other);
        let leftovers: Vec<Slot> = Slot::PAIR.into_iter().filter(used).collect();
        if leftovers.len() == Slot::PAIR.len() {
            let error = Error::new(
                ErrorKind::Conflict,
                format!(
                    "the KEK opens key slot {slot}, and other keys are in the slots 0 and 1, which the rotation \
                     needs: free one of them, or move the KEK there (cryptsetup luksAddKey)"
                ),
            );
            return Err(on_device(&**device, error));
        }
        Ok(Place { device: device.clone(), table, at: slot, proven: true, leftovers, removed: Vec::new() })
    }

    /// Proves that the KEK opens each of these devices, unless that is proven already.
    pub(crate) async fn prove_places(&self, places: &mut [Place], kek: &Kek) -> Result<()> {
        for place in places.iter_mut().filter(|place| !place.proven) {
            if self.opens(&*place.device, place.at, kek).await? {
                place.proven = true;
            } else {
                *place = self.locate(&place.device, place.table.clone(), kek).await?;
            }
        }
        Ok(())
    }
}

/// The warning that another program has written to the slots.
pub(crate) const SLOTS_CHANGED: &str = "another program has written to the key slots or the KEK meanwhile, as Rook's \
    rotation does: no key slot was removed; let only one program rotate this OSD";
