//! What an earlier run, or Rook, has left in the slots.

use kms_core::{Kek, Result, Stored};
use tokio::time::Instant;

use crate::{report::DeviceReport, run::Run, survey::Place};

/// What is to be done about leftovers.
pub(crate) enum Cleared {
    /// There are none any more; the run may go on.
    Gone(Stored),
    /// They may be the KEK that an OSD is starting with, until then.
    Young { until: Instant },
}

impl<'a> Run<'a> {
    /// Removes what is left in the slots of the pair besides the KEK.
    ///
    /// A leftover is a new KEK that never got into the KMS, the old one of a rotation that was not finished, or a copy
    /// that Rook made. Which one, nobody can tell. None of them is needed once the KEK that the KMS holds opens every
    /// device and no other one can arrive there ([`fence`](Self::fence)), except by an OSD that has fetched the old
    /// one: as long as the KEK is younger than the grace, they stay.
    ///
    /// `ignore_age` is for whoever has waited for this very version to grow old.
    pub(crate) async fn clear(
        &self,
        stored: Stored,
        places: &mut [Place<'a>],
        done: &mut [DeviceReport],
        ignore_age: bool,
    ) -> Result<Cleared> {
        if places.iter().all(|place| place.leftovers.is_empty()) {
            return Ok(Cleared::Gone(stored));
        }
        self.prove(places, &stored.kek, true).await?;
        let left = self.options.grace.saturating_sub(self.age(&stored));
        if !ignore_age && !left.is_zero() {
            self.remove_copies(&stored.kek, places, done).await?;
            if places.iter().all(|place| place.leftovers.is_empty()) {
                return Ok(Cleared::Gone(stored));
            }
            return Ok(Cleared::Young { until: Instant::now() + left });
        }
        let stored = self.fence(stored).await?;
        for (place, report) in places.iter_mut().zip(done.iter_mut()) {
            if place.leftovers.is_empty() {
                continue;
            }
            let proof = self.verify(place.device, place.at, &stored.kek).await?;
            for slot in std::mem::take(&mut place.leftovers) {
                self.kill(place.device, slot, &proof, &stored.kek).await?;
                report.removed.push(slot);
            }
        }
        Ok(Cleared::Gone(stored))
    }

    /// Removes slots that open with the KEK itself: no KEK is lost with them, so there is nothing to wait for.
    async fn remove_copies(
        &self,
        kek: &Kek,
        places: &mut [Place<'a>],
        done: &mut [DeviceReport],
    ) -> Result<()> {
        for (place, report) in places.iter_mut().zip(done.iter_mut()) {
            for slot in place.leftovers.clone() {
                if self.opens(place.device, slot, kek).await? {
                    let proof = self.verify(place.device, place.at, kek).await?;
                    self.kill(place.device, slot, &proof, kek).await?;
                    place.leftovers.retain(|left| *left != slot);
                    report.removed.push(slot);
                }
            }
        }
        Ok(())
    }
}
