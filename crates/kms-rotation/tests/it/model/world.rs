//! The state that the actors of a schedule share: the KMS, the clock, and a mailbox for each actor.
//!
//! Each access of an actor waits in its mailbox until the explorer lets it pass and decides how it ends. So the
//! explorer decides the order of all accesses, and the code under test runs unchanged.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{self, Write as _},
    future::poll_fn,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    task::Poll,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_util::stream;
use kms_core::{
    Capability, DeleteMode, Error, ErrorKind, Freshness, Guarantee, HistoryMode, Kek, KeyName, KeyStream,
    KeyVersion, KmsProvider, PastKek, Probe, PutMode, Result, Retry, Stored, UpdateRight, provider::Deleted,
};
use kms_rotation::{Observer, Phase, SightStore, Step, Timer, Unchanged};
use tokio::time::Instant;

use crate::memory::{Access, Gate, Verdict};

/// The longest time that a write can be in flight to the KMS, in seconds: an attempt of 20 s, and 90 s in the server.
pub(super) const IN_FLIGHT: u64 = 110;

/// A class of provider.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Class {
    pub(super) compare_and_set: bool,
    /// Whether the KMS can be asked for the right to update. Otherwise a rotation stores the current KEK once more.
    pub(super) tells_right: bool,
    /// Whether the KMS records when a KEK was stored.
    pub(super) knows_age: bool,
    /// Whether the KMS ignores a write of the KEK that it holds, so that no fence stands.
    pub(super) ignores_same: bool,
}

/// An access that waits for the explorer.
#[derive(Clone, Debug, Hash)]
pub(super) enum Op {
    Device(usize, u8, String),
    Get,
    /// A write to the KMS.
    Put,
    Sleep(u64),
}

/// How an access ends.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum End {
    Done,
    /// A write is lost, and its answer is a time-out.
    Lost,
    /// A write is applied, and its answer is a time-out.
    Unanswered,
    /// A write is applied, and its answer is a conflict: the server has answered a repeat of the request.
    Refused,
    /// The answer of a write is a time-out, and the write arrives later.
    Late,
}

#[derive(Debug, Default)]
pub(super) struct Mailbox {
    pub(super) pending: Option<Op>,
    end: Option<End>,
    /// A hash of all that the actor has found: with the code, it determines what the actor does next.
    pub(super) history: u64,
    /// The end of the pause that the actor has announced.
    pub(super) pause_ends: u64,
}

/// A write in flight.
#[derive(Clone, Debug, Hash)]
pub(super) struct Flight {
    pub(super) writer: usize,
    kek: u8,
    /// The version that the write replaces. `None` for an unconditional write.
    expected: Option<u64>,
    pub(super) deadline: u64,
}

#[derive(Debug)]
pub(super) struct World {
    /// Seconds.
    pub(super) now: u64,
    pub(super) kek: u8,
    version: u64,
    updated: u64,
    pub(super) flights: Vec<Flight>,
    pub(super) boxes: Vec<Mailbox>,
    /// The number of each KEK, by its text.
    labels: HashMap<String, u8>,
    pub(super) texts: Vec<String>,
    pub(super) names: Vec<String>,
    /// The actor of the last write that changed which KEK the KMS holds.
    pub(super) last_writer: usize,
    /// When the KMS last returned each KEK, for those that it returned before the present one.
    pub(super) left: BTreeMap<u8, u64>,
    /// What each host keeps from run to run, and since when.
    sights: BTreeMap<(usize, String), (String, u64)>,
}

impl World {
    pub(super) fn new(first: &str, actors: usize) -> Self {
        let mut world = Self {
            now: 100_000,
            kek: 0,
            version: 1,
            updated: 0,
            flights: Vec::new(),
            boxes: (0..actors).map(|_| Mailbox::default()).collect(),
            labels: HashMap::new(),
            texts: Vec::new(),
            names: Vec::new(),
            last_writer: 0,
            left: BTreeMap::new(),
            sights: BTreeMap::new(),
        };
        world.name(first, "K1");
        world
    }

