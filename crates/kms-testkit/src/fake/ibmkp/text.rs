//! Times, tokens and percent signs.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use kms_core::Kek;

/// A clock that can be moved.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    pub(super) offset: i64,
}

impl Clock {
    /// Seconds since 1970.
    pub(super) fn now(self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right");
        i64::try_from(since.as_secs()).expect("the clock is right") + self.offset
    }
}

/// Seconds since 1970 as RFC 3339.
pub(super) fn rfc3339(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Howard Hinnant's civil_from_days: years begin in March, so that the leap day is the last one.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// So many random hexadecimal digits.
pub(super) fn random_hex(digits: usize) -> String {
    let mut hex = String::new();
    while hex.len() < digits {
        hex += &Kek::generate().expect("the operating system has random bytes").fingerprint();
    }
    hex.truncate(digits);
    hex
}

/// A random UUID.
pub(in crate::fake) fn uuid() -> String {
    let hex = random_hex(32);
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

/// An access token. IBM's Python and Node clients read `iat` and `exp` from it.
pub(super) fn jwt(issued: i64, ends: i64) -> String {
    let claims = format!(
        r#"{{"iam_id":"iam-ServiceId-1","sub":"ServiceId-1","iat":{issued},"exp":{ends},"jti":"{}"}}"#,
        uuid()
    );
    let parts = [r#"{"alg":"HS256","typ":"JWT"}"#.to_owned(), claims, random_hex(32)];
    parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".")
}

/// The bytes of a payload in base64.
pub(super) fn decoded(payload: &str) -> Option<Vec<u8>> {
    STANDARD.decode(payload).ok()
}

/// New key material.
pub(super) fn material() -> String {
    STANDARD.encode(random_hex(32))
}

/// A text without its percent signs; with `plus`, a plus sign is a blank, as in forms.
pub(in crate::fake) fn unescaped(text: &str, plus: bool) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
            }
            b'+' if plus => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

/// The pairs of a form or a query.
pub(in crate::fake) fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((unescaped(name, true)?, unescaped(value, true)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn escapes_are_undone() {
        let found = pairs("grant_type=urn%3Aibm&apikey=a+b%2B%C3%A4").unwrap();
        assert_eq!(found, [("grant_type".into(), "urn:ibm".into()), ("apikey".into(), "a b+ä".into())]);
        assert!(pairs("a=%4").is_none() && pairs("a=%ff").is_none());
    }
}
