//! The capabilities of a provider.

/// How strong the guarantee of a conditional write is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Guarantee {
    /// The server decides: of two writers at the same time, one fails.
    Atomic,
    /// The provider reads, compares and writes: two writers at the same moment may both succeed, and the later one
    /// wins.
    CheckThenAct,
    /// Not possible.
    Unsupported,
}

impl Guarantee {
    /// The stable name, as in JSON output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Atomic => "atomic",
            Self::CheckThenAct => "check-then-act",
            Self::Unsupported => "unsupported",
        }
    }
}

/// Whether an update of a key would be allowed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum UpdateRight {
    /// The server says that it would allow the update.
    Granted,
    /// The server says that our account lacks the right to update.
    Denied,
    /// The server has no way to ask, or does not answer. Only an update itself will show.
    Unknown,
}

/// What a provider can do. Every other operation fails with `Unsupported` before any I/O.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Capability {
    /// The guarantee of [`PutMode::Create`](crate::PutMode::Create).
    pub create: Guarantee,
    /// The guarantee of [`PutMode::Update`](crate::PutMode::Update), which a rotation needs.
    pub update: Guarantee,
    /// Whether keys can be listed.
    pub list: bool,
    /// Whether [`DeleteMode::Soft`](crate::DeleteMode::Soft) is possible, and
    /// [`KmsProvider::undelete`](crate::KmsProvider::undelete) after it.
    pub soft_delete: bool,
    /// Whether the server keeps superseded versions of a key, and can destroy them.
    pub versions: bool,
    /// Whether [`KmsProvider::history`](crate::KmsProvider::history) is possible. Without [`versions`](Self::versions)
    /// it has the current KEK alone.
    pub history: bool,
    /// Whether [`Freshness::Fresh`](crate::Freshness::Fresh) reads are possible.
    pub fresh_reads: bool,
    /// The largest KEK that can be stored, in bytes.
    pub max_kek_bytes: usize,
    /// Whether a KEK must be canonical base64, since the server stores the decoded bytes.
    /// A put of any other text fails with `ConfigInvalid` before any I/O.
    pub base64_only: bool,
}

impl Capability {
    /// Every capability. An implementer switches off what its provider cannot do.
    pub const fn full() -> Self {
        Self {
            create: Guarantee::Atomic,
            update: Guarantee::Atomic,
            list: true,
            soft_delete: true,
            versions: true,
            history: true,
            fresh_reads: true,
            max_kek_bytes: crate::Kek::MAX_BYTES,
            base64_only: false,
        }
    }

    /// Sets the guarantee of creates.
    #[must_use]
    pub const fn with_create(mut self, create: Guarantee) -> Self {
        self.create = create;
        self
    }

    /// Sets the guarantee of updates.
    #[must_use]
    pub const fn with_update(mut self, update: Guarantee) -> Self {
        self.update = update;
        self
    }

    /// Sets whether keys can be listed.
    #[must_use]
    pub const fn with_list(mut self, list: bool) -> Self {
        self.list = list;
        self
    }

    /// Sets whether soft deletes are possible.
    #[must_use]
    pub const fn with_soft_delete(mut self, soft_delete: bool) -> Self {
        self.soft_delete = soft_delete;
        self
    }

    /// Sets whether the server keeps superseded versions.
    #[must_use]
    pub const fn with_versions(mut self, versions: bool) -> Self {
        self.versions = versions;
        self
    }

    /// Sets whether the KEKs that the server still has can be read.
    #[must_use]
    pub const fn with_history(mut self, history: bool) -> Self {
        self.history = history;
        self
    }

    /// Sets whether fresh reads are possible.
    #[must_use]
    pub const fn with_fresh_reads(mut self, fresh_reads: bool) -> Self {
        self.fresh_reads = fresh_reads;
        self
    }

    /// Sets the size of the largest KEK, in bytes.
    #[must_use]
    pub const fn with_max_kek_bytes(mut self, bytes: usize) -> Self {
        self.max_kek_bytes = bytes;
        self
    }

    /// Sets whether a KEK must be canonical base64.
    #[must_use]
    pub const fn with_base64_only(mut self, base64_only: bool) -> Self {
        self.base64_only = base64_only;
        self
    }
}
