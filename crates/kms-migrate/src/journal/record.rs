//! The lines of a journal. No line has a KEK, a fingerprint of one, or a credential.

use std::collections::BTreeMap;

use kms_core::{KeyName, Stored};
use serde::{Deserialize, Serialize};

/// The form of the journal, in its first line.
pub(super) const FORM: &str = "kms-migrate/1";

/// A place where keys are kept, as a journal tells places apart.
///
/// It has no credentials, so that new credentials do not make a new place.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Place {
    /// The provider, by its Cargo feature.
    pub provider: String,
    /// The namespace of the CephCluster, if it is known.
    pub kube_namespace: Option<String>,
    /// The settings that are not credentials.
    pub settings: BTreeMap<String, String>,
}

impl Place {
    /// A place without settings.
    pub fn new(provider: impl Into<String>, kube_namespace: Option<&str>) -> Self {
        Self {
            provider: provider.into(),
            kube_namespace: kube_namespace.map(str::to_owned),
            settings: BTreeMap::new(),
        }
    }

    /// Sets the settings. The caller leaves credentials out.
    #[must_use]
    pub fn with_settings<'a>(mut self, settings: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        self.settings =
            settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        self
    }

    /// The name of what differs between two places. `None` if they are the same.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let Self { provider, kube_namespace, settings } = self;
        if *provider != other.provider {
            return Some("the provider".to_owned());
        }
        if *kube_namespace != other.kube_namespace {
            return Some("the namespace of the CephCluster".to_owned());
        }
        let names = settings.keys().chain(other.settings.keys());
        names.into_iter().find(|name| settings.get(*name) != other.settings.get(*name)).cloned()
    }
}

/// How far a migration is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Keys are being copied. The source is in use.
    Copying,
    /// Both sides hold the same KEKs. The source is in use.
    Verified,
    /// The CephCluster is being switched: both sides may be in use.
    Switching,
    /// The CephCluster uses the target.
    Switched,
    /// Keys of the source are being deleted.
    Clearing,
    /// The keys of the source are deleted.
    Finished,
    /// Copies at the target are being deleted.
    Aborting,
    /// The copies at the target are deleted. The source is in use.
    Aborted,
}

impl Phase {
    /// The phase as one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Copying => "copying",
            Self::Verified => "verified",
            Self::Switching => "switching",
            Self::Switched => "switched",
            Self::Clearing => "clearing",
            Self::Finished => "finished",
            Self::Aborting => "aborting",
            Self::Aborted => "aborted",
        }
    }
}

/// What a line says of a key.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// The target has no such key, and this migration is about to create it.
    Creating,
    /// This migration has created the key at the target.
    Created,
    /// The target had the same KEK before.
    Found,
    /// This migration is about to replace a copy of its own, since the source has a new KEK.
    Renewing,
    /// This migration is about to replace another KEK.
    Replacing,
    /// This migration has replaced another KEK.
    Replaced,
    /// A fresh read of both sides has found the same KEK.
    Verified,
    /// This migration has deleted its copy at the target.
    Removed,
    /// This migration is about to delete the key at the source.
    Clearing,
    /// This migration has deleted the key at the source.
    Cleared,
}

/// The versions of a key on both sides. `None` if unknown, or if the version would show a fingerprint of the KEK.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Versions {
    /// At the source.
    pub source: Option<String>,
    /// At the target.
    pub target: Option<String>,
}

impl Versions {
    /// The versions of what was read or written.
    pub(crate) fn new(source: Option<String>, target: Option<String>) -> Self {
        Self { source, target }
    }
}

/// The version of a key as a journal may keep it. `None` if it contains the fingerprint of the KEK, as the versions of
/// KV version 1 do.
pub(crate) fn recorded(stored: &Stored) -> Option<String> {
    let version = stored.version.as_str();
    (!version.contains(&stored.kek.fingerprint())).then(|| version.to_owned())
}

/// A line.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, untagged)]
pub(super) enum Line {
    Header(Header),
    Key(KeyLine),
    Phase(PhaseLine),
}

/// The first line.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) journal: String,
    /// The name of the key that shows whether both sides are one place.
    pub(super) canary: String,
    pub(super) from: Place,
    pub(super) to: Place,
}

/// A line about a key.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct KeyLine {
    pub(super) name: String,
    pub(super) state: Mark,
    pub(super) source: Option<String>,
    pub(super) target: Option<String>,
}

/// A line about the whole migration.
#[derive(Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct PhaseLine {
    pub(super) phase: Phase,
}

/// What a journal says of one key.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Entry {
    /// The last mark about the copy at the target. `None` if only the source is marked.
    pub copy: Option<Mark>,
    /// The versions at the last mark about the copy. For an announced write, those before it.
    pub versions: Versions,
    /// The versions of the last comparison that found the same KEK.
    pub verified: Option<Versions>,
    /// Whether the key of the source is being deleted, or is deleted.
    pub cleared: Option<Mark>,
}

impl Entry {
    /// Adds a mark.
    pub(super) fn apply(&mut self, mark: Mark, versions: Versions) {
        match mark {
            Mark::Verified => self.verified = Some(versions),
            Mark::Clearing | Mark::Cleared => self.cleared = Some(mark),
            _ => {
                self.copy = Some(mark);
                self.versions = versions;
                self.verified = None;
            }
        }
    }

    /// Whether this migration has created the key at the target, or may have done so before it was killed.
    pub fn is_own_copy(&self) -> bool {
        matches!(self.copy, Some(Mark::Creating | Mark::Created | Mark::Renewing))
    }
}

impl KeyLine {
    pub(super) fn new(name: &KeyName, state: Mark, versions: &Versions) -> Self {
        let Versions { source, target } = versions.clone();
        Self { name: name.as_str().to_owned(), state, source, target }
    }
}

#[cfg(test)]
mod tests {
    use kms_core::{Kek, KeyVersion};

    use super::*;

    #[test]
    fn the_schema_of_a_line_is_up_to_date() {
        let title = "A line of the journal of kms migrate";
        kms_testkit::schema::check("migrate-journal", &kms_testkit::schema::of::<Line>(title));
    }

    #[test]
    fn a_version_that_shows_the_fingerprint_of_its_kek_is_not_recorded() {
        let kek = Kek::generate().unwrap();
        let version = format!("fingerprint-{}", kek.fingerprint());
        assert_eq!(recorded(&Stored::new(kek.duplicate(), KeyVersion::new(version.clone()))), None);
        let other = Kek::generate().unwrap();
        assert_eq!(recorded(&Stored::new(other, KeyVersion::new(version.clone()))), Some(version));
    }
}
