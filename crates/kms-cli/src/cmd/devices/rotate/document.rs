//! Prints the report of a rotation.

use kms_core::Result;
use kms_luks::Slot;
use kms_rotation::{DeviceReport, Options, Outcome, Report};
use serde::Serialize;

use crate::{
    exit::Exit,
    output::{Format, Output, Tone, identity},
    time::rfc3339,
};

/// What is left to do after a rotation that did not wait.
const FINISH: &str = "the old KEK still opens the devices; after the grace period, the next rotation or kms rotate --finish \
                      removes its key slots";

/// A rotation.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    name: String,
    outcome: &'static str,
    from_version: String,
    from_fingerprint: String,
    to_version: String,
    to_fingerprint: String,
    started: Option<String>,
    stored: Option<String>,
    generation: Option<u64>,
    devices: Vec<DeviceDocument>,
    confirmed: bool,
    retired: Option<usize>,
    plan: Vec<String>,
    warnings: Vec<String>,
}

/// A device of the rotation.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct DeviceDocument {
    path: String,
    slot: u8,
    pending: Option<u8>,
    removed: Vec<u8>,
    foreign: Vec<u8>,
}

impl DeviceDocument {
    fn of(device: &DeviceReport) -> Self {
        Self {
            path: device.path.display().to_string(),
            slot: device.slot.number(),
            pending: device.pending.map(Slot::number),
            removed: device.removed.iter().map(|slot| slot.number()).collect(),
            foreign: device.foreign.iter().map(|slot| slot.number()).collect(),
        }
    }
}

/// Prints a report.
pub(super) fn show(report: &Report, output: &mut Output<'_>) -> Result<()> {
    match output.format() {
        Format::Json => output.json(&Document {
            name: report.name.to_string(),
            outcome: report.outcome.as_str(),
            from_version: report.from_version.to_string(),
            from_fingerprint: report.from_fingerprint.clone(),
            to_version: report.to_version.to_string(),
            to_fingerprint: report.to_fingerprint.clone(),
            started: rfc3339(report.started),
            stored: report.stored.and_then(rfc3339),
            generation: report.generation,
            devices: report.devices.iter().map(DeviceDocument::of).collect(),
            confirmed: report.confirmed,
            retired: report.retired,
            plan: report.plan.clone(),
            warnings: report.warnings.clone(),
        }),
        Format::Text => {
            output.state_line(Tone::Good, headline(report))?;
            for device in &report.devices {
                output.line(device_line(device))?;
            }
            if report.outcome == Outcome::Pending {
                output.line(format!("  next: {FINISH}"))?;
            }
            for (at, step) in report.plan.iter().enumerate() {
                output.line(format!("  {}. would {step}", at + 1))?;
            }
            if let Some(retired) = report.retired {
                output.line(format!("  {retired} superseded versions destroyed or disabled"))?;
            }
            report.warnings.iter().try_for_each(|warning| output.line(format!("  warning: {warning}")))
        }
    }
}

/// The headline of a report, on one line.
pub(crate) fn headline(report: &Report) -> String {
    let Report { name, outcome, to_version, to_fingerprint, .. } = report;
    format!("{}  {name}  {}", outcome.as_str(), identity(to_version.as_str(), to_fingerprint))
}

fn device_line(device: &DeviceReport) -> String {
    let DeviceReport { path, slot, pending, removed, foreign, .. } = device;
    let mut line = format!("  {}  slot {slot}", path.display());
    if let Some(pending) = pending {
        line.push_str(&format!("  to be removed {pending}"));
    }
    for (what, slots) in [("removed", removed), ("of others", foreign)] {
        if !slots.is_empty() {
            let slots: Vec<String> = slots.iter().map(Slot::to_string).collect();
            line.push_str(&format!("  {what} {}", slots.join(", ")));
        }
    }
    line
}

/// The exit code of a rotation that did not fail.
pub(super) fn exit(report: &Report, options: &Options) -> Exit {
    let done = matches!(report.outcome, Outcome::Rotated | Outcome::Finished | Outcome::NothingToFinish);
    let not_retired = options.destroy_superseded && done && report.retired.is_none();
    if report.outcome == Outcome::Superseded || not_retired { Exit::Failed } else { Exit::Done }
}
