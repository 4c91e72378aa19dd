//! Habits of one server, as this process has met them: what later requests take into account, and what `kms check -v`
//! shows.
//!
//! The code that meets a habit stores it here; the table in the README says what we do with each.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::debug;

use crate::{label::Shape, message::Operation};

/// The number of connections in a row that end after one response, until none are kept any more.
const ENOUGH_ENDS: u8 = 2;

/// Whether the server responds to all operations of one request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Batches {
    #[default]
    Unknown,
    Supported,
    Unsupported,
}

/// What the server does with a connection after a response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Connections {
    /// No connection is known to have answered twice. The number counts connections that ended after one response.
    Unknown(u8),
    /// The server keeps connections: one has answered twice, and none was lost since.
    Kept,
    /// The server closes each connection after its first response.
    Closed,
}

impl Default for Connections {
    fn default() -> Self {
        Self::Unknown(0)
    }
}

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
    /// The shape of the last object that the server has accepted and kept.
    shape: Option<Shape>,
    batches: Batches,
    /// The operations after which the server does not know the object (the ID placeholder).
    unchained: Vec<Operation>,
    connections: Connections,
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

    /// The shape of the last object that the server has accepted and kept.
    pub(crate) fn shape(&self) -> Option<Shape> {
        self.seen().shape
    }

    /// Stores the shape that the server has accepted and kept, and returns whether it differs from the previous shape.
    pub(crate) fn set_shape(&self, shape: Shape) -> bool {
        self.seen().shape.replace(shape) != Some(shape)
    }

    /// Whether the server responds to all operations of one request.
    pub(crate) fn batches(&self) -> Batches {
        self.seen().batches
    }

    pub(crate) fn set_batches(&self, batches: Batches) {
        debug!(?batches, "whether the server responds to all operations of one request");
        self.seen().batches = batches;
    }

    /// Whether an operation after `operation` in the same request may leave out its object.
    pub(crate) fn chains(&self, operation: Operation) -> bool {
        !self.seen().unchained.contains(&operation)
    }

    /// The server does not know the object of `operation` in the next operation of the same request.
    pub(crate) fn set_unchained(&self, operation: Operation) {
        debug!(operation = operation.as_str(), "the server does not know the object of the operation before");
        self.seen().unchained.push(operation);
    }

    /// What the server does with a connection after a response.
    pub(crate) fn connections(&self) -> Connections {
        self.seen().connections
    }

    /// A connection has answered twice.
    pub(crate) fn set_kept(&self) {
        self.seen().connections = Connections::Kept;
    }

    /// A connection has ended after `answers` responses.
    pub(crate) fn set_ended(&self, answers: u32) {
        let connections = &mut self.seen().connections;
        *connections = match *connections {
            Connections::Closed => Connections::Closed,
            Connections::Unknown(ends) if answers == 1 && ends + 1 >= ENOUGH_ENDS => {
                debug!("the server closes each connection after a response; connections are no longer kept");
                Connections::Closed
            }
            Connections::Unknown(ends) if answers == 1 => Connections::Unknown(ends + 1),
            Connections::Unknown(_) | Connections::Kept => Connections::Unknown(0),
        };
    }

    /// What was seen, for a person.
    pub(crate) fn describe(&self) -> Vec<(&'static str, String)> {
        let Seen {
            identifiers,
            limit,
            total,
            offset,
            dates,
            renames,
            needs_revoke,
            shape,
            batches,
            unchained,
            connections,
        } = self.seen().clone();
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
            ("objects", shape.map_or_else(|| "not seen".to_owned(), Shape::describe)),
            ("requests", describe_requests(batches, &unchained)),
            ("connections", describe_connections(connections).to_owned()),
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

fn describe_requests(batches: Batches, unchained: &[Operation]) -> String {
    let batches = match batches {
        Batches::Unknown => return "not seen".to_owned(),
        Batches::Unsupported => return "one operation each".to_owned(),
        Batches::Supported => "several operations each",
    };
    let chains = [Operation::Locate, Operation::Register].map(|operation| {
        let verb = if unchained.contains(&operation) { "may not" } else { "may" };
        format!("{} {verb} leave out its object", operation.as_str())
    });
    format!("{batches}; an operation after {}", chains.join(", after "))
}

fn describe_connections(connections: Connections) -> &'static str {
    match connections {
        Connections::Unknown(_) => "not seen",
        Connections::Kept => "kept after a response",
        Connections::Closed => "closed by the server after each response",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_closes_each_connection_if_two_in_a_row_end_after_one_response() {
        let after = |ends: &[u32]| {
            let habits = Habits::default();
            ends.iter().for_each(|answers| habits.set_ended(*answers));
            habits.connections()
        };
        assert_eq!(after(&[1]), Connections::Unknown(1));
        assert_eq!(after(&[1, 1]), Connections::Closed);
        assert_eq!(after(&[1, 1, 5]), Connections::Closed);
        assert_eq!(after(&[1, 7]), Connections::Unknown(0));
        assert_eq!(after(&[1, 7, 1]), Connections::Unknown(1));
    }
}
