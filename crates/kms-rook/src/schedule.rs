//! The schedule of a CronJob, in the syntax that the API server accepts.
//!
//! The schedule is checked before the first write. Otherwise the API server would refuse the CronJob of each OSD, one by
//! one; Rook fails its whole reconcile then.

use std::{fmt, time::Duration};

use kms_core::{
    Error, KeyName, Result,
    config::{Stricter, parse_duration},
};

/// The schedule if `keyRotation.schedule` is empty (rook-behaviour §1.1).
const DEFAULT: &str = "@weekly";

/// The longest schedule, in bytes.
const MAX_BYTES: usize = 512;

/// The names that stand for a whole schedule.
const NAMED: [&str; 7] = ["@annually", "@daily", "@hourly", "@midnight", "@monthly", "@weekly", "@yearly"];

/// The units of `@every`.
const UNITS: [&str; 7] = ["ns", "us", "\u{b5}s", "\u{3bc}s", "ms", "s", "m"];

/// One of the five fields of a schedule.
struct Field {
    name: &'static str,
    first: u32,
    last: u32,
    /// The names of its numbers, beginning at `first`.
    words: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", first: 0, last: 59, words: &[] },
    Field { name: "hour", first: 0, last: 23, words: &[] },
    Field { name: "day of the month", first: 1, last: 31, words: &[] },
    Field {
        name: "month",
        first: 1,
        last: 12,
        words: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    Field {
        name: "day of the week",
        first: 0,
        last: 6,
        words: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    },
];

/// A schedule in cron syntax.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Schedule(String);

impl Schedule {
    /// The schedule that is refused, and that Rook and old API servers take.
    pub const STRICTER: Stricter = Stricter {
        setting: "keyRotation.schedule",
        input: ("schedule", "TZ=UTC 0 3 * * 0"),
        rook: "passes it on; old API servers take it, and new ones refuse the CronJob",
        reason: "is not a cron schedule: a time zone is not allowed here",
        why: "new API servers refuse it, once for each OSD",
        remedy: "remove it: the schedule is in the time zone of the cluster",
    };

