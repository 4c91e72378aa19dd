//! The habits of servers, as switches of the double.

use std::time::Duration;

/// Differences between a server and PyKMIP. All are off by default.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "tests set what they need and take the rest from the default")]
pub struct Quirks {
    /// The supported versions.
    pub versions: Vec<(i32, i32)>,
    /// Discover Versions is unknown in every version.
    pub no_discovery: bool,
    /// Discover Versions works in 1.0 too.
    pub discovery_at_1_0: bool,
    /// An unknown minor version is accepted.
    pub lenient_versions: bool,
    /// The header of an error repeats the version of the request; otherwise it has 1.0.
    pub echo_version: bool,
    /// The time stamp of an error is 0.
    pub zero_time: bool,
    /// The time stamp of every response is 0.
    pub no_time_stamp: bool,
    /// How the double's clock goes, which time stamps and initial dates come from. A hundred times as fast as real time
    /// by default, since a writer without an index waits for it.
    pub clock: Pace,
    /// Errors have neither operation nor batch id.
    pub bare_errors: bool,
    /// An operation that the state of the object forbids gets Wrong Key Lifecycle State.
    pub lifecycle_reason: bool,
    /// Get after Destroy gets Object Destroyed, and the attributes of the object remain.
    pub destroyed_reason: bool,
    /// A second Destroy succeeds.
    pub destroy_twice: bool,
    /// Only objects that Revoke has deactivated can be destroyed.
    pub destroy_needs_deactivated: bool,
    /// An unknown object gets Object Not Found.
    pub later_not_found: bool,
    /// Identifiers are random UUIDs.
    pub uuids: bool,
    /// Identifiers are random decimal numbers.
    pub random_numbers: bool,
    /// Objects are active from the beginning.
    pub born_active: bool,
    /// Get returns active objects only.
    pub get_needs_active: bool,
    /// Revoke gets Permission Denied.
    pub no_revoke: bool,
    /// Modify Attribute is unknown.
    pub no_modify: bool,
    /// Modify Attribute gets Permission Denied for a name.
    pub no_rename: bool,
    /// Application Specific Information is refused.
    pub no_application: bool,
    /// A second value of Application Specific Information is refused.
    pub one_application: bool,
    /// Which values of Application Specific Information an accepted Register keeps.
    pub applications: Keeps,
    /// An object has one name at most.
    pub one_name: bool,
    /// Which names an accepted Register keeps.
    pub names: Keeps,
    /// Names are refused.
    pub no_names: bool,
    /// Names are unique.
    pub unique_names: bool,
    /// Object Group is refused.
    pub no_group: bool,
    /// Which values of Object Group an accepted Register keeps.
    pub groups: Keeps,
    /// Get Attributes returns no Initial Date.
    pub no_initial_date: bool,
    /// Get Attributes returns no Object Type.
    pub no_object_type: bool,
    /// Register accepts only Rook's objects: Opaque, with a length of 256.
    pub only_rooks: bool,
    /// Register gets this Result Reason, whatever its form.
    pub register_fails: Option<u32>,
    /// The longest symmetric key, in bits.
    pub longest_key: Option<usize>,
    /// Register takes effect late, after up to this time of the double's clock, which must not stand still.
    pub late_register: Duration,
    /// Locate ignores its filter and returns every object.
    pub locate_ignores_filter: bool,
    /// Locate gets Item Not Found if no object fits.
    pub locate_not_found: bool,
    /// Locate returns so many identifiers at most.
    pub locate_limit: Option<usize>,
    /// Locate returns Located Items, from 1.3 on.
    pub located_items: bool,
    /// Locate ignores Maximum Items.
    pub ignores_maximum: bool,
    /// Locate ignores Offset Items.
    pub ignores_offset: bool,
    /// How Locate filters by Object Type.
    pub filter_type: Filter,
    /// How Locate filters by State.
    pub filter_state: Filter,
    /// How Locate filters by Initial Date: one value is that second, two values are a range with both ends.
    pub filter_date: Filter,
    /// How Locate filters by Object Group.
    pub filter_group: Filter,
    /// The order of the identifiers that Locate returns.
    pub order: Order,
    /// What a request with several batch items gets.
    pub batch: Batch,
    /// Whether the items after a failed one are executed.
    pub continuation: Continuation,
    /// A batch has no ID placeholder: an item without an identifier gets Missing Data.
    pub no_placeholder: bool,
    /// Responses have no batch item ids.
    pub no_batch_ids: bool,
    /// The results of a batch are in the reverse order of its items.
    pub batch_reversed: bool,
    /// Maximum Response Size is ignored.
    pub ignores_response_size: bool,
    /// Responses omit empty payloads.
    pub no_empty_payload: bool,
    /// The connection is closed after each response.
    pub closes_after_each_answer: bool,
    /// The same, but the client has sent its next request before it learns of the close. That request has no effect.
    pub closes_late: bool,
    /// A front end with a dead backend: the connection is closed after the TLS handshake.
    pub dead_backend: bool,
    /// The server reads nothing after the TLS handshake. Set it before the start: it gets a small receive buffer too.
    pub deaf: bool,
    /// Connections are closed once they have been idle for this time of the double's clock. The double looks when a
    /// test moves the clock.
    pub idle_close: Option<Duration>,
}

