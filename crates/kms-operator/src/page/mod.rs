//! The status page: everything that the operator knows of the keys, read-only and without scripts.

mod row;

use std::{sync::Arc, time::SystemTime};

use jiff::{Timestamp, tz::TimeZone};
use kms_core::clock::age;
use kms_page::{Bar, Part, Stack, Tone, ages, bars, stacks, wide};
use maud::{Markup, html};

use self::row::{Row, State};
use crate::{
    api::{KeyPolicy, OsdKey},
    source::{ReplicaState, Source, without_key},
};

/// The headings of the table of keys: those that matter most come first, where a telephone shows them.
const HEAD: [&str; 12] = [
    "OSD",
    "STATE",
    "REASON",
    "AGE",
    "NEXT (UTC)",
    "FAILED",
    "VERIFIED",
    "ESCROWED",
    "NODE",
    "PROVIDER",
    "KEY",
    "NAMESPACE",
];
/// The headings of the table of policies.
const POLICY_HEAD: [&str; 7] =
    ["POLICY", "NAMESPACES", "SCHEDULE", "WINDOW", "MAX AGE", "AT A TIME", "PAUSED"];
/// The bars of the figure of next rotations: a label, and the hours until then.
const NEXT: [(&str, i64); 4] =
    [("overdue", 0), ("in a day", 24), ("in a week", 7 * 24), ("in 4 weeks", 28 * 24)];

/// The page.
pub(crate) fn page(source: &dyn Source) -> String {
    let (mut keys, now) = (source.keys(), source.now());
    keys.sort_by_key(|key| (key.metadata.namespace.clone(), key.spec.osd, key.metadata.name.clone()));
    let rows: Vec<Row<'_>> = keys.iter().map(|key| Row::of(key)).collect();
    let clock = SystemTime::from(now);
    let rotated = rows.iter().map(|row| row.rotated.map(SystemTime::from));
    let content = html! {
        (attention(source, &keys, &rows))
        (running(&rows, now))
        div.figures {
            (bars("age", "Age of the KEKs", &ages(rotated, clock)))
            (bars("next", "Next rotations", &next(&rows, now)))
            (stacks("nodes", "OSDs of each node by state", "No key is known.", &nodes(&rows)))
        }
        (policies(&source.policies()))
        (wide("keys", "Keys of OSDs", &HEAD, &html! { @for row in &rows { (line(row, now)) } }))
    };
    kms_page::page("Keys of encrypted OSDs", &summary(&source.state(), &rows, now), &content)
}

/// A time in UTC, to the minute: two pages on paper can be compared.
fn minute(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M").to_string()
}

/// A time in the past: how long ago, with the time itself for programs.
fn ago(then: Option<Timestamp>, now: Timestamp) -> Markup {
    html! {
        @if let Some(then) = then {
            time datetime=(then) { (age(now.into(), then.into())) }
        } @else { "-" }
    }
}

