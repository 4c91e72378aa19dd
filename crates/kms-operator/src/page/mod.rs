//! The status page: everything that the operator knows of the keys, read-only and without scripts.

mod row;

use std::{collections::BTreeMap, time::SystemTime};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use kms_core::clock::age;
use kms_page::{Bar, Part, Stack, Tone, ages, bars, stacks, wide};
use maud::{Markup, html};

use self::row::{Row, State};
use crate::{
    source::{ReplicaState, Source},
    view::{ClusterView, EscrowView, TokenView},
    window::Window,
};

/// The clusters, by namespace.
type Clusters = BTreeMap<String, ClusterView>;

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
/// The headings of the table of clusters.
const CLUSTER_HEAD: [&str; 11] = [
    "CLUSTER",
    "PAUSED",
    "NEXT WINDOW (UTC)",
    "WINDOW",
    "SCHEDULE",
    "LAST ESCROW",
    "LAST DRILL",
    "TOKEN ENDS (UTC)",
    "POLICY",
    "PROVIDER",
    "OBSTACLE",
];
/// How long before its end a token that cannot be renewed needs a person, as for the alert.
const TOKEN_NOTICE: SignedDuration = SignedDuration::from_hours(7 * 24);
/// The bars of the figure of next rotations: a label, and the hours until then.
const NEXT: [(&str, i64); 4] =
    [("overdue", 0), ("in a day", 24), ("in a week", 7 * 24), ("in 4 weeks", 28 * 24)];

