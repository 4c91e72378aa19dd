//! When a rotation becomes due, and when it may begin.
//!
//! A schedule is read by `kms_rook::Schedule`, as Kubernetes reads the one of a CronJob. This module finds its times before and
//! after a moment. A time that the change to summer time skips counts as the same time an hour later; a time that occurs twice
//! counts once, the first time.

use std::time::Duration;

use jiff::{
    Timestamp, ToSpan as _,
    civil::{Date, Weekday},
    tz::TimeZone,
};
use kms_core::{Error, KeyName, Result, config::parse_duration};
use kms_rook::{Calendar, Schedule, Times};

use crate::api;

/// The days that are searched: eight years, since the century years without a 29 February are the longest gap.
const DAYS: usize = 8 * 366 + 1;

/// The times of a schedule in a time zone.
#[derive(Clone, Debug)]
pub(crate) struct Recurrence {
    times: Times,
    zone: TimeZone,
}

impl Recurrence {
    /// The times at which a rotation of an OSD becomes due, in UTC. A schedule such as `@weekly` has another minute for each
    /// OSD, as with CronJobs.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the times of the schedule are not known here.
    pub(crate) fn of_osd(schedule: &Schedule, key: &KeyName) -> Result<Self> {
        Self::new(&Schedule::parse(&schedule.of_osd(key))?, TimeZone::UTC)
    }

    /// The times of a schedule in UTC, which are the same for everything.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the times of the schedule are not known here.
    pub(crate) fn in_utc(schedule: &Schedule) -> Result<Self> {
        Self::new(schedule, TimeZone::UTC)
    }

    fn new(schedule: &Schedule, zone: TimeZone) -> Result<Self> {
        let times = schedule.times().filter(|times| *times != Times::Every(Duration::ZERO));
        let times = times.ok_or_else(|| Error::config(format!("the times of {schedule} are not known")))?;
        Ok(Self { times, zone })
    }

    /// The last time that is not after `at`. `None` if there is none.
    pub(crate) fn last(&self, at: Timestamp) -> Option<Timestamp> {
        match &self.times {
            Times::Every(every) => nth(at, *every, 0),
            Times::Calendar(calendar) => {
                // A skipped time may fall on the next day.
                let first = self.date(at)?.tomorrow().ok()?;
                let days = days(first, -1);
                days.filter(|day| has(calendar, *day))
                    .find_map(|day| self.of_day(calendar, day).filter(|time| *time <= at).max())
            }
            _ => None,
        }
    }

    /// The first time after `at`. `None` if there is none.
    pub(crate) fn next(&self, at: Timestamp) -> Option<Timestamp> {
        match &self.times {
            Times::Every(every) => nth(at, *every, 1),
            Times::Calendar(calendar) => {
                let first = self.date(at)?.yesterday().ok()?;
                days(first, 1)
                    .filter(|day| has(calendar, *day))
                    .find_map(|day| self.of_day(calendar, day).filter(|time| *time > at).min())
            }
            _ => None,
        }
    }

    fn date(&self, at: Timestamp) -> Option<Date> {
        Some(self.zone.to_datetime(at).date())
    }

    /// The times of a day that has some.
    fn of_day(&self, calendar: &Calendar, day: Date) -> impl Iterator<Item = Timestamp> {
        let minutes = calendar
            .hours
            .iter()
            .flat_map(|hour| calendar.minutes.iter().map(move |minute| (*hour, *minute)));
        minutes.filter_map(move |(hour, minute)| {
            let local = day.at(i8::try_from(hour).ok()?, i8::try_from(minute).ok()?, 0, 0);
            self.zone.to_timestamp(local).ok()
        })
    }
}

/// The days from `first` on, forwards or backwards.
fn days(first: Date, step: i64) -> impl Iterator<Item = Date> {
    std::iter::successors(Some(first), move |day| day.checked_add(step.days()).ok()).take(DAYS)
}

fn has(calendar: &Calendar, day: Date) -> bool {
    let number = |number: i8| u64::try_from(number).unwrap_or_default();
    let weekday = match day.weekday() {
        Weekday::Sunday => 0,
        other => other.to_monday_one_offset(),
    };
    calendar.has_day(number(day.month()), number(day.day()), number(weekday))
}

/// The time of `@every` that is `ahead` spans after the last one. The spans are counted from 1970, so that every replica has
/// the same ones.
fn nth(at: Timestamp, every: Duration, ahead: i64) -> Option<Timestamp> {
    let every = i64::try_from(every.as_secs().max(1)).ok()?;
    let span = at.as_second().div_euclid(every).checked_add(ahead)?;
    Timestamp::from_second(span.checked_mul(every)?).ok()
}

/// When rotations may begin.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    opens: Recurrence,
    duration: Duration,
}

impl Window {
    /// Reads a window.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the schedule, the duration or the time zone is not valid.
    pub(crate) fn of(window: &api::Window) -> Result<Self> {
        let api::Window { opens, duration, time_zone } = window;
        let invalid = |setting: &str, why: &str| Error::config(format!("window.{setting} {why}"));
        let zone = match time_zone.as_deref() {
            None | Some("") => TimeZone::UTC,
            Some(name) => TimeZone::get(name).map_err(|cause| {
                invalid("timeZone", &format!("{name:?} is not in the tz database")).source(cause)
            })?,
        };
        let schedule = Schedule::parse(opens)
            .map_err(|cause| invalid("opens", "is not a cron schedule of five fields").source(cause))?;
        let duration = parse_duration(duration).map_err(|why| invalid("duration", &format!("is {why}")))?;
        if duration.is_zero() {
            return Err(invalid("duration", "is zero, so no rotation would ever begin"));
        }
        Ok(Self { opens: Recurrence::new(&schedule, zone)?, duration })
    }

