//! The numbers behind the figures.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use kms_rook::inventory::{Row, State};

use crate::time::rfc3339;

const DAY: Duration = Duration::from_secs(86_400);
/// The bars of the figure of ages: a label, and the age in days below which a key counts there.
const AGES: [(&str, u32); 6] = [
    ("under 1 week", 7),
    ("under 4 weeks", 28),
    ("under 3 months", 91),
    ("under 6 months", 182),
    ("under 1 year", 365),
    ("1 year or more", u32::MAX),
];
/// The number of spans into which the figure of rotations divides its time.
const SPANS: u32 = 24;

/// A label and a number.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) count: usize,
}

/// How many keys are how old. The last bar, if any, has the keys whose age the KMS does not tell.
pub(super) fn ages(rows: &[Row], now: SystemTime) -> Vec<Bar> {
    let mut bars: Vec<Bar> =
        AGES.iter().map(|(label, _)| Bar { label: (*label).to_owned(), count: 0 }).collect();
    let mut unknown = 0;
    for row in rows.iter().filter(|row| row.key.is_some()) {
        let Some(stored) = row.stored() else {
            unknown += 1;
            continue;
        };
        // A time in the future comes from a clock that differs from ours, and counts as now.
        let age = now.duration_since(stored).unwrap_or_default();
        let at = AGES.iter().position(|(_, days)| age < DAY * *days).unwrap_or(AGES.len() - 1);
        if let Some(bar) = bars.get_mut(at) {
            bar.count += 1;
        }
    }
    bars.extend((unknown > 0).then(|| Bar { label: "unknown".to_owned(), count: unknown }));
    bars
}

/// When the OSDs were last rotated: spans of equal length from the first rotation until now, each with its first day.
///
/// Empty if no OSD records a rotation.
pub(super) fn rotations(rows: &[Row], now: SystemTime) -> Vec<Bar> {
    let times: Vec<SystemTime> = rows.iter().filter_map(|row| row.osd.as_ref()?.rotated).collect();
    let Some(first) = times.iter().min().copied() else { return Vec::new() };
    let span = (now.duration_since(first).unwrap_or_default() / SPANS).max(Duration::from_secs(1));
    let mut counts = BTreeMap::<u32, usize>::new();
    for time in times {
        let since = time.duration_since(first).unwrap_or_default();
        let at = u32::try_from(since.as_nanos() / span.as_nanos()).unwrap_or(u32::MAX).min(SPANS - 1);
        *counts.entry(at).or_default() += 1;
    }
    let day = |at: u32| rfc3339(first + span * at).and_then(|text| text.get(..10).map(str::to_owned));
    let bar = |at| Bar { label: day(at).unwrap_or_default(), count: counts.remove(&at).unwrap_or_default() };
    (0..SPANS).map(bar).collect()
}

/// How many OSDs of each node are in which state.
pub(super) fn nodes(rows: &[Row]) -> BTreeMap<&str, BTreeMap<State, usize>> {
    let mut nodes = BTreeMap::<_, BTreeMap<_, _>>::new();
    for (row, osd) in rows.iter().filter_map(|row| Some((row, row.osd.as_ref()?))) {
        let node = nodes.entry(osd.node.as_deref().unwrap_or("node unknown")).or_default();
        *node.entry(row.state).or_default() += 1;
    }
    nodes
}

#[cfg(test)]
mod tests {
    use kms_core::KeyInfo;
    use kms_rook::inventory::{Facts, Inventory, OsdFacts};

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * 20_000
    }

    /// One OSD with its key for each age in days; `None` for a key without times and an OSD without a rotation.
    fn rows(ages: &[Option<u32>]) -> Vec<Row> {
        let mut facts = Facts::default();
        for (id, age) in (0..).zip(ages) {
            let (name, then) = (format!("set-{id}").parse().unwrap(), age.map(|days| now() - DAY * days));
            let mut osd = OsdFacts::on_host(Some(id), name, (id != 1).then(|| format!("node-{}", id % 3)));
            osd.rotated = then;
            facts.keys.push(KeyInfo::new(osd.name.clone().unwrap()).with_times(None, then));
            facts.osds.push(osd);
        }
        Inventory::new(facts, now(), None).rows
    }

    #[test]
    fn every_key_counts_in_one_bar_of_ages() {
        let bars = ages(&rows(&[Some(0), Some(6), Some(7), Some(364), Some(365), Some(9_000), None]), now());
        let counts: Vec<_> = bars.iter().map(|bar| bar.count).collect();
        assert_eq!(counts, [2, 1, 0, 0, 1, 2, 1]);
        assert_eq!(bars.last().unwrap().label, "unknown");
        assert_eq!(ages(&rows(&[Some(1)]), now()).len(), AGES.len());
        assert_eq!(ages(&rows(&[Some(1)]), SystemTime::UNIX_EPOCH)[0].count, 1, "a clock that is behind");
    }

    #[test]
    fn every_rotation_counts_in_one_span() {
        assert_eq!(rotations(&rows(&[None]), now()), []);
        let bars = rotations(&rows(&[Some(48), Some(47), Some(1), Some(0), None]), now());
        assert_eq!(bars.iter().map(|bar| bar.count).sum::<usize>(), 4);
        let seen: Vec<_> =
            bars.iter().enumerate().filter(|(_, bar)| bar.count > 0).map(|(at, _)| at).collect();
        assert_eq!(seen, [0, 23], "two days each");
        assert_eq!(bars[1].label, "2024-08-19");
        // All at the same moment, which may be now.
        assert_eq!(rotations(&rows(&[Some(0), Some(0)]), now())[0].count, 2);
    }

    #[test]
    fn osds_count_at_their_node() {
        let rows = rows(&[Some(1), Some(1), Some(1), Some(1)]);
        let nodes = nodes(&rows);
        let counts: Vec<_> = nodes.iter().map(|(node, states)| (*node, states[&State::Ok])).collect();
        assert_eq!(counts, [("node unknown", 1), ("node-0", 2), ("node-2", 1)]);
    }
}
