//! Many OSDs, one after another and some at a time.

use std::num::NonZeroUsize;

use futures_util::{StreamExt, stream};
use kms_core::{KeyName, KmsProvider, Result, UpdateRight};

use crate::{Observer, Options, Osd, Report, engine::Progress, run::Run};

/// About how many keys the KMS is asked at a time whether they may be updated.
const ASKED_AT_ONCE: usize = 100;

/// Rotates the KEKs of many OSDs, `jobs` at a time, and tells how each one ended as soon as it has.
///
/// All of them get their new KEK first; then the grace passes once for all, and the old slots are removed in the same
/// order. In between no device is locked. One that fails does not stop the others.
///
/// # Errors
///
/// Those of asking the KMS whether the keys may be updated, before anything is done.
pub async fn rotate_all(
    kms: &dyn KmsProvider,
    osds: Vec<Osd>,
    options: &Options,
    jobs: NonZeroUsize,
    observer: &dyn Observer,
    mut ended: impl AsyncFnMut(&KeyName, Result<Report>),
) -> Result<()> {
    let rights = rights(kms, &osds, options).await?;
    let begun = osds.into_iter().zip(rights).map(|(osd, right)| async move {
        let mut options = options.clone();
        options.right = right;
        let run = Run::new(kms, &osd, &options, observer);
        let progress = async {
            let _locks = run.lock().await?;
            run.begin(None).await
        };
        let progress = progress.await.map_err(|error| run.named(error));
        (osd, progress)
    });
    let mut begun = stream::iter(begun).buffer_unordered(jobs.get());
    let mut waiting = Vec::new();
    while let Some((osd, progress)) = begun.next().await {
        match progress {
            Ok(Progress::Ended(report)) => ended(osd.name(), Ok(*report)).await,
            Ok(progress) => waiting.push((osd, progress)),
            Err(error) => ended(osd.name(), Err(error)).await,
        }
    }
    // The first of them says when it is over; those behind it wait in their turn.
    waiting.sort_by_key(|(_, progress)| progress.until());
    let resumed = waiting.into_iter().map(|(osd, progress)| async move {
        let run = Run::new(kms, &osd, options, observer);
        let report = async {
            if let Some(until) = progress.until() {
                run.wait_until(until).await;
            }
            let _locks = run.lock().await?;
            run.resume(progress).await
        };
        let report = report.await.map_err(|error| run.named(error));
        (osd, report)
    });
    let mut resumed = stream::iter(resumed).buffer_unordered(jobs.get());
    while let Some((osd, report)) = resumed.next().await {
        ended(osd.name(), report).await;
    }
    Ok(())
}

/// What the KMS says of each key, asked for many at a time.
async fn rights(kms: &dyn KmsProvider, osds: &[Osd], options: &Options) -> Result<Vec<Option<UpdateRight>>> {
    if options.finish_only {
        return Ok(vec![None; osds.len()]);
    }
    let mut rights = Vec::with_capacity(osds.len());
    for some in osds.chunks(ASKED_AT_ONCE) {
        let names: Vec<KeyName> = some.iter().map(|osd| osd.name().clone()).collect();
        rights.extend(kms.may_update(&names).await?.into_iter().map(Some));
    }
    rights.resize(osds.len(), None);
    Ok(rights)
}
