//! The settings of a provider, and the typed values that they have.

use std::{collections::BTreeMap, fmt, marker::PhantomData, time::Duration};

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::{ConfigKey, Problems, Support, nearest, parse_bool, parse_duration};
use crate::{ConnectionDetails, Result, SecretData, SecretSource};

/// The input of a builder: settings, the environment, and the name of the Secret with the credentials.
///
/// It parses nothing; [`settings`](Self::settings) sorts the input by keys. `Debug` shows names only.
pub struct SettingsSource<K> {
    given: Vec<(String, Zeroizing<String>)>,
    environment: Vec<(String, Zeroizing<String>)>,
    token_secret: String,
    key: PhantomData<K>,
}

impl<K: ConfigKey> SettingsSource<K> {
    /// The settings that `kms-dispatch` reads and the provider does not.
    const OTHERS: [&str; 1] = ["KMS_PROVIDER"];

    /// Adds the settings of a CephCluster.
    pub fn add_details(&mut self, details: &ConnectionDetails) {
        self.given
            .extend(details.iter().map(|(name, value)| (name.to_owned(), Zeroizing::new(value.to_owned()))));
    }

    /// Adds one setting.
    pub fn add(&mut self, key: K, value: impl Into<String>) {
        self.given.push((key.as_str().to_owned(), Zeroizing::new(value.into())));
    }

    /// Adds variables of the environment. They supply the known settings that are absent elsewhere.
    ///
    /// `files` are settings that name a Secret or a file. A variable always names a file.
    pub fn add_environment<'a>(&mut self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>, files: &[K]) {
        self.environment.extend(pairs.into_iter().map(|(name, value)| {
            let file = files.iter().any(|key| key.as_str() == name);
            let value = if file && !value.is_empty() && !value.contains('/') {
                format!("./{value}")
            } else {
                value.to_owned()
            };
            (name.to_owned(), Zeroizing::new(value))
        }));
    }

    /// Sets the name of the Secret with the credentials; an empty text means no Secret.
    pub fn set_token_secret(&mut self, name: impl Into<String>) {
        self.token_secret = name.into();
    }

    /// The name of the Secret with the credentials, if it is set.
    pub fn token_secret(&self) -> Option<&str> {
        Some(self.token_secret.as_str()).filter(|name| !name.is_empty())
    }

    /// Reads the Secret with the credentials, if its name is set. Adds its problems to `problems`.
    ///
    /// # Errors
    ///
    /// The errors of `secrets` that are not problems of the configuration.
    pub async fn secret(
        &self,
        secrets: &dyn SecretSource,
        problems: &mut Problems,
    ) -> Result<Option<SecretData>> {
        match self.token_secret() {
            Some(name) => problems.absorb("tokenSecretName", secrets.secret(name).await),
            None => Ok(None),
        }
    }

    /// The names of the settings that come from a CephCluster or were added one by one, verbatim. Empty settings are
    /// left out.
    pub fn given_names(&self) -> impl Iterator<Item = &str> {
        borrowed(&self.given).filter(|(_, value)| !value.trim().is_empty()).map(|(name, _)| name)
    }

    /// Whether a setting comes from a CephCluster or was added by itself, and not from the environment.
    pub fn is_given(&self, key: K) -> bool {
        self.given_names().any(|name| K::find(name.trim()) == Some(key))
    }

    /// The variables of the environment.
    pub fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        borrowed(&self.environment)
    }

    /// Sorts the settings by their keys. Adds unknown names to `problems`.
    pub fn settings(&self, problems: &mut Problems) -> Settings<K> {
        let mut settings = Settings::from_pairs(borrowed(&self.given), &Self::OTHERS, problems);
        settings.fill_from(self.environment(), problems);
        settings
    }
}

impl<K> Default for SettingsSource<K> {
    fn default() -> Self {
        Self { given: Vec::new(), environment: Vec::new(), token_secret: String::new(), key: PhantomData }
    }
}

impl<K> fmt::Debug for SettingsSource<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { given, environment, token_secret, key: _ } = self;
        let names = |list: &[(String, Zeroizing<String>)]| -> Vec<String> {
            list.iter().map(|(name, _)| name.clone()).collect()
        };
        f.debug_struct("SettingsSource")
            .field("given", &names(given))
            .field("environment", &names(environment))
            .field("token_secret", token_secret)
            .finish()
    }
}

fn borrowed(pairs: &[(String, Zeroizing<String>)]) -> impl Iterator<Item = (&str, &str)> {
    pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
}

/// The settings of one provider by their keys: known names with trimmed values, not yet parsed.
pub struct Settings<K> {
    values: BTreeMap<K, Zeroizing<String>>,
}

impl<K: ConfigKey> Settings<K> {
    /// Sorts pairs of names and values by their keys.
    ///
    /// It skips empty values, and the names in `others`, which other code reads. It reports
    /// unknown names, settings that occur twice with different values, and settings that are not supported.
    pub fn from_pairs<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
        others: &[&'static str],
        problems: &mut Problems,
    ) -> Self {
        let mut settings = Self { values: BTreeMap::new() };
        for (name, value) in pairs {
            if others.contains(&name) || value.trim().is_empty() {
                continue;
            }
            if let Some(key) = Self::key_of(name, others, problems) {
                settings.insert(key, name, value, problems);
            }
        }
        settings
    }

    /// The setting of this name. If there is none, adds a problem, with the nearest name of a setting or of `others` as
    /// a suggestion.
    pub fn key_of(name: &str, others: &[&'static str], problems: &mut Problems) -> Option<K> {
        let found = K::find(name.trim());
        if found.is_none() {
            let known = K::ALL.iter().map(|key| key.as_str()).chain(others.iter().copied());
            problems.add(match nearest(name, known) {
                Some(near) => format!("{name} is not a known setting; did you mean {near}?"),
                None => format!("{name} is not a known setting of this provider; remove it"),
            });
        }
        found
    }

    /// Adds the known settings that are not set yet from `pairs`, the environment.
    ///
    /// It skips unknown names, since other programs use variables with the same prefix.
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
                problems.add(format!(
                    "{} is given twice, with different values; remove one of them",
                    key.as_str()
                ));
            }
            _ => {
                self.values.insert(key, value);
            }
        }
    }

    /// The text of a setting, which is not empty; `None` if the setting is absent or empty.
    pub fn text(&self, key: K) -> Option<&str> {
        self.values.get(&key).map(|value| value.as_str())
    }

    /// The text of a required setting. If it is absent or empty, adds a problem.
    pub fn required(&self, key: K, problems: &mut Problems) -> Option<&str> {
        let text = self.text(key);
        if text.is_none() {
            problems.add(format!("{} is missing", key.as_str()));
        }
        text
    }

    /// The text of a credential; `None` if it is absent or empty.
    pub fn secret(&self, key: K) -> Option<SecretString> {
        self.text(key).map(SecretString::from)
    }

    /// A boolean, in the spellings of Go's `ParseBool`.
    pub fn boolean(&self, key: K, problems: &mut Problems) -> Option<bool> {
        self.parsed(key, problems, parse_bool)
    }

    /// A duration: a number of seconds, or numbers with units as in `1m30s` or `1.5s`.
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

    /// The settings that are set.
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
