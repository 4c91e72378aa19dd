//! Measures how long operations and programs take, for `cargo xtask bench`.

use std::{
    fs,
    future::Future,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use kms_core::{DeleteMode, Freshness, Kek, KeyName, KmsProvider, PutMode};
use kms_testkit::servers::{self, Kube};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use serde_json::{Value, json};

/// The duration of one turn of a side.
const TURN: Duration = Duration::from_millis(600);

/// Set if a run only tries the benchmarks. Its figures say nothing.
pub const SHORT: &str = "KMS_BENCH_SHORT";

/// The number of turns of each side.
#[must_use]
pub fn turns() -> usize {
    if is_short() { 2 } else { 21 }
}

/// Whether this run only tries the benchmarks.
#[must_use]
pub fn is_short() -> bool {
    servers::optional_setting(SHORT).is_some()
}

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
///
/// Before that, each caller runs the operation once: our clients close idle connections soon, since their buffers may hold
/// keys, and a turn does not count the handshakes for new ones.
pub async fn turn<F>(callers: usize, op: impl Fn(String) -> F + Clone + Send + 'static) -> Result<Turn>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let names: Vec<_> = (0..callers).map(|number| format!("c{number}")).collect();
    rate(callers, &names, op.clone()).await?;
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
    let status = command.stdout(Stdio::null()).status().context("run a program (is curl there?)")?;
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

/// What both sides of a comparison do with each of their keys, in this order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "what every provider can do")]
pub enum Operation {
    /// Stores a KEK under a new name.
    Create,
    /// Reads it.
    Get,
    /// Deletes it for good.
    Delete,
}

impl Operation {
    /// All operations.
    pub const ALL: [Self; 3] = [Self::Create, Self::Get, Self::Delete];

    /// The name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Get => "get",
            Self::Delete => "delete",
        }
    }
}

/// One side of a comparison.
#[async_trait]
pub trait Side: Send + Sync + 'static {
    /// Does an operation on the key of this name.
    ///
    /// # Errors
    ///
    /// If the server refuses it.
    async fn run(&self, operation: Operation, name: String) -> Result<()>;
}

/// A provider, behind the standard layers.
#[derive(Debug)]
pub struct Ours {
    /// The provider.
    pub provider: Arc<dyn KmsProvider>,
    kek: Kek,
}

impl Ours {
    /// The provider, with a KEK that it stores under every name.
    ///
    /// # Errors
    ///
    /// If the system has no random bytes.
    pub fn new(provider: Arc<dyn KmsProvider>) -> Result<Self> {
        Ok(Self { provider, kek: Kek::generate()? })
    }
}

#[async_trait]
impl Side for Ours {
    async fn run(&self, operation: Operation, name: String) -> Result<()> {
        let name: KeyName = name.parse()?;
        match operation {
            Operation::Create => drop(self.provider.put(&name, &self.kek, PutMode::Create).await?),
            Operation::Get => drop(self.provider.get(&name, Freshness::Any).await?),
            Operation::Delete => drop(self.provider.delete(&name, DeleteMode::Destroy).await?),
        }
        Ok(())
    }
}

/// Lets both sides create, read and delete this many keys in turns, by one caller and by 16. Returns the rows of the table, and
/// prints them. `requests` is the number of requests that both send for an operation.
///
/// # Errors
///
/// If an operation fails.
#[expect(clippy::print_stdout, reason = "for people who measure")]
pub async fn compare(
    server: &str,
    keys: usize,
    ours: Arc<dyn Side>,
    bare: Arc<dyn Side>,
    requests: impl Fn(Operation) -> usize,
) -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    for callers in [1, 16] {
        let mut rates = Operation::ALL.map(|operation| (operation, [Vec::new(), Vec::new()]));
        for turn in 0..turns() {
            let mut sides = [(0, &ours), (1, &bare)];
            if turn % 2 == 1 {
                sides.reverse();
            }
            for (number, side) in sides {
                // New names in each turn: some services keep what they know of a deleted key.
                let names: Vec<_> =
                    (0..keys).map(|key| format!("c{callers}-t{turn}-s{number}-k{key}")).collect();
                for (operation, rates) in &mut rates {
                    let (side, operation) = (Arc::clone(side), *operation);
                    let run = move |name| {
                        let side = Arc::clone(&side);
                        async move { side.run(operation, name).await }
                    };
                    let found = rate(callers, &names, run).await?;
                    rates.get_mut(number).context("a side")?.push(found);
                }
            }
        }
        for (operation, [ours, bare]) in rates {
            let Ratio { median: ratio, quartiles, .. } = Ratio::of(&ours, &bare);
            let (rate, limit, requests) = (median(ours), median(bare), requests(operation));
            let operation = operation.name();
            println!(
                "{server:16} {operation:7} {callers:2} callers  {requests} requests  {rate:7.0}/s  bare loop {limit:7.0}/s  \
                 ratio {ratio:.2}"
            );
            rows.push(
                json!({"server": server, "operation": operation, "callers": callers, "requests": requests,
                             "per_second": rate, "bare_per_second": limit, "ratio": ratio, "quartiles": quartiles}),
            );
        }
    }
    Ok(rows)
}

/// The requests about these resources that the API server has answered so far, by its own count, watches aside.
///
/// # Errors
///
/// If the API server does not show its metrics.
pub async fn answered(kube: &Kube, resources: &[&str]) -> Result<f64> {
    let reply = kube.request("GET", "/metrics", Value::Null).await?;
    let text = reply.ok()?;
    let text = text.as_str().context("the metrics are not text")?;
    let counts = text.lines().filter(|line| {
        line.starts_with("apiserver_request_total{")
            && !line.contains("verb=\"WATCH\"")
            && resources.iter().any(|resource| line.contains(&format!("resource=\"{resource}\"")))
    });
    Ok(counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
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
