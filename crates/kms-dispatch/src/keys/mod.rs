//! The settings of the providers (spec 1.8).
//!
//! Those of a provider that is there are from its crate. The others are here until their providers are written: a
//! `security` block that names one of them is checked like any other, so that its mistakes are found today and not on the day
//! when the provider arrives.

pub mod azure;

use kms_core::config::{ConfigKey, Problems, Settings, Support};
#[cfg(feature = "ibmkp")]
pub use kms_ibmkp::IbmKpConfigKey;
#[cfg(feature = "kmip")]
pub use kms_kmip::KmipConfigKey;
#[cfg(feature = "vault")]
pub use kms_vault::VaultConfigKey;

pub use self::azure::AzureConfigKey;

/// The entry of `connectionDetails` that belongs to no provider, since it names one.
pub(crate) const KMS_PROVIDER: &str = "KMS_PROVIDER";

/// Everything that is to be said of one setting, so that each enum is one table.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    aliases: &'static [&'static str],
    secret: bool,
    doc: &'static str,
    support: Support,
}

impl Row {
    const fn new(name: &'static str, doc: &'static str) -> Self {
        Self { name, aliases: &[], secret: false, doc, support: Support::Supported }
    }

    const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    const fn no_effect(mut self, why: &'static str) -> Self {
        self.support = Support::NoEffect(why);
        self
    }
}

/// Makes an enum with a `row` method a [`ConfigKey`].
macro_rules! config_key {
    ($key:ty, [$($variant:ident),* $(,)?]) => {
        impl kms_core::config::ConfigKey for $key {
            const ALL: &'static [Self] = &[$(Self::$variant),*];

            fn as_str(self) -> &'static str {
                self.row().name
            }

            fn aliases(self) -> &'static [&'static str] {
                self.row().aliases
            }

            fn is_secret(self) -> bool {
                self.row().secret
            }

            fn doc(self) -> &'static str {
                self.row().doc
            }

            fn support(self) -> kms_core::config::Support {
                self.row().support
            }
        }
    };
}
use config_key;

/// Notes a URL that is not one of HTTPS: credentials travel over TLS only.
fn https_url<K: ConfigKey>(settings: &Settings<K>, key: K, problems: &mut Problems) {
    let Some(url) = settings.text(key) else { return };
    let host =
        url.strip_prefix("https://").map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    match host {
        Some("") => problems.add(format!("{} has no host", key.as_str())),
        Some(host) if host.contains('@') => {
            problems.add(format!("{} has a user name in it, which is not supported", key.as_str()));
        }
        Some(_) => {}
        None => problems.add(format!("{} does not begin with https://", key.as_str())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn every_name_leads_to_its_setting<K: ConfigKey>() {
        let mut seen = BTreeSet::new();
        for key in K::ALL.iter().copied() {
            for name in std::iter::once(key.as_str()).chain(key.aliases().iter().copied()) {
                assert_eq!(K::find(name), Some(key), "{name}");
                assert_eq!(K::find(&name.to_ascii_lowercase()), Some(key), "{name}");
                assert!(seen.insert(name), "{name} is there twice");
            }
            assert!(key.doc().ends_with('.'), "{key:?}");
        }
        assert!(K::ALL.is_sorted(), "{:?}", K::ALL);
    }

    #[test]
    fn names_and_aliases_are_unique_and_found() {
        every_name_leads_to_its_setting::<AzureConfigKey>();
    }
}