    /// Numbers a KEK that appears for the first time.
    pub(super) fn name(&mut self, text: &str, name: &str) {
        if !self.labels.contains_key(text) {
            self.labels.insert(text.to_owned(), u8::try_from(self.texts.len()).unwrap());
            self.texts.push(text.to_owned());
            self.names.push(name.to_owned());
        }
    }

    pub(super) fn label(&self, text: &str) -> u8 {
        self.labels[text]
    }

    /// The text of the KEK that the KMS holds.
    pub(super) fn current(&self) -> &str {
        &self.texts[usize::from(self.kek)]
    }

    fn apply(&mut self, writer: usize, kek: u8, expected: Option<u64>) -> Result<u64> {
        if expected.is_some_and(|expected| expected != self.version) {
            return Err(Error::new(ErrorKind::Conflict, "the key has changed since it was read"));
        }
        if self.kek != kek {
            self.last_writer = writer;
            self.left.insert(self.kek, self.now);
        }
        self.kek = kek;
        self.version += 1;
        self.updated = self.now;
        Ok(self.version)
    }

    /// Lets a write in flight arrive.
    pub(super) fn deliver(&mut self, flight: usize) -> Flight {
        let flight = self.flights.remove(flight);
        let _refused = self.apply(flight.writer, flight.kek, flight.expected);
        flight
    }

    pub(super) fn hash_kms(&self, hasher: &mut impl Hasher) {
        (self.now, self.kek, self.version, self.updated, &self.flights).hash(hasher);
        self.sights.hash(hasher);
    }

    pub(super) fn answer(&mut self, actor: usize, end: End) {
        self.boxes[actor].pending = None;
        self.boxes[actor].end = Some(end);
    }
}

/// The world as one actor uses it.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) world: Arc<Mutex<World>>,
    pub(super) actor: usize,
    /// The host that the actor runs on.
    pub(super) host: usize,
    pub(super) class: Class,
}

impl Seat {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Waits until the explorer lets an access pass.
    async fn pass(&self, op: Op) -> End {
        self.world().boxes[self.actor].pending = Some(op);
        poll_fn(|_| match self.world().boxes[self.actor].end.take() {
            Some(end) => Poll::Ready(end),
            None => Poll::Pending,
        })
        .await
    }

    fn record(&self, found: &dyn fmt::Debug) {
        struct Text(DefaultHasher);
        impl fmt::Write for Text {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.write(text.as_bytes());
                Ok(())
            }
        }
        let mut world = self.world();
        let mailbox = &mut world.boxes[self.actor];
        let mut text = Text(DefaultHasher::new());
        mailbox.history.hash(&mut text.0);
        write!(text, "{found:?}").unwrap();
        mailbox.history = text.0.finish();
    }

    /// Reads the KEK.
    pub(super) async fn get_text(&self) -> (String, u64, u64) {
        self.pass(Op::Get).await;
        let (found, label) = {
            let world = self.world();
            ((world.current().to_owned(), world.version, world.updated), world.kek)
        };
        self.record(&(label, found.1, found.2));
        found
    }

    /// Writes a KEK in one request.
    pub(super) async fn write(&self, text: &str, expected: Option<u64>) -> Result<u64> {
        let end = self.pass(Op::Put).await;
        let result = {
            let mut world = self.world();
            // Only a broken engine stores a KEK that has no slot.
            world.name(text, "a KEK without a slot");
            let kek = world.label(text);
            let timeout = || Error::new(ErrorKind::Timeout, "no answer").retry(Retry::IfIdempotent);
            match end {
                End::Done => world.apply(self.actor, kek, expected),
                End::Lost => Err(timeout()),
                End::Unanswered => world.apply(self.actor, kek, expected).and(Err(timeout())),
                End::Refused => world
                    .apply(self.actor, kek, expected)
                    .and(Err(Error::new(ErrorKind::Conflict, "the key has changed since it was read"))),
                End::Late => {
                    let deadline = world.now + IN_FLIGHT;
                    world.flights.push(Flight { writer: self.actor, kek, expected, deadline });
                    Err(timeout())
                }
            }
        };
        self.record(&result.as_ref().map_err(Error::kind));
        result
    }
}

