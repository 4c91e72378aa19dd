//! Rotation of many OSDs.

use std::num::NonZeroUsize;

use futures_util::{StreamExt, stream};
use kms_core::{KeyName, KmsProvider, Result, UpdateRight};

use crate::{Observer, Options, Osd, Report, run::Run, state::State};

/// The number of keys in one request of `may_update`.
const ASKED_AT_ONCE: usize = 100;

/// Rotates the KEKs of many OSDs, `jobs` at a time, and calls `ended` at the end of each rotation.
///
/// First all OSDs get their new KEK; then one grace period passes for all of them, and the old slots are removed in
/// the same order. OSDs with unsettled slots wait as well, for all of them together. No device is locked during the grace period. An OSD that fails does not stop the others.
///
/// # Errors
///
/// The error of asking the KMS whether the keys may be updated, before anything is done.
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
        let begun = async {
            let _locks = run.lock().await?;
            run.advance(State::Start).await
        };
        let state = begun.await.map_err(|error| run.annotate_error(error));
        (osd, state)
    });
    let mut begun = stream::iter(begun).buffer_unordered(jobs.get());
    let mut waiting = Vec::new();
    while let Some((osd, state)) = begun.next().await {
        sort(osd, state, &mut waiting, &mut ended).await;
    }
    while !waiting.is_empty() {
        // In the order in which the pauses end.
        waiting.sort_by_key(|(_, paused)| paused.until());
        let resumed = std::mem::take(&mut waiting).into_iter().map(|(osd, paused)| async move {
            let run = Run::new(kms, &osd, options, observer);
            let resumed = async {
                let woken = run.wait(paused).await;
                let _locks = run.lock().await?;
                run.advance(woken).await
            };
            let state = resumed.await.map_err(|error| run.annotate_error(error));
            (osd, state)
        });
        let mut resumed = stream::iter(resumed).buffer_unordered(jobs.get());
        while let Some((osd, state)) = resumed.next().await {
            sort(osd, state, &mut waiting, &mut ended).await;
        }
    }
    Ok(())
}

/// Reports an OSD that has ended, and keeps one that waits.
async fn sort(
    osd: Osd,
    state: Result<State>,
    waiting: &mut Vec<(Osd, State)>,
    ended: &mut impl AsyncFnMut(&KeyName, Result<Report>),
) {
    match state {
        Ok(State::Ended(report)) => ended(osd.name(), Ok(*report)).await,
        Ok(paused) => waiting.push((osd, paused)),
        Err(error) => ended(osd.name(), Err(error)).await,
    }
}

/// Asks the KMS for each key whether it may be updated, many keys at a time.
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
