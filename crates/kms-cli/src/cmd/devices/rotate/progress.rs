//! Shows the progress of a running rotation.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kms_core::KeyName;
use kms_rotation::{Observer, Phase, Step};
use serde::Serialize;
use tracing::{debug, info};

use crate::{
    output::{ErrorDocument, Tone, on_stderr},
    progress::Progress,
};

/// The interval of messages about the wait. The first one comes when the wait begins.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Writes steps to the log; writes the wait and the count to standard error.
#[derive(Debug)]
pub(crate) struct Rotation {
    shown: Progress,
    /// The time left of each wait at its last message. If many OSDs wait, the first one speaks for all.
    said: Mutex<BTreeMap<KeyName, Duration>>,
}

impl Rotation {
    /// Shows the progress in this way. If a program reads the output, shows one line for each OSD of many.
    pub(crate) fn new(shown: Progress) -> Self {
        Self { shown, said: Mutex::default() }
    }

    /// Shows a line for people.
    pub(crate) fn line(&self, line: impl fmt::Display) {
        self.shown.line(line);
    }

    /// Shows how many of many OSDs have ended.
    pub(crate) fn reached(&self, done: usize, osds: usize) {
        // Elsewhere each OSD has a line.
        let _is_terminal = self.shown.bar("OSDs", done, osds);
    }

    /// Shows that an OSD has ended.
    pub(crate) fn ended(&self, ended: &OsdEnded<'_>) {
        self.reached(ended.done, ended.osds);
        self.line(ended.text());
        self.shown.document(ended);
    }
}

/// The end of the rotation of one OSD of many.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct OsdEnded<'a> {
    pub(crate) name: &'a str,
    /// How many OSDs have ended, with those that a resumed run has skipped.
    pub(crate) done: usize,
    pub(crate) osds: usize,
    pub(crate) error: Option<&'a ErrorDocument>,
}

impl OsdEnded<'_> {
    fn text(&self) -> String {
        let Self { name, done, osds, error } = self;
        let what = match error {
            Some(error) => format!("{}  {name}: {}", on_stderr(Tone::Bad, "FAILED"), error.message()),
            None => (*name).to_owned(),
        };
        format!("[{done}/{osds}] {what}")
    }
}

impl Observer for Rotation {
    fn step(&self, name: &KeyName, step: &Step, phase: Phase) {
        match phase {
            Phase::Before => debug!(key = name.as_str(), "{step}"),
            Phase::After if step.writes_device() || step.writes_kms() => {
                info!(key = name.as_str(), "done: {step}");
            }
            Phase::After => debug!(key = name.as_str(), "done: {step}"),
            _ => info!(key = name.as_str(), "failed: {step}"),
        }
    }

    fn waiting(&self, name: &KeyName, left: Duration) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let due = match said.get(name) {
            Some(before) => before.saturating_sub(left) >= SAY_EVERY,
            None => said.is_empty(),
        };
        if due {
            said.insert(name.clone(), left);
            drop(said);
            self.line(format_args!(
                "{name}: the old KEK stays valid for OSDs that are starting, {} more; then its key slots are removed \
                 (when interrupted, the next run does that)",
                clock(left)
            ));
        }
    }
}

/// Formats the remaining time for people.
fn clock(left: Duration) -> String {
    // Rounds up to whole seconds.
    let seconds = left.as_millis().div_ceil(1000);
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {} s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_in_minutes_and_seconds() {
        let said = [1, 59_000, 59_001, 600_000].map(|left| clock(Duration::from_millis(left)));
        assert_eq!(said, ["1 s", "59 s", "1 min 0 s", "10 min 0 s"]);
    }
}
