//! The transitions that deal with leftover slots: slots of the pair that an earlier run, or Rook, left in use besides
//! the slot of the KEK.
//!
//! A leftover slot holds a new KEK that never got into the KMS, the old KEK of a rotation that was not finished, or a
//! copy that Rook made. The three cases cannot be told apart, and need not be: once the KEK that the KMS holds opens
//! every device, and no other KEK can arrive there ([`fence`](Run::fence)), only an OSD that has fetched the old KEK
//! a moment ago may need a leftover. So a leftover stays as long as the KEK is younger than the grace period.

use kms_core::Result;

use crate::{
    report::Outcome,
    run::Run,
    state::{Found, State, Young},
};

impl Run<'_> {
    /// `Surveyed` → `Clean` without leftovers, `Obsolete` if the KEK is older than the grace period; otherwise `Young`,
    /// or `Ended` if the run does not wait.
    pub(crate) async fn sort_leftovers(&self, mut found: Found) -> Result<State> {
        if !found.has_leftovers() {
            return Ok(State::Clean(Box::new(found)));
        }
        self.prove_places(&mut found.places, &found.stored.kek).await?;
        found.warn_of_unattributed();
        let left = self.options.grace.saturating_sub(self.age(&found.stored));
        if left.is_zero() {
            return Ok(State::Obsolete(Box::new(found)));
        }
        self.remove_copies(&mut found).await?;
        if !found.has_leftovers() {
            return Ok(State::Clean(Box::new(found)));
        }
        if self.options.wait {
            let fingerprint = found.report.from_fingerprint;
            return Ok(State::Young(Young { fingerprint, until: self.options.timer.now() + left }));
        }
        found.report_pending();
        Ok(State::ended(found.report, Outcome::Pending))
    }

    /// `Obsolete` → `Clean`.
    pub(crate) async fn remove_obsolete(&self, found: Found) -> Result<State> {
        Ok(State::Clean(Box::new(self.remove_leftovers(found).await?)))
    }

    /// `Outlived` → `Ended`: the run has waited for the end of an earlier rotation, and makes no second one.
    pub(crate) async fn finish_earlier(&self, mut found: Found) -> Result<State> {
        if found.has_leftovers() {
            self.prove_places(&mut found.places, &found.stored.kek).await?;
            found.warn_of_unattributed();
            found = self.remove_leftovers(found).await?;
        }
        Ok(self.finish(found).await)
    }

    /// Ends a run that makes no new KEK.
    pub(crate) async fn finish(&self, found: Found) -> State {
        let mut report = found.report;
        let any = report.devices.iter().any(|device| !device.removed.is_empty());
        if any && self.options.destroy_superseded {
            self.retire(&mut report).await;
        }
        State::ended(report, if any { Outcome::Finished } else { Outcome::NothingToFinish })
    }

    /// Removes all leftover slots, behind the fence. The KEK must have been proven on every device.
    async fn remove_leftovers(&self, found: Found) -> Result<Found> {
        let Found { stored, mut places, mut report } = found;
        let stored = self.fence(stored).await?;
        report.to_version = stored.version.clone();
        for (place, device) in places.iter_mut().zip(&mut report.devices) {
            if place.leftovers.is_empty() {
                continue;
            }
            let proof = self.prove(&*place.device, place.at, &stored.kek).await?;
            for slot in std::mem::take(&mut place.leftovers) {
                self.remove(&*place.device, slot, &proof, &stored.kek).await?;
                device.removed.push(slot);
            }
        }
        Ok(Found { stored, places, report })
    }

    /// Removes the leftover slots that the KEK itself opens. No KEK is lost with them, so there is nothing to wait for.
    async fn remove_copies(&self, found: &mut Found) -> Result<()> {
        let kek = &found.stored.kek;
        for (place, device) in found.places.iter_mut().zip(&mut found.report.devices) {
            for slot in place.leftovers.clone() {
                if self.opens(&*place.device, slot, kek).await? {
                    let proof = self.prove(&*place.device, place.at, kek).await?;
                    self.remove(&*place.device, slot, &proof, kek).await?;
                    place.leftovers.retain(|left| *left != slot);
                    device.removed.push(slot);
                }
            }
        }
        Ok(())
    }
}
