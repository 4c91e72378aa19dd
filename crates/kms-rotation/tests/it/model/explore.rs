//! A depth-first search through all schedules of a scenario.
//!
//! A schedule is a list of choices: whose access comes next, how it ends, who crashes, which write arrives, when time
//! passes. Futures cannot be copied, so the search reaches a state by running its schedule from the beginning. Two
//! schedules that lead to the same state (devices, KMS, clock, and all that each actor has found) have the same
//! continuations, so these are run once and counted for both.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    hash::{DefaultHasher, Hash, Hasher},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use kms_core::Kek;
use kms_rotation::{Options, Osd, rotate};

use super::{
    rook::{self, Update},
    sabotage::{Broken, Sabotage},
    world::{Class, End, Op, Seat, World},
};
use crate::memory::{Device, Disk};

/// The longest time that an actor takes from one access to the next, in seconds.
const LONGEST_STEP: u64 = 30;
/// The grace period of runs that have one, in seconds. Longer than the least for leftover slots.
pub(super) const GRACE: u64 = 180;

/// The options of our runs.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Run {
    AtOnce,
    Waits,
    NoWait,
    Finish,
}

impl Run {
    fn options(self) -> Options {
        let mut options = Options::default();
        options.grace = Duration::from_secs(if self == Self::AtOnce { 0 } else { GRACE });
        options.wait = self != Self::NoWait;
        options.finish_only = self == Self::Finish;
        options
    }
}

/// The program that rotates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Actor {
    Ours(Run),
    Rook(Update),
}

/// A scenario.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    /// The name of the scenario's family in the ledger.
    pub(super) family: &'static str,
    pub(super) class: Class,
    pub(super) devices: usize,
    pub(super) actors: Vec<Actor>,
    /// Whether each actor begins after the one before it has ended, or at any time.
    pub(super) in_turn: bool,
    /// Whether the runs are on different hosts, and so do not see each other's locks.
    pub(super) hosts: bool,
    /// How many writes to the KMS fail.
    pub(super) faults: u8,
    /// How many runs are killed.
    pub(super) crashes: u8,
    /// Whether runs of ours begin only after Rook has written to a device.
    pub(super) after_rook: bool,
    /// Whether a rotation of ours has been there before, so that the KEK is in slot 1.
    pub(super) rotated: bool,
    /// How far the clocks of our hosts are ahead of that of the KMS, in seconds.
    pub(super) ahead: u64,
    /// The devices as runs of ours see them.
    pub(super) sabotage: Option<Sabotage>,
}

impl Scenario {
    /// Whether a KEK opens the devices for a grace period after it was replaced: all runs are ours and have one.
    fn has_grace(&self) -> bool {
        self.actors.iter().all(|actor| matches!(actor, Actor::Ours(run) if *run != Run::AtOnce))
    }
}

/// A step of a schedule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Choice {
    /// An actor begins.
    Start(usize),
    Step(usize, End),
    Crash(usize),
    Deliver(usize),
    /// Time passes until this second.
    Tick(u64),
}

struct Running {
    name: String,
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    started: bool,
    steps: usize,
    last_step: u64,
}

/// A schedule that is being run.
struct Execution<'a> {
    scenario: &'a Scenario,
    world: Arc<Mutex<World>>,
    devices: Vec<Device>,
    actors: Vec<Running>,
    faults: u8,
    crashes: u8,
    /// Device, KEK and actor of each slot that was removed.
    removed: Vec<(usize, u8, usize)>,
    /// When the last actor ended.
    ended: u64,
    rook_has_written: bool,
    loss: Option<String>,
    log: Option<Vec<String>>,
}

const K1: &str = "the first KEK";