    /// When the window that is open at `at` opened; `None` if it is closed then.
    pub(crate) fn opened(&self, at: Timestamp) -> Option<Timestamp> {
        let opened = self.opens.last(at)?;
        (at < opened.checked_add(self.duration).ok()?).then_some(opened)
    }

    /// When the next window opens.
    pub(crate) fn next(&self, at: Timestamp) -> Option<Timestamp> {
        self.opens.next(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn recurrence(schedule: &str, zone: &str) -> Recurrence {
        Recurrence::new(&Schedule::parse(schedule).unwrap(), TimeZone::get(zone).unwrap()).unwrap()
    }

    #[test]
    fn times_before_and_after_a_moment_are_found() {
        for (schedule, at, last, next) in [
            ("0 3 * * 0", "2026-11-30T12:00:00Z", "2026-11-29T03:00:00Z", "2026-12-06T03:00:00Z"),
            ("0 3 * * 0", "2026-11-29T03:00:00Z", "2026-11-29T03:00:00Z", "2026-12-06T03:00:00Z"),
            ("0 3 * * 0", "2026-11-29T02:59:59Z", "2026-11-22T03:00:00Z", "2026-11-29T03:00:00Z"),
            ("@monthly", "2026-11-30T12:00:00Z", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
            ("*/20 5,6 * * *", "2026-11-30T06:50:00Z", "2026-11-30T06:40:00Z", "2026-12-01T05:00:00Z"),
            ("0 0 29 2 *", "2026-11-30T06:50:00Z", "2024-02-29T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("@every 12h", "2026-11-30T06:50:00Z", "2026-11-30T00:00:00Z", "2026-11-30T12:00:00Z"),
        ] {
            let recurrence = recurrence(schedule, "UTC");
            assert_eq!(recurrence.last(time(at)), Some(time(last)), "{schedule} at {at}");
            assert_eq!(recurrence.next(time(at)), Some(time(next)), "{schedule} at {at}");
        }
        // A day that does not exist.
        assert_eq!(recurrence("0 0 30 2 *", "UTC").next(time("2026-11-30T00:00:00Z")), None);
    }

    #[test]
    fn times_follow_each_other_without_a_gap_in_every_zone() {
        for (schedule, zone) in [
            ("*/7 * * * *", "Europe/Berlin"),
            ("30 2 * * *", "Europe/Berlin"),
            ("30 0,23 * * *", "America/Sao_Paulo"),
            ("15 12 * * 5", "Pacific/Apia"),
        ] {
            let recurrence = recurrence(schedule, zone);
            let mut at = time("2011-01-01T00:00:00Z");
            while at < time("2012-01-10T00:00:00Z") {
                let next = recurrence.next(at).unwrap();
                assert!(next > at, "{schedule} {zone}: {next} after {at}");
                assert_eq!(recurrence.last(next), Some(next), "{schedule} {zone}");
                // Far ahead in steps, since most days are alike.
                at = if schedule.starts_with('*') { next.checked_add(29.hours()).unwrap() } else { next };
            }
        }
    }

    #[test]
    fn a_window_keeps_its_local_time_over_the_change_of_the_clock() {
        let window = |opens: &str, duration: &str| {
            let (opens, duration) = (opens.to_owned(), duration.to_owned());
            Window::of(&api::Window { opens, duration, time_zone: Some("Europe/Berlin".to_owned()) }).unwrap()
        };
        let night = window("0 22 * * *", "6h");
        // In winter 22:00 is 21:00 UTC, in summer 20:00.
        for (at, opened) in [
            ("2026-11-30T20:59:59Z", None),
            ("2026-11-30T21:00:00Z", Some("2026-11-30T21:00:00Z")),
            ("2026-12-01T02:59:59Z", Some("2026-11-30T21:00:00Z")),
            ("2026-12-01T03:00:00Z", None),
            ("2026-07-01T20:00:00Z", Some("2026-07-01T20:00:00Z")),
        ] {
            assert_eq!(night.opened(time(at)), opened.map(time), "{at}");
        }
        assert_eq!(night.next(time("2026-12-01T03:00:00Z")), Some(time("2026-12-01T21:00:00Z")));
        // 02:30 does not exist on this day, and the window is not lost.
        let early = window("30 2 * * *", "1h");
        assert_eq!(early.opened(time("2026-03-29T01:45:00Z")), Some(time("2026-03-29T01:30:00Z")));
    }

    #[test]
    fn a_window_that_is_not_valid_names_its_setting() {
        let of = |opens: &str, duration: &str, zone: &str| {
            let window = api::Window {
                opens: opens.to_owned(),
                duration: duration.to_owned(),
                time_zone: Some(zone.to_owned()),
            };
            Window::of(&window).unwrap_err().to_string()
        };
        assert!(of("0 22 * *", "6h", "").starts_with("window.opens "));
        assert!(of("0 22 * * *", "6 hours", "").starts_with("window.duration "));
        assert!(of("0 22 * * *", "0s", "").starts_with("window.duration is zero"));
        assert!(of("0 22 * * *", "6h", "Mars/Olympus").starts_with("window.timeZone \"Mars/Olympus\""));
    }
}
