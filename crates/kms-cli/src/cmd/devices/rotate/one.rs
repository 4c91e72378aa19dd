//! Rotates one OSD, or notes that its rotation did not begin.

use std::time::{Duration, Instant, SystemTime};

use kms_core::{Error, KeyName, KmsProvider, Result};
use kms_rotation::{Observer, Options, Osd, Report, rotate};

use super::sink::{Ended, ResultSink, note_everywhere};

/// Rotates one OSD, and notes the result.
pub(crate) async fn rotate_one(
    kms: &dyn KmsProvider,
    osd: &Osd,
    options: &Options,
    observer: &dyn Observer,
    sinks: &mut [Box<dyn ResultSink>],
) -> Result<Report> {
    let begin = Instant::now();
    let result = rotate(kms, osd, options, observer).await;
    let ended =
        Ended { name: osd.name(), result: result.as_ref(), at: SystemTime::now(), took: begin.elapsed() };
    note_everywhere(sinks, &ended).await;
    result
}

/// Notes for these keys that a rotation did not begin, and returns the reason.
pub(crate) async fn refused(names: &[&KeyName], error: Error, sinks: &mut [Box<dyn ResultSink>]) -> Error {
    for name in names {
        let ended = Ended { name, result: Err(&error), at: SystemTime::now(), took: Duration::ZERO };
        note_everywhere(sinks, &ended).await;
    }
    error
}
