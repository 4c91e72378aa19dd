//! Habits of one server, as this process has met them, for `kms check -v`.
//!
//! The code that meets a habit stores it here; the table in the README says what we do with each.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What was seen of a server. `None`: not seen yet.
#[derive(Clone, Debug, Default)]
struct Seen {
    identifiers: Option<&'static str>,
    limit: Option<usize>,
    total: Option<bool>,
    offset: Option<bool>,
    dates: Option<bool>,
    renames: Option<bool>,
    needs_revoke: Option<bool>,
}

/// The habits of one server.
#[derive(Debug, Default)]
pub(crate) struct Habits(Mutex<Seen>);

impl Habits {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server has returned this many identifiers to a Locate, and had more.
    pub(crate) fn set_limit(&self, count: usize) {
        self.seen().limit = Some(count);
    }

    /// Whether a response to Locate has Located Items.
    pub(crate) fn set_total(&self, is_given: bool) {
        self.seen().total = Some(is_given);
    }

    /// Whether the server honours Offset Items.
    pub(crate) fn set_offset(&self, is_honoured: bool) {
        self.seen().offset = Some(is_honoured);
    }

    /// Whether the server filters by ranges of Initial Date.
    pub(crate) fn set_dates(&self, are_honoured: bool) {
        self.seen().dates = Some(are_honoured);
    }

    /// Whether a search that was cut short may be completed. `false` if the server was seen to ignore what completes it.
    pub(crate) fn may_narrow(&self, has_offset: bool) -> bool {
        let Seen { offset, dates, .. } = *self.seen();
        dates != Some(false) || (has_offset && offset != Some(false))
    }

    /// Whether the server renames objects with Modify Attribute.
    pub(crate) fn set_renames(&self, does: bool) {
        self.seen().renames = Some(does);
    }

    /// Whether the server has refused to destroy an object in its first state.
    pub(crate) fn set_needs_revoke(&self, does: bool) {
        self.seen().needs_revoke = Some(does);
    }

    /// What was seen, for a person.
    pub(crate) fn describe(&self) -> Vec<(&'static str, String)> {
        let Seen { identifiers, limit, total, offset, dates, renames, needs_revoke } = self.seen().clone();
        let which = |known: Option<bool>, yes: &str, no: &str| match known {
            Some(true) => yes.to_owned(),
            Some(false) => no.to_owned(),
            None => "not seen".to_owned(),
        };
        let limit = limit.map_or_else(
            || "no response was cut short".to_owned(),
            |limit| format!("responses are cut at {limit} identifiers"),
        );
        let total = which(total, "with the number of all", "without the number of all");
        let offset = which(offset, "honoured", "ignored");
        let dates = which(dates, "honoured", "ignored");
        vec![
            ("identifiers", identifiers.unwrap_or("not seen").to_owned()),
            ("Locate", format!("{limit}, {total}; Offset Items: {offset}; ranges of dates: {dates}")),
            ("Modify Attribute", which(renames, "renames superseded objects", "refused")),
            ("Destroy", which(needs_revoke, "needs a revocation first", "works at once")),
        ]
    }

    /// An identifier that the server has given to an object.
    pub(crate) fn set_identifier(&self, uid: &str) {
        let is_uuid = uid.len() == 36 && uid.bytes().filter(|byte| *byte == b'-').count() == 4;
        self.seen().identifiers = Some(if uid.bytes().all(|byte| byte.is_ascii_digit()) {
            "numbers"
        } else if is_uuid {
            "UUIDs"
        } else {
            "other texts"
        });
    }
}
