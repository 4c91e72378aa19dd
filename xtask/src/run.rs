//! Runs other programs, times steps, and has further common parts of the commands.

use std::{
    future::Future,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use kms_testkit::servers::process::{self, Stop};
use tokio::runtime::Runtime;
use xshell::{Cmd, Shell};

/// The folder of the workspace.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The folder of provisioned programs and of running servers.
pub(crate) fn servers_dir() -> PathBuf {
    root().join("target/servers")
}

/// The prefixes of the variables that `cargo run` sets for this program.
const OF_THIS_PACKAGE: [&str; 2] = ["CARGO_MANIFEST_", "CARGO_PKG_"];

/// Runs `cmd` and shows its output. The command and its children stop with this process.
pub(crate) fn run(cmd: Cmd<'_>) -> Result<()> {
    let text = cmd.to_string();
    eprintln!("$ {text}");
    let mut command = Command::from(cmd);
    // Cargo has set variables that describe this package. The build script of ring depends on them, so a cargo that
    // inherits them builds TLS and HTTP again.
    #[expect(clippy::disallowed_methods, reason = "no other place knows the names of all variables")]
    let variables = std::env::vars_os();
    for (name, _) in variables {
        if OF_THIS_PACKAGE.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    let mut child = process::spawn(&text, &mut command, Stop::Gently)?;
    let status = child.wait();
    process::release(child.id());
    let status = status.with_context(|| format!("wait for {text}"))?;
    if !status.success() {
        bail!("{text}: {status}");
    }
    Ok(())
}

/// Runs `future` on the only runtime of this program, so that connections survive between calls.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    static RUNTIME: LazyLock<std::io::Result<Runtime>> = LazyLock::new(Runtime::new);
    match &*RUNTIME {
        Ok(runtime) => Ok(runtime.block_on(future)),
        Err(error) => bail!("no runtime: {error}"),
    }
}

/// The names of the packages in `crates/`.
pub(crate) fn crates(sh: &Shell) -> Result<Vec<String>> {
    let paths = sh.read_dir("crates")?;
    let mut names: Vec<String> = paths
        .iter()
        .filter(|path| path.join("Cargo.toml").exists())
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// Announces and times steps.
#[derive(Debug)]
pub(crate) struct Steps {
    begin: Instant,
    done: Vec<(String, Duration, bool)>,
    skipped: Vec<(String, String)>,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self { begin: Instant::now(), done: Vec::new(), skipped: Vec::new() }
    }

    /// Runs one step.
    pub(crate) fn step(&mut self, name: &str, step: impl FnOnce() -> Result<()>) -> Result<()> {
        eprintln!("\n=== {name} ({} so far)", clock(self.begin.elapsed()));
        let begin = Instant::now();
        let result = step();
        self.done.push((name.to_owned(), begin.elapsed(), result.is_ok()));
        result.with_context(|| format!("{name} failed"))
    }

    /// Records that this machine cannot run a step, and why.
    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        eprintln!("\n=== {name}: SKIPPED: {why}");
        self.skipped.push((name.to_owned(), why.to_owned()));
    }

    /// Prints the time of each step, and the skipped steps.
    pub(crate) fn print(&self) {
        let names = self.done.iter().map(|(name, ..)| name).chain(self.skipped.iter().map(|(name, _)| name));
        let width = names.map(String::len).max().unwrap_or_default();
        eprintln!();
        for (name, took, ok) in &self.done {
            eprintln!("{name:width$}  {:>8}  {}", clock(*took), if *ok { "ok" } else { "FAILED" });
        }
        for (name, why) in &self.skipped {
            eprintln!("{name:width$}  {:>8}  SKIPPED: {why}", "");
        }
        eprintln!("{:width$}  {:>8}", "in all", clock(self.begin.elapsed()));
        if !self.skipped.is_empty() {
            eprintln!("{} of {} steps skipped", self.skipped.len(), self.skipped.len() + self.done.len());
        }
    }
}

/// Formats a duration for people.
pub(crate) fn clock(took: Duration) -> String {
    let seconds = took.as_secs();
    if seconds < 60 {
        format!("{:.1} s", took.as_secs_f64())
    } else {
        format!("{}:{:02}", seconds / 60, seconds % 60)
    }
}
