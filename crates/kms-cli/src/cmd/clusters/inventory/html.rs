//! The inventory as one HTML file without scripts: figures in SVG, and tables with the same numbers.

use std::{collections::BTreeMap, time::SystemTime};

use kms_page::{Part, Stack, Tone, ages, bars, columns, spans, stacks, wide};
use kms_rook::inventory::{Row, State};
use maud::{Markup, html};

use super::document::{Document, HEAD, cells, tone};
use crate::{output, target::provider_name, time::rfc3339};

/// The page.
pub(super) fn page(document: &Document<'_>, rows: &[Row], now: SystemTime) -> String {
    let title = format!("Keys of {}", document.cluster.unwrap_or("encrypted OSDs"));
    let summary = html! {
        p {
            "Provider " (provider_name(document.provider))
            @if let Some(made) = rfc3339(now) { ", as of " time datetime=(made) { (made) } }
        }
        (counts(document))
    };
    let stored = rows.iter().filter(|row| row.key.is_some()).map(Row::stored);
    let rotated: Vec<SystemTime> = rows.iter().filter_map(|row| row.osd.as_ref()?.rotated).collect();
    let head: Vec<_> = HEAD.into_iter().chain(["REASON"]).collect();
    let content = html! {
        (gaps(document))
        div.figures {
            (bars("age", "Age of the stored KEKs", &ages(stored, now)))
            (columns(
                "rotations",
                "Last rotation of each OSD",
                "No OSD records a rotation.",
                &spans(&rotated, now),
            ))
            (stacks("nodes", "OSDs of each node by state", "No OSD is known.", &nodes(rows)))
        }
        (wide("rows", "OSDs and keys", &head, &html! { @for row in rows { (line(row, now)) } }))
    };
    kms_page::page(&title, &summary, &content)
}

/// What a state means to the reader of the page.
const fn page_tone(state: State) -> Tone {
    match (state, tone(state)) {
        (State::Ok, _) => Tone::Good,
        (State::Unknown, _) => Tone::Unknown,
        (_, output::Tone::Bad) => Tone::Bad,
        _ => Tone::Warning,
    }
}

fn counts(document: &Document<'_>) -> Markup {
    html! {
        ul.counts {
            @for (state, count) in &document.counts { li { (count) " " (page_tone(*state).word(state)) } }
            @if document.counts.is_empty() { li { "no OSD and no key" } }
        }
    }
}

fn gaps(document: &Document<'_>) -> Markup {
    html! {
        @if !document.gaps.is_empty() {
            section.gaps aria-labelledby="gaps" {
                h2 #gaps { "Incomplete" }
                ul { @for gap in &document.gaps { li { strong { (gap.source) } ": " (gap.reason) } } }
            }
        }
    }
}

/// How many OSDs of each node are in which state.
fn nodes(rows: &[Row]) -> Vec<Stack> {
    let mut nodes = BTreeMap::<_, BTreeMap<_, _>>::new();
    for (row, osd) in rows.iter().filter_map(|row| Some((row, row.osd.as_ref()?))) {
        let node = nodes.entry(osd.node.as_deref().unwrap_or("node unknown")).or_default();
        *node.entry(row.state).or_default() += 1;
    }
    let part = |(state, count): (State, usize)| Part::new(page_tone(state), state.to_string(), count);
    nodes.into_iter().map(|(node, states)| Stack::new(node, states.into_iter().map(part).collect())).collect()
}

fn line(row: &Row, now: SystemTime) -> Markup {
    // The state, which is the last cell, has a sign here.
    let cells = cells(row, now);
    html! {
        tr {
            @for cell in cells.iter().take(HEAD.len() - 1) { td { (cell) } }
            td { (page_tone(row.state).word(row.state)) }
            td.reason { (row.reason.as_deref().unwrap_or_default()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use kms_rook::inventory::{Facts, Inventory, OsdFacts};

    use super::*;

    #[test]
    fn osds_count_at_their_node() {
        let osd = |id: u32| {
            let node = (id != 1).then(|| format!("node-{}", id % 3));
            OsdFacts::on_host(Some(id), format!("set-{id}").parse().unwrap(), node)
        };
        let facts = Facts { osds: (0..4).map(osd).collect(), ..Facts::default() };
        let nodes = nodes(&Inventory::new(facts, SystemTime::UNIX_EPOCH, None).rows);
        let counts: Vec<_> = nodes.iter().map(|node| (node.label.as_str(), node.parts[0].count)).collect();
        assert_eq!(counts, [("node unknown", 1), ("node-0", 2), ("node-2", 1)]);
    }
}
