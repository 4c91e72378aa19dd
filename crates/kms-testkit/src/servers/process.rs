//! Child processes that never outlive the test.
//!
//! A child runs in its own process group, with a clean environment, a log file for its output and a folder for its
//! temporary files, which a killed child cannot remove.
//! It is stopped and reaped when its [`Process`] is dropped, also by a panic. On Ctrl-C or SIGTERM a thread stops all
//! children and exits.
//! SIGKILL leaves no time for that, so each child's id is in the folder [`PIDS`](super::PIDS), and [`sweep`] stops the
//! children that are still alive.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::ErrorKind,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, Once, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpid};

/// The time between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(3);

/// The folder of a child for temporary files, in its own one.
pub const TEMP: &str = "tmp";

/// That folder as a child and its children see it. The absolute path may be too long for a socket (108 bytes, `unix(7)`), which
/// Chromium makes there.
const TEMP_OF_CHILD: &str = "/proc/self/cwd/tmp";

/// Things to remove when this process receives a signal to stop: process groups by id, process groups that are recorded
/// in these folders, and folders.
#[derive(Default)]
struct Belongings {
    groups: BTreeMap<u32, Stop>,
    ids: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

static BELONGINGS: Mutex<Belongings> =
    Mutex::new(Belongings { groups: BTreeMap::new(), ids: Vec::new(), folders: Vec::new() });

/// Set once a signal to stop has arrived.
static STOPPING: AtomicBool = AtomicBool::new(false);

fn belongings<T>(change: impl FnOnce(&mut Belongings) -> T) -> T {
    change(&mut BELONGINGS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A program to start, with its arguments and environment.
#[derive(Debug)]
pub struct Launch {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    folder: PathBuf,
    stop: Stop,
}

/// The way in which a child is stopped on drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// SIGTERM, then SIGKILL after [`GRACE`].
    Gently,
    /// SIGKILL at once, for programs whose data need no orderly shutdown.
    Kill,
}

impl Launch {
    /// Returns a launch of `program` in `folder`; `name` appears in messages and names the log.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, folder: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            folder: folder.into(),
            stop: Stop::Gently,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Adds a variable to the environment, which otherwise has only `PATH`, `HOME` and `TMPDIR`.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the way in which it is stopped.
    #[must_use]
    pub fn stop(mut self, stop: Stop) -> Self {
        self.stop = stop;
        self
    }

    /// Starts the program in its folder, with its output in `NAME.log` and its temporary files in [`TEMP`] there.
    ///
    /// # Errors
    ///
    /// If the log cannot be written or the program cannot be run.
    pub fn start(self) -> Result<Process> {
        let Self { name, program, args, env, folder, stop } = self;
        let log = folder.join(format!("{name}.log"));
        let out = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        fs::create_dir_all(folder.join(TEMP)).context("create the folder for temporary files")?;
        let mut command = Command::new(&program);
        // Without proxies and the settings of the server's own command line.
        command.env_clear().env("HOME", &folder).env("TMPDIR", TEMP_OF_CHILD);
        if let Some(path) = super::optional_setting("PATH") {
            command.env("PATH", path);
        }
        command
            .args(args)
            .envs(env)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(out.try_clone().context("duplicate the log")?)
            .stderr(out);
        let child = spawn(&name, &mut command, stop)?;
        Ok(Process { child, name, log, stop, owned: true })
    }
}

/// Starts `command` in its own process group, which stops with this process.
/// Pair it with [`release`] once the child has been reaped.
///
/// # Errors
///
/// If the program cannot be run.
pub fn spawn(name: &str, command: &mut Command, stop: Stop) -> Result<Child> {
    watch_signals();
    // The lock is held across the start, so that no signal finds a child that is not listed.
    belongings(|ours| {
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name}: {}", command.get_program().display()))?;
        ours.groups.insert(child.id(), stop);
        if let Some(folder) = super::optional_setting(super::PIDS) {
            let started = start_time(child.id()).unwrap_or_default();
            fs::write(folder.join(child.id().to_string()), started).context("note the process id")?;
        }
        Ok(child)
    })
}

/// Forgets a child that was reaped, or that should outlive this process.
///
/// It does not return once a signal to stop has arrived: the signal has ended the child, and the caller would report
/// that as a failure.
pub fn release(pid: u32) {
    while STOPPING.load(Ordering::SeqCst) {
        std::thread::park();
    }
    belongings(|ours| ours.groups.remove(&pid));
    if let Some(folder) = super::optional_setting(super::PIDS) {
        // The folder may be gone already.
        let _ = fs::remove_file(folder.join(pid.to_string()));
    }
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    stop: Stop,
    owned: bool,
}

impl Process {
    /// The process id, which is also the id of the process group.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The output so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map_or_else(|error| error.to_string(), |text| String::from_utf8_lossy(&text).into_owned())
    }

