//! The old slots, after the grace.

use kms_core::{Error, ErrorKind, Kek, KeyVersion, Result};
use kms_luks::Proof;
use tracing::warn;

use crate::{
    Step,
    commit::{Committed, Switched},
    report::{Outcome, Report},
    run::Run,
};

impl Run<'_> {
    /// Removes the old slots.
    ///
    /// After a wait everything is looked at again: the KMS may hold another KEK, and a slot may have become somebody
    /// else's.
    pub(crate) async fn complete(&self, committed: Committed) -> Result<Report> {
        let Committed { mut report, devices, fresh, .. } = committed;
        let removed = match fresh {
            Some((kek, proofs)) => self.remove_proven(&mut report, &devices, &kek, &proofs).await,
            None => self.remove_looked_at(&mut report, &devices).await,
        };
        match removed {
            Ok(true) => report.outcome = Outcome::Rotated,
            Ok(false) => {
                report.outcome = Outcome::Superseded;
                return Ok(report);
            }
            Err(error) => {
                return Err(error
                    .context("rotation", "the new KEK is stored; the next run removes the old key slots"));
            }
        }
        if self.options.destroy_superseded {
            self.retire(&mut report).await;
        }
        Ok(report)
    }

    async fn remove_proven(
        &self,
        report: &mut Report,
        devices: &[Switched],
        kek: &Kek,
        proofs: &[Proof],
    ) -> Result<bool> {
        for (index, ((device, switched), proof)) in
            self.osd.devices().iter().zip(devices).zip(proofs).enumerate()
        {
            let Some(old) = &switched.old else { continue };
            self.kill(device, old.slot, proof, kek).await?;
            report.removed(index, old.slot);
        }
        Ok(true)
    }

    /// False if the KMS holds another KEK by now.
    async fn remove_looked_at(&self, report: &mut Report, devices: &[Switched]) -> Result<bool> {
        let stored = self.read(Step::ReadKek).await?;
        if stored.kek.fingerprint() != report.to_fingerprint {
            report.to_fingerprint = stored.kek.fingerprint();
            report.to_version = stored.version;
            report.warnings.push(
                "somebody else stored another KEK while the end of the grace was waited for: no key slot was removed"
                    .to_owned(),
            );
            return Ok(false);
        }
        report.to_version = stored.version;
        for (index, (device, switched)) in self.osd.devices().iter().zip(devices).enumerate() {
            let Some(old) = &switched.old else { continue };
            let header = self.header(device).await?;
            if header.slot(old.slot).is_some_and(|now| now != old) {
                report.warnings.push(format!(
                    "{}: key slot {} has become another one during the grace, and was not removed",
                    device.path().display(),
                    old.slot
                ));
                continue;
            }
            let proof = self.verify(device, switched.new, &stored.kek).await?;
            self.kill(device, old.slot, &proof, &stored.kek).await?;
            report.removed(index, old.slot);
        }
        Ok(true)
    }

    /// Retires superseded versions, if the KMS keeps any. The rotation itself is done, so this cannot fail it.
    pub(crate) async fn retire(&self, report: &mut Report) {
        match self.retired(&report.to_version).await {
            Ok(count) => report.retired = Some(count),
            Err(error) => {
                warn!(%error, "superseded versions were not destroyed");
                report.warnings.push(format!("superseded versions were not destroyed: {error}"));
            }
        }
    }

    async fn retired(&self, current: &KeyVersion) -> Result<usize, Error> {
        if !self.kms.capability().versions {
            return Err(Error::new(ErrorKind::Unsupported, "this provider keeps none"));
        }
        self.step(Step::Retire, self.kms.retire_superseded(self.osd.name(), current)).await
    }
}
