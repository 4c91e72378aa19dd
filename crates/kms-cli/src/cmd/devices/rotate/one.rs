//! Rotates one OSD.

use std::time::{Instant, SystemTime};

use kms_core::{KmsProvider, Result};
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
