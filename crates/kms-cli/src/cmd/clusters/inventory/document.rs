//! The output of `kms inventory`.

use std::{collections::BTreeMap, time::SystemTime};

use kms_core::{Result, clock::age};
use kms_rook::inventory::{Gap, Inventory, Row, State};
use serde::Serialize;

use super::sources::Devices;
use crate::{
    cmd::devices::verify::DeviceDocument,
    output::{ErrorDocument, Format, Output, Tone},
    time::rfc3339,
};

/// The headings of the table.
pub(super) const HEAD: [&str; 7] = ["OSD", "NAME", "NODE", "VERSION", "AGE", "ROTATED", "STATE"];

/// The whole inventory.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document<'a> {
    pub(super) cluster: Option<&'a str>,
    pub(super) provider: &'static str,
    complete: bool,
    pub(super) gaps: Vec<GapDocument<'a>>,
    #[cfg_attr(test, schemars(with = "BTreeMap<String, usize>"))]
    pub(super) counts: BTreeMap<State, usize>,
    rows: Vec<RowDocument<'a>>,
}

/// What is not known.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct GapDocument<'a> {
    pub(super) source: &'static str,
    pub(super) reason: &'a str,
    error: Option<ErrorDocument>,
}

/// An OSD and its key.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct RowDocument<'a> {
    name: Option<&'a str>,
    osd: Option<u32>,
    deployment: Option<&'a str>,
    pvc: Option<bool>,
    node: Option<&'a str>,
    version: Option<String>,
    created: Option<String>,
    updated: Option<String>,
    rotated: Option<String>,
    outcome: Option<&'a str>,
    #[cfg_attr(test, schemars(with = "String"))]
    state: State,
    reason: Option<&'a str>,
    devices: Option<&'a [DeviceDocument]>,
}

impl<'a> Document<'a> {
    pub(super) fn new(
        cluster: Option<&'a str>,
        provider: &'static str,
        inventory: &'a Inventory,
        devices: &'a Devices,
    ) -> Self {
        let gap = |gap: &'a Gap| GapDocument {
            source: gap.source.as_str(),
            reason: &gap.reason,
            error: gap.error.as_ref().map(ErrorDocument::of),
        };
        Self {
            cluster,
            provider,
            complete: inventory.is_complete(),
            gaps: inventory.gaps.iter().map(gap).collect(),
            counts: inventory.counts(),
            rows: inventory.rows.iter().map(|row| RowDocument::of(row, devices)).collect(),
        }
    }

    /// Writes it: a document, or a table with reasons and gaps below it.
    pub(super) fn show(&self, inventory: &Inventory, now: SystemTime, output: &mut Output<'_>) -> Result<()> {
        if output.format() == Format::Json {
            return output.json(self);
        }
        let cells = inventory.rows.iter().map(|row| cells(row, now));
        let rows: Vec<_> = std::iter::once(HEAD.map(str::to_owned)).chain(cells).collect();
        output.states(&rows, HEAD.len() - 1, |state| {
            let row = inventory.rows.iter().find(|row| row.state.as_str() == state)?;
            Some(if row.state == State::Ok { Tone::Good } else { tone(row.state) })
        })?;
        for row in &self.rows {
            if let (Some(reason), true) = (row.reason, row.state != State::Ok) {
                let subject = row.name.or(row.deployment).unwrap_or("-");
                output.state_line(tone(row.state), format!("{}: {subject}: {reason}", row.state))?;
            }
        }
        let counts: Vec<_> = self.counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
        output.line(summary(self.rows.len(), &counts))?;
        for gap in &self.gaps {
            output.state_line(Tone::Warning, format!("INCOMPLETE: {}: {}", gap.source, gap.reason))?;
        }
        Ok(())
    }
}

/// The cells of a row, as [`HEAD`] names them.
pub(super) fn cells(row: &Row, now: SystemTime) -> [String; HEAD.len()] {
    let osd = row.osd.as_ref();
    let since = |then: Option<SystemTime>| then.map(|then| age(now, then));
    let cells = [
        osd.and_then(|osd| osd.id).map(|id| id.to_string()),
        row.name.as_ref().map(ToString::to_string),
        osd.and_then(|osd| osd.node.clone()),
        row.key.as_ref().and_then(|key| key.version.as_ref()).map(ToString::to_string),
        since(row.stored()),
        since(osd.and_then(|osd| osd.rotated)),
        Some(row.state.to_string()),
    ];
    cells.map(|cell| cell.unwrap_or_else(|| "-".to_owned()))
}

/// An OSD that cannot start is worse than a key without an OSD.
pub(super) const fn tone(state: State) -> Tone {
    match state {
        State::Missing | State::Mixed => Tone::Bad,
        _ => Tone::Warning,
    }
}

impl<'a> RowDocument<'a> {
    fn of(row: &'a Row, devices: &'a Devices) -> Self {
        let (osd, key) = (row.osd.as_ref(), row.key.as_ref());
        Self {
            name: row.name.as_ref().map(|name| name.as_str()),
            osd: osd.and_then(|osd| osd.id),
            deployment: osd.and_then(|osd| osd.deployment.as_deref()),
            pvc: row.has_claim,
            node: osd.and_then(|osd| osd.node.as_deref()),
            version: key.and_then(|key| key.version.as_ref()).map(ToString::to_string),
            created: key.and_then(|key| key.created).and_then(rfc3339),
            updated: key.and_then(|key| key.updated).and_then(rfc3339),
            rotated: osd.and_then(|osd| osd.rotated).and_then(rfc3339),
            outcome: osd.and_then(|osd| osd.outcome.as_deref()),
            state: row.state,
            reason: row.reason.as_deref(),
            devices: row.name.as_ref().and_then(|name| devices.get(name)).map(Vec::as_slice),
        }
    }
}

/// The number of rows, and how many are in which state.
fn summary(rows: usize, counts: &[String]) -> String {
    match rows {
        0 => "0 rows".to_owned(),
        1 => format!("1 row: {}", counts.join(", ")),
        rows => format!("{rows} rows: {}", counts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_counts_rows_and_states() {
        let counts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        for (rows, states, expected) in [
            (0, &[][..], "0 rows"),
            (1, &["1 orphan"], "1 row: 1 orphan"),
            (3, &["2 unknown", "1 ok"], "3 rows: 2 unknown, 1 ok"),
        ] {
            assert_eq!(summary(rows, &counts(states)), expected);
        }
    }
}
