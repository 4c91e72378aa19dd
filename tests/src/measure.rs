//! Measures how long operations and programs take, for `cargo xtask bench`.

use std::{
    future::Future,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};

/// The duration of one turn of a side.
const TURN: Duration = Duration::from_millis(600);

/// What one turn of a side has shown.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Turn {
    /// The number of operations per second.
    pub per_second: f64,
    /// The CPU time of this process for each operation, in microseconds. The server is another process.
    pub cpu_us: f64,
}

/// The CPU time that this process has used so far, in microseconds.
fn cpu_us() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let [user, system] = [usage.user_time(), usage.system_time()].map(|time| time.num_microseconds());
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    let sum = (user + system) as f64;
    Ok(sum)
}

/// Lets `callers` run an operation for one turn. Each caller has its own key, and starts the next operation as soon as it
/// has the response.
pub async fn turn<F>(callers: usize, op: impl Fn(String) -> F + Clone + Send + 'static) -> Result<Turn>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let (begin, cpu) = (Instant::now(), cpu_us()?);
    let caller = |number: usize| {
        let op = op.clone();
        async move {
            let mut done = 0_u32;
            while begin.elapsed() < TURN {
                op(format!("c{number}")).await?;
                done += 1;
            }
            anyhow::Ok(done)
        }
    };
    let tasks: Vec<_> = (0..callers).map(|number| tokio::spawn(caller(number))).collect();
    let mut done = 0;
    for task in tasks {
        done += task.await??;
    }
    let done = f64::from(done);
    Ok(Turn { per_second: done / begin.elapsed().as_secs_f64(), cpu_us: (cpu_us()? - cpu) / done })
}

/// The median; 0 of no values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// The duration of one run in milliseconds.
pub fn time(command: &mut Command) -> Result<f64> {
    let begin = Instant::now();
    let status =
        command.env_clear().stdout(Stdio::null()).status().context("run a program (is curl there?)")?;
    let took = begin.elapsed().as_secs_f64() * 1000.0;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(took)
}

/// The number of operations per second that `callers` complete, each with its share of the names.
pub async fn rate<F>(
    callers: usize,
    names: &[String],
    op: impl Fn(String) -> F + Clone + Send + 'static,
) -> Result<f64>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let begin = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let own: Vec<_> = names.iter().skip(caller).step_by(callers).cloned().collect();
            let op = op.clone();
            tokio::spawn(async move {
                for name in own {
                    op(name).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    let count = names.len() as f64;
    Ok(count / begin.elapsed().as_secs_f64())
}