    /// The last lines of the output, for messages.
    #[must_use]
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(8);
        lines.get(from..).unwrap_or_default().join("\n")
    }

    /// The exit status, or `None` while it runs.
    ///
    /// # Errors
    ///
    /// If the kernel does not report it.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("look after {}", self.name))
    }

    /// Kills the child with SIGKILL, like a crash.
    pub fn kill(&mut self) {
        self.end(Stop::Kill);
    }

    /// Stops the child as on drop.
    pub fn stop(&mut self) {
        self.end(self.stop);
    }

    /// Lets the child outlive this process. The caller stops it with [`stop_pid`].
    #[must_use]
    pub fn detach(mut self) -> u32 {
        self.owned = false;
        release(self.pid());
        self.pid()
    }

    fn end(&mut self, how: Stop) {
        if !self.owned {
            return;
        }
        self.owned = false;
        let group = Pid::from_child(&self.child);
        // A child that has exited is reaped here. A signal to an absent group does nothing.
        if how == Stop::Gently && kill_process_group(group, Signal::TERM).is_ok() {
            let end = Instant::now() + GRACE;
            while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
                pause();
            }
        }
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
        release(self.pid());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end(self.stop);
    }
}

/// The pause between two checks of a process that is about to end.
fn pause() {
    #[expect(
        clippy::disallowed_methods,
        reason = "called by drop, which cannot await, while the kernel ends a child"
    )]
    std::thread::sleep(Duration::from_millis(5));
}

/// Stops the process group `pid`, which need not be our child, and waits until it is gone.
pub fn stop_pid(pid: u32) {
    let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    for (signal, limit) in [(Signal::TERM, 2 * GRACE), (Signal::KILL, GRACE)] {
        if kill_process_group(group, signal).is_err() {
            return;
        }
        let end = Instant::now() + limit;
        while Instant::now() < end {
            // Our child stays a zombie until it is reaped.
            let _ = waitpid(Some(group), WaitOptions::NOHANG);
            if !alive(pid) {
                return;
            }
            pause();
        }
    }
}

/// Whether the process group has a running process. The kernel counts zombies as alive, and if the first process of a
/// container is not an init process, our zombies remain.
fn alive(group: u32) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(stat).any(|fields| {
        // Its state is the 3rd field and its process group the 5th.
        let mut fields = fields.split_whitespace();
        fields.next().is_some_and(|state| state != "Z" && state != "X")
            && fields.nth(1).and_then(|field| field.parse().ok()) == Some(group)
    })
}

/// The status of the process `pid` in `/proc`, from the third field on.
fn stat(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything.
    Some(stat.rsplit_once(')')?.1.to_owned())
}

/// The start time of the process `pid` by the kernel's clock, which makes the id unique. `None` if the process has
/// ended, even if it is not reaped.
#[must_use]
pub fn start_time(pid: u32) -> Option<String> {
    // `starttime` is the 22nd field.
    let fields = stat(pid)?;
    let mut fields = fields.split_whitespace();
    fields.next().filter(|state| *state != "Z")?;
    fields.nth(18).map(str::to_owned)
}

/// Stops the processes whose ids are in `folder` (see [`PIDS`](super::PIDS)), unless the id belongs to another process
/// now. Returns their number.
///
/// # Errors
///
/// If the folder cannot be read.
pub fn sweep(folder: &Path) -> Result<usize> {
    let mut stopped = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry.context("read the folder of process ids")?.path();
        let pid = path.file_name().and_then(OsStr::to_str).and_then(|name| name.parse::<u32>().ok());
        let noted = fs::read_to_string(&path).unwrap_or_default();
        if let Some(pid) = pid
            && start_time(pid).is_some_and(|now| now == noted)
        {
            stop_pid(pid);
            stopped += 1;
        }
        let _ = fs::remove_file(&path);
    }
    Ok(stopped)
}

/// Installs the handling of SIGINT and SIGTERM: stop all children, remove the scratch folders and exit with 130.
/// Every function of this module that starts a process calls it.
pub fn watch_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let watch = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                use tokio::signal::unix::{SignalKind, signal};
                let mut interrupt = signal(SignalKind::interrupt())?;
                let mut terminate = signal(SignalKind::terminate())?;
                tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
                Ok(())
            })
        };
        std::thread::spawn(move || {
            let told: std::io::Result<()> = watch();
            if told.is_ok() {
                STOPPING.store(true, Ordering::SeqCst);
                let Belongings { groups, ids, folders } = belongings(std::mem::take);
                // All get their signal before the first wait, so that the waits do not add up.
                for (pid, stop) in &groups {
                    if let Some(group) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                        let signal = if *stop == Stop::Kill { Signal::KILL } else { Signal::TERM };
                        let _ = kill_process_group(group, signal);
                    }
                }
                groups.keys().copied().for_each(stop_pid);
                for folder in ids {
                    let _ = sweep(&folder);
                }
                for folder in folders {
                    let _ = fs::remove_dir_all(folder);
                }
                std::process::exit(130);
            }
        });
    });
}

