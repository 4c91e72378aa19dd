//! The transitions that deal with unsettled slots.
//!
//! A leftover slot is a slot of the pair that is in use besides the slot of the KEK. It holds a new KEK that never got
//! into the KMS, the old KEK of a rotation that was not finished, or what a rotation of Rook made that is at work this
//! moment: Rook relies on a copy of the KEK in slot 1, and stores the KEK of slot 0 a moment later. The cases cannot be
//! told apart. So a leftover goes only after the KMS and all slots have been seen unchanged for a grace period, two
//! minutes at least: then each rotation that was at work has ended or written, each write that was sent has arrived,
//! and each OSD that fetched the old KEK has started. No time of day takes part in this.

use std::time::Duration;

use kms_core::Result;
use tracing::warn;

use crate::{
    SlotTable, Unchanged,
    report::Outcome,
    run::Run,
    sight::Sight,
    state::{Found, State, Young},
};

impl Run<'_> {
    /// `Surveyed` → `Clean` if the slots are settled, `Obsolete` if they have been seen unchanged for long enough;
    /// otherwise `Young`, or `Ended` if the run does not wait.
    pub(crate) async fn sort_leftovers(&self, mut found: Found) -> Result<State> {
        let between_steps =
            !self.options.finish_only && found.places.iter().any(|place| place.may_be_rooks());
        if !found.has_leftovers() && !between_steps {
            return Ok(State::Clean(Box::new(found)));
        }
        self.prove_places(&mut found.places, &found.stored.kek).await?;
        found.warn_of_unattributed();
        let sight = found.sight();
        let kept = self.seen_for(found.places.first().map(|place| &place.table), &sight);
        let time = kept.map_or(Duration::ZERO, |kept| kept.time);
        let left = self.options.needed(kept).saturating_sub(time);
        if left.is_zero() {
            return Ok(State::Obsolete(Box::new(found)));
        }
        if self.options.wait {
            warn!(
                key = %self.osd.name(),
                "key slots may be those of a rotation that is at work, of Rook for example: waiting {} s, and going on \
                 only if no program writes to them meanwhile",
                left.as_secs()
            );
            let fingerprint = found.report.from_fingerprint.clone();
            let rotates = !self.options.finish_only
                && (!found.has_leftovers() || self.age(&found.stored) >= self.options.grace);
            let until = self.options.timer.now() + left;
            return Ok(State::Young(Young { fingerprint, sight, until, rotates }));
        }
        found.report_pending();
        found.report.warnings.push(left_alone(left, kept.is_some()));
        Ok(State::ended(found.report, Outcome::Pending))
    }

    /// Asks the memory of the host how long this has been seen, and keeps it with the grace period of this run. `first`
    /// is the table of the first device. `None` if the host cannot keep it.
    pub(crate) fn seen_for(&self, first: Option<&SlotTable>, sight: &Sight) -> Option<Unchanged> {
        self.options.sights.unchanged_for(first?.uuid(), sight.as_str(), self.options.grace)
    }

    /// `Obsolete` → `Clean`.
    pub(crate) async fn remove_obsolete(&self, found: Found) -> Result<State> {
        Ok(State::Clean(Box::new(self.remove_leftovers(found).await?)))
    }

    /// `Outlived` → `Ended`: the run has waited for the end of an earlier rotation, and makes no second one.
    pub(crate) async fn finish_earlier(&self, found: Found) -> Result<State> {
        self.finish(self.remove_leftovers(found).await?).await
    }

    /// Ends a run that makes no new KEK. Destroys superseded versions also if there were no leftover slots: an earlier run
    /// may have ended before it did.
    pub(crate) async fn finish(&self, mut found: Found) -> Result<State> {
        if self.options.destroy_superseded {
            // A device that opens with a superseded KEK alone needs that KEK.
            self.prove_places(&mut found.places, &found.stored.kek).await?;
            if found.has_leftovers() {
                found.report_pending();
                found.report.warnings.push(
                    "superseded versions were not destroyed: a leftover slot may open with one of them; run it again"
                        .to_owned(),
                );
                return Ok(State::ended(found.report, Outcome::Pending));
            }
            self.retire(&mut found.report).await;
        }
        let report = found.report;
        let removed = report.devices.iter().any(|device| !device.removed.is_empty());
        let any = removed || report.retired.is_some_and(|retired| retired > 0);
        Ok(State::ended(report, if any { Outcome::Finished } else { Outcome::NothingToFinish }))
    }

    /// Removes all leftover slots, behind the fence. The KEK must have been proven on every device.
    async fn remove_leftovers(&self, mut found: Found) -> Result<Found> {
        if !found.has_leftovers() {
            return Ok(found);
        }
        found.stored = self.fence(found.stored).await?;
        found.report.to_version = found.stored.version.clone();
        let kek = &found.stored.kek;
        for (place, device) in found.places.iter_mut().zip(&mut found.report.devices) {
            if place.leftovers.is_empty() {
                continue;
            }
            let proof = self.prove(&*place.device, place.at, kek).await?.while_slots_are(&place.table);
            for slot in std::mem::take(&mut place.leftovers) {
                self.remove(&*place.device, slot, &proof, kek).await?;
                place.removed.push(slot);
                device.removed.push(slot);
            }
        }
        Ok(found)
    }
}

/// The warning about unsettled slots that a run which does not wait leaves alone.
fn left_alone(left: Duration, kept: bool) -> String {
    let next = if kept {
        format!("from {} s on, a run goes on if no program writes to the slots until then", left.as_secs())
    } else {
        "this host cannot keep what was seen from run to run, so only a run that waits can go on".to_owned()
    };
    format!(
        "key slots may be those of a rotation that is at work, of Rook for example, and were left alone: {next}"
    )
}