    /// Parses `keyRotation.schedule`; an empty text means `@weekly`.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the API server would refuse the schedule. The message says what is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self(DEFAULT.to_owned()));
        }
        match problem(text) {
            None => Ok(Self(text.to_owned())),
            Some(what) => Err(Error::config(format!(
                "keyRotation.schedule is not a cron schedule: {what} (examples: \"@weekly\", \"0 3 * * 0\")"
            ))),
        }
    }

    /// The text of the schedule.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shortest time between two runs. `None` if a step of `@every` is not known here.
    ///
    /// Days that the schedule leaves out only make it longer, so only the minutes and the hours count.
    pub fn shortest_gap(&self) -> Option<Duration> {
        const DAY: u64 = 24 * 60;
        let minutes = |count: u64| Some(Duration::from_secs(60 * count));
        match self.as_str() {
            "@hourly" => return minutes(60),
            text if text.starts_with("@every ") => {
                return parse_duration(text.strip_prefix("@every ").unwrap_or_default()).ok();
            }
            text if text.starts_with('@') => return minutes(DAY),
            _ => {}
        }
        let [minute, hour, ..] = &FIELDS;
        let mut fields = self.as_str().split_whitespace();
        let (in_hour, hours) = (minute.values(fields.next()?), hour.values(fields.next()?));
        let starts: Vec<u64> =
            hours.iter().flat_map(|hour| in_hour.iter().map(move |minute| hour * 60 + minute)).collect();
        let (first, last) = (starts.first()?, starts.last()?);
        // From the last run of a day to the first one of the next.
        let over_night = DAY + first - last;
        let in_day = starts.iter().zip(starts.iter().skip(1)).map(|(one, next)| next - one).min();
        minutes(in_day.map_or(over_night, |gap| gap.min(over_night)))
    }

    /// The times that the schedule stands for. `None` if a step of `@every` is not known here.
    pub fn times(&self) -> Option<Times> {
        let fields = match self.as_str() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            text => match text.strip_prefix("@every ") {
                Some(every) => return parse_duration(every).ok().map(Times::Every),
                None => text,
            },
        };
        let texts: Vec<&str> = fields.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = texts.as_slice() else { return None };
        let [minutes, hours, days, months, weekdays] = &FIELDS;
        Some(Times::Calendar(Calendar {
            minutes: minutes.values(minute),
            hours: hours.values(hour),
            days: days.values(day),
            months: months.values(month),
            weekdays: weekdays.values(weekday),
            either_day: !is_any(day) && !is_any(weekday),
        }))
    }

    /// The schedule of one OSD.
    ///
    /// A name such as `@weekly` stands for midnight, when all OSDs would begin at once. Each begins at a minute of the
    /// same day instead (of the hour with `@hourly`), which depends on the name of its key only. Five fields and `@every`
    /// stay as they are.
    pub fn of_osd(&self, key: &KeyName) -> String {
        let minutes = |most: u64| spread(key.as_str()) % most;
        let day = match self.as_str() {
            "@hourly" => return format!("{} * * * *", minutes(60)),
            "@daily" | "@midnight" => "* * *",
            "@weekly" => "* * 0",
            "@monthly" => "1 * *",
            "@yearly" | "@annually" => "1 1 *",
            other => return other.to_owned(),
        };
        let minute = minutes(24 * 60);
        format!("{} {} {day}", minute % 60, minute / 60)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The times that a schedule stands for.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Times {
    /// One time in each such span.
    Every(Duration),
    /// Times of days.
    Calendar(Calendar),
}

/// The times of a schedule of five fields, as Kubernetes reads it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Calendar {
    /// The minutes of an hour, in order.
    pub minutes: Vec<u64>,
    /// The hours of a day, in order.
    pub hours: Vec<u64>,
    days: Vec<u64>,
    months: Vec<u64>,
    weekdays: Vec<u64>,
    /// Whether the day of the month or the day of the week is enough, since the schedule limits both.
    either_day: bool,
}

impl Calendar {
    /// Whether the schedule has times on a day. `weekday` is 0 for Sunday.
    pub fn has_day(&self, month: u64, day: u64, weekday: u64) -> bool {
        let (of_month, of_week) = (self.days.contains(&day), self.weekdays.contains(&weekday));
        self.months.contains(&month)
            && if self.either_day { of_month || of_week } else { of_month && of_week }
    }
}

/// Whether a field of days sets no limit: `*` and `?` with a step above one are limits.
fn is_any(field: &str) -> bool {
    field.split(',').any(|part| {
        let (range, step) = part.split_once('/').unwrap_or((part, "1"));
        matches!(range, "*" | "?") && step.parse() == Ok(1_u32)
    })
}

/// A number that texts spread evenly over (FNV-1a). It is the same in every version, so that no update moves a schedule.
pub fn spread(name: &str) -> u64 {
    let mixed = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, mixed);
    // The low bits of names that differ in their last byte are alike.
    hash ^ (hash >> 32)
}

fn problem(text: &str) -> Option<String> {
    if text.len() > MAX_BYTES {
        return Some(format!("it has {} bytes; the limit is {MAX_BYTES}", text.len()));
    }
    if text.contains("TZ=") {
        return Some(
            "a time zone is not allowed here; remove it: the schedule is in the time zone of the cluster"
                .to_owned(),
        );
    }
    if let Some(every) = text.strip_prefix("@every ") {
        return (!is_duration(every)).then(|| "@every needs a duration such as 12h or 1h30m".to_owned());
    }
    if text.starts_with('@') {
        return (!NAMED.contains(&text)).then(|| format!("known names are: {}, @every", NAMED.join(", ")));
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Some(format!(
            "it has {} fields, not 5 (minute, hour, day, month, day of the week)",
            fields.len()
        ));
    }
    fields.iter().zip(&FIELDS).find_map(|(text, field)| {
        let bad = text.split(',').find_map(|part| field.problem(part))?;
        Some(format!("the {} {bad}", field.name))
    })
}

