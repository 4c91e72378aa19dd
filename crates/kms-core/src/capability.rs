//! What a provider can do.

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
    /// The server says that it would be.
    Granted,
    /// The server says that our account lacks the right.
    Denied,
    /// The server cannot be asked, or does not say: only an update itself will show.
    Unknown,
}

/// What a provider can do. What it cannot do fails with `Unsupported` before any I/O.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Capability {
    /// How sure [`PutMode::Create`](crate::PutMode::Create) is.
    pub create: Guarantee,
    /// How sure [`PutMode::Update`](crate::PutMode::Update) is. Rotation needs it.
    pub update: Guarantee,
    /// Whether keys can be listed.
    pub list: bool,
    /// Whether [`DeleteMode::Soft`](crate::DeleteMode::Soft) is possible.
    pub soft_delete: bool,
    /// Whether superseded versions of a key stay on the server, and can be destroyed.
    pub versions: bool,
    /// Whether [`Freshness::Fresh`](crate::Freshness::Fresh) reads are possible.
    pub fresh_reads: bool,
    /// The largest KEK that can be stored, in bytes.
    pub max_kek_bytes: usize,
    /// Whether a KEK has to be base64 in its canonical form, since what is stored are the bytes that it stands for.
    /// Other texts are refused with `ConfigInvalid` before any I/O.
    pub base64_only: bool,
}

impl Capability {
    /// A provider that can do everything; take away from it what yours cannot.
    pub const fn full() -> Self {
        Self {
            create: Guarantee::Atomic,
            update: Guarantee::Atomic,
            list: true,
            soft_delete: true,
            versions: true,
            fresh_reads: true,
            max_kek_bytes: crate::Kek::MAX_BYTES,
            base64_only: false,
        }
    }

    /// The same with another guarantee for creating.
    #[must_use]
    pub const fn with_create(mut self, create: Guarantee) -> Self {
        self.create = create;
        self
    }

    /// The same with another guarantee for updating.
    #[must_use]
    pub const fn with_update(mut self, update: Guarantee) -> Self {
        self.update = update;
        self
    }

    /// The same with or without listing.
    #[must_use]
    pub const fn with_list(mut self, list: bool) -> Self {
        self.list = list;
        self
    }

    /// The same with or without soft deletion.
    #[must_use]
    pub const fn with_soft_delete(mut self, soft_delete: bool) -> Self {
        self.soft_delete = soft_delete;
        self
    }

    /// The same with or without superseded versions.
    #[must_use]
    pub const fn with_versions(mut self, versions: bool) -> Self {
        self.versions = versions;
        self
    }

    /// The same with or without fresh reads.
    #[must_use]
    pub const fn with_fresh_reads(mut self, fresh_reads: bool) -> Self {
        self.fresh_reads = fresh_reads;
        self
    }

    /// The same with another limit for KEKs.
    #[must_use]
    pub const fn with_max_kek_bytes(mut self, bytes: usize) -> Self {
        self.max_kek_bytes = bytes;
        self
    }

    /// The same for any text, or for canonical base64 alone.
    #[must_use]
    pub const fn with_base64_only(mut self, base64_only: bool) -> Self {
        self.base64_only = base64_only;
        self
    }
}