#[async_trait]
impl Gate for Seat {
    async fn access(&self, device: usize, access: Access) -> Verdict {
        let slot = match access {
            Access::Add(slot) | Access::Kill(slot) | Access::Look(slot) | Access::Opens(slot) => slot,
            Access::Lock | Access::Table => u8::MAX,
        };
        let timeout =
            || Error::new(ErrorKind::Timeout, "cryptsetup took too long").retry(Retry::IfIdempotent);
        match self.pass(Op::Device(device, slot, format!("{access:?}"))).await {
            End::Done | End::Refused | End::Late => Verdict::Pass,
            End::Lost => Verdict::Fail(timeout()),
            End::Unanswered => Verdict::FailAfter(timeout()),
        }
    }

    fn found(&self, found: &dyn fmt::Debug) {
        self.record(found);
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl KmsProvider for Seat {
    fn provider(&self) -> &'static str {
        "model"
    }

    fn capability(&self) -> Capability {
        let update = if self.class.compare_and_set { Guarantee::Atomic } else { Guarantee::CheckThenAct };
        Capability::full().with_update(update)
    }

    async fn put(&self, _: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        let PutMode::Update(expected) = mode else { panic!("a rotation only updates") };
        let expected: u64 = expected.as_str().parse().unwrap();
        if self.class.ignores_same && self.world().current() == kek.expose_secret_text().unwrap() {
            return Ok(KeyVersion::new((expected + 1).to_string()));
        }
        let version = if self.class.compare_and_set {
            self.write(kek.expose_secret_text().unwrap(), Some(expected)).await?
        } else {
            let (_, version, _) = self.get_text().await;
            if version != expected {
                return Err(Error::new(ErrorKind::Conflict, "the key has changed since it was read"));
            }
            self.write(kek.expose_secret_text().unwrap(), None).await?
        };
        Ok(KeyVersion::new(version.to_string()))
    }

    async fn get(&self, _: &KeyName, _: Freshness) -> Result<Stored> {
        let (text, version, updated) = self.get_text().await;
        let updated = self.class.knows_age.then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(updated));
        Ok(Stored::new(Kek::parse(text)?, KeyVersion::new(version.to_string())).with_times(None, updated))
    }

    async fn delete(&self, _: &KeyName, _: DeleteMode) -> Result<Deleted> {
        panic!("a rotation deletes no key")
    }

    fn list(&self) -> KeyStream<'_> {
        Box::pin(stream::empty())
    }

    async fn undelete(&self, _: &KeyName) -> Result<KeyVersion> {
        panic!("a rotation brings no key back")
    }

    async fn history(&self, _: &KeyName, _: HistoryMode) -> Result<Vec<PastKek>> {
        panic!("a rotation reads no history")
    }

    async fn retire_superseded(&self, _: &KeyName, _: &KeyVersion) -> Result<usize> {
        Ok(0)
    }

    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        let right = if self.class.tells_right { UpdateRight::Granted } else { UpdateRight::Unknown };
        Ok(vec![right; names.len()])
    }

    async fn probe(&self, _: &mut Probe) {}
}

#[async_trait]
impl Timer for Seat {
    fn now(&self) -> Instant {
        moment(self.world().now)
    }

    async fn sleep_until(&self, end: Instant) {
        let end = end.duration_since(moment(0)).as_secs();
        self.pass(Op::Sleep(end)).await;
    }
}

impl SightStore for Seat {
    fn unchanged_for(&self, uuid: &str, sight: &str, grace: Duration) -> Option<Unchanged> {
        let mut world = self.world();
        let now = world.now;
        let kept = world.sights.entry((self.host, uuid.to_owned())).or_default();
        if kept.0 != sight {
            *kept = (sight.to_owned(), now);
        }
        let time = now - kept.1;
        drop(world);
        self.record(&time);
        Some(Unchanged { time: Duration::from_secs(time), grace })
    }
}

/// An instant by the clock of the model.
fn moment(seconds: u64) -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now) + Duration::from_secs(seconds)
}

impl Observer for Seat {
    fn step(&self, _: &KeyName, _: &Step, _: Phase) {}

    fn waiting(&self, _: &KeyName, left: Duration) {
        let mut world = self.world();
        let end = world.now + left.as_secs();
        world.boxes[self.actor].pause_ends = end;
    }
}
