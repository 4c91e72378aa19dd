//! A model of rotations beside each other: the real state machine, on devices in memory, through every schedule.
//!
//! After every step it checks that the KEK which the KMS returns opens every device.

mod explore;
mod known_losses;
mod rook;
mod sabotage;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use self::{
    explore::{Actor, Found, GRACE, Run, Scenario, explore},
    rook::Update,
    sabotage::Sabotage,
    world::Class,
};

/// KV version 2, Kubernetes Secrets.
const COMPARE_AND_SET: Class =
    Class { compare_and_set: true, tells_right: true, knows_age: true, ignores_same: false };
/// KMIP with Secrets.
const COMPARE_AND_SET_UNASKED: Class = Class { tells_right: false, ..COMPARE_AND_SET };
/// KV version 1.
const CHECK_THEN_ACT: Class = Class { compare_and_set: false, knows_age: false, ..COMPARE_AND_SET };
/// Key Protect, Key Vault.
const CHECK_THEN_ACT_UNASKED: Class = Class { compare_and_set: false, ..COMPARE_AND_SET_UNASKED };

/// The decision that explains each kind of loss and what protects from it.
const DECISION: &str = include_str!("../../../../../docs/decisions/0008-rotation.md");

const CLASSES: [Class; 4] =
    [COMPARE_AND_SET, COMPARE_AND_SET_UNASKED, CHECK_THEN_ACT, CHECK_THEN_ACT_UNASKED];
const RUNS: [Run; 4] = [Run::AtOnce, Run::Waits, Run::NoWait, Run::Finish];

fn scenario(family: &'static str, class: Class, devices: usize, actors: &[Actor]) -> Scenario {
    Scenario {
        family,
        class,
        devices,
        actors: actors.to_vec(),
        in_turn: false,
        hosts: false,
        faults: 0,
        crashes: 0,
        after_rook: false,
        rotated: false,
        ahead: 0,
        sabotage: None,
    }
}

impl Scenario {
    fn title(&self) -> String {
        let Class { compare_and_set, tells_right, knows_age, ignores_same: _ } = self.class;
        let class = if compare_and_set { "compare-and-set" } else { "check-then-act" };
        let right = if tells_right { "" } else { ", does not tell rights" };
        let age = if knows_age { "" } else { ", does not tell ages" };
        format!("{:?} on {} device(s), {class}{right}{age}", self.actors, self.devices)
    }

    /// The options of the runs of ours.
    fn runs(&self) -> String {
        let runs = self.actors.iter().filter_map(|actor| match actor {
            Actor::Ours(run) => Some(format!("{run:?}")),
            Actor::Rook(_) => None,
        });
        runs.collect::<Vec<_>>().join(", then ")
    }
}

/// All scenarios.
fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for class in CLASSES {
        for devices in 1..=2 {
            for first in [Run::AtOnce, Run::Waits, Run::NoWait] {
                for second in RUNS {
                    let actors = [Actor::Ours(first), Actor::Ours(second)];
                    // The first run meets at most one failed write and at most one crash, so also either alone.
                    let turns = scenario("crash and failed write", class, devices, &actors);
                    all.push(Scenario { in_turn: true, faults: 1, crashes: 1, ..turns });
                    all.push(Scenario { family: "two runs", ..scenario("", class, devices, &actors) });
                }
                // Different options matter, since the grace periods end at different times.
                for second in BTreeSet::from([Run::AtOnce, first]) {
                    let hosts =
                        scenario("two hosts", class, devices, &[Actor::Ours(first), Actor::Ours(second)]);
                    all.push(Scenario { hosts: true, ..hosts });
                }
            }
            // A clock that is ahead makes every KEK look old.
            for first in [Run::Waits, Run::NoWait] {
                for second in RUNS {
                    let actors = [Actor::Ours(first), Actor::Ours(second)];
                    let turns = scenario("a clock that is ahead", class, devices, &actors);
                    all.push(Scenario { in_turn: true, crashes: 1, ahead: 2 * GRACE, ..turns });
                }
            }
            // Rook on each provider: Vault, Kubernetes Secrets, and the providers that Rook cannot update.
            let updates: &[Update] = match (class.compare_and_set, class.tells_right) {
                (true, true) => &[Update::Unconditional, Update::ReadThenSet],
                (false, true) => &[Update::Unconditional],
                _ => &[Update::Refused],
            };
            for update in updates {
                for run in RUNS {
                    let (ours, rook) = (Actor::Ours(run), Actor::Rook(*update));
                    all.push(scenario("Rook", class, devices, &[ours, rook]));
                    for rotated in [false, true] {
                        let after = scenario("after Rook's first write", class, devices, &[ours, rook]);
                        all.push(Scenario { after_rook: true, rotated, ..after });
                    }
                    let killed = scenario("Rook is killed", class, devices, &[rook, ours]);
                    all.push(Scenario { in_turn: true, faults: 1, crashes: 1, ..killed });
                }
            }
        }
    }
    all
}

