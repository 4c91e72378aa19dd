//! Measures how long operations and programs take, for `cargo xtask bench`.

use std::{
    fs,
    future::Future,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use serde_json::{Value, json};

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

/// The ratio of two sides that took turns, so that noise of the machine met both.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Ratio {
    /// The median of the pairs.
    pub median: f64,
    /// Half of the pairs lie between these.
    pub quartiles: [f64; 2],
}

impl Ratio {
    /// The ratios of the values of each turn.
    pub fn of(ours: &[f64], other: &[f64]) -> Self {
        let mut pairs: Vec<f64> = ours.iter().zip(other).map(|(ours, other)| ours / other).collect();
        pairs.sort_by(f64::total_cmp);
        let at = |quarter: usize| pairs.get(pairs.len() * quarter / 4).copied().unwrap_or_default();
        Self { median: at(2), quartiles: [at(1), at(3)] }
    }
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

/// A number to be shown.
#[expect(clippy::cast_precision_loss, reason = "a figure to be shown")]
pub fn f64_of(number: u64) -> f64 {
    number as f64
}

/// The first argument of a program that measures by running itself.
pub const MEASURE: &str = "measure";

/// The cost of commands, with all their children.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "benchmarks make them")]
pub struct Cost {
    /// The time that passed, in milliseconds.
    pub wall_ms: f64,
    /// The CPU time, in milliseconds.
    pub cpu_ms: f64,
    /// The most memory that one of the processes has had, in KiB.
    pub peak_kib: u64,
}

impl Cost {
    /// The same as JSON.
    #[must_use]
    pub fn json(self) -> Value {
        json!({"wall_ms": self.wall_ms, "cpu_ms": self.cpu_ms, "peak_kib": self.peak_kib})
    }

    /// Prints a row: what was done, milliseconds that passed, milliseconds of CPU, MiB.
    #[expect(clippy::print_stdout, reason = "for people who measure")]
    pub fn show(self, what: &str) {
        let Self { wall_ms, cpu_ms, peak_kib } = self;
        println!("{what:58} {wall_ms:>10.1} {cpu_ms:>10.1} {:>9.1}", f64_of(peak_kib) / 1024.0);
    }
}

/// Runs the commands of a file, and prints their cost. Each line is a command; tabs separate its words.
///
/// A process that does nothing else calls this, so that the kernel counts no other children.
///
/// # Errors
///
/// If a command cannot be run, or fails.
pub fn measured(file: &Path) -> Result<()> {
    let begin = Instant::now();
    for line in fs::read_to_string(file)?.lines() {
        let mut words = line.split('\t');
        let status = Command::new(words.next().unwrap_or_default())
            .args(words)
            .env_clear()
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        if !status.success() {
            bail!("{line}: {status}");
        }
    }
    let wall_ms = begin.elapsed().as_secs_f64() * 1000.0;
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    let cpu_ms = (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1000.0;
    #[expect(clippy::print_stdout, reason = "the parent reads it")]
    {
        println!("{}", json!({"wall_ms": wall_ms, "cpu_ms": cpu_ms, "peak_kib": usage.max_rss()}));
    }
    Ok(())
}

/// The cost of several commands, each given by its words, which run in `folder`. This program runs itself for it, with the
/// argument [`MEASURE`].
///
/// # Errors
///
/// If a command fails.
pub fn cost(folder: &Path, lines: &[Vec<String>]) -> Result<Cost> {
    let file = folder.join("commands");
    let text: Vec<String> = lines.iter().map(|words| words.join("\t")).collect();
    fs::write(&file, text.join("\n"))?;
    let output = Command::new(std::env::current_exe()?)
        .arg(MEASURE)
        .arg(&file)
        .current_dir(folder)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("a command failed: {}", output.status);
    }
    let value: Value = serde_json::from_slice(&output.stdout).context("what was measured")?;
    let number = |name: &str| value[name].as_f64().unwrap_or_default();
    Ok(Cost {
        wall_ms: number("wall_ms"),
        cpu_ms: number("cpu_ms"),
        peak_kib: value["peak_kib"].as_u64().unwrap_or_default(),
    })
}

/// The words of a command that is ready to run.
pub fn words_of(command: &Command) -> Vec<String> {
    let text = |word: &std::ffi::OsStr| word.to_string_lossy().into_owned();
    std::iter::once(command.get_program()).chain(command.get_args()).map(text).collect()
}
