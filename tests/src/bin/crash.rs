//! `crash run`: kills rotations until each class of providers has a number of kills; see `cargo xtask crash`.
//! `crash worker` is the process that is killed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test program"
)]

use std::{
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use kms_testkit::figures;
use kms_tests::{
    crash::{Dice, Kill, Subject, worker},
    stores::{Class, Store, Which},
};
use tokio::runtime::{Handle, Runtime};

const USAGE: &str = "usage: crash run KILLS SEED [PROVIDER] | crash worker ...";

/// How many providers are swept at a time, each with three OSDs: most of the time a rotation waits, for the KMS, for the
/// disk or for a grace period.
const AT_A_TIME: usize = 2;

/// The kills of a round at most, after which a run may finish.
const CHAIN: usize = 4;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match (runtime, arguments.split_first()) {
        (Ok(runtime), Some((verb, rest))) if verb == "worker" => runtime.block_on(worker(rest)),
        (Ok(_), Some((verb, rest))) if verb == "run" => run(rest),
        (Err(error), _) => Err(error.into()),
        _ => Err(anyhow::anyhow!(USAGE)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Kills this number of rotations in each class, in equal parts for the providers of the class.
fn run(arguments: &[String]) -> Result<()> {
    let [kills, seed, rest @ ..] = arguments else { bail!(USAGE) };
    let (kills, seed): (usize, u64) = (kills.parse()?, seed.parse()?);
    let mut stores: Vec<Which> =
        Which::ALL.into_iter().filter(|which| rest.is_empty() || rest.contains(&which.to_string())).collect();
    if stores.is_empty() {
        bail!("there is no such provider: {}", rest.join(", "));
    }
    // The slowest server first, so that it does not run alone at the end.
    stores.sort_by_key(|which| *which != Which::Kmip);
    let begin = Instant::now();
    println!("{kills} kills in each class of providers, seed {seed}");
    let of = |class| stores.iter().filter(move |which| which.class() == class).count();
    let queue = Mutex::new(stores.iter());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            loop {
                let Some(which) = queue.lock().unwrap().next() else { return Ok(()) };
                let killed = sweep(*which, kills.div_ceil(of(which.class())), seed)?;
                done.lock().unwrap().push((which.class(), killed));
            }
        };
        let threads: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("a KEK was lost, or a run did not converge: see above"),
        })
    })?;
    let done = done.into_inner()?;
    for class in Class::ALL.into_iter().filter(|class| done.iter().any(|(of, _)| of == class)) {
        let killed: usize = done.iter().filter(|(of, _)| *of == class).map(|(_, killed)| killed).sum();
        println!("{class}: {killed} kills, none lost a KEK, every run converged");
    }
    println!("{:.0?}", begin.elapsed());
    Ok(())
}

/// The progress of a sweep over one provider.
struct Sweep {
    wanted: usize,
    at_steps: AtomicUsize,
    at_any_time: AtomicUsize,
    /// Whether a condition did not hold, so that the other OSDs can stop.
    failed: AtomicBool,
}

/// Sets a flag if it is dropped by a panic.
struct OnPanic<'a>(&'a AtomicBool);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Kills rotations on one provider, of three OSDs with one to three devices at the same time.
fn sweep(which: Which, wanted: usize, seed: u64) -> Result<usize> {
    let begin = Instant::now();
    // Doubles respond, and checks read, from several threads at once.
    let runtime = Runtime::new()?;
    let own = std::env::current_exe()?;
    let store = runtime.block_on(Store::start(which)).with_context(|| format!("start {which}"))?;
    let sweep = Sweep {
        wanted,
        at_steps: AtomicUsize::new(0),
        at_any_time: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        for devices in 1..=3 {
            let (sweep, store, own, handle) = (&sweep, &store, &own, runtime.handle().clone());
            let seed = seed ^ which.to_string().bytes().chain([devices]).map(u64::from).sum::<u64>();
            scope.spawn(move || {
                let _stop_others = OnPanic(&sweep.failed);
                let subject = handle.block_on(Subject::new(store, own, devices.into()));
                sweep.kill(&subject, &handle, Dice::new(seed));
            });
        }
    });
    if store.class() != which.class() {
        bail!("{which} is in the class {}, and its provider says {}", which.class(), store.class());
    }
    let [at_steps, at_any_time] = [sweep.at_steps, sweep.at_any_time].map(AtomicUsize::into_inner);
    let (killed, took) = (at_steps + at_any_time, begin.elapsed());
    println!(
        "{which}: {killed} kills, {at_steps} at steps and {at_any_time} of kms at any time; {took:.0?}, {:.2} s each",
        took.as_secs_f64() / killed.max(1) as f64
    );
    figures::survived(&format!("a rotation on {which}"), killed);
    Ok(killed)
}

impl Sweep {
    /// Kills rotations of one OSD, in rounds, until the provider has all its kills: two of three rounds at announced
    /// steps, one of three in the program itself at any time.
    fn kill(&self, subject: &Subject<'_>, handle: &Handle, mut dice: Dice) {
        let whole = subject.rotation_takes();
        let steps = 18 + 8 * (subject.devices().len() - 1);
        while self.at_steps.load(Ordering::Relaxed) + self.at_any_time.load(Ordering::Relaxed) < self.wanted {
            if self.failed.load(Ordering::Relaxed) {
                return;
            }
            let at_any_time = dice.below(3) == 0;
            let kills: Vec<Kill> = (0..=dice.below(CHAIN))
                .map(|run| match at_any_time {
                    true => Kill::After(moment(whole, &mut dice)),
                    // A run that finishes another one has more steps.
                    false => Kill::At(dice.below(if run == 0 { steps } else { steps + 8 })),
                })
                .collect();
            let killed = handle.block_on(subject.round(&kills));
            let counter = if at_any_time { &self.at_any_time } else { &self.at_steps };
            counter.fetch_add(killed, Ordering::Relaxed);
        }
    }
}

/// A moment of a rotation that takes `whole`.
fn moment(whole: Duration, dice: &mut Dice) -> Duration {
    whole.mul_f64(dice.below(1_000_000) as f64 / 1e6)
}
