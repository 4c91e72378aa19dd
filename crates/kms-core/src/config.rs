//! Settings: text in, typed values out, every problem reported at once.

use std::{collections::BTreeMap, fmt, time::Duration};

use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::{Error, Result};

/// What is done with a setting.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Support {
    /// It has the effect that its documentation describes.
    Supported,
    /// It is refused with this reason, since to ignore it would be worse.
    Refused(&'static str),
    /// It changes nothing for the keys of OSDs, for this reason, and is accepted because it may be there.
    NoEffect(&'static str),
}

/// A setting of a provider: one variant of its enum of settings.
pub trait ConfigKey: Copy + fmt::Debug + Ord + 'static {
    /// Every setting, in the order of the documentation.
    const ALL: &'static [Self];

    /// The name as operators know it.
    fn as_str(self) -> &'static str;

    /// Other names that mean the same.
    fn aliases(self) -> &'static [&'static str];

    /// Whether its value is a credential.
    fn is_secret(self) -> bool;

    /// What it means: one sentence for the table of settings.
    fn doc(self) -> &'static str;

    /// What is done with it.
    fn support(self) -> Support;

    /// The setting of that name or alias, whatever its case.
    fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|key| {
            key.as_str().eq_ignore_ascii_case(name)
                || key.aliases().iter().any(|alias| alias.eq_ignore_ascii_case(name))
        })
    }
}

/// Everything that is wrong with a configuration.
///
/// The number is how many there are beyond the texts: a text that was taken over from an error may tell of several.
#[derive(Debug, Default)]
pub struct Problems(Vec<String>, usize);

/// What is between the number of problems and the problems.
const SEVERAL: &str = " problems: ";

impl Problems {
    /// No problem yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a problem. It names the setting and says what to do, and never quotes a value.
    pub fn add(&mut self, problem: impl Into<String>) {
        let problem = problem.into();
        if !self.0.contains(&problem) {
            self.0.push(problem);
        }
    }