/// A kind of loss, over all scenarios.
#[derive(Debug)]
struct Loss {
    /// The first of the shortest schedules, after a line that names its scenario.
    shortest: Vec<String>,
    /// The options of the runs of ours that it happens with.
    runs: BTreeSet<String>,
}

/// Explores all scenarios, on all processors.
fn explore_all(scenarios: &[Scenario]) -> Vec<Found> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let number = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(scenario) = scenarios.get(number)
                {
                    let result = explore(scenario);
                    found.lock().unwrap().insert(number, result);
                }
            });
        }
    });
    found.into_inner().unwrap().into_values().collect()
}

#[test]
fn every_schedule_that_loses_a_device_is_in_the_ledger() {
    let begin = Instant::now();
    let scenarios = scenarios();
    let (mut schedules, mut losing, mut states) = (0_u128, 0_u128, 0);
    let mut losses: BTreeMap<String, Loss> = BTreeMap::new();
    for (scenario, found) in scenarios.iter().zip(explore_all(&scenarios)) {
        schedules += found.schedules;
        losing += found.losing;
        states += found.states;
        for (kind, mut steps) in found.kinds {
            steps.insert(0, scenario.title());
            let loss =
                losses.entry(kind).or_insert_with(|| Loss { shortest: steps.clone(), runs: BTreeSet::new() });
            if steps.len() < loss.shortest.len() {
                loss.shortest = steps;
            }
            loss.runs.insert(scenario.runs());
        }
    }
    let mut shown: Vec<_> = losses.iter().collect();
    shown.sort_by_key(|(_, loss)| loss.shortest.len());
    println!("model: {schedules} schedules, {losing} lose a device");
    println!("({} scenarios, {states} states, {:?})", scenarios.len(), begin.elapsed());
    for (kind, Loss { shortest, runs }) in &shown {
        println!("\n{kind}\n  with {runs:?}\n  {}", shortest.join("\n  "));
    }
    assert!(schedules >= 100_000);
    for (kind, Loss { shortest, runs }) in shown {
        let entry = known_losses::LEDGER.iter().find(|entry| entry.kind == kind);
        let entry = entry.unwrap_or_else(|| panic!("this loss is not in the ledger: {kind}"));
        let runs: Vec<&str> = runs.iter().map(String::as_str).collect();
        assert_eq!(entry.shortest.trim(), shortest.join("\n"), "the shortest schedule of {kind}");
        assert_eq!(entry.runs, runs, "the runs of {kind}");
        assert!(!entry.why.is_empty());
        assert!(DECISION.contains(&format!("| {kind} |")), "decision 0008 does not explain: {kind}");
    }
    for entry in known_losses::LEDGER {
        assert!(
            losses.contains_key(entry.kind),
            "no schedule matches this line of the ledger: {}",
            entry.kind
        );
    }
}

/// The model notices a broken engine: each case breaks one thing that the state machine relies on.
#[test]
fn the_model_finds_what_a_broken_engine_loses() {
    let actors = [Actor::Ours(Run::AtOnce), Actor::Ours(Run::AtOnce)];
    let alone = scenario("alone", COMPARE_AND_SET, 1, &actors);
    let alone = Scenario { in_turn: true, faults: 1, crashes: 1, ..alone };
    assert_eq!(explore(&alone).losing, 0);
    for how in [Sabotage::RemovesBeforeStoring, Sabotage::SkipsProofs] {
        let broken = Scenario { sabotage: Some(how), ..alone.clone() };
        assert!(explore(&broken).losing > 0, "{how:?}");
    }
    let class = Class { ignores_same: true, ..COMPARE_AND_SET };
    let actors = vec![Actor::Ours(Run::AtOnce), Actor::Ours(Run::Finish)];
    let fenced = Scenario { actors, ..alone };
    assert_eq!(explore(&fenced).losing, 0);
    assert!(explore(&Scenario { class, ..fenced }).losing > 0, "without a fence");

    // A run on another host uses slot 0 anew while the first one waits to remove its old KEK from there.
    let runs = [Actor::Ours(Run::Waits), Actor::Ours(Run::AtOnce)];
    let beside = Scenario { hosts: true, ..scenario("two hosts", COMPARE_AND_SET, 1, &runs) };
    let broken = Scenario { sabotage: Some(Sabotage::HidesSalts), ..beside.clone() };
    let (with, without) = (explore(&beside).losing, explore(&broken).losing);
    assert!(without > with, "{without} without salts, {with} with");
}
