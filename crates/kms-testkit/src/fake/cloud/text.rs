//! Clocks, random texts and percent-encoding.

use std::time::{SystemTime, UNIX_EPOCH};

use kms_core::Kek;

/// A clock that tests move.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::fake) struct Clock {
    /// Milliseconds ahead of the clock of this machine.
    pub(in crate::fake) offset: i64,
}

impl Clock {
    /// Seconds since 1970.
    pub(in crate::fake) fn now(self) -> i64 {
        self.milliseconds().div_euclid(1_000)
    }

    /// Milliseconds since 1970.
    pub(in crate::fake) fn milliseconds(self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right");
        i64::try_from(since.as_millis()).expect("the clock is right") + self.offset
    }
}

/// Random hexadecimal digits.
pub(in crate::fake) fn random_hex(digits: usize) -> String {
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

/// Decodes percent-encoding; with `plus`, a plus sign is a space, as in forms.
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

/// The names and values of a form or a query.
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
    fn escapes_are_undone() {
        let found = pairs("grant_type=urn%3Aibm&apikey=a+b%2B%C3%A4").unwrap();
        assert_eq!(found, [("grant_type".into(), "urn:ibm".into()), ("apikey".into(), "a b+ä".into())]);
        assert!(pairs("a=%4").is_none() && pairs("a=%ff").is_none());
    }
}
