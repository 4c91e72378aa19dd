//! The objects of the double, and the operations on them.

mod change;
mod locate;
mod message;
mod read;
mod register;

use std::time::Duration;

pub(super) use self::message::operations;
use self::message::protocol;
use super::{
    clock::{Clock, random},
    codec::Node,
    quirks::Quirks,
};

const ATTRIBUTES: [(u32, &str); 7] = [
    (0x42_0053, "Name"),
    (0x42_0004, "Application Specific Information"),
    (0x42_0056, "Object Group"),
    (0x42_0057, "Object Type"),
    (0x42_008d, "State"),
    (0x42_0039, "Initial Date"),
    (0x42_0081, "Revocation Reason"),
];

const PRE_ACTIVE: u32 = 1;
const ACTIVE: u32 = 2;
const DEACTIVATED: u32 = 3;
const DESTROYED: u32 = 5;

#[derive(Default)]
pub(super) struct Object {
    pub(super) uid: String,
    pub(super) kind: u32,
    pub(super) format: u32,
    pub(super) bits: i32,
    pub(super) material: Vec<u8>,
    pub(super) names: Vec<String>,
    pub(super) application: Vec<(String, String)>,
    pub(super) groups: Vec<String>,
    pub(super) state: u32,
    /// The code of the reason of a revocation.
    pub(super) revocation: Option<u32>,
    pub(super) date: i64,
}

pub(super) struct Engine {
    pub(super) quirks: Quirks,
    pub(super) clock: Clock,
    objects: Vec<Object>,
    count: u32,
    /// The identifier that the last item of a batch has left to the next one.
    placeholder: Option<String>,
}

/// A result reason and its message.
type Refused = (u32, &'static str);

impl Engine {
    pub(super) fn new(quirks: Quirks) -> Self {
        let clock = Clock::new(quirks.clock);
        Self { quirks, clock, objects: Vec::new(), count: 0, placeholder: None }
    }

    pub(super) fn count(&self) -> usize {
        self.objects.iter().filter(|object| object.state != DESTROYED).count()
    }

    /// Adds an object with a new identifier, which it returns.
    pub(super) fn add(&mut self, object: Object) -> String {
        let uid = self.new_uid();
        let state = if self.quirks.born_active { ACTIVE } else { PRE_ACTIVE };
        self.objects.push(Object { uid: uid.clone(), state, date: self.clock.seconds(), ..object });
        self.placeholder = Some(uid.clone());
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

    fn new_uid(&mut self) -> String {
        self.count += 1;
        let Quirks { uuids, random_numbers, .. } = self.quirks;
        let (one, two) = (random(), random());
        match (uuids, random_numbers) {
            (true, _) => format!(
                "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
                one >> 32,
                (one >> 16) & 0xffff,
                one & 0xfff,
                two >> 52,
                two & 0xffff_ffff_ffff
            ),
            (false, true) => (one >> 1).to_string(),
            (false, false) => self.count.to_string(),
        }
    }

    /// How long the next Register is late, in real time.
    pub(super) fn lateness(&self) -> Duration {
        let factor = self.quirks.clock.factor();
        let latest = u64::try_from(self.quirks.late_register.as_micros()).unwrap_or(u64::MAX);
        let late = if latest == 0 { 0 } else { random() % latest };
        Duration::from_micros(late.checked_div(factor.into()).unwrap_or_default())
    }

    fn act(&mut self, operation: u32, payload: &Node, version: (i32, i32)) -> Result<Vec<Node>, Refused> {
        match operation {
            0x03 => self.register(payload, version),
            0x08 => self.locate(payload, version),
            0x0a => self.get(payload),
            0x0b => self.attributes(payload, version),
            0x12 => self.activate(payload),
            0x13 => self.revoke(payload),
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

    /// The identifier that the request names, or else the one of the item before.
    fn identifier(&self, payload: &Node) -> Result<String, Refused> {
        let before = || self.placeholder.clone().filter(|_| !self.quirks.no_placeholder);
        payload.words(0x42_0094).map(str::to_owned).or_else(before).ok_or((0x06, "no identifier"))
    }

    /// The object that the request names, unless it was destroyed.
    fn object(&mut self, payload: &Node) -> Result<&mut Object, Refused> {
        let missing = self.missing();
        let gone = if self.quirks.destroyed_reason { (0x36, "destroyed") } else { missing };
        let uid = self.identifier(payload)?;
        match self.objects.iter_mut().find(|object| object.uid == uid) {
            Some(object) if object.state == DESTROYED => Err(gone),
            Some(object) => Ok(object),
            None => Err(missing),
        }
    }
}
