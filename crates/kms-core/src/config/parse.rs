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
        "" => Err("empty; give \"true\" or \"false\", or leave it out"),
        _ => Err("neither \"true\" nor \"false\""),
    }
}

/// Parses a duration: a number of seconds, or numbers with units (`h`, `m`, `s`, `ms`) as in `1m30s`.
///
/// # Errors
///
/// The same form as that of [`parse_bool`].
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    const WRONG: &str = "not a duration such as 60, 60s, 1m30s or 500ms";
    if text.is_empty() {
        return Err("empty; give a duration such as 60s, or leave it out");
    }
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(WRONG)?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let number: u64 = number.parse().map_err(|_error| WRONG)?;
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(WRONG),
        };
        let part = Duration::from_millis(number.checked_mul(milliseconds).ok_or(WRONG)?);
        total = total.checked_add(part).ok_or(WRONG)?;
        rest = after;
    }
    Ok(total)
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