impl Field {
    /// The problem with one part of a list; `None` if it is valid.
    fn problem(&self, part: &str) -> Option<String> {
        let Self { first, last, .. } = *self;
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (part, None),
        };
        if step.is_some_and(|step| number(step).is_none_or(|step| step == 0)) {
            return Some("has a step that is not a number above zero".to_owned());
        }
        if matches!(range, "*" | "?") {
            return None;
        }
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let (Some(from), Some(to)) = (self.value(from), self.value(to)) else {
            let words = if self.words.is_empty() { "" } else { " or a name of three letters" };
            return Some(format!(
                "is neither * nor a number from {first} to {last}{words}, or a range of them"
            ));
        };
        (from > to).then(|| "has a range that ends before it begins".to_owned())
    }

    /// The numbers that a valid field stands for, in order.
    fn values(&self, text: &str) -> Vec<u64> {
        let stands_for = |number: u32| text.split(',').any(|part| self.has(part, number));
        (self.first..=self.last).filter(|number| stands_for(*number)).map(u64::from).collect()
    }

    /// Whether a part of a valid list has a number.
    fn has(&self, part: &str, number: u32) -> bool {
        let (range, step) =
            part.split_once('/').map_or((part, None), |(range, step)| (range, step.parse().ok()));
        let (from, to) = match range {
            "*" | "?" => (self.first, self.last),
            // A single number with a step stands for the numbers from there on.
            _ => match range.split_once('-') {
                Some((from, to)) => {
                    (self.value(from).unwrap_or(self.last), self.value(to).unwrap_or(self.first))
                }
                None => {
                    let from = self.value(range).unwrap_or(self.last);
                    (from, if step.is_some() { self.last } else { from })
                }
            },
        };
        (from..=to).contains(&number) && (number - from).is_multiple_of(step.unwrap_or(1_u32).max(1))
    }

    fn value(&self, text: &str) -> Option<u32> {
        let word = self.words.iter().position(|word| word.eq_ignore_ascii_case(text));
        let value = match word {
            Some(at) => self.first.checked_add(u32::try_from(at).ok()?),
            None => number(text),
        };
        value.filter(|value| (self.first..=self.last).contains(value))
    }
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Whether a text is a duration in Go's syntax: numbers with units.
fn is_duration(text: &str) -> bool {
    let mut rest = text;
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number = rest.strip_suffix(digits).unwrap_or_default();
        if number.parse::<f64>().is_err() {
            return false;
        }
        // The longer units come first, so that `ms` is not taken for minutes.
        let units = UNITS.iter().chain(&["h"]);
        match units.filter_map(|unit| digits.strip_prefix(unit)).next() {
            Some(left) => rest = left,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_time_zone_is_refused_with_the_words_of_the_table() {
        let Stricter { input: (_, schedule), .. } = Schedule::STRICTER;
        let error = Schedule::parse(schedule).unwrap_err().to_string();
        assert!(error.starts_with(&Schedule::STRICTER.problem()), "{error}");
    }

    #[test]
    fn schedules_that_the_api_server_accepts_are_accepted() {
        for text in crate::test_data::SCHEDULES_TAKEN {
            assert_eq!(Schedule::parse(text).unwrap().as_str(), *text);
        }
        for text in ["", "  "] {
            assert_eq!(Schedule::parse(text).unwrap().as_str(), "@weekly");
        }
        assert_eq!(Schedule::parse(" @daily\n").unwrap().as_str(), "@daily");
    }

    #[test]
    fn each_osd_has_a_minute_of_its_own_on_the_day_of_the_schedule() {
        let of = |schedule: &str, key: &str| {
            Schedule::parse(schedule).unwrap().of_osd(&KeyName::new(key).unwrap())
        };
        // These values must not change: an update would move the schedules of all clusters.
        for (schedule, expected) in [
            ("", "10 11 * * 0"),
            ("@hourly", "10 * * * *"),
            ("@daily", "10 11 * * *"),
            ("@midnight", "10 11 * * *"),
            ("@monthly", "10 11 1 * *"),
            ("@yearly", "10 11 1 1 *"),
            ("@annually", "10 11 1 1 *"),
            ("@every 12h", "@every 12h"),
            ("0 3 * * 0", "0 3 * * 0"),
        ] {
            let schedule = of(schedule, "set1-data-0x7dwl");
            assert_eq!(schedule, expected);
            assert!(Schedule::parse(&schedule).is_ok(), "{schedule}");
        }
        let names = (0..1000).map(|osd| format!("set1-data-{osd}abcde"));
        let mut starts: BTreeMap<String, usize> = BTreeMap::new();
        for name in names {
            *starts.entry(of("@weekly", &name)).or_default() += 1;
        }
        // A thousand OSDs over 1,440 minutes: most minutes have none or one.
        assert!(starts.len() > 650 && starts.values().all(|together| *together <= 7), "{starts:?}");
    }

    #[test]
    fn the_shortest_time_between_two_runs_is_known() {
        for (schedule, minutes) in [
            ("@hourly", 60),
            ("@weekly", 24 * 60),
            ("@every 1h30m", 90),
            ("0 3 * * 0", 24 * 60),
            ("*/10 * * * *", 10),
            ("5/20 * * * *", 20),
            ("0,45 * * * *", 15),
            ("0 1-3,22 * * *", 60),
            ("30 23,0 * * *", 60),
            ("0 */12 * * *", 12 * 60),
            ("0-10/5 4 * * *", 5),
        ] {
            let gap = Schedule::parse(schedule).unwrap().shortest_gap();
            assert_eq!(gap, Some(Duration::from_secs(60 * minutes)), "{schedule}");
        }
    }

    #[test]
    fn days_of_the_month_and_of_the_week_are_one_or_the_other_if_both_are_limited() {
        let has = |schedule: &str, month, day, weekday| {
            let Some(Times::Calendar(calendar)) = Schedule::parse(schedule).unwrap().times() else {
                panic!("{schedule}")
            };
            calendar.has_day(month, day, weekday)
        };
        for (schedule, month, day, weekday, expected) in [
            ("0 3 * * 0", 5, 17, 0, true),
            ("0 3 * * 0", 5, 17, 1, false),
            ("0 3 1 * 0", 5, 1, 3, true),
            ("0 3 1 * 0", 5, 2, 0, true),
            ("0 3 1 * 0", 5, 2, 1, false),
            ("0 3 ? 2 sun", 2, 2, 0, true),
            ("0 3 ? 2 sun", 3, 2, 0, false),
            // A step is a limit, so either of the two is enough.
            ("0 3 */2 * 0", 5, 2, 0, true),
            ("0 3 */1 * 0", 5, 2, 1, false),
            ("@monthly", 5, 1, 3, true),
            ("@yearly", 5, 1, 3, false),
        ] {
            assert_eq!(has(schedule, month, day, weekday), expected, "{schedule} {month} {day} {weekday}");
        }
        assert_eq!(
            Schedule::parse("@every 90m").unwrap().times(),
            Some(Times::Every(Duration::from_secs(5400)))
        );
    }

    #[test]
    fn schedules_that_the_api_server_refuses_are_refused_with_the_problem() {
        for text in crate::test_data::SCHEDULES_REFUSED {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
        for (text, message) in [
            ("every week", "it has 2 fields, not 5 (minute, hour, day, month, day of the week)"),
            ("60 * * * *", "the minute is neither * nor a number from 0 to 59, or a range of them"),
            (
                "0 0 * * 7",
                "the day of the week is neither * nor a number from 0 to 6 or a name of three letters, or a range of them",
            ),
            (
                "@weakly",
                "known names are: @annually, @daily, @hourly, @midnight, @monthly, @weekly, @yearly, @every",
            ),
            ("*/0 * * * *", "the minute has a step that is not a number above zero"),
        ] {
            let error = Schedule::parse(text).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