fn summary(state: &ReplicaState, rows: &[Row<'_>], now: Timestamp) -> Markup {
    let leader = match (&state.leader, state.is_leader) {
        (Some(leader), true) => format!("this replica, {leader}"),
        (None, true) => "this replica".to_owned(),
        (Some(leader), false) => leader.clone(),
        (None, false) => "not known".to_owned(),
    };
    let escrowed = rows.iter().filter_map(|row| row.escrowed);
    html! {
        p {
            "As of " time datetime=(now) { (minute(now)) " UTC" } ". Leader: " (leader) "."
            @if let Some(last) = escrowed.max() { " Last escrow: " (ago(Some(last), now)) " ago." }
        }
        ul.counts {
            @for (state, count) in counts(rows) { li { (count) " " (state.tone().word(state)) } }
            @if rows.is_empty() { li { "no key" } }
        }
        @if let Some(problem) = state.dead.as_ref().or(state.unready.as_ref()) {
            p { (Tone::Bad.word("not ready")) ": " (problem) }
        }
    }
}

/// How many keys are in each state that occurs, the most urgent first.
fn counts(rows: &[Row<'_>]) -> Vec<(State, usize)> {
    let of = |state| (state, rows.iter().filter(|row| row.state == state).count());
    State::ALL.map(of).into_iter().filter(|(_, count)| *count > 0).collect()
}

/// What needs a person.
fn attention(source: &dyn Source, keys: &[Arc<OsdKey>], rows: &[Row<'_>]) -> Markup {
    let lost = without_key(source, keys);
    let urgent = |row: &&Row<'_>| row.state == State::NotReady;
    html! {
        @if !lost.is_empty() || rows.iter().any(|row| urgent(&row)) {
            section.gaps aria-labelledby="attention" {
                h2 #attention { "Needs attention" }
                ul {
                    @for found in &lost {
                        li { strong { (found.kube_namespace) "/" (found.name) } ": the OSD has no OsdKey" }
                    }
                    @for row in rows.iter().filter(urgent) {
                        li {
                            strong { (row.kube_namespace) "/osd-" (row.osd) } ": " (Tone::Bad.word(row.reason))
                            @if !row.message.is_empty() { ": " (row.message) }
                            @if row.failed > 0 { " (failed attempts: " (row.failed) ")" }
                        }
                    }
                }
            }
        }
    }
}

/// What runs now.
fn running(rows: &[Row<'_>], now: Timestamp) -> Markup {
    let running = || rows.iter().filter(|row| row.state == State::Rotating);
    html! {
        section aria-labelledby="running" {
            h2 #running { "Running now" }
            @if running().next().is_none() { p { "No rotation runs." } }
            ul {
                @for row in running() {
                    li {
                        (Tone::Active.word("rotates")) " " (row.kube_namespace) "/osd-" (row.osd)
                        @if let Some(node) = row.node { " on " (node) }
                        @if let Some(job) = row.job { ", Job " (job) }
                        @if let Some(since) = row.rotating_since { ", for " (ago(Some(since), now)) }
                    }
                }
            }
        }
    }
}

/// How many keys are rotated when.
fn next(rows: &[Row<'_>], now: Timestamp) -> Vec<Bar> {
    let mut counts = [0_usize; NEXT.len() + 2];
    for row in rows {
        let at = match row.next {
            // The last bar has the keys without a plan, the one before it those of later.
            None => NEXT.len() + 1,
            Some(then) => {
                let until = then.duration_since(now);
                NEXT.iter()
                    .position(|(_, hours)| until.as_hours() < *hours || until.is_negative())
                    .unwrap_or(NEXT.len())
            }
        };
        if let Some(count) = counts.get_mut(at) {
            *count += 1;
        }
    }
    let labels = NEXT.iter().map(|(label, _)| *label).chain(["later", "not planned"]);
    labels.zip(counts).map(|(label, count)| Bar::new(label, count)).collect()
}

fn nodes(rows: &[Row<'_>]) -> Vec<Stack> {
    let mut names: Vec<&str> = rows.iter().map(|row| row.node.unwrap_or("node unknown")).collect();
    names.sort_unstable();
    names.dedup();
    let stack = |name: &str| {
        let here: Vec<Row<'_>> =
            rows.iter().filter(|row| row.node.unwrap_or("node unknown") == name).cloned().collect();
        let part = |(state, count): (State, usize)| Part::new(state.tone(), state.as_str(), count);
        Stack::new(name, counts(&here).into_iter().map(part).collect())
    };
    names.into_iter().map(stack).collect()
}

fn policies(policies: &[Arc<KeyPolicy>]) -> Markup {
    let rows = html! { @for policy in policies { (policy_line(policy)) } };
    html! {
        @if policies.is_empty() {
            section aria-labelledby="policies" {
                h2 #policies { "Policies" }
                p { "There is no KeyPolicy: security.keyRotation of each CephCluster applies." }
            }
        } @else {
            (wide("policies", "Policies", &POLICY_HEAD, &rows))
        }
    }
}

fn policy_line(policy: &KeyPolicy) -> Markup {
    let spec = &policy.spec;
    let namespaces = if spec.namespaces.is_empty() { "all".to_owned() } else { spec.namespaces.join(", ") };
    let window = spec.window.as_ref().map_or_else(
        || "always".to_owned(),
        |window| {
            let zone = window.time_zone.as_deref().unwrap_or("UTC");
            format!("{} for {}, {zone}", window.opens, window.duration)
        },
    );
    html! {
        tr {
            td { (policy.metadata.name.as_deref().unwrap_or_default()) }
            td.reason { (namespaces) }
            td { (spec.schedule.as_deref().unwrap_or("of the CephCluster")) }
            td { (window) }
            td { (spec.max_age.as_deref().unwrap_or("-")) }
            td { (spec.max_parallel.unwrap_or(1)) }
            td { @if spec.paused { (Tone::Warning.word("paused")) } @else { "no" } }
        }
    }
}

fn line(row: &Row<'_>, now: Timestamp) -> Markup {
    html! {
        tr {
            td { (row.osd) }
            td { (row.state.tone().word(row.state)) }
            td { (row.reason) }
            td { (ago(row.rotated, now)) }
            td { @if let Some(next) = row.next { time datetime=(next) { (minute(next)) } } @else { "-" } }
            td { (row.failed) }
            td { (ago(row.verified, now)) }
            td { (ago(row.escrowed, now)) }
            td { (row.node.unwrap_or("-")) }
            td { (row.provider.unwrap_or("-")) }
            td { (row.name) }
            td { (row.kube_namespace) }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::test_data::{Fixed, key, now};

    #[test]
    fn the_page_shows_states_ages_windows_and_what_needs_a_person() {
        let page = page(&Fixed::new());
        for part in [
            "Leader: this replica, kms-operator-0.",
            "<strong>rook-ceph/rook-ceph-osd-99</strong>: the OSD has no OsdKey",
            "RotationFailed</span>: the Job ended with exit code 1 (failed attempts: 2)",
            "rotates</span> rook-ceph/osd-1 on storage-1.rack-1.example.net, Job kms-rotate-osd-1",
            "0 2 * * 6 for 4h, Europe/Berlin",
            "<td>set1-data-0abcde</td>",
        ] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        assert!(!page.contains("<script"));
    }

    #[test]
    fn every_key_counts_in_one_bar_of_next_rotations() {
        let after = |hours: i64| Some(now() + SignedDuration::from_hours(hours));
        let of = |next: Option<Timestamp>| {
            let mut key = key(0);
            key.status.get_or_insert_default().next_rotation_at = next.map(|time| time.to_string());
            key
        };
        let keys = [after(-1), after(0), after(23), after(24), after(200), after(2_000), None].map(of);
        let rows: Vec<_> = keys.iter().map(Row::of).collect();
        let counts: Vec<_> = next(&rows, now()).iter().map(|bar| bar.count).collect();
        assert_eq!(counts, [1, 2, 1, 1, 1, 1]);
    }

    #[test]
    fn names_from_the_cluster_are_text() {
        let mut odd = key(0);
        odd.status.get_or_insert_default().node = Some("<img src=x>".to_owned());
        let source = Fixed::new();
        source.parts().keys = vec![Arc::new(odd)];
        let page = page(&source);
        assert!(page.contains("&lt;img src=x&gt;") && !page.contains("<img"), "{page}");
    }
}