impl Quirks {
    /// A server whose versions, headers, errors, states and identifiers differ from those of PyKMIP.
    #[must_use]
    pub fn unlike_pykmip() -> Self {
        Self {
            discovery_at_1_0: true,
            lenient_versions: true,
            echo_version: true,
            zero_time: true,
            bare_errors: true,
            lifecycle_reason: true,
            destroyed_reason: true,
            destroy_twice: true,
            later_not_found: true,
            uuids: true,
            born_active: true,
            locate_not_found: true,
            no_empty_payload: true,
            ..Self::default()
        }
    }
}

impl Default for Quirks {
    fn default() -> Self {
        Self {
            versions: vec![(2, 0), (1, 4), (1, 3), (1, 2), (1, 1), (1, 0)],
            no_discovery: false,
            discovery_at_1_0: false,
            lenient_versions: false,
            echo_version: false,
            zero_time: false,
            no_time_stamp: false,
            clock: Pace::Times(100),
            bare_errors: false,
            lifecycle_reason: false,
            destroyed_reason: false,
            destroy_twice: false,
            destroy_needs_deactivated: false,
            later_not_found: false,
            uuids: false,
            random_numbers: false,
            born_active: false,
            get_needs_active: false,
            no_revoke: false,
            no_modify: false,
            no_rename: false,
            no_application: false,
            one_application: false,
            applications: Keeps::All,
            one_name: false,
            names: Keeps::All,
            no_names: false,
            unique_names: false,
            no_group: false,
            groups: Keeps::All,
            no_initial_date: false,
            no_object_type: false,
            only_rooks: false,
            register_fails: None,
            longest_key: None,
            late_register: Duration::ZERO,
            locate_ignores_filter: false,
            locate_not_found: false,
            locate_limit: None,
            located_items: false,
            ignores_maximum: false,
            ignores_offset: false,
            filter_type: Filter::Honoured,
            filter_state: Filter::Honoured,
            filter_date: Filter::Honoured,
            filter_group: Filter::Honoured,
            order: Order::Oldest,
            batch: Batch::Executed,
            continuation: Continuation::AsAsked,
            no_placeholder: false,
            no_batch_ids: false,
            batch_reversed: false,
            ignores_response_size: false,
            no_empty_payload: false,
            closes_after_each_answer: false,
            closes_late: false,
            dead_backend: false,
            deaf: false,
            idle_close: None,
        }
    }
}

/// How the double's clock goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "these are all paces of the double")]
pub enum Pace {
    /// As fast as real time.
    Real,
    /// So many times as fast as real time.
    Times(u32),
    /// It moves only when a test [moves it](super::KmipDouble::advance).
    Stopped,
    /// By this step with each request.
    Step(Duration),
}

impl Pace {
    /// How many times as fast as real time.
    pub(super) fn factor(self) -> u32 {
        match self {
            Self::Real => 1,
            Self::Times(factor) => factor,
            Self::Stopped | Self::Step(_) => 0,
        }
    }
}

/// Which of several values of an attribute an accepted Register keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "these are all habits of the double")]
pub enum Keeps {
    /// All values.
    All,
    /// The first value only.
    First,
    /// The last value only.
    Last,
    /// No value at all.
    Nothing,
}

impl Keeps {
    /// Drops the values that the server does not keep.
    pub(super) fn apply<T>(self, values: &mut Vec<T>) {
        match self {
            Self::All => {}
            Self::First => values.truncate(1),
            Self::Last => drop(values.drain(..values.len().saturating_sub(1))),
            Self::Nothing => values.clear(),
        }
    }
}

/// What Locate does with an attribute of its filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "these are all habits of the double")]
pub enum Filter {
    /// It returns only the objects that fit.
    Honoured,
    /// It returns the objects whatever their value.
    Ignored,
    /// It gets Invalid Field.
    Refused,
}

/// The order of located objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "these are all habits of the double")]
pub enum Order {
    /// The oldest object first.
    Oldest,
    /// The newest object first.
    Newest,
    /// Another order each time.
    Random,
}

/// What a request with several batch items gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "these are all habits of the double")]
pub enum Batch {
    /// Each item is executed.
    Executed,
    /// One result, Operation Not Supported.
    Unsupported,
    /// One result, Invalid Message.
    Invalid,
    /// Only the first item is executed and answered.
    FirstOnly,
    /// The connection is closed without a response.
    Closed,
}

/// Whether the items of a batch after a failed one are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "these are all habits of the double")]
pub enum Continuation {
    /// As Batch Error Continuation Option says: not, unless it is Continue.
    AsAsked,
    /// In every case.
    Always,
    /// In no case.
    Never,
}
