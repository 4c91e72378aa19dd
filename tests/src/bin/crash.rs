//! `crash run`: kills rotations until a number of kills is reached; see `cargo xtask crash`. `crash worker` is the
//! process that is killed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test program"
)]

use std::{
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use kms_tests::{
    crash::{Dice, End, Subject, worker},
    stores::{Store, Which},
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match (runtime, arguments.split_first()) {
        (Ok(runtime), Some((verb, rest))) if verb == "worker" => runtime.block_on(worker(rest)),
        (Ok(_), Some((verb, rest))) if verb == "run" => run(rest),
        (Err(error), _) => Err(error.into()),
        _ => Err(anyhow::anyhow!("usage: crash run KILLS SEED [PROVIDER] | crash worker ...")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Distributes the kills over the providers. Two providers run at a time.
fn run(arguments: &[String]) -> Result<()> {
    let [kills, seed, rest @ ..] = arguments else { bail!("usage: crash run KILLS SEED [PROVIDER]") };
    let (kills, seed): (usize, u64) = (kills.parse()?, seed.parse()?);
    let stores: Vec<Which> =
        Which::ALL.into_iter().filter(|which| rest.is_empty() || rest.contains(&which.to_string())).collect();
    if stores.is_empty() {
        bail!("there is no such provider: {}", rest.join(", "));
    }
    let each = kills.div_ceil(stores.len());
    let begin = Instant::now();
    println!("{each} kills on each of {} providers, seed {seed}", stores.len());
    // Two at a time: a rotation leaves one processor idle while it waits for the KMS.
    let queue = std::sync::Mutex::new(stores.into_iter());
    let total = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            loop {
                let Some(which) = queue.lock().unwrap().next() else { return Ok(()) };
                // The checks of `sweep` read from several threads at once.
                let runtime = tokio::runtime::Runtime::new()?;
                let done = runtime.block_on(sweep(which, each, seed))?;
                total.fetch_add(done, std::sync::atomic::Ordering::Relaxed);
            }
        };
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("a KEK was lost, or a run did not converge: see above"),
        })
    })?;
    let total = total.load(std::sync::atomic::Ordering::Relaxed);
    println!("{total} kills, none lost a KEK, every run converged; {:.0?}", begin.elapsed());
    Ok(())
}

/// Kills rotations on one provider: two of three at announced steps, one of three in the real program at any time.
async fn sweep(which: Which, kills: usize, seed: u64) -> Result<usize> {
    let begin = Instant::now();
    let store = Store::start(which).await.with_context(|| format!("start {which}"))?;
    let own = std::env::current_exe()?;
    let mut subjects = Vec::new();
    for devices in 1..=3 {
        subjects.push(Subject::new(&store, &own, devices).await);
    }
    let mut dice = Dice::new(seed ^ which.to_string().bytes().map(u64::from).sum::<u64>());
    let (mut done, mut at_steps, mut at_any_time) = (0, 0, 0);
    while done < kills {
        for subject in &subjects {
            let steps = 18 + 8 * (subject.devices().len() - 1);
            let killed = subject.round(dice.below(steps), dice.below(steps + 8)).await;
            (done, at_steps) = (done + killed, at_steps + killed);
            if at_any_time * 2 < at_steps {
                let killed = any_time(&store, subject, &mut dice).await;
                (done, at_any_time) = (done + killed, at_any_time + killed);
            }
        }
    }
    println!(
        "{which}: {done} kills, {at_steps} at steps and {at_any_time} of kms at any time; {:.0?}",
        begin.elapsed()
    );
    Ok(done)
}

/// Kills the real program after some milliseconds, and lets the next run finish.
async fn any_time(store: &Store, subject: &Subject<'_>, dice: &mut Dice) -> usize {
    // Without compare-and-set on the server, a write of the killed process may still be in flight. There the grace
    // period covers it.
    let grace = if store.is_atomic() { "0" } else { "500ms" };
    let devices = subject.devices();
    let mut arguments = vec!["rotate", subject.name().as_str()];
    arguments.extend(devices.iter().map(String::as_str));
    arguments.extend(["--grace", grace]);
    let mut child = store
        .kms
        .command(&arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let moment = Duration::from_micros(u64::try_from(dice.below(250_000 * devices.len())).unwrap());
    tokio::time::sleep(moment).await;
    let _gone = child.kill();
    let end = End::of(&child.wait_with_output().unwrap());
    let when = format!("{} devices, kms killed after {moment:?}: {end:?}", devices.len());
    subject.holds(&when).await;
    // A run that finishes an interrupted rotation whose KEK is young creates no new KEK, so only the second run is sure
    // to converge.
    for _ in 0..2 {
        let output = store.kms.command(&arguments).stdin(Stdio::null()).output().unwrap();
        let next = End::of(&output);
        assert_eq!(next, End::Done, "{}: {when}", store.which);
        subject.holds(&when).await;
    }
    subject.converged(&when).await;
    usize::from(end == End::Killed)
}