/// [Sweeps](sweep) `folder` too when a signal to stop arrives.
pub fn sweep_on_exit(folder: &Path) {
    watch_signals();
    belongings(|ours| ours.ids.push(folder.to_owned()));
}

/// A folder that is removed on drop, and when a signal to stop arrives.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    owned: bool,
}

impl Scratch {
    /// Creates a folder below the system's folder for temporary files.
    ///
    /// # Errors
    ///
    /// If the folder cannot be created.
    pub fn new() -> Result<Self> {
        watch_signals();
        let path =
            tempfile::Builder::new().prefix("kms-it-").tempdir().context("make a scratch folder")?.keep();
        belongings(|ours| ours.folders.push(path.clone()));
        Ok(Self { path, owned: true })
    }

    /// Takes the folder `path`, creates it if it is absent, and removes it like a folder of [`new`](Self::new).
    ///
    /// # Errors
    ///
    /// If the folder cannot be created.
    pub fn at(path: impl Into<PathBuf>) -> Result<Self> {
        watch_signals();
        let kept = Self::kept(path)?;
        belongings(|ours| ours.folders.push(kept.path.clone()));
        // A kept folder owns nothing, so its drop does nothing.
        Ok(Self { path: kept.path.clone(), owned: true })
    }

    /// Takes the folder `path`, creates it if it is absent, and keeps it.
    ///
    /// # Errors
    ///
    /// If the folder cannot be created.
    pub fn kept(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { path, owned: false })
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        belongings(|ours| ours.folders.retain(|folder| *folder != self.path));
        // A server that was just killed may have created another file.
        for _ in 0..3 {
            match fs::remove_dir_all(&self.path) {
                Err(error) if error.kind() != ErrorKind::NotFound => pause(),
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &Scratch) -> Process {
        Launch::new("sleeper", "sleep", folder.path()).arg("1000").start().unwrap()
    }

    #[test]
    fn a_child_is_gone_and_reaped_when_it_is_dropped() {
        let folder = Scratch::new().unwrap();
        let child = sleeper(&folder);
        let pid = child.pid();
        assert!(start_time(pid).is_some());
        drop(child);
        assert_eq!(start_time(pid), None);
    }

    #[test]
    fn a_child_is_gone_after_a_panic() {
        let folder = Scratch::new().unwrap();
        let child = sleeper(&folder);
        let pid = child.pid();
        let result = std::thread::spawn(move || {
            let _child = child;
            std::panic::resume_unwind(Box::new(()));
        })
        .join();
        assert!(result.is_err());
        assert_eq!(start_time(pid), None);
    }

    #[test]
    fn a_detached_child_runs_on_and_is_swept_by_its_id_and_start_time() {
        let folder = Scratch::new().unwrap();
        let pid = sleeper(&folder).detach();
        let ids = Scratch::new().unwrap();
        // Another process has this id now.
        fs::write(ids.path().join(pid.to_string()), "1").unwrap();
        assert_eq!(sweep(ids.path()).unwrap(), 0);
        let started = start_time(pid).unwrap();
        fs::write(ids.path().join(pid.to_string()), started).unwrap();
        assert_eq!(sweep(ids.path()).unwrap(), 1);
        assert_eq!(start_time(pid), None);
    }

    #[test]
    fn the_environment_of_a_child_has_only_path_home_and_what_was_given() {
        let folder = Scratch::new().unwrap();
        let mut child = Launch::new("env", "env", folder.path()).env("GIVEN", "1").start().unwrap();
        child.child.wait().unwrap();
        let log = child.log();
        let mut names: Vec<&str> = log.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        names.sort_unstable();
        assert_eq!(names, ["GIVEN", "HOME", "PATH", "TMPDIR"]);
    }

    #[test]
    fn temporary_files_of_a_child_go_with_its_folder() {
        let folder = Scratch::new().unwrap();
        // Longer than a socket's path may be.
        let deep = Scratch::kept(folder.path().join("long".repeat(40))).unwrap();
        let mut child = Launch::new("mktemp", "mktemp", deep.path()).start().unwrap();
        assert!(child.child.wait().unwrap().success(), "{}", child.log());
        let log = child.log();
        let name = log.trim().strip_prefix("/proc/self/cwd/tmp/").unwrap();
        let file = deep.path().join(TEMP).join(name);
        assert!(file.exists());
        assert!(log.len() < 108, "{log}");
        drop((child, folder));
        assert!(!file.exists());
    }

    #[test]
    fn a_scratch_folder_goes_with_its_content() {
        let folder = Scratch::new().unwrap();
        let path = folder.path().to_owned();
        fs::write(path.join("file"), "text").unwrap();
        drop(folder);
        assert!(!path.exists());
    }
}