impl<'a> Execution<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let world = Arc::new(Mutex::new(World::new(K1, scenario.actors.len())));
        let first = Kek::parse(K1).unwrap();
        let device = if scenario.rotated { Device::rotated } else { Device::formatted };
        let devices: Vec<Device> = (0..scenario.devices).map(|number| device(number, &first)).collect();
        let actors = scenario.actors.iter().enumerate().map(|(number, actor)| {
            let name = match (actor, number) {
                (Actor::Rook(_), _) => "Rook".to_owned(),
                (Actor::Ours(_), 0) => "ours".to_owned(),
                (Actor::Ours(_), _) => "our next run".to_owned(),
            };
            Running { name, future: None, started: false, steps: 0, last_step: 0 }
        });
        let mut execution = Self {
            scenario,
            actors: actors.collect(),
            world,
            devices,
            faults: scenario.faults,
            crashes: scenario.crashes,
            removed: Vec::new(),
            ended: 0,
            rook_has_written: false,
            loss: None,
            log: None,
        };
        for number in 0..execution.actors.len() {
            if execution.is_due(number) {
                execution.start(number);
            }
        }
        execution
    }

    /// Whether an actor may begin.
    fn is_due(&self, number: usize) -> bool {
        let before = &self.actors[..number];
        let turn =
            !self.scenario.in_turn || before.iter().all(|before| before.started && before.future.is_none());
        let ours = matches!(self.scenario.actors[number], Actor::Ours(_));
        turn && !self.actors[number].started && !(ours && self.scenario.after_rook && !self.rook_has_written)
    }

    /// Starts an actor, up to its first access.
    fn start(&mut self, number: usize) {
        self.actors[number].started = true;
        self.actors[number].future = Some(self.future(number));
        self.poll(number);
    }

    fn future(&self, number: usize) -> Pin<Box<dyn Future<Output = ()>>> {
        let host = if self.scenario.hosts { number } else { 0 };
        let seat = Seat { world: self.world.clone(), actor: number, host, class: self.scenario.class };
        let name = self.actors[number].name.replace(' ', "-");
        let devices: Vec<Device> = self
            .devices
            .iter()
            .map(|device| if self.scenario.hosts && number > 0 { device.elsewhere() } else { device.clone() })
            .map(|device| device.used_by(&name, Arc::new(seat.clone())))
            .collect();
        match self.scenario.actors[number] {
            Actor::Rook(update) => Box::pin(async move {
                let _failed = rook::rotate(seat, devices, update).await;
            }),
            Actor::Ours(run) => {
                let (clock, ahead) = (seat.clone(), self.scenario.ahead);
                let options = run
                    .options()
                    .with_clock(move || {
                        SystemTime::UNIX_EPOCH + Duration::from_secs(clock.world().now + ahead)
                    })
                    .with_timer(Arc::new(seat.clone()))
                    .with_sights(Arc::new(seat.clone()));
                let sabotage = self.scenario.sabotage;
                Box::pin(async move {
                    let name = "osd".parse().unwrap();
                    let osd = match sabotage {
                        None => Osd::new(name, devices).unwrap(),
                        Some(how) => {
                            let broken = devices.into_iter().map(|device| Broken { device, how });
                            Osd::new(name, broken).unwrap()
                        }
                    };
                    let _failed = rotate(&seat, &osd, &options, &seat).await;
                })
            }
        }
    }

    fn poll(&mut self, number: usize) {
        let Some(future) = &mut self.actors[number].future else { return };
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(()) = future.as_mut().poll(&mut context) {
            self.stop(number);
        }
    }

    /// Ends an actor.
    fn stop(&mut self, number: usize) {
        self.actors[number].future = None;
        let mut world = self.world.lock().unwrap();
        world.boxes[number].pending = None;
        self.ended = world.now;
    }

    fn choices(&self) -> Vec<Choice> {
        let mut choices = Vec::new();
        if self.loss.is_some() {
            return choices;
        }
        let world = self.world.lock().unwrap();
        let mut latest = u64::MAX;
        let mut ticks = Vec::new();
        for (number, actor) in self.actors.iter().enumerate() {
            if self.is_due(number) {
                choices.push(Choice::Start(number));
                if self.scenario.in_turn {
                    ticks.extend([self.ended + GRACE / 3, self.ended + GRACE]);
                }
            }
            let Some(op) = &world.boxes[number].pending else { continue };
            if matches!(op, Op::Sleep(_)) {
                let wakes = world.boxes[number].pause_ends;
                ticks.extend([wakes.saturating_sub(LONGEST_STEP), wakes]);
                latest = latest.min(wakes);
            } else {
                choices.push(Choice::Step(number, End::Done));
                if actor.steps > 0 {
                    latest = latest.min(actor.last_step + LONGEST_STEP);
                }
                if self.faults > 0 && matches!(op, Op::Put) {
                    let ends = [End::Lost, End::Unanswered, End::Refused, End::Late];
                    choices.extend(ends.map(|end| Choice::Step(number, end)));
                }
            }
            if self.crashes > 0 && actor.steps > 0 {
                choices.push(Choice::Crash(number));
            }
        }
        for (number, flight) in world.flights.iter().enumerate() {
            choices.push(Choice::Deliver(number));
            latest = latest.min(flight.deadline - 1);
        }
        ticks.retain(|tick| *tick > world.now && *tick <= latest);
        ticks.sort_unstable();
        ticks.dedup();
        choices.extend(ticks.into_iter().map(Choice::Tick));
        choices
    }

    fn apply(&mut self, choice: Choice) {
        let text = self.log.is_some().then(|| self.describe(choice));
        let before: Vec<Disk> = self.devices.iter().map(|device| device.disk().clone()).collect();
        let mut by = 0;
        match choice {
            Choice::Start(number) => self.start(number),
            Choice::Step(number, end) => {
                by = number;
                if end != End::Done {
                    self.faults -= 1;
                }
                {
                    let mut world = self.world.lock().unwrap();
                    world.answer(number, end);
                    self.actors[number].last_step = world.now;
                }
                self.actors[number].steps += 1;
                self.poll(number);
            }
            Choice::Crash(number) => {
                self.crashes -= 1;
                self.stop(number);
            }
            Choice::Deliver(flight) => {
                by = self.world.lock().unwrap().deliver(flight).writer;
            }
            Choice::Tick(target) => self.tick(target),
        }
        self.look(by, &before);
        if let (Some(log), Some(text)) = (&mut self.log, text) {
            log.push(text);
        }
    }

    /// Lets time pass. An actor whose pause is over goes on to its next access.
    fn tick(&mut self, target: u64) {
        loop {
            let next = {
                let world = self.world.lock().unwrap();
                let due =
                    world.boxes.iter().enumerate().filter_map(|(number, mailbox)| match mailbox.pending {
                        Some(Op::Sleep(until)) if until <= target => Some((until, number)),
                        _ => None,
                    });
                due.min()
            };
            let Some((until, number)) = next else { break };
            {
                let mut world = self.world.lock().unwrap();
                world.now = world.now.max(until);
                world.answer(number, End::Done);
                self.actors[number].last_step = world.now;
            }
            self.poll(number);
        }
        let mut world = self.world.lock().unwrap();
        world.now = world.now.max(target);
    }

    /// Checks the devices after a choice: which slots are gone, and whether the KEK of the KMS opens every device.
    fn look(&mut self, by: usize, before: &[Disk]) {
        let mut world = self.world.lock().unwrap();
        for (number, before) in before.iter().enumerate() {
            let disk = self.devices[number].disk();
            self.rook_has_written |=
                disk.slots != before.slots && matches!(self.scenario.actors[by], Actor::Rook(_));
            for (slot, keyslot) in &disk.slots {
                if before.slots.get(slot) != Some(keyslot) {
                    world.name(&keyslot.kek, &format!("the KEK of {}", self.actors[by].name));
                }
            }
            for (slot, keyslot) in &before.slots {
                if disk.slots.get(slot).is_none_or(|now| now.kek != keyslot.kek) {
                    self.removed.push((number, world.label(&keyslot.kek), by));
                }
            }
        }
        let lost = self.devices.iter().position(|device| !device.disk().opens(world.current()));
        let Some(lost) = lost else {
            // An OSD that has fetched a KEK opens its devices with it a moment later.
            let early = world.left.iter().find(|(label, at)| {
                let kek = &world.texts[usize::from(**label)];
                world.now < **at + GRACE && self.devices.iter().any(|device| !device.disk().opens(kek))
            });
            if let Some((label, _)) = early.filter(|_| self.scenario.has_grace()) {
                let (family, by) = (self.scenario.family, &self.actors[by].name);
                let kek = &world.names[usize::from(*label)];
                self.loss = Some(format!("{family}: {by} removes {kek} before the end of its grace period"));
            }
            return;
        };
        let kek = &world.names[usize::from(world.kek)];
        let removers: Vec<&str> = self
            .removed
            .iter()
            .filter(|(device, label, _)| *device == lost && *label == world.kek)
            .map(|(.., actor)| self.actors[*actor].name.as_str())
            .collect();
        let removed_now = before[lost].opens(world.current());
        let family = self.scenario.family;
        self.loss = Some(if removed_now {
            match removers.as_slice() {
                [.., earlier, last] => {
                    format!("{family}: {last} removes {kek} after {earlier} has removed it too")
                }
                [last] => format!("{family}: {last} removes the only slot of {kek}"),
                [] => format!("{family}: a slot of {kek} is gone"),
            }
        } else {
            let writer = &self.actors[world.last_writer].name;
            match removers.last() {
                Some(remover) => format!("{family}: {writer} stores {kek} after {remover} has removed it"),
                None => format!("{family}: {writer} stores {kek}, which has no slot"),
            }
        });
    }

    /// A hash of everything that determines the continuations of the schedule and the name of a loss.
    fn key(&self) -> u128 {
        let mut hashers = [DefaultHasher::new(), DefaultHasher::new()];
        1_u8.hash(&mut hashers[1]);
        let world = self.world.lock().unwrap();
        for hasher in &mut hashers {
            world.hash_kms(hasher);
            for device in &self.devices {
                for (slot, keyslot) in &device.disk().slots {
                    (slot, world.label(&keyslot.kek), &keyslot.salt).hash(hasher);
                }
                u8::MAX.hash(hasher);
            }
            for (number, actor) in self.actors.iter().enumerate() {
                let mailbox = &world.boxes[number];
                let alive = actor.future.is_some();
                (actor.started, alive).hash(hasher);
                if alive {
                    (actor.steps, actor.last_step, mailbox.history, mailbox.pause_ends).hash(hasher);
                    mailbox.pending.hash(hasher);
                }
            }
            (self.faults, self.crashes, world.last_writer, &self.removed, self.rook_has_written).hash(hasher);
            if self.actors.iter().any(|actor| !actor.started) {
                self.ended.hash(hasher);
            }
            if self.scenario.has_grace() {
                for early in world.left.iter().filter(|(_, at)| world.now < **at + GRACE) {
                    early.hash(hasher);
                }
            }
        }
        let [first, second] = hashers;
        (u128::from(first.finish()) << 64) | u128::from(second.finish())
    }

    fn describe(&self, choice: Choice) -> String {
        let world = self.world.lock().unwrap();
        match choice {
            Choice::Start(number) => format!("{} begins", self.actors[number].name),
            Choice::Step(number, end) => {
                let name = &self.actors[number].name;
                let what = match &world.boxes[number].pending {
                    Some(Op::Get) => "reads the KMS".to_owned(),
                    Some(Op::Put) => "stores a KEK".to_owned(),
                    Some(Op::Device(device, _, access)) => format!("device {device}: {access}"),
                    other => format!("{other:?}"),
                };
                match end {
                    End::Done => format!("{name}: {what}"),
                    _ => format!("{name}: {what} ({end:?})"),
                }
            }
            Choice::Crash(number) => format!("{} is killed", self.actors[number].name),
            Choice::Deliver(flight) => {
                format!("a late write of {} arrives", self.actors[world.flights[flight].writer].name)
            }
            Choice::Tick(until) => format!("{} s pass", until - world.now),
        }
    }
}