/// The page.
pub(crate) fn page(source: &dyn Source) -> String {
    let (clusters, state) = (source.clusters(), source.state());
    // Without the time of the API server nothing was read from it, so no age would be shown.
    let now = source.now().unwrap_or_default();
    let mut rows: Vec<Row<'_>> = clusters
        .iter()
        .flat_map(|(place, cluster)| {
            cluster.keys.iter().map(move |(name, key)| Row::of(place, cluster, name, key))
        })
        .collect();
    rows.sort_by_key(|row| (row.kube_namespace, row.osd));
    let clock = SystemTime::from(now);
    let rotated = rows.iter().map(|row| row.rotated.map(SystemTime::from));
    let of_clusters = html! { @for (place, cluster) in &*clusters { (cluster_line(place, cluster, now)) } };
    let content = html! {
        (attention(&clusters, &rows, now))
        (running(&rows, now))
        div.figures {
            (bars("age", "Age of the KEKs", &ages(rotated, clock)))
            (bars("next", "Next rotations", &next(&rows, now)))
            (stacks("nodes", "OSDs of each node by state", "No key is known.", &nodes(&rows)))
        }
        (wide("clusters", "Clusters", &CLUSTER_HEAD, &of_clusters))
        (wide("keys", "Keys of OSDs", &HEAD, &html! { @for row in &rows { (line(row, now)) } }))
    };
    kms_page::page("Keys of encrypted OSDs", &summary(&state, &clusters, &rows, now), &content)
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

fn summary(state: &ReplicaState, clusters: &Clusters, rows: &[Row<'_>], now: Timestamp) -> Markup {
    // Of several clusters, the one whose escrow or drill is the oldest.
    let oldest = |at: fn(&EscrowView) -> Option<Timestamp>| {
        clusters.values().filter_map(|cluster| at(&cluster.escrow)).min()
    };
    let leader = match (&state.holder, state.is_leader) {
        (Some(leader), true) => format!("this replica, {leader}"),
        (None, true) => "this replica".to_owned(),
        (Some(leader), false) => leader.clone(),
        (None, false) => "not known".to_owned(),
    };
    html! {
        p {
            "As of " time datetime=(now) { (minute(now)) " UTC" } ". Leader: " (leader) "."
            @if let Some(last) = oldest(|escrow| escrow.made) { " Last escrow: " (ago(Some(last), now)) " ago." }
            @if let Some(last) = oldest(|escrow| escrow.drilled) { " Last drill: " (ago(Some(last), now)) " ago." }
        }
        ul.counts {
            @for (state, count) in counts(rows) { li { (count) " " (state.tone().word(state)) } }
            @if rows.is_empty() { li { "no key" } }
        }
        @if let Some(problem) = state.dead.as_ref().or(state.unready.as_ref()) {
            p {
                (Tone::Bad.word("not ready")) ": " (problem)
                @if let Some(error) = &state.last_error { ". The last error: " (error) }
            }
        }
    }
}

/// How many keys are in each state that occurs, the most urgent first.
fn counts(rows: &[Row<'_>]) -> Vec<(State, usize)> {
    let of = |state| (state, rows.iter().filter(|row| row.state == state).count());
    State::ALL.map(of).into_iter().filter(|(_, count)| *count > 0).collect()
}

/// What needs a person.
fn attention(clusters: &Clusters, rows: &[Row<'_>], now: Timestamp) -> Markup {
    let faults = || {
        clusters.iter().flat_map(|(place, cluster)| cluster.faults.iter().map(move |fault| (place, fault)))
    };
    let obstacles =
        || clusters.iter().filter_map(|(place, cluster)| Some((place, cluster, cluster.obstacle.as_ref()?)));
    let escrows = || {
        clusters
            .iter()
            .filter_map(|(place, cluster)| Some((place, cluster, cluster.escrow.problem.as_ref()?)))
    };
    let tokens = || {
        let of = |(place, cluster): (&String, &ClusterView)| {
            Some((place.clone(), cluster.name.clone(), ending(cluster.token.as_ref()?, now)?))
        };
        clusters.iter().filter_map(of)
    };
    // A KMS that is away concerns many keys, so each reason is said once.
    let mut unverified: BTreeMap<(&str, &str), (usize, &str)> = BTreeMap::new();
    for (row, condition) in rows.iter().filter_map(|row| Some((row, row.unverified?))) {
        let reason = (row.kube_namespace, condition.reason.as_str());
        unverified.entry(reason).or_insert((0, condition.message.as_str())).0 += 1;
    }
    let hindered = |row: &Row<'_>| obstacles().any(|(place, ..)| place == row.kube_namespace);
    // What holds for a whole cluster is said once.
    let urgent = |row: &&Row<'_>| row.state == State::NotReady && !hindered(row);
    html! {
        @if faults().next().is_some() || obstacles().next().is_some() || escrows().next().is_some() || tokens().next().is_some() || !unverified.is_empty() || rows.iter().any(|row| urgent(&row)) {
            section.gaps aria-labelledby="attention" {
                h2 #attention { "Needs attention" }
                ul {
                    @for (place, cluster, why) in obstacles() {
                        li { strong { (place) "/" (cluster.name) } ": " (Tone::Bad.word("not rotated")) ": " (why) }
                    }
                    @for (place, cluster, why) in escrows() {
                        li { strong { (place) "/" (cluster.name) } ": " (Tone::Bad.word("no escrow")) ": " (why) }
                    }
                    @for (place, cluster, (tone, expires)) in tokens() {
                        li {
                            strong { (place) "/" (cluster) } ": " (tone.word("token ends")) ": at " (minute(expires))
                            " UTC, and it cannot be renewed: put a new token of the KMS into its Secret"
                        }
                    }
                    @for ((place, reason), (count, why)) in unverified {
                        li {
                            strong { (place) } ": " (Tone::Unknown.word(reason)) ": keys whose verification could not be made: "
                            (count) "; the first one: " (why)
                        }
                    }
                    @for (place, (deployment, why)) in faults() {
                        li { strong { (place) "/" (deployment) } ": " (Tone::Bad.word("no OsdKey")) ": " (why) }
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

/// When a token that cannot be renewed ends, and how bad that is; `None` if it need not be replaced yet.
fn ending(token: &TokenView, now: Timestamp) -> Option<(Tone, Timestamp)> {
    let expires = token.expires.filter(|at| !token.renewable && at.duration_since(now) < TOKEN_NOTICE)?;
    Some((if expires <= now { Tone::Bad } else { Tone::Warning }, expires))
}

/// When the token of the KMS ends, as the last Job has seen it.
fn token_end(token: Option<&TokenView>, now: Timestamp) -> Markup {
    let Some(token) = token else { return html! { "-" } };
    let Some(expires) = token.expires else { return html! { "never" } };
    let at = minute(expires);
    html! {
        time datetime=(expires) {
            @match ending(token, now) {
                Some((tone, _)) => { (tone.word(at)) }
                None => { (at) }
            }
        }
        @if token.renewable { ", renewable" }
    }
}

fn cluster_line(place: &str, cluster: &ClusterView, now: Timestamp) -> Markup {
    let ClusterView { name, provider, policy, window, schedule, is_paused, obstacle, escrow, token, .. } =
        cluster;
    let (opens, window) = match window {
        None => ("always open".to_owned(), "-".to_owned()),
        Some(window) => {
            let zone = window.time_zone.as_deref().unwrap_or("UTC");
            let opens = match Window::of(window) {
                Ok(window) if window.opened(now).is_some() => "open now".to_owned(),
                Ok(window) => window.next(now).map_or_else(|| "never".to_owned(), minute),
                Err(_) => "not valid".to_owned(),
            };
            (opens, format!("{} for {}, {zone}", window.opens, window.duration))
        }
    };
    html! {
        tr {
            td { (place) "/" (name) }
            td { @if *is_paused { (Tone::Warning.word("paused")) } @else { "no" } }
            td { (opens) }
            td { (window) }
            td { (schedule.as_deref().unwrap_or("-")) }
            td { (ago(escrow.made, now)) }
            td { (ago(escrow.drilled, now)) }
            td { (token_end(token.as_ref(), now)) }
            td { (policy.as_deref().unwrap_or("-")) }
            td { (provider.as_deref().unwrap_or("-")) }
            td.reason { (obstacle.as_deref().unwrap_or("-")) }
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
    use crate::{
        api::{ConditionStatus, ConditionType},
        test_data::{Fixed, key, now},
    };

    #[test]
    fn the_page_shows_states_ages_windows_and_what_needs_a_person() {
        let page = page(&Fixed::new());
        for part in [
            "Leader: this replica, kms-operator-0.",
            "<strong>rook-ceph/rook-ceph-osd-99</strong>: <span class=\"state bad\">✗ no OsdKey</span>: it has no PVC",
            "RotationFailed</span>: 2 rotations have failed (failed attempts: 2)",
            "rotates</span> rook-ceph/osd-1 on storage-1.rack-1.example.net, Job kms-rotate-osd-1",
            "<td>2026-12-05 01:00</td><td>0 2 * * 6 for 4h, Europe/Berlin</td>",
            "<td>set1-data-0abcde</td>",
        ] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        assert!(!page.contains("<script"));
    }

    #[test]
    fn an_obstacle_of_a_cluster_is_said_once() {
        let source = Fixed::new();
        source.parts().cluster().obstacle = Some("keyRotation.enabled is true".to_owned());
        let page = page(&source);
        assert!(page.contains("not rotated</span>: keyRotation.enabled is true"), "{page}");
        assert!(!page.contains("RotationFailed</span>"));
    }

    #[test]
    fn escrows_and_drills_are_shown_and_one_that_fails_needs_a_person() {
        let source = Fixed::new();
        let well = page(&source);
        assert!(well.contains(">2d</time> ago. Last drill: <time"), "{well}");
        assert!(!well.contains("no escrow</span>"), "{well}");
        source.parts().cluster().escrow.problem = Some("the escrow of today has failed".to_owned());
        let failing = page(&source);
        assert!(failing.contains("no escrow</span>: the escrow of today has failed"), "{failing}");
    }

    #[test]
    fn a_token_shows_its_end_and_one_that_ends_within_a_week_needs_a_person() {
        let source = Fixed::new();
        let of = |expires: Option<i64>, renewable: bool| {
            source.parts().cluster().token = Some(TokenView {
                provider: "vault".to_owned(),
                expires: expires.map(|hours| now() + SignedDuration::from_hours(hours)),
                renewable,
            });
            page(&source)
        };
        let cell = |text: &str| format!("{text}</time></td>");
        assert!(of(Some(7 * 24), false).contains(&cell("2026-12-07 12:00")));
        assert!(!of(Some(7 * 24), false).contains("token ends</span>"));
        for (hours, sign, at) in [(7 * 24 - 1, "!", "2026-12-07 11:00"), (-1, "✗", "2026-11-30 11:00")] {
            let page = of(Some(hours), false);
            assert!(page.contains(&cell(&format!("{sign} {at}</span>"))), "{page}");
            assert!(
                page.contains(&format!("{sign} token ends</span>: at {at} UTC, and it cannot be renewed")),
                "{page}"
            );
        }
        assert!(of(Some(1), true).contains("2026-11-30 13:00</time>, renewable</td>"));
        assert!(!of(Some(1), true).contains("token ends</span>"));
        assert!(of(None, false).contains("<td>never</td>"));
    }

    #[test]
    fn verifications_that_could_not_be_made_are_said_once_for_each_reason() {
        let source = Fixed::new();
        assert!(!page(&source).contains("could not be made"));
        for osd in [0, 2] {
            let mut parts = source.parts();
            let conditions = &mut parts.key(osd).status.conditions;
            let verified = conditions.iter_mut().find(|one| one.type_ == ConditionType::Verified).unwrap();
            verified.status = ConditionStatus::Unknown;
            verified.reason = "KmsUnavailable".to_owned();
            verified.message = format!("of {osd}");
        }
        let page = page(&source);
        let line =
            "? KmsUnavailable</span>: keys whose verification could not be made: 2; the first one: of 0";
        assert_eq!(page.matches(line).count(), 1, "{page}");
    }

    #[test]
    fn a_replica_that_is_not_ready_says_why_with_its_last_error() {
        let source = Fixed::new();
        source.parts().state.unready = Some("not read yet: keypolicies".to_owned());
        source.parts().state.last_error = Some("the watch of keypolicies failed".to_owned());
        let page = page(&source);
        let why =
            "not ready</span>: not read yet: keypolicies. The last error: the watch of keypolicies failed";
        assert!(page.contains(why), "{page}");
    }

    #[test]
    fn every_key_counts_in_one_bar_of_next_rotations() {
        let after = |hours: i64| Some(now() + SignedDuration::from_hours(hours));
        let of = |next: Option<Timestamp>| {
            let mut key = key(0);
            key.status.next_rotation_at = next.map(|time| time.to_string());
            key
        };
        let keys = [after(-1), after(0), after(23), after(24), after(200), after(2_000), None].map(of);
        let cluster = ClusterView::default();
        let rows: Vec<_> = keys.iter().map(|key| Row::of("a", &cluster, "b", key)).collect();
        let counts: Vec<_> = next(&rows, now()).iter().map(|bar| bar.count).collect();
        assert_eq!(counts, [1, 2, 1, 1, 1, 1]);
    }

    #[test]
    fn names_from_the_cluster_are_text() {
        let source = Fixed::new();
        source.parts().key(0).status.node = Some("<img src=x>".to_owned());
        let page = page(&source);
        assert!(page.contains("&lt;img src=x&gt;") && !page.contains("<img"), "{page}");
    }
}