    /// Notes an error that came up on the way, with its causes; errors of another kind than `ConfigInvalid` and
    /// `NotFound` are no problem of the configuration, and come back.
    ///
    /// # Errors
    ///
    /// As said above.
    pub fn absorb<T>(&mut self, setting: &str, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error)
                if matches!(error.kind(), crate::ErrorKind::ConfigInvalid | crate::ErrorKind::NotFound) =>
            {
                self.add(format!("{setting}: {error}"));
                Ok(None)
            }
            Err(error) => Err(error.context("setting", setting)),
        }
    }

    /// Hands on what was built, or else everything that is wrong in one error: these problems, and those that
    /// `built` failed with. `check` is asked for the problems that can be seen without I/O, when `built` failed for
    /// a reason that left no time to tell them.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if there is any problem; else that of `built`.
    pub fn join<T>(mut self, built: Result<T>, check: impl FnOnce(&mut Self)) -> Result<T> {
        let error = match built {
            Ok(value) => return self.into_result().map(|()| value),
            Err(error) => error,
        };
        if error.kind() == crate::ErrorKind::ConfigInvalid {
            if self.is_empty() {
                return Err(error);
            }
            self.add_all(&error);
        } else {
            check(&mut self);
            if self.is_empty() {
                return Err(error);
            }
            self.add(error.to_string());
        }
        self.into_result()?;
        Err(error)
    }

    /// Notes the problems of an error that [`into_result`](Self::into_result) has made.
    fn add_all(&mut self, error: &Error) {
        let (number, problems) = match error.message().split_once(SEVERAL) {
            Some((number, problems)) => (number.parse().ok(), problems),
            None => (None, ""),
        };
        match number {
            Some(number) => {
                self.0.push(problems.to_owned());
                self.1 += usize::saturating_sub(number, 1);
            }
            None => self.add(error.to_string()),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The problems, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// All problems as one error.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if there is any problem.
    pub fn into_result(self) -> Result<()> {
        match self.0.as_slice() {
            [] => Ok(()),
            [one] => Err(Error::config(one.clone())),
            many => {
                let number = many.len() + self.1;
                Err(Error::config(format!("{number}{SEVERAL}{}", many.join("; "))))
            }
        }
    }
}

/// The settings of one provider by their keys: known names, trimmed values, not yet parsed.
pub struct Settings<K> {
    values: BTreeMap<K, Zeroizing<String>>,
}

impl<K: ConfigKey> Settings<K> {
    /// Sorts pairs of names and values. The pairs themselves are left as they are.
    ///
    /// Names in `others` are known to somebody else. Unknown names are a problem, with the nearest known one as a
    /// suggestion; so is a setting that is given twice with different values, and one that is refused.
    pub fn from_pairs<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
        others: &[&'static str],
        problems: &mut Problems,
    ) -> Self {
        let mut settings = Self { values: BTreeMap::new() };
        for (name, value) in pairs {
            if others.contains(&name) {
                continue;
            }
            let Some(key) = K::find(name.trim()) else {
                let known = K::ALL.iter().map(|key| key.as_str()).chain(others.iter().copied());
                problems.add(match nearest(name, known) {
                    Some(near) => format!("{name} is not a known setting; did you mean {near}?"),
                    None => format!("{name} is not a known setting of this provider"),
                });
                continue;
            };
            settings.insert(key, name, value, problems);
        }
        settings
    }

    /// Takes from `pairs` what is known and not set yet: the environment, which other programs share.
    ///
    /// Names of which nothing is known are passed over, since other programs use the same prefix.
    pub fn fill_from<'a>(
        &mut self,
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
        problems: &mut Problems,
    ) {
        for (name, value) in pairs {
            if let Some(key) = K::find(name)
                && !self.values.contains_key(&key)
                && !value.trim().is_empty()
            {
                self.insert(key, name, value, problems);
            }
        }
    }

    fn insert(&mut self, key: K, name: &str, value: &str, problems: &mut Problems) {
        if let Support::Refused(why) = key.support() {
            problems.add(format!("{name} is not supported: {why}"));
            return;
        }
        let value = Zeroizing::new(value.trim().to_owned());
        match self.values.get(&key) {
            Some(other) if *other != value => {
                problems.add(format!("{} is given twice, with different values", key.as_str()));
            }
            _ => {
                self.values.insert(key, value);
            }
        }
    }

    /// A text, unless it is absent or empty.
    pub fn text(&self, key: K) -> Option<&str> {
        self.values.get(&key).map(|value| value.as_str()).filter(|value| !value.is_empty())
    }

    /// A text that has to be there.
    pub fn required(&self, key: K, problems: &mut Problems) -> Option<&str> {
        let text = self.text(key);
        if text.is_none() {
            problems.add(format!("{} is missing", key.as_str()));
        }
        text
    }

    /// A credential, unless it is absent or empty.
    pub fn secret(&self, key: K) -> Option<SecretString> {
        self.text(key).map(SecretString::from)
    }

    /// A boolean, in the spellings of Go's `ParseBool`.
    pub fn boolean(&self, key: K, problems: &mut Problems) -> Option<bool> {
        self.parsed(key, problems, parse_bool)
    }

    /// A duration: a number of seconds, or numbers with units as in `1m30s` or `500ms`.
    pub fn duration(&self, key: K, problems: &mut Problems) -> Option<Duration> {
        self.parsed(key, problems, parse_duration)
    }

    /// A whole number.
    pub fn number(&self, key: K, problems: &mut Problems) -> Option<u32> {
        self.parsed(key, problems, |text| text.parse().map_err(|_error| "not a whole number from 0 up"))
    }

    fn parsed<T>(
        &self,
        key: K,
        problems: &mut Problems,
        parse: impl Fn(&str) -> Result<T, &'static str>,
    ) -> Option<T> {
        match parse(self.values.get(&key)?) {
            Ok(value) => Some(value),
            Err(why) => {
                problems.add(format!("{} is {why}", key.as_str()));
                None
            }
        }
    }

    /// Which settings are given.
    pub fn keys(&self) -> impl Iterator<Item = K> {
        self.values.keys().copied()
    }
}