/// The continuations of a state.
#[derive(Clone, Debug, Default)]
struct Summary {
    schedules: u128,
    losing: u128,
    /// For each kind of loss the length of the shortest schedule, and its first choice.
    kinds: BTreeMap<String, (usize, Option<Choice>)>,
}

/// The result of the search of a scenario.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) schedules: u128,
    pub(super) losing: u128,
    pub(super) states: usize,
    /// The shortest schedule of each kind of loss.
    pub(super) kinds: BTreeMap<String, Vec<String>>,
}

/// Runs all schedules of a scenario.
pub(super) fn explore(scenario: &Scenario) -> Found {
    let mut search = Search { scenario, known: HashMap::new(), prefix: Vec::new() };
    let root = Execution::new(scenario);
    let key = root.key();
    search.visit(root);
    let Summary { schedules, losing, kinds } = search.known[&key].clone();
    let kinds = kinds.into_keys().map(|kind| (kind.clone(), search.shortest(&kind))).collect();
    Found { schedules, losing, states: search.known.len(), kinds }
}

struct Search<'a> {
    scenario: &'a Scenario,
    known: HashMap<u128, Summary>,
    prefix: Vec<Choice>,
}

impl<'a> Search<'a> {
    fn visit(&mut self, execution: Execution<'a>) -> u128 {
        let key = execution.key();
        if self.known.contains_key(&key) {
            return key;
        }
        assert!(self.prefix.len() < 200, "a schedule without an end: {:?}", self.prefix);
        let choices = execution.choices();
        let mut summary = Summary::default();
        if let Some(kind) = &execution.loss {
            summary = Summary { schedules: 1, losing: 1, kinds: [(kind.clone(), (0, None))].into() };
        } else if choices.is_empty() {
            let ended = execution.actors.iter().all(|actor| actor.started && actor.future.is_none());
            assert!(ended, "a schedule that cannot go on: {:?}", self.prefix);
            summary.schedules = 1;
        }
        let mut reached = Some(execution);
        for choice in choices {
            let mut next = reached.take().unwrap_or_else(|| self.replay());
            next.apply(choice);
            self.prefix.push(choice);
            let child = self.visit(next);
            self.prefix.pop();
            let child = &self.known[&child];
            summary.schedules += child.schedules;
            summary.losing += child.losing;
            for (kind, (steps, _)) in &child.kinds {
                let entry = summary.kinds.entry(kind.clone()).or_insert((usize::MAX, None));
                if steps + 1 < entry.0 {
                    *entry = (steps + 1, Some(choice));
                }
            }
        }
        self.known.insert(key, summary);
        key
    }

    fn replay(&self) -> Execution<'a> {
        let mut execution = Execution::new(self.scenario);
        for choice in &self.prefix {
            execution.apply(*choice);
        }
        execution
    }

    /// The shortest schedule that ends with a loss of this kind.
    fn shortest(&self, kind: &str) -> Vec<String> {
        let mut execution = Execution::new(self.scenario);
        execution.log = Some(Vec::new());
        while let Some((_, Some(choice))) = self.known[&execution.key()].kinds.get(kind).copied() {
            execution.apply(choice);
        }
        execution.log.unwrap_or_default()
    }
}
