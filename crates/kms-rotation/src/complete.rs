//! The last transitions: they remove the old slots.

use kms_core::{Error, ErrorKind, KeyVersion, Result};
use tracing::warn;

use crate::{
    Step,
    report::{Outcome, Report},
    run::Run,
    state::{Fresh, SlotPair, State, Switched},
    survey::SLOTS_CHANGED,
};

impl Run<'_> {
    /// `Switched` → `Ended` if there is no grace period or the run does not wait; otherwise `Grace`.
    pub(crate) async fn keep_or_remove(&self, switched: Switched, fresh: Fresh) -> Result<State> {
        if self.grace().is_zero() {
            let Switched { mut report, devices, .. } = switched;
            self.remove_proven(&mut report, devices, fresh).await.map_err(next_run_removes)?;
            return Ok(self.rotated(report).await);
        }
        if self.options.wait {
            return Ok(State::Grace(Box::new(switched)));
        }
        Ok(State::ended(switched.report, Outcome::Pending))
    }

    /// `Expired` → `Ended`.
    ///
    /// Everything is read again: the KMS may hold another KEK by now, and a slot may hold another key. If another
    /// program has written to a slot, no slot of any device is removed, since that program may still be at work.
    pub(crate) async fn remove_after_grace(&self, switched: Switched) -> Result<State> {
        let Switched { mut report, devices, .. } = switched;
        let stored = self.read(Step::ReadKek).await.map_err(next_run_removes)?;
        report.to_version = stored.version.clone();
        if stored.kek.fingerprint() != report.to_fingerprint {
            report.to_fingerprint = stored.kek.fingerprint();
            report.warnings.push(
                "another writer stored another KEK during the grace period: no key slot was removed"
                    .to_owned(),
            );
            return Ok(State::ended(report, Outcome::Superseded));
        }
        for SlotPair { device, table, .. } in &devices {
            if !self.table(&**device).await.map_err(next_run_removes)?.has_slots_of(table) {
                report.warnings.push(format!("{}: {SLOTS_CHANGED}", device.path().display()));
                return Ok(State::ended(report, Outcome::Pending));
            }
        }
        let mut proofs = Vec::with_capacity(devices.len());
        for SlotPair { device, new, .. } in &devices {
            proofs.push(self.prove(&**device, *new, &stored.kek).await.map_err(next_run_removes)?);
        }
        let fresh = Fresh { kek: stored.kek, proofs };
        self.remove_proven(&mut report, devices, fresh).await.map_err(next_run_removes)?;
        Ok(self.rotated(report).await)
    }

    async fn rotated(&self, mut report: Report) -> State {
        if self.options.destroy_superseded {
            self.retire(&mut report).await;
        }
        State::ended(report, Outcome::Rotated)
    }

    /// Removes the old slots, each only if no slot of its device was written since the switch.
    async fn remove_proven(&self, report: &mut Report, devices: Vec<SlotPair>, fresh: Fresh) -> Result<()> {
        let Fresh { kek, proofs } = fresh;
        for (index, (SlotPair { device, old, table, .. }, proof)) in devices.iter().zip(proofs).enumerate() {
            let Some(old) = old else { continue };
            self.remove(&**device, *old, &proof.while_slots_are(table), &kek).await?;
            report.removed(index, *old);
        }
        Ok(())
    }

    /// Retires superseded versions, if the KMS keeps any. A failure is only a warning, since the rotation is done.
    pub(crate) async fn retire(&self, report: &mut Report) {
        match self.retired(&report.to_version).await {
            Ok(count) => report.retired = Some(count),
            Err(error) => {
                warn!(%error, "superseded versions were not destroyed");
                report.warnings.push(format!("superseded versions were not destroyed: {error}"));
            }
        }
    }

    async fn retired(&self, current: &KeyVersion) -> Result<usize> {
        if !self.kms.capability().versions {
            return Err(Error::new(ErrorKind::Unsupported, "this provider keeps none"));
        }
        if !self.osd.is_confirmed() {
            return Err(Error::config(
                "a device that was left out needs them, and nothing confirms that the OSD has no other device: name the \
                 cluster of the OSD, or give its devices by their nodes in Rook's folder",
            ));
        }
        self.step(Step::Retire, self.kms.retire_superseded(self.osd.name(), current)).await
    }
}

fn next_run_removes(error: Error) -> Error {
    error.context("rotation", "the new KEK is stored; the next run removes the old key slots")
}