impl<K: ConfigKey> fmt::Debug for Settings<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { values } = self;
        f.debug_set().entries(values.keys().map(|key| key.as_str())).finish()
    }
}

/// A boolean, in the spellings of Go's `ParseBool`.
///
/// # Errors
///
/// What is wrong, as the rest of a sentence that begins with the name of the setting and "is".
pub fn parse_bool(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        "" => Err("empty; give \"true\" or \"false\", or leave it out"),
        _ => Err("neither \"true\" nor \"false\""),
    }
}

/// A duration: a number of seconds, or numbers with units (`h`, `m`, `s`, `ms`) as in `1m30s`.
///
/// # Errors
///
/// As those of [`parse_bool`].
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

/// The known name that is nearest to one that is not known, if any is near: few letters differ, and hardly any in the
/// part before the first `_`, which says what a setting belongs to.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
    enum Key {
        Addr,
        Skip,
        Timeout,
        Wrap,
    }

    impl ConfigKey for Key {
        const ALL: &'static [Self] = &[Self::Addr, Self::Skip, Self::Timeout, Self::Wrap];

        fn as_str(self) -> &'static str {
            match self {
                Self::Addr => "VAULT_ADDR",
                Self::Skip => "VAULT_SKIP_VERIFY",
                Self::Timeout => "VAULT_CLIENT_TIMEOUT",
                Self::Wrap => "VAULT_WRAP_TTL",
            }
        }

        fn aliases(self) -> &'static [&'static str] {
            if self == Self::Addr { &["BAO_ADDR"] } else { &[] }
        }

        fn is_secret(self) -> bool {
            false
        }

        fn doc(self) -> &'static str {
            ""
        }

        fn support(self) -> Support {
            if self == Self::Wrap { Support::Refused("it hides the answers") } else { Support::Supported }
        }
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let mut problems = Problems::new();
        let pairs = [
            ("KMS_PROVIDER", "vault"),
            ("VAULT_ADRR", "https://canary"),
            ("VAULT_SKIP_VERIFY", "canary"),
            ("VAULT_CLIENT_TIMEOUT", "canary"),
            ("VAULT_WRAP_TTL", "canary"),
            ("NONSENSE", "canary"),
        ];
        let settings = Settings::<Key>::from_pairs(pairs, &["KMS_PROVIDER"], &mut problems);
        settings.required(Key::Addr, &mut problems);
        settings.boolean(Key::Skip, &mut problems);
        settings.duration(Key::Timeout, &mut problems);
        let error = problems.into_result().unwrap_err().to_string();
        assert_eq!(
            error,
            "6 problems: VAULT_ADRR is not a known setting; did you mean VAULT_ADDR?; \
             VAULT_WRAP_TTL is not supported: it hides the answers; \
             NONSENSE is not a known setting of this provider; VAULT_ADDR is missing; \
             VAULT_SKIP_VERIFY is neither \"true\" nor \"false\"; \
             VAULT_CLIENT_TIMEOUT is not a duration such as 60, 60s, 1m30s or 500ms"
        );
        assert!(!format!("{settings:?}").contains("canary"));
    }

    #[test]
    fn a_suggestion_is_near_and_belongs_to_the_same() {
        const KNOWN: [&str; 9] = [
            "VAULT_ADDR",
            "VAULT_CACERT",
            "VAULT_SKIP_VERIFY",
            "KMS_PROVIDER",
            "READ_TIMEOUT",
            "WRITE_TIMEOUT",
            "kms",
            "keyRotation",
            "cephx",
        ];
        for (name, expected) in [
            ("VAULT_ADRR", Some("VAULT_ADDR")),
            ("VALUT_ADDR", Some("VAULT_ADDR")),
            ("vault_address", Some("VAULT_ADDR")),
            ("VAULTADDR", Some("VAULT_ADDR")),
            ("VAULT_SKIP_VERFIY", Some("VAULT_SKIP_VERIFY")),
            ("VAULT_CA_CERT", Some("VAULT_CACERT")),
            ("KMS_PROVIDR", Some("KMS_PROVIDER")),
            ("kmss", Some("kms")),
            ("keyRotaton", Some("keyRotation")),
            ("VAULT_HEADERS", None),
            ("AZURE_ADDR", None),
            ("RITE_TIMEOUT", Some("WRITE_TIMEOUT")),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, KNOWN), expected, "{name}");
        }
    }

    #[test]
    fn what_a_builder_finds_is_joined_with_what_was_found_before() {
        let found = |texts: &[&str]| {
            let mut problems = Problems::new();
            texts.iter().for_each(|text| problems.add(*text));
            problems
        };
        let failed = |texts: &[&str]| found(texts).into_result();
        let more = |problems: &mut Problems| problems.add("c; d");
        let join = |before: &[&str], built: Result<()>| found(before).join(built, more);
        for (result, expected) in [
            (join(&[], failed(&["a"])), "a"),
            (join(&["x"], Ok(())), "x"),
            (join(&["x"], failed(&["a; b"])), "2 problems: x; a; b"),
            (join(&["x", "y"], failed(&["a", "b", "c"])), "5 problems: x; y; a; b; c"),
            (join(&[], Err(Error::new(crate::ErrorKind::Unavailable, "gone"))), "2 problems: c; d; gone"),
        ] {
            assert_eq!(result.unwrap_err().to_string(), expected);
        }
        join(&[], Ok(())).unwrap();
        let gone = Err::<(), _>(Error::new(crate::ErrorKind::Unavailable, "gone"));
        let error = Problems::new().join(gone, |_| ()).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Unavailable);
    }

    #[test]
    fn aliases_and_case_lead_to_the_same_setting_and_must_agree() {
        let mut problems = Problems::new();
        let pairs = [("BAO_ADDR", " https://a \n"), ("vault_addr", "https://a")];
        let settings = Settings::<Key>::from_pairs(pairs, &[], &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(settings.text(Key::Addr), Some("https://a"));
        Settings::<Key>::from_pairs(
            [("BAO_ADDR", "https://a"), ("VAULT_ADDR", "https://b")],
            &[],
            &mut problems,
        );
        assert_eq!(problems.iter().collect::<Vec<_>>(), ["VAULT_ADDR is given twice, with different values"]);
    }

    #[test]
    fn what_is_given_beats_the_environment() {
        let mut problems = Problems::new();
        let mut settings = Settings::<Key>::from_pairs([("VAULT_ADDR", "https://given")], &[], &mut problems);
        let environment =
            [("VAULT_ADDR", "https://other"), ("VAULT_CLIENT_TIMEOUT", "5"), ("VAULT_PORT_8200_TCP", "x")];
        settings.fill_from(environment, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(settings.text(Key::Addr), Some("https://given"));
        assert_eq!(settings.duration(Key::Timeout, &mut problems), Some(Duration::from_secs(5)));
    }

    #[test]
    fn durations_are_seconds_or_have_units() {
        for (text, milliseconds) in
            [("60", 60_000), ("0", 0), ("5s", 5_000), ("1m30s", 90_000), ("500ms", 500), ("1h", 3_600_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "-1", "abc", "5x", "s", "1m30", "99999999999999999999s", "18446744073709551615h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn booleans_are_of_a_closed_list() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(parse_bool(text), Ok(true));
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(parse_bool(text), Ok(false));
        }
        for text in ["", "yes", "on", "tRUE", "2"] {
            assert!(parse_bool(text).is_err(), "{text}");
        }
    }
}
