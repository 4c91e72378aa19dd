//! The inventory as one HTML file without scripts: figures in SVG, and tables with the same numbers.

mod figures;
mod numbers;

use std::time::SystemTime;

use kms_rook::inventory::{Row, State};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::document::{Document, HEAD, cells, tone};
use crate::{output::Tone, time::rfc3339};

const STYLE: &str = include_str!("style.css");
/// The page loads nothing and runs nothing, even if a name in it were markup.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// The page.
pub(super) fn page(document: &Document<'_>, rows: &[Row], now: SystemTime) -> String {
    let title = format!("Keys of {}", document.cluster.unwrap_or("encrypted OSDs"));
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (title) }
                    p {
                        "Provider " (document.provider)
                        @if let Some(made) = rfc3339(now) { ", as of " time datetime=(made) { (made) } }
                    }
                    (counts(document))
                }
                main {
                    (gaps(document))
                    div.figures {
                        (figures::ages(&numbers::ages(rows, now)))
                        (figures::rotations(&numbers::rotations(rows, now)))
                        (figures::nodes(&numbers::nodes(rows)))
                    }
                    (table(rows, now))
                }
            }
        }
    }
    .into_string()
}

/// The sign before the word of a state: colours are not seen by everyone, and not printed by every printer.
const fn sign(state: State) -> &'static str {
    match state {
        State::Ok => "✓",
        State::Unknown => "?",
        State::Stale | State::Orphan => "!",
        _ => "✗",
    }
}

/// The class of a state in the style sheet.
const fn class(state: State) -> &'static str {
    match (state, tone(state)) {
        (State::Ok, _) => "ok",
        (State::Unknown, _) => "unknown",
        (_, Tone::Bad) => "bad",
        _ => "warning",
    }
}

/// A state with its sign.
fn word(state: State) -> Markup {
    html! { span.state.(class(state)) { (sign(state)) " " (state) } }
}

fn counts(document: &Document<'_>) -> Markup {
    html! {
        ul.counts {
            @for (state, count) in &document.counts { li { (count) " " (word(*state)) } }
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

fn table(rows: &[Row], now: SystemTime) -> Markup {
    html! {
        section aria-labelledby="rows" {
            h2 #rows { "OSDs and keys" }
            // A wide table scrolls in its own box, which the keyboard can reach.
            div.wide role="region" aria-labelledby="rows" tabindex="0" {
                table {
                    thead { tr { @for head in HEAD.iter().chain([&"REASON"]) { th scope="col" { (head) } } } }
                    tbody { @for row in rows { (line(row, now)) } }
                }
            }
        }
    }
}

fn line(row: &Row, now: SystemTime) -> Markup {
    // The state, which is the last cell, has a sign here.
    let cells = cells(row, now);
    html! {
        tr {
            @for cell in cells.iter().take(HEAD.len() - 1) { td { (cell) } }
            td { (word(row.state)) }
            td.reason { (row.reason.as_deref().unwrap_or_default()) }
        }
    }
}
