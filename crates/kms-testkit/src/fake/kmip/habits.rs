//! The table of habits: each habit of a server that some vendor's server has, and what it forces.

use std::time::Duration;

use super::quirks::{Batch, Continuation, Filter, Keeps, Order, Pace, Quirks};

/// What the suite may expect of a provider without an index on a server with a habit. With an index, everything works.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_enums, reason = "these are all outcomes")]
pub enum Unindexed {
    /// Every case passes.
    Works,
    /// The first write is refused, with this in the error.
    Refused(&'static str),
    /// Every case passes but the ones with these words in their errors.
    Limited(&'static [&'static str]),
    /// A write takes seconds, since our own clock has to measure what the server's does not tell.
    Waits,
}

/// A habit of a server.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Habit {
    /// What the server does.
    pub name: &'static str,
    /// Sets its switches.
    pub set: fn(&mut Quirks),
    /// What it forces without an index.
    pub unindexed: Unindexed,
}

impl Habit {
    /// A server with this habit alone, which speaks one version.
    #[must_use]
    pub fn quirks(self, version: (i32, i32)) -> Quirks {
        let mut quirks = Quirks { versions: vec![version], ..Quirks::default() };
        (self.set)(&mut quirks);
        quirks
    }
}

const fn works(name: &'static str, set: fn(&mut Quirks)) -> Habit {
    Habit { name, set, unindexed: Unindexed::Works }
}

const fn refused(name: &'static str, words: &'static str, set: fn(&mut Quirks)) -> Habit {
    Habit { name, set, unindexed: Unindexed::Refused(words) }
}

const fn waits(name: &'static str, set: fn(&mut Quirks)) -> Habit {
    Habit { name, set, unindexed: Unindexed::Waits }
}

