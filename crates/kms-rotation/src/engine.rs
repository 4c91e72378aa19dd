//! A rotation from its beginning to its end.

use kms_core::{Error, KmsProvider, Result, Stored, UpdateRight};
use tokio::time::Instant;

use crate::{
    Observer, Options, Osd,
    commit::Committed,
    leftovers::Cleared,
    report::{Outcome, Report},
    run::Run,
    survey::Place,
};

/// How far a run has come.
#[derive(Debug)]
pub(crate) enum Progress {
    /// It is done.
    Ended(Box<Report>),
    /// The new KEK is stored, and the old slots are to be removed after the grace.
    Committed(Box<Committed>),
    /// There are leftovers to be removed when the KEK of this fingerprint has grown old.
    Young { fingerprint: String, until: Instant },
}

/// Gives the OSD a new KEK, and removes the old one when the grace is over.
///
/// At every moment, however it ends, the KEK that the KMS returns opens every device; what is left half done, the next
/// run finishes.
///
/// # Errors
///
/// `Conflict` if somebody else is at work on a device, if the KEK that the KMS holds does not open one (nothing is
/// changed then), or if somebody else has changed the KEK meanwhile; `PermissionDenied` and `Unsupported` before
/// anything is written; those of the KMS and of cryptsetup. Each says what is left on the devices.
pub async fn rotate(
    kms: &dyn KmsProvider,
    osd: &Osd,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Report> {
    let run = Run::new(kms, osd, options, observer);
    let rotated = async {
        let _locks = run.lock().await?;
        let progress = run.begin(None).await?;
        if let Some(until) = progress.until() {
            run.wait_until(until).await;
        }
        run.resume(progress).await
    };
    rotated.await.map_err(|error| run.named(error))
}

impl Progress {
    /// Until when there is to be waited.
    pub(crate) fn until(&self) -> Option<Instant> {
        match self {
            Self::Ended(_) => None,
            Self::Committed(committed) => Some(committed.until),
            Self::Young { until, .. } => Some(*until),
        }
    }
}

impl<'a> Run<'a> {
    /// Does all that can be done before the grace is over.
    ///
    /// `waited_for` is the fingerprint of the KEK whose age was waited for.
    pub(crate) async fn begin(&self, waited_for: Option<&str>) -> Result<Progress> {
        let stored = self.read(crate::Step::ReadKek).await?;
        self.check_capability()?;
        let mut places = self.survey(&stored.kek).await?;
        let mut report =
            Report::begun(self.osd, &stored, &places, self.started, self.kms.capability().versions);
        if self.options.dry_run {
            return self.rehearse(stored, places, report).await;
        }
        if waited_for.is_some_and(|fingerprint| fingerprint != report.from_fingerprint) {
            return Ok(report.ended(Outcome::Superseded));
        }
        let stored = match self.clear(stored, &mut places, &mut report.devices, waited_for.is_some()).await? {
            Cleared::Gone(stored) => stored,
            Cleared::Young { until } if self.options.wait => {
                return Ok(Progress::Young { fingerprint: report.from_fingerprint, until });
            }
            Cleared::Young { .. } => {
                report.pending(&places);
                return Ok(report.ended(Outcome::Pending));
            }
        };
        report.to_version = stored.version.clone();
        if self.options.finish_only || waited_for.is_some() {
            let any = report.devices.iter().any(|device| !device.removed.is_empty());
            if any && self.options.destroy_superseded {
                self.retire(&mut report).await;
            }
            return Ok(report.ended(if any { Outcome::Finished } else { Outcome::NothingToFinish }));
        }
        let mut committed = self.switch(stored, places, report).await?;
        if self.options.grace.is_zero() {
            return self.complete(committed).await.map(|report| Progress::Ended(Box::new(report)));
        }
        // Ten minutes are a long time for a KEK to lie in memory, and for a proof to stay true.
        committed.fresh = None;
        if self.options.wait {
            Ok(Progress::Committed(Box::new(committed)))
        } else {
            Ok(committed.report.ended(Outcome::Pending))
        }
    }

    /// Does the rest, when the time has come.
    pub(crate) async fn resume(&self, progress: Progress) -> Result<Report> {
        let progress = match progress {
            Progress::Young { fingerprint, .. } => self.begin(Some(&fingerprint)).await?,
            other => other,
        };
        match progress {
            Progress::Ended(report) => Ok(*report),
            Progress::Committed(committed) => self.complete(*committed).await,
            Progress::Young { .. } => Err(Error::new(
                kms_core::ErrorKind::Unexpected,
                "the KEK is younger than before: is the clock of this host set back?",
            )),
        }
    }

    /// Proves all that can be proven without writing anything.
    async fn rehearse(
        &self,
        stored: Stored,
        mut places: Vec<Place<'a>>,
        mut report: Report,
    ) -> Result<Progress> {
        self.prove(&mut places, &stored.kek, true).await?;
        match self.ask_right().await? {
            UpdateRight::Granted => {}
            UpdateRight::Denied => return Err(self.denied()),
            _ => report.warnings.push(
                "the KMS does not say whether the KEK may be updated; a rotation finds out by storing the KEK that is \
                 in use once more, before it writes to a device"
                    .to_owned(),
            ),
        }
        report.pending(&places);
        report.warnings.extend(places.iter().flat_map(Place::warnings));
        Ok(report.ended(Outcome::DryRun))
    }
}
