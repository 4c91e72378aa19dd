//! Times, tokens and key material of IBM's services.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};

use crate::fake::cloud::text::{random_hex, uuid};

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
}