/// Every habit alone, and all together that fit together.
pub const HABITS: &[Habit] = &[
    works("no habit", |_| {}),
    // Identifiers, clock, dates.
    works("identifiers are UUIDs", |q| q.uuids = true),
    works("identifiers are random decimal numbers", |q| q.random_numbers = true),
    works("a clock that steps with each request", |q| q.clock = Pace::Step(Duration::from_millis(250))),
    works("no time stamp in errors", |q| q.zero_time = true),
    waits("no time stamp", |q| (q.no_time_stamp, q.clock) = (true, Pace::Real)),
    waits("a clock that stands still", |q| q.clock = Pace::Stopped),
    refused("no Initial Date", "Initial Date", |q| q.no_initial_date = true),
    works("no Object Type among the attributes", |q| q.no_object_type = true),
    // Versions and errors.
    works("no Discover Versions", |q| q.no_discovery = true),
    works("Discover Versions in every version", |q| q.discovery_at_1_0 = true),
    works("unknown minor versions are accepted", |q| q.lenient_versions = true),
    works("errors repeat the version of the request", |q| q.echo_version = true),
    works("errors without operation and batch id", |q| q.bare_errors = true),
    works("Wrong Key Lifecycle State", |q| q.lifecycle_reason = true),
    works("destroyed objects keep their attributes", |q| q.destroyed_reason = true),
    works("a second Destroy succeeds", |q| q.destroy_twice = true),
    works("Object Not Found", |q| q.later_not_found = true),
    works("no empty payloads", |q| q.no_empty_payload = true),
    // States.
    works("objects are active from the beginning", |q| q.born_active = true),
    works("Get needs an active object", |q| q.get_needs_active = true),
    works("no Revoke", |q| q.no_revoke = true),
    works("no Modify Attribute", |q| q.no_modify = true),
    works("names cannot be modified", |q| q.no_rename = true),
    works("neither Modify Attribute nor Revoke", |q| (q.no_modify, q.no_revoke) = (true, true)),
    works("Destroy needs a deactivated object", |q| q.destroy_needs_deactivated = true),
    // Attributes.
    works("no Application Specific Information", |q| q.no_application = true),
    works("one value of Application Specific Information", |q| q.one_application = true),
    works("the first Application Specific Information is kept", |q| q.applications = Keeps::First),
    works("the last Application Specific Information is kept", |q| q.applications = Keeps::Last),
    works("Application Specific Information is dropped", |q| q.applications = Keeps::Nothing),
    works("one name", |q| q.one_name = true),
    Habit {
        name: "names are unique",
        set: |q| q.unique_names = true,
        unindexed: Unindexed::Limited(&["names are unique there"]),
    },
    works("the first name is kept", |q| q.names = Keeps::First),
    works("the last name is kept", |q| q.names = Keeps::Last),
    refused("names are dropped", "name", |q| q.names = Keeps::Nothing),
    works("the first of two names is kept, and no Application Specific Information", |q| {
        (q.no_application, q.names) = (true, Keeps::First);
    }),
    works("the last of two names is kept, and Application Specific Information is dropped", |q| {
        (q.applications, q.names) = (Keeps::Nothing, Keeps::Last);
    }),
    works("the last value of each attribute is kept", |q| {
        (q.applications, q.names, q.groups) = (Keeps::Last, Keeps::Last, Keeps::Last);
    }),
    works("no Object Group", |q| q.no_group = true),
    works("Object Group is dropped", |q| q.groups = Keeps::Nothing),
    works("keys of 256 bits", |q| q.longest_key = Some(256)),
    refused("what Rook writes and nothing else", "form", |q| (q.only_rooks, q.no_names) = (true, true)),
    // Locate.
    works("Locate ignores its filter", |q| q.locate_ignores_filter = true),
    works("Locate fails if it finds nothing", |q| q.locate_not_found = true),
    works("Locate tells the total", |q| q.located_items = true),
    works("Locate returns seven identifiers at most", |q| q.locate_limit = Some(7)),
    works("Locate ignores Maximum Items and Offset Items", |q| {
        (q.ignores_maximum, q.ignores_offset) = (true, true);
    }),
    works("Locate returns the newest first", |q| q.order = Order::Newest),
    works("Locate returns objects in any order", |q| q.order = Order::Random),
    works("Locate ignores State", |q| q.filter_state = Filter::Ignored),
    works("Locate refuses State", |q| q.filter_state = Filter::Refused),
    works("Locate ignores Object Type", |q| q.filter_type = Filter::Ignored),
    works("Locate refuses Object Type", |q| q.filter_type = Filter::Refused),
    works("Locate ignores Initial Date", |q| q.filter_date = Filter::Ignored),
    works("Locate refuses Initial Date", |q| q.filter_date = Filter::Refused),
    works("Locate ignores Object Group", |q| q.filter_group = Filter::Ignored),
    works("Locate refuses Object Group", |q| q.filter_group = Filter::Refused),
    // Batches and connections.
    works("no batches", |q| q.batch = Batch::Unsupported),
    works("a batch is an invalid message", |q| q.batch = Batch::Invalid),
    works("of a batch only the first item is executed", |q| q.batch = Batch::FirstOnly),
    works("a batch closes the connection", |q| q.batch = Batch::Closed),
    works("no ID placeholder", |q| q.no_placeholder = true),
    works("a batch goes on after an error", |q| q.continuation = Continuation::Always),
    works("a batch stops at an error", |q| q.continuation = Continuation::Never),
    works("no batch item ids", |q| q.no_batch_ids = true),
    works("results in the reverse order", |q| q.batch_reversed = true),
    works("Maximum Response Size is ignored", |q| q.ignores_response_size = true),
    works("connections are closed after each response", |q| q.closes_after_each_answer = true),
    works("all that fit together", |q| {
        *q = Quirks {
            versions: q.versions.clone(),
            clock: q.clock,
            no_rename: true,
            applications: Keeps::Last,
            names: Keeps::Last,
            no_group: true,
            no_object_type: true,
            ignores_maximum: true,
            ignores_offset: true,
            filter_type: Filter::Ignored,
            filter_state: Filter::Ignored,
            filter_date: Filter::Ignored,
            order: Order::Random,
            no_placeholder: true,
            continuation: Continuation::Always,
            no_batch_ids: true,
            ignores_response_size: true,
            ..Quirks::unlike_pykmip()
        };
    }),
];
