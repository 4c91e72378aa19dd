//! The operations of the double.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{Quirks, codec::Node};

const NAMES: [(u32, &str); 5] = [
    (0x42_0053, "Name"),
    (0x42_0004, "Application Specific Information"),
    (0x42_008d, "State"),
    (0x42_0039, "Initial Date"),
    (0x42_0081, "Revocation Reason"),
];

const PRE_ACTIVE: u32 = 1;
const ACTIVE: u32 = 2;
const DEACTIVATED: u32 = 3;
const DESTROYED: u32 = 5;

/// The code of the operation of a request.
pub(super) fn operation(request: &[Node]) -> Option<u32> {
    let item = request.first()?.find(0x42_000f)?;
    u32::try_from(item.number(0x42_005c)?).ok()
}

struct Object {
    uid: String,
    kind: u32,
    format: u32,
    bits: i32,
    material: Vec<u8>,
    names: Vec<String>,
    application: Vec<(String, String)>,
    state: u32,
    /// The code of the reason of a revocation.
    revocation: Option<u32>,
    date: i64,
}

pub(super) struct Engine {
    pub(super) quirks: Quirks,
    objects: Vec<Object>,
    count: u32,
}

/// A result reason and its message.
type Refused = (u32, &'static str);

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

impl Engine {
    pub(super) fn new(quirks: Quirks) -> Self {
        Self { quirks, objects: Vec::new(), count: 0 }
    }

    pub(super) fn count(&self) -> usize {
        self.objects.iter().filter(|object| object.state != DESTROYED).count()
    }

    pub(super) fn insert(
        &mut self,
        material: &[u8],
        format: u32,
        bits: i32,
        names: &[&str],
        application: &[(&str, &str)],
    ) -> String {
        let uid = self.new_uid();
        self.objects.push(Object {
            uid: uid.clone(),
            kind: 2,
            format,
            bits,
            material: material.to_vec(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            application: application.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
            state: self.first_state(),
            revocation: None,
            date: now(),
        });
        uid
    }

    pub(super) fn names(&self, uid: &str) -> Vec<String> {
        self.objects
            .iter()
            .find(|object| object.uid == uid)
            .map(|object| object.names.clone())
            .unwrap_or_default()
    }

    /// Destroys an object, whatever its state. `false` if there is no such object.
    pub(super) fn bury(&mut self, uid: &str) -> bool {
        match self.objects.iter_mut().find(|object| object.uid == uid && object.state != DESTROYED) {
            Some(object) => {
                object.state = DESTROYED;
                object.material.clear();
                true
            }
            None => false,
        }
    }

    pub(super) fn deactivate(&mut self, uid: &str) {
        for object in self.objects.iter_mut().filter(|object| object.uid == uid) {
            object.state = DEACTIVATED;
        }
    }

    fn first_state(&self) -> u32 {
        if self.quirks.born_active { ACTIVE } else { PRE_ACTIVE }
    }

    fn new_uid(&mut self) -> String {
        self.count += 1;
        if self.quirks.uuids {
            // Not in the order of their creation.
            let mixed = self.count.wrapping_mul(0x9e37_79b9);
            format!("{mixed:08x}-1111-4222-8333-{:012x}", self.count)
        } else {
            self.count.to_string()
        }
    }

    pub(super) fn answer(&mut self, request: Option<&[Node]>) -> Node {
        let message = request.and_then(<[Node]>::first);
        let header = message.and_then(|message| message.find(0x42_0077));
        let version = header.and_then(|header| header.find(0x42_0069)).and_then(|version| {
            Some((
                i32::try_from(version.number(0x42_006a)?).ok()?,
                i32::try_from(version.number(0x42_006b)?).ok()?,
            ))
        });
        let item = message.and_then(|message| message.find(0x42_000f));
        let operation = request.and_then(operation);
        let batch_id = item.and_then(|item| item.find(0x42_0093)).cloned();
        let known = version.is_some_and(|(major, minor)| {
            self.quirks.versions.contains(&(major, minor))
                || (self.quirks.lenient_versions
                    && self.quirks.versions.iter().any(|(known, _)| *known == major))
        });
        let result = match (item.and_then(|item| item.find(0x42_0079)), operation, version) {
            (Some(payload), Some(operation), Some(version)) if known => self.act(operation, payload, version),
            _ => Err((0x04, "Error parsing request message.")),
        };
        let mut fields = Vec::new();
        let bare = result.is_err() && (self.quirks.bare_errors || !known);
        if let Some(operation) = operation.filter(|_| !bare) {
            fields.push(Node::Enum(0x42_005c, operation));
        }
        fields.extend(batch_id.filter(|_| !bare));
        let failed = result.is_err();
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
        let spoken = match version {
            Some(version) if known || self.quirks.echo_version => version,
            _ => (1, 0),
        };
        let time = if failed && self.quirks.zero_time { 0 } else { now() };
        Node::Struct(
            0x42_007b,
            vec![
                Node::Struct(
                    0x42_007a,
                    vec![protocol(spoken), Node::Time(0x42_0092, time), Node::Int(0x42_000d, 1)],
                ),
                Node::Struct(0x42_000f, fields),
            ],
        )
    }

    fn act(&mut self, operation: u32, payload: &Node, version: (i32, i32)) -> Result<Vec<Node>, Refused> {
        match operation {
            0x03 => self.register(payload, version),
            0x08 => self.locate(payload),
            0x0a => self.get(payload),
            0x0b => self.attributes(payload, version),
            0x12 => {
                let refused =
                    self.state_reason("The object state is not pre-active and cannot be activated.");
                let object = self.object(payload)?;
                if object.state != PRE_ACTIVE {
                    return Err(refused);
                }
                object.state = ACTIVE;
                Ok(vec![Node::Text(0x42_0094, object.uid.clone())])
            }
            0x13 => {
                if self.quirks.no_revoke {
                    return Err((0x0c, "You may not revoke."));
                }
                let refused = self.state_reason("The object is not active and cannot be revoked.");
                let object = self.object(payload)?;
                if object.state != ACTIVE {
                    return Err(refused);
                }
                object.state = DEACTIVATED;
                let code = payload.find(0x42_0081).and_then(|reason| reason.number(0x42_0082));
                object.revocation = code.and_then(|code| u32::try_from(code).ok());
                Ok(vec![Node::Text(0x42_0094, object.uid.clone())])
            }
            0x0e if !self.quirks.no_modify => self.modify(payload, version),
            0x14 => self.destroy(payload),
            0x18 => Ok([0x03, 0x08, 0x0a, 0x0b, 0x12, 0x13, 0x14, 0x18, 0x1e]
                .map(|operation| Node::Enum(0x42_005c, operation))
                .into_iter()
                .chain([Node::Enum(0x42_0057, 2), Node::Enum(0x42_0057, 7)])
                .chain([Node::Text(0x42_009d, "The double".to_owned())])
                .collect()),
            0x1e if self.quirks.no_discovery || (version == (1, 0) && !self.quirks.discovery_at_1_0) => {
                Err((0x05, "DiscoverVersions is not supported"))
            }
            0x1e => {
                let offered: Vec<_> = payload
                    .nodes()
                    .iter()
                    .map(|node| (node.number(0x42_006a), node.number(0x42_006b)))
                    .collect();
                let is_offered = |(major, minor): &(i32, i32)| {
                    offered.is_empty() || offered.contains(&(Some((*major).into()), Some((*minor).into())))
                };
                Ok(self.quirks.versions.iter().filter(|v| is_offered(v)).map(|v| protocol(*v)).collect())
            }
            _ => Err((0x05, "unknown operation")),
        }
    }

    fn state_reason(&self, words: &'static str) -> Refused {
        (if self.quirks.lifecycle_reason { 0x43 } else { 0x0c }, words)
    }

    fn missing(&self) -> Refused {
        (if self.quirks.later_not_found { 0x37 } else { 0x01 }, "Could not locate object")
    }

    /// The object that the request names, unless it was destroyed.
    fn object(&mut self, payload: &Node) -> Result<&mut Object, Refused> {
        let missing = self.missing();
        let gone = if self.quirks.destroyed_reason { (0x36, "destroyed") } else { missing };
        let uid = payload.words(0x42_0094).ok_or((0x06, "no identifier"))?;
        match self.objects.iter_mut().find(|object| object.uid == uid) {
            Some(object) if object.state == DESTROYED => Err(gone),
            Some(object) => Ok(object),
            None => Err(missing),
        }
    }

    fn register(&mut self, payload: &Node, version: (i32, i32)) -> Result<Vec<Node>, Refused> {
        let kind = payload.number(0x42_0057).ok_or((0x06, "no object type"))?;
        let mut names = Vec::new();
        let mut application = Vec::new();
        for (tag, value) in given(payload, version)? {
            match tag {
                0x42_0053 => names.push(value.words(0x42_0055).unwrap_or_default().to_owned()),
                0x42_0004 if self.quirks.no_application => {
                    return Err((0x0f, "no such application namespace"));
                }
                0x42_0004 => application.push((
                    value.words(0x42_0003).unwrap_or_default().to_owned(),
                    value.words(0x42_0002).unwrap_or_default().to_owned(),
                )),
                _ => {}
            }
        }
        if (names.len() > 1 && self.quirks.one_name) || (!names.is_empty() && self.quirks.no_names) {
            return Err((0x07, "too many names"));
        }
        let taken =
            |name: &String| self.objects.iter().any(|o| o.state != DESTROYED && o.names.contains(name));
        if self.quirks.unique_names && names.iter().any(taken) {
            return Err((0x35, "the name is taken"));
        }
        let object =
            payload.find(0x42_008f).or_else(|| payload.find(0x42_0085)).ok_or((0x06, "no object"))?;
        let block = object.find(0x42_0040).ok_or((0x06, "no key block"))?;
        let format = block.number(0x42_0042).ok_or((0x06, "no format"))?;
        let bits = block.number(0x42_002a);
        let Some(Node::Bytes(_, material)) = block.find(0x42_0045).and_then(|value| value.find(0x42_0043))
        else {
            return Err((0x06, "no key material"));
        };
        if kind == 2 {
            let rooks = format == 2 && bits == Some(256);
            let sound = format == 1 && bits == i64::try_from(material.len() * 8).ok();
            if if self.quirks.only_rooks { !rooks } else { !sound } {
                return Err((0x100, "Operation failed."));
            }
            if self.quirks.longest_key.is_some_and(|longest| material.len() * 8 > longest) {
                return Err((0x3e, "the key is too long"));
            }
        } else if self.quirks.only_rooks {
            return Err((0x07, "The SecretData object type is not supported."));
        }
        let material = material.clone();
        let uid = self.new_uid();
        self.objects.push(Object {
            uid: uid.clone(),
            kind: u32::try_from(kind).unwrap_or_default(),
            format: u32::try_from(format).unwrap_or_default(),
            bits: bits.and_then(|bits| i32::try_from(bits).ok()).unwrap_or_default(),
            material,
            names,
            application,
            state: self.first_state(),
            revocation: None,
            date: now(),
        });
        Ok(vec![Node::Text(0x42_0094, uid)])
    }

    fn locate(&self, payload: &Node) -> Result<Vec<Node>, Refused> {
        let wanted = given(payload, (if payload.find(0x42_0125).is_some() { 2 } else { 1 }, 0))?;
        let fits = |object: &&Object| {
            let seen = object.state != DESTROYED || self.quirks.destroyed_reason;
            seen && (self.quirks.locate_ignores_filter
                || wanted.iter().all(|(tag, value)| match tag {
                    0x42_0053 => {
                        object.names.iter().any(|name| Some(name.as_str()) == value.words(0x42_0055))
                    }
                    0x42_0004 => object.application.iter().any(|(namespace, data)| {
                        Some(namespace.as_str()) == value.words(0x42_0003)
                            && Some(data.as_str()) == value.words(0x42_0002)
                    }),
                    _ => true,
                }))
        };
        let found: Vec<_> = self
            .objects
            .iter()
            .filter(fits)
            .map(|object| Node::Text(0x42_0094, object.uid.clone()))
            .collect();
        if found.is_empty() && self.quirks.locate_not_found {
            return Err(self.missing());
        }
        Ok(found)
    }

    fn get(&mut self, payload: &Node) -> Result<Vec<Node>, Refused> {
        let needs_active = self.quirks.get_needs_active;
        let inactive = self.state_reason("The object is not active.");
        let object = self.object(payload)?;
        if needs_active && object.state == PRE_ACTIVE {
            return Err(inactive);
        }
        let material = Node::Bytes(0x42_0043, object.material.clone());
        let mut block = vec![Node::Enum(0x42_0042, object.format), Node::Struct(0x42_0045, vec![material])];
        let mut outer = Vec::new();
        let tag = if object.kind == 7 {
            outer.push(Node::Enum(0x42_0086, 1));
            0x42_0085
        } else {
            block.push(Node::Enum(0x42_0028, 3));
            block.push(Node::Int(0x42_002a, object.bits));
            0x42_008f
        };
        outer.push(Node::Struct(0x42_0040, block));
        Ok(vec![
            Node::Enum(0x42_0057, object.kind),
            Node::Text(0x42_0094, object.uid.clone()),
            Node::Struct(tag, outer),
        ])
    }

    fn attributes(&mut self, payload: &Node, version: (i32, i32)) -> Result<Vec<Node>, Refused> {
        let keeps = self.quirks.destroyed_reason;
        let missing = self.missing();
        let uid = payload.words(0x42_0094).ok_or((0x06, "no identifier"))?;
        let object = self
            .objects
            .iter()
            .find(|object| object.uid == uid && (keeps || object.state != DESTROYED))
            .ok_or(missing)?;
        let mut values = Vec::new();
        for name in &object.names {
            let value = vec![Node::Text(0x42_0055, name.clone()), Node::Enum(0x42_0054, 1)];
            values.push(Node::Struct(0x42_0053, value));
        }
        for (namespace, data) in &object.application {
            let value = vec![Node::Text(0x42_0003, namespace.clone()), Node::Text(0x42_0002, data.clone())];
            values.push(Node::Struct(0x42_0004, value));
        }
        values.push(Node::Enum(0x42_008d, object.state));
        if let Some(code) = object.revocation {
            values.push(Node::Struct(0x42_0081, vec![Node::Enum(0x42_0082, code)]));
        }
        values.push(Node::Time(0x42_0039, object.date));
        let uid = Node::Text(0x42_0094, object.uid.clone());
        if version.0 >= 2 {
            return Ok(vec![uid, Node::Struct(0x42_0125, values)]);
        }
        let named = values.into_iter().filter_map(|value| {
            let (_, name) = NAMES.iter().find(|(tag, _)| *tag == value.tag())?;
            let value = match value {
                Node::Struct(_, nodes) => Node::Struct(0x42_000b, nodes),
                Node::Enum(_, value) => Node::Enum(0x42_000b, value),
                Node::Time(_, value) => Node::Time(0x42_000b, value),
                _ => return None,
            };
            Some(Node::Struct(0x42_0008, vec![Node::Text(0x42_000a, (*name).to_owned()), value]))
        });
        Ok(std::iter::once(uid).chain(named).collect())
    }

    /// Modify Attribute (KMIP 1.4 §4.15; KMIP 2.0 §6.1.27), for names.
    fn modify(&mut self, payload: &Node, version: (i32, i32)) -> Result<Vec<Node>, Refused> {
        let text = |value: &Node| value.words(0x42_0055).map(str::to_owned).ok_or((0x06, "no name"));
        let (old, at, new) = if version.0 >= 2 {
            if payload.find(0x42_0008).is_some() {
                return Err((0x04, "KMIP 2.0 has no attributes by name"));
            }
            let name = |tag| payload.find(tag).and_then(|holder| holder.find(0x42_0053));
            let old = name(0x42_013c).ok_or((0x06, "the current attribute is needed"))?;
            (Some(text(old)?), 0, text(name(0x42_013d).ok_or((0x06, "no new attribute"))?)?)
        } else {
            let attribute = payload.find(0x42_0008).ok_or((0x06, "no attribute"))?;
            if attribute.words(0x42_000a) != Some("Name") {
                return Err((0x0c, "the attribute is read-only"));
            }
            let at = usize::try_from(attribute.number(0x42_0009).unwrap_or(0)).unwrap_or(usize::MAX);
            (None, at, text(attribute.find(0x42_000b).ok_or((0x06, "no value"))?)?)
        };
        let object = self.object(payload)?;
        let at = match old {
            Some(old) => object.names.iter().position(|name| *name == old).unwrap_or(usize::MAX),
            None => at,
        };
        let name = object.names.get_mut(at).ok_or((0x01, "no matching attribute instance"))?;
        *name = new;
        Ok(vec![Node::Text(0x42_0094, object.uid.clone())])
    }

    fn destroy(&mut self, payload: &Node) -> Result<Vec<Node>, Refused> {
        let twice = self.quirks.destroy_twice;
        let active = self.state_reason("Object is active and cannot be destroyed.");
        let uid = payload.words(0x42_0094).unwrap_or_default().to_owned();
        let is_gone = self.objects.iter().any(|object| object.uid == uid && object.state == DESTROYED);
        if !(twice && is_gone) {
            let object = self.object(payload)?;
            if object.state == ACTIVE {
                return Err(active);
            }
            object.state = DESTROYED;
            object.material.clear();
        }
        Ok(vec![Node::Text(0x42_0094, uid)])
    }
}

fn protocol((major, minor): (i32, i32)) -> Node {
    Node::Struct(0x42_0069, vec![Node::Int(0x42_006a, major), Node::Int(0x42_006b, minor)])
}

/// The attributes of a request by their tags.
fn given(payload: &Node, version: (i32, i32)) -> Result<Vec<(u32, Node)>, Refused> {
    if version.0 >= 2 {
        if payload.find(0x42_0091).is_some() || payload.find(0x42_0008).is_some() {
            return Err((0x04, "there are no template attributes in KMIP 2.0"));
        }
        let attributes = payload.find(0x42_0125).map(Node::nodes).unwrap_or_default();
        return Ok(attributes.iter().map(|node| (node.tag(), node.clone())).collect());
    }
    let holder = payload.find(0x42_0091).unwrap_or(payload);
    let mut found: Vec<(u32, Node)> = Vec::new();
    for attribute in holder.nodes().iter().filter(|node| node.tag() == 0x42_0008) {
        let name = attribute.words(0x42_000a).unwrap_or_default();
        let Some((tag, _)) = NAMES.iter().find(|(_, known)| *known == name) else { continue };
        let before = found.iter().filter(|(known, _)| known == tag).count();
        if before > 0 && attribute.number(0x42_0009) != i64::try_from(before).ok() {
            return Err((0x07, "Attribute index missing from multivalued attribute."));
        }
        found.push((*tag, attribute.find(0x42_000b).cloned().ok_or((0x06, "no value"))?));
    }
    Ok(found)
}
