//! The numbers behind the figures.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use crate::figures::Bar;

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
/// The number of spans into which a figure over time divides its time.
const SPANS: u32 = 24;

/// How many keys are how old, by the times when they were stored. The last bar, if any, has the keys without a time.
pub fn ages(stored: impl IntoIterator<Item = Option<SystemTime>>, now: SystemTime) -> Vec<Bar> {
    let mut bars: Vec<Bar> = AGES.iter().map(|(label, _)| Bar::new(*label, 0)).collect();
    let mut unknown = 0;
    for stored in stored {
        let Some(stored) = stored else {
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
    bars.extend((unknown > 0).then(|| Bar::new("unknown", unknown)));
    bars
}

/// How many of these times are in which of the spans of equal length from the first one until now. The label of a span
/// is its first day.
///
/// Empty without times.
pub fn spans(times: &[SystemTime], now: SystemTime) -> Vec<Bar> {
    let Some(first) = times.iter().min().copied() else { return Vec::new() };
    let span = (now.duration_since(first).unwrap_or_default() / SPANS).max(Duration::from_secs(1));
    let mut counts = BTreeMap::<u32, usize>::new();
    for time in times {
        let since = time.duration_since(first).unwrap_or_default();
        let at = u32::try_from(since.as_nanos() / span.as_nanos()).unwrap_or(u32::MAX).min(SPANS - 1);
        *counts.entry(at).or_default() += 1;
    }
    let bar = |at| Bar::new(day(first + span * at), counts.remove(&at).unwrap_or_default());
    (0..SPANS).map(bar).collect()
}

/// The day of a time, such as `2026-11-30`, in UTC.
fn day(time: SystemTime) -> String {
    let text = jiff::Timestamp::try_from(time).map(|time| time.to_string()).unwrap_or_default();
    text.get(..10).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * 20_000
    }

    fn before(days: u32) -> SystemTime {
        now() - DAY * days
    }

    #[test]
    fn every_key_counts_in_one_bar_of_ages() {
        let days = [Some(0), Some(6), Some(7), Some(364), Some(365), Some(9_000), None];
        let bars = ages(days.map(|days| days.map(before)), now());
        let counts: Vec<_> = bars.iter().map(|bar| bar.count).collect();
        assert_eq!(counts, [2, 1, 0, 0, 1, 2, 1]);
        assert_eq!(bars.last().unwrap().label, "unknown");
        assert_eq!(ages([Some(before(1))], now()).len(), AGES.len());
        assert_eq!(ages([Some(now())], SystemTime::UNIX_EPOCH)[0].count, 1, "a clock that is behind");
    }

    #[test]
    fn every_time_counts_in_one_span() {
        assert_eq!(spans(&[], now()), []);
        let bars = spans(&[48, 47, 1, 0].map(before), now());
        assert_eq!(bars.iter().map(|bar| bar.count).sum::<usize>(), 4);
        let seen: Vec<_> =
            bars.iter().enumerate().filter(|(_, bar)| bar.count > 0).map(|(at, _)| at).collect();
        assert_eq!(seen, [0, 23], "two days each");
        assert_eq!(bars[1].label, "2024-08-19");
        // All at the same moment, which may be now.
        assert_eq!(spans(&[now(), now()], now())[0].count, 2);
    }
}
