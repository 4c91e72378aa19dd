//! Parses booleans and durations, and finds the known name nearest to a misspelt one.

use std::time::Duration;

/// Parses a boolean, in the spellings of Go's `ParseBool`.
///
/// # Errors
///
/// The end of a sentence that begins with the name of the setting and "is".
pub fn parse_bool(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("neither \"true\" nor \"false\""),
    }
}

/// Parses a duration as Vault's own client does: a number of seconds, a number of days as in `2d`, or the form of Go's
/// `time.ParseDuration`, as in `1m30s` or `1.5s`.
///
/// # Errors
///
/// The same form as that of [`parse_bool`]. A negative duration is an error, although Go accepts it.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    const WRONG: &str = "not a duration; write one such as 60, 60s, 1m30s or 1.5s";
    let whole = |text: &str| text.parse::<i64>().ok();
    let nanoseconds = match (whole(text), text.strip_suffix('d').and_then(whole)) {
        (Some(number), _) => number.checked_mul(SECOND),
        (None, Some(days)) => days.checked_mul(24 * 3600 * SECOND),
        (None, None) => go_duration(text),
    };
    match nanoseconds.ok_or(WRONG)?.try_into() {
        Ok(nanoseconds) => Ok(Duration::from_nanos(nanoseconds)),
        Err(_negative) => Err("negative; give a duration such as 60s, or leave it out"),
    }
}

/// A second, in nanoseconds.
const SECOND: i64 = 1_000_000_000;

/// The nanoseconds of a duration in the form of Go's `time.ParseDuration`, rounded as Go does.
fn go_duration(text: &str) -> Option<i64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut total = 0_i64;
    let mut rest = unsigned;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = after.strip_prefix('.').map_or(("", after), digits);
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            _ => return None,
        };
        let whole = match (whole, fraction) {
            ("", "") => return None,
            ("", _) => 0,
            (whole, _) => whole.parse::<i64>().ok()?,
        };
        let (mut part, mut scale) = (0_i64, 1_f64);
        for digit in fraction.bytes().map(|byte| i64::from(byte - b'0')) {
            // Go leaves out the digits that do not fit into 63 bits.
            let Some(longer) = part.checked_mul(10).and_then(|part| part.checked_add(digit)) else { break };
            (part, scale) = (longer, scale * 10.0);
        }
        let part = part as f64 * (unit as f64 / scale);
        total = total.checked_add(whole.checked_mul(unit)?.checked_add(part as i64)?)?;
        rest = after;
    }
    match (unsigned.is_empty(), text.starts_with('-')) {
        (true, _) => None,
        (false, true) => total.checked_neg(),
        (false, false) => Some(total),
    }
}

/// Splits a text after its leading decimal digits.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// Finds the known name nearest to an unknown name. `None` if more than a few letters differ, or more than one letter
/// in the part before the first `_`, which is the group of a setting.
pub fn nearest(name: &str, known: impl IntoIterator<Item = &'static str>) -> Option<&'static str> {
    let name = name.trim().to_ascii_uppercase();
    let distance = |candidate: &str| {
        let candidate = candidate.to_ascii_uppercase();
        let same_prefix = match (name.split_once('_'), candidate.split_once('_')) {
            (Some((ours, _)), Some((theirs, _))) => strsim::damerau_levenshtein(ours, theirs) <= 1,
            _ => true,
        };
        let distance = strsim::damerau_levenshtein(&name, &candidate);
        (same_prefix && distance <= candidate.len() / 5 + 1).then_some(distance)
    };
    let near = known.into_iter().filter_map(|candidate| Some((distance(candidate)?, candidate)));
    near.min().map(|(_, candidate)| candidate)
}
