//! Messages: header, batch items, and their results.

use super::{Engine, Refused};
use crate::fake::kmip::{
    codec::Node,
    quirks::{Batch, Continuation},
};

/// The codes of the operations of a request.
pub(in super::super) fn operations(request: &[Node]) -> Vec<u32> {
    let items = request.first().map(items).unwrap_or_default();
    items.into_iter().filter_map(operation).collect()
}

fn items(message: &Node) -> Vec<&Node> {
    message.nodes().iter().filter(|node| node.tag() == 0x42_000f).collect()
}

fn operation(item: &Node) -> Option<u32> {
    u32::try_from(item.number(0x42_005c)?).ok()
}

/// A version of the protocol in a message.
pub(super) fn protocol((major, minor): (i32, i32)) -> Node {
    Node::Struct(0x42_0069, vec![Node::Int(0x42_006a, major), Node::Int(0x42_006b, minor)])
}

impl Engine {
    /// Executes a request. `None` if the server closes the connection instead of a response.
    pub(in super::super) fn answer(&mut self, request: Option<&[Node]>) -> Option<Node> {
        self.clock.request(self.quirks.clock);
        self.placeholder = None;
        let message = request.and_then(<[Node]>::first);
        let header = message.and_then(|message| message.find(0x42_0077));
        let version = header.and_then(|header| header.find(0x42_0069)).and_then(|version| {
            Some((
                i32::try_from(version.number(0x42_006a)?).ok()?,
                i32::try_from(version.number(0x42_006b)?).ok()?,
            ))
        });
        let known = version.filter(|(major, minor)| {
            self.quirks.versions.contains(&(*major, *minor))
                || (self.quirks.lenient_versions
                    && self.quirks.versions.iter().any(|(known, _)| known == major))
        });
        let number = |tag| header.and_then(|header| header.number(tag));
        let batch = message.map(items).unwrap_or_default();
        let unparsed = || Err((0x04, "Error parsing request message."));
        let (results, failed) = match known {
            Some(version) if i64::try_from(batch.len()).ok() == number(0x42_000d) => {
                match (self.quirks.batch, batch.as_slice()) {
                    (_, []) => (vec![self.result(None, unparsed(), true)], true),
                    (Batch::Closed, [_, _, ..]) => return None,
                    (Batch::Unsupported, [_, _, ..]) => {
                        (vec![self.result(None, Err((0x05, "batches are not supported")), true)], true)
                    }
                    (Batch::Invalid, [_, _, ..]) => {
                        (vec![self.result(None, Err((0x04, "one batch item is expected")), true)], true)
                    }
                    (Batch::FirstOnly, [first, ..]) => self.execute(&[first], version, 2),
                    (_, all) => self.execute(all, version, number(0x42_000e).unwrap_or(2)),
                }
            }
            _ => (vec![self.result(batch.first().copied(), unparsed(), known.is_none())], true),
        };
        let spoken = if self.quirks.echo_version { version } else { known };
        let response = self.message(spoken.unwrap_or((1, 0)), results, failed);
        let limit = number(0x42_0050).and_then(|limit| usize::try_from(limit).ok());
        if limit.is_some_and(|limit| !self.quirks.ignores_response_size && response.write().len() > limit) {
            let result = self.result(None, Err((0x02, "the response is too large")), true);
            return Some(self.message(spoken.unwrap_or((1, 0)), vec![result], true));
        }
        Some(response)
    }

    /// Executes the items of a batch in their order. Also returns whether one has failed.
    fn execute(&mut self, items: &[&Node], version: (i32, i32), option: i64) -> (Vec<Node>, bool) {
        let goes_on = match self.quirks.continuation {
            Continuation::AsAsked => option == 1,
            Continuation::Always => true,
            Continuation::Never => false,
        };
        let (mut results, mut failed) = (Vec::new(), false);
        for item in items {
            // KMIP 1.4 §6.4: the id is required if there are several items.
            let named = items.len() < 2 || item.find(0x42_0093).is_some();
            let result = match (item.find(0x42_0079), operation(item)) {
                (Some(payload), Some(operation)) if named => self.act(operation, payload, version),
                _ => Err((0x04, "Error parsing request message.")),
            };
            let stops = result.is_err() && !goes_on;
            failed |= result.is_err();
            results.push(self.result(Some(item), result, false));
            if stops {
                break;
            }
        }
        if self.quirks.batch_reversed {
            results.reverse();
        }
        (results, failed)
    }

    /// The result of an item. `bare`: an error has neither operation nor id.
    fn result(&self, item: Option<&Node>, result: Result<Vec<Node>, Refused>, bare: bool) -> Node {
        let item = item.filter(|_| result.is_ok() || !(bare || self.quirks.bare_errors));
        let mut fields = Vec::new();
        if let Some(operation) = item.and_then(operation) {
            fields.push(Node::Enum(0x42_005c, operation));
        }
        let id = item.and_then(|item| item.find(0x42_0093)).filter(|_| !self.quirks.no_batch_ids);
        fields.extend(id.cloned());
        match result {
            Ok(payload) => {
                fields.push(Node::Enum(0x42_007f, 0));
                if !(payload.is_empty() && self.quirks.no_empty_payload) {
                    fields.push(Node::Struct(0x42_007c, payload));
                }
            }
            Err((reason, words)) => {
                fields.push(Node::Enum(0x42_007f, 1));
                fields.push(Node::Enum(0x42_007e, reason));
                fields.push(Node::Text(0x42_007d, words.to_owned()));
            }
        }
        Node::Struct(0x42_000f, fields)
    }

    fn message(&self, version: (i32, i32), results: Vec<Node>, failed: bool) -> Node {
        let hidden = self.quirks.no_time_stamp || (failed && self.quirks.zero_time);
        let time = if hidden { 0 } else { self.clock.seconds() };
        let count = i32::try_from(results.len()).expect("a small batch");
        let header = vec![protocol(version), Node::Time(0x42_0092, time), Node::Int(0x42_000d, count)];
        let header = Node::Struct(0x42_007a, header);
        Node::Struct(0x42_007b, std::iter::once(header).chain(results).collect())
    }
}
