//! Get and Get Attributes.

use super::{ATTRIBUTES, DESTROYED, Engine, Object, PRE_ACTIVE, Refused};
use crate::fake::kmip::codec::Node;

impl Engine {
    pub(super) fn get(&mut self, payload: &Node) -> Result<Vec<Node>, Refused> {
        let needs_active = self.quirks.get_needs_active;
        let inactive = self.state_reason("The object is not active.");
        let object = self.object(payload)?;
        if needs_active && object.state == PRE_ACTIVE {
            return Err(inactive);
        }
        let (kind, uid) = (Node::Enum(0x42_0057, object.kind), Node::Text(0x42_0094, object.uid.clone()));
        Ok(vec![kind, uid, material(object)])
    }

    pub(super) fn attributes(&mut self, payload: &Node, version: (i32, i32)) -> Result<Vec<Node>, Refused> {
        let uid = self.identifier(payload)?;
        let keeps = self.quirks.destroyed_reason;
        let object = self
            .objects
            .iter()
            .find(|object| object.uid == uid && (keeps || object.state != DESTROYED))
            .ok_or_else(|| self.missing())?;
        let mut values = Vec::new();
        for name in &object.names {
            let value = vec![Node::Text(0x42_0055, name.clone()), Node::Enum(0x42_0054, 1)];
            values.push(Node::Struct(0x42_0053, value));
        }
        for (namespace, data) in &object.application {
            let value = vec![Node::Text(0x42_0003, namespace.clone()), Node::Text(0x42_0002, data.clone())];
            values.push(Node::Struct(0x42_0004, value));
        }
        values.extend(object.groups.iter().map(|group| Node::Text(0x42_0056, group.clone())));
        if !self.quirks.no_object_type {
            values.push(Node::Enum(0x42_0057, object.kind));
        }
        values.push(Node::Enum(0x42_008d, object.state));
        if let Some(code) = object.revocation {
            values.push(Node::Struct(0x42_0081, vec![Node::Enum(0x42_0082, code)]));
        }
        if !self.quirks.no_initial_date {
            values.push(Node::Time(0x42_0039, object.date));
        }
        let wanted = wanted(payload);
        values.retain(|value| wanted.is_empty() || wanted.contains(&value.tag()));
        let uid = Node::Text(0x42_0094, uid);
        if version.0 >= 2 {
            return Ok(vec![uid, Node::Struct(0x42_0125, values)]);
        }
        let named = values.into_iter().filter_map(|value| {
            let (_, name) = ATTRIBUTES.iter().find(|(tag, _)| *tag == value.tag())?;
            let value = match value {
                Node::Struct(_, nodes) => Node::Struct(0x42_000b, nodes),
                Node::Enum(_, value) => Node::Enum(0x42_000b, value),
                Node::Time(_, value) => Node::Time(0x42_000b, value),
                Node::Text(_, text) => Node::Text(0x42_000b, text),
                _ => return None,
            };
            Some(Node::Struct(0x42_0008, vec![Node::Text(0x42_000a, (*name).to_owned()), value]))
        });
        Ok(std::iter::once(uid).chain(named).collect())
    }
}

/// The tags of the attributes that a request asks for: by Attribute Name before 2.0, by Attribute Reference from then
/// on. Empty if it asks for all.
fn wanted(payload: &Node) -> Vec<u32> {
    let by_name = |name: &str| ATTRIBUTES.iter().find(|(_, known)| *known == name).map_or(0, |(tag, _)| *tag);
    payload
        .nodes()
        .iter()
        .filter_map(|node| match node {
            Node::Text(0x42_000a, name) => Some(by_name(name)),
            Node::Enum(0x42_013b, tag) => Some(*tag),
            Node::Struct(0x42_013b, _) => Some(node.words(0x42_000a).map_or(0, by_name)),
            _ => None,
        })
        .collect()
}

/// The object itself, in the structure of its kind.
fn material(object: &Object) -> Node {
    let material = object.material.clone();
    let keys = [(2, 0x42_008f), (3, 0x42_006d), (4, 0x42_0064), (7, 0x42_0085)];
    let Some((_, tag)) = keys.into_iter().find(|(kind, _)| *kind == object.kind) else {
        return match object.kind {
            1 => Node::Struct(0x42_0013, vec![Node::Enum(0x42_001d, 1), Node::Bytes(0x42_001e, material)]),
            5 => Node::Struct(
                0x42_0089,
                vec![Node::Int(0x42_008b, 3), Node::Int(0x42_0086, 1), Node::Int(0x42_008c, 2)],
            ),
            6 => Node::Struct(0x42_0090, Vec::new()),
            _ => Node::Struct(0x42_005f, vec![Node::Enum(0x42_0059, 1), Node::Bytes(0x42_005a, material)]),
        };
    };
    let value = Node::Struct(0x42_0045, vec![Node::Bytes(0x42_0043, material)]);
    let mut block = vec![Node::Enum(0x42_0042, object.format), value];
    let mut outer = Vec::new();
    if object.kind == 7 {
        outer.push(Node::Enum(0x42_0086, 1));
    } else {
        block.push(Node::Enum(0x42_0028, if object.kind == 2 { 3 } else { 4 }));
        block.push(Node::Int(0x42_002a, object.bits));
    }
    outer.push(Node::Struct(0x42_0040, block));
    Node::Struct(tag, outer)
}
