//! The KEKs that a server still has for one key: the current one, superseded ones, and deleted ones.

use std::time::SystemTime;

use crate::{Kek, KeyVersion};

/// What a look at the history of a key may do on the server.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a provider that does not know a new mode must not compile")]
pub enum HistoryMode {
    /// Reads only. The KEK of a deleted version stays unknown where the server gives it out only after a change.
    #[default]
    ReadOnly,
    /// Also brings back deleted and disabled versions for the time that reading them takes, and deletes or disables
    /// them again. A caller that is killed in between leaves them readable.
    Restore,
}

/// The state of one version of a key.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum KekState {
    /// The version that [`KmsProvider::get`](crate::KmsProvider::get) returns.
    Current,
    /// A version that a later one has replaced.
    Superseded,
    /// A version that is deleted or disabled, and that the server can still bring back.
    Deleted,
}

impl KekState {
    /// The stable name, as in JSON output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Superseded => "superseded",
            Self::Deleted => "deleted",
        }
    }
}

/// One version of a key that the server still has.
#[derive(Debug)]
#[non_exhaustive]
pub struct PastKek {
    /// The KEK. `None` if the version is deleted and was not brought back, or if its value is not a KEK.
    pub kek: Option<Kek>,
    /// The version.
    pub version: KeyVersion,
    /// When the version was stored, if the provider knows.
    pub stored: Option<SystemTime>,
    /// Whether the version is current, superseded or deleted.
    pub state: KekState,
}

impl PastKek {
    /// A version without a KEK and a time.
    pub fn new(version: KeyVersion, state: KekState) -> Self {
        Self { kek: None, version, stored: None, state }
    }

    /// Sets the KEK; `None` if it cannot be read.
    #[must_use]
    pub fn with_kek(mut self, kek: Option<Kek>) -> Self {
        self.kek = kek;
        self
    }

    /// Sets the time at which the version was stored; `None` if it is unknown.
    #[must_use]
    pub fn with_stored(mut self, stored: Option<SystemTime>) -> Self {
        self.stored = stored;
        self
    }
}
