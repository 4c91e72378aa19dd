//! A virtual machine as a host of OSDs: Debian's kernel with device-mapper in QEMU. The kernel of this machine may lack
//! device-mapper, and a test can cut the power of a virtual machine at any moment.
//!
//! QEMU emulates the processor in software, since the guest crashes in nested KVM.
//! The guest reaches servers on the loopback of this machine at [`HOST`].

mod cpio;
mod disk;
mod initramfs;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use kms_testkit::servers::{
    self,
    process::{self, Scratch, Stop},
    setting, wait,
};
use rustix::process::{Pid, Signal, kill_process_group};

pub use self::{
    disk::{Disk, Loss},
    initramfs::{Initramfs, find_program},
};

/// The address at which the guest reaches the loopback of this machine; the certificates of our servers include it.
pub const HOST: &str = "10.0.2.2";

/// The folder with `vmlinuz`, `busybox` and `modules` that xtask has provisioned.
pub const FOLDER: &str = "KMS_IT_VM";

/// The tree of the image that `cargo xtask image` makes, of the development build.
pub const IMAGE: &str = "KMS_IT_IMAGE";

/// The emulator.
pub const QEMU: &str = "KMS_IT_QEMU";

/// The default time limit of a command in the guest.
const COMMAND: Duration = Duration::from_secs(90);

/// The machine to start.
#[derive(Debug)]
pub struct Boot<'a> {
    initramfs: Initramfs,
    disks: Vec<String>,
    memory: u32,
    folder: &'a Path,
}

impl<'a> Boot<'a> {
    /// Returns a machine that boots this file system. `folder` holds its logs and must outlive it.
    #[must_use]
    pub fn new(initramfs: Initramfs, folder: &'a Path) -> Self {
        Self { initramfs, disks: Vec::new(), memory: 512, folder }
    }

    /// Sets the memory, in MiB. The first file system is there twice while the guest unpacks it.
    #[must_use]
    pub fn memory(mut self, mebibytes: u32) -> Self {
        self.memory = mebibytes;
        self
    }

    /// Adds a disk whose cache is lost with the power: `/dev/vda`, then `/dev/vdb` …
    #[must_use]
    pub fn disk(mut self, disk: &Disk) -> Self {
        self.disks.push(format!("nbd+unix:///?socket={}", disk.socket().display()));
        self
    }

    /// Adds a disk that is a file of this machine.
    #[must_use]
    pub fn image(mut self, path: &Path) -> Self {
        self.disks.push(path.display().to_string());
        self
    }

    /// Starts the machine and waits until it accepts commands.
    ///
    /// # Errors
    ///
    /// If there is no QEMU, or the guest is not ready in time; the message has the end of its console.
    pub fn start(self) -> Result<Machine> {
        let Self { initramfs, disks, memory, folder } = self;
        let (qemu, kernel) = (setting(QEMU)?, setting(FOLDER)?.join("vmlinuz"));
        let (initrd, console) = (folder.join("initrd"), folder.join("console.log"));
        fs::write(&initrd, initramfs.into_bytes()).context("write the first file system")?;
        let mut command = Command::new(qemu);
        command
            .args(["-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", &memory.to_string()])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-nic", "user,model=virtio-net-pci"])
            .args(["-append", "console=ttyS0 quiet loglevel=4 panic=-1"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(&initrd)
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-serial", "stdio"]);
        for disk in disks {
            // The guest sees a cache that it has to flush, and every flush reaches the disk.
            command.arg("-drive").arg(format!("file={disk},format=raw,if=virtio,cache=writeback"));
        }
        // Clears the environment of the caller, proxies included.
        command.env_clear().env("HOME", folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(path) = servers::optional_setting("PATH") {
            command.env("PATH", path);
        }
        let errors = fs::File::create(folder.join("qemu.log")).context("create QEMU's log")?;
        let begin = Instant::now();
        let mut child = process::spawn("QEMU", command.stderr(errors), Stop::Kill)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (send, lines) = mpsc::channel();
        let mut reader = BufReader::new(stdout.context("QEMU has no standard output")?);
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            while matches!(reader.read_until(b'\n', &mut bytes), Ok(1..)) {
                let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                bytes.clear();
                if send.send((begin.elapsed(), text)).is_err() {
                    break;
                }
            }
        });
        let mut machine = Machine {
            child,
            stdin: stdin.context("QEMU has no standard input")?,
            lines,
            log: Vec::new(),
            begin,
            took: Duration::ZERO,
            guest_took: String::new(),
            commands: 0,
            folder: folder.to_owned(),
            running: true,
        };
        let ready = machine.wait_for("the guest to be ready", wait::START, |line| {
            line.text.strip_prefix("@done 0 0 ").map(str::to_owned)
        });
        machine.guest_took = ready?;
        machine.took = begin.elapsed();
        // The guest has unpacked the file, and the file may hold tokens.
        fs::remove_file(&initrd).context("remove the first file system")?;
        Ok(machine)
    }
}

/// A line of output of the guest.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Line {
    /// The time since the machine was switched on.
    pub at: Duration,
    /// The text. Lines of jobs begin with `@NAME `.
    pub text: String,
}

/// The lines of a job in this log, without the job's name.
#[must_use]
pub fn lines_of(log: &[Line], job: &str) -> Vec<Line> {
    let prefix = format!("@{job} ");
    let text = |line: &Line| line.text.strip_prefix(&prefix).map(str::to_owned);
    log.iter().filter_map(|line| Some(Line { at: line.at, text: text(line)? })).collect()
}

/// The result of a command in the guest.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Ran {
    /// The command.
    pub command: String,
    /// The exit code of the command.
    pub code: i32,
    /// Standard output and standard error.
    pub text: String,
}

impl Ran {
    /// Fails unless the command has this exit code.
    ///
    /// # Panics
    ///
    /// If the exit code differs.
    #[must_use]
    #[track_caller]
    pub fn want(self, code: i32) -> Self {
        assert_eq!(self.code, code, "in the guest: {}\n{}", self.command, self.text);
        self
    }

    /// The output as JSON.
    ///
    /// # Panics
    ///
    /// If the output is not JSON.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("in the guest: {}: {error}\n{}", self.command, self.text))
    }
}

/// A running machine. Dropping it cuts its power.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<(Duration, String)>,
    log: Vec<Line>,
    begin: Instant,
    took: Duration,
    guest_took: String,
    commands: u32,
    folder: PathBuf,
    running: bool,
}

impl Machine {
    /// The time until the machine accepted commands, and the guest's clock at that moment, in seconds.
    #[must_use]
    pub fn took(&self) -> (Duration, &str) {
        (self.took, &self.guest_took)
    }

    /// Runs a command line in the guest's shell.
    ///
    /// # Errors
    ///
    /// If the guest does not answer in time, or has ended.
    pub fn run(&mut self, command: &str) -> Result<Ran> {
        self.run_for(command, COMMAND)
    }

    /// Runs a command line with a time limit.
    ///
    /// # Errors
    ///
    /// Those of [`run`](Self::run).
    pub fn run_for(&mut self, command: &str, limit: Duration) -> Result<Ran> {
        if command.contains('\n') {
            bail!("a command is one line: {command}");
        }
        self.commands += 1;
        writeln!(self.stdin, "{} {command}", self.commands).context("give the guest a command")?;
        let done = format!("@done {} ", self.commands);
        let mut text = Vec::new();
        let code = self.wait_for(command, limit, |line| {
            if let Some(code) = line.text.strip_prefix(&done) {
                return Some(code.to_owned());
            }
            if !line.text.starts_with('@') {
                text.push(line.text.clone());
            }
            None
        })?;
        let code = code.parse().with_context(|| format!("{command}: {code} is no exit code"))?;
        Ok(Ran { command: command.to_owned(), code, text: text.join("\n").trim_end().to_owned() })
    }

    /// Starts a command in the background; its lines begin with `@JOB `. No two jobs have the same name.
    ///
    /// # Errors
    ///
    /// Those of [`run`](Self::run).
    pub fn spawn(&mut self, job: &str, command: &str) -> Result<()> {
        let ran = self.run(&format!("job {job} '{}'", command.replace('\'', r"'\''")))?;
        if ran.code != 0 {
            bail!("the guest cannot start {command}: {}", ran.text);
        }
        Ok(())
    }

    /// Waits until the job has written this number of lines, or has ended.
    ///
    /// # Errors
    ///
    /// If neither happens in time, or the guest has ended.
    pub fn follow(&mut self, job: &str, lines: usize, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let written = self.lines_of(job);
            if written.len() >= lines || written.iter().any(|line| line.text.starts_with("exit ")) {
                return Ok(());
            }
            if self.next(end)?.is_none() {
                bail!("waited {limit:?} in vain for line {lines} of {job}\n{}", self.last_words());
            }
        }
    }

    /// Waits until the job ends, and returns its exit code and output.
    ///
    /// # Errors
    ///
    /// Those of [`follow`](Self::follow).
    pub fn finish(&mut self, job: &str, limit: Duration) -> Result<Ran> {
        self.follow(job, usize::MAX, limit)?;
        let mut lines = self.lines_of(job);
        let exit = lines.pop().context("a job that has ended has said so")?.text;
        let code = exit.strip_prefix("exit ").and_then(|code| code.parse().ok());
        let text = lines.into_iter().map(|line| line.text).collect::<Vec<_>>().join("\n");
        let code = code.with_context(|| format!("{job}: {exit:?} is no exit code"))?;
        Ok(Ran { command: job.to_owned(), code, text })
    }

    /// The lines of a job so far, without the job's name.
    #[must_use]
    pub fn lines_of(&self, job: &str) -> Vec<Line> {
        lines_of(&self.log, job)
    }

    /// Waits for a line for which `look` returns a value.
    ///
    /// # Errors
    ///
    /// If no such line arrives in time, or the guest has ended. The message has the guest's last output.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&Line) -> Option<T>,
    ) -> Result<T> {
        let end = Instant::now() + limit;
        loop {
            match self.next(end) {
                Ok(Some(line)) => {
                    if let Some(answer) = look(&line) {
                        return Ok(answer);
                    }
                }
                Ok(None) => bail!("waited {limit:?} in vain for {what}\n{}", self.last_words()),
                Err(error) => return Err(error.context(format!("waiting for {what}"))),
            }
        }
    }

    /// Lets the guest run for this long.
    ///
    /// # Errors
    ///
    /// If the guest ends in that time.
    pub fn go_on_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while self.next(end)?.is_some() {}
        Ok(())
    }

    /// The next line, or `None` if no line arrives until `end`.
    fn next(&mut self, end: Instant) -> Result<Option<Line>> {
        match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok((at, text)) => {
                let line = Line { at, text };
                self.log.push(line.clone());
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the guest has ended\n{}", self.last_words()),
        }
    }

    /// All output so far.
    #[must_use]
    pub fn log(&self) -> &[Line] {
        &self.log
    }

    /// The time since the machine was switched on.
    #[must_use]
    pub fn on_for(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Cuts the power: SIGKILL, so that neither the guest nor QEMU can clean up. Returns the output of the guest.
    pub fn cut(mut self) -> Vec<Line> {
        self.end();
        // Output from before the cut that has not been read yet.
        let rest = self.lines.iter().map(|(at, text)| Line { at, text });
        let mut log = std::mem::take(&mut self.log);
        log.extend(rest);
        log
    }

    /// Shuts the machine down.
    ///
    /// # Errors
    ///
    /// If the guest does not end in time.
    pub fn power_off(mut self) -> Result<()> {
        self.commands += 1;
        writeln!(self.stdin, "{} sync; poweroff -f", self.commands).context("give the guest a command")?;
        let end = Instant::now() + COMMAND;
        while let Ok(line) = self.next(end) {
            if line.is_none() {
                bail!("the guest does not power off\n{}", self.last_words());
            }
        }
        self.end();
        Ok(())
    }

    fn end(&mut self) {
        if !self.running {
            return;
        }
        self.running = false;
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
        process::release(self.child.id());
    }

    /// The last output of the guest, of its console and of QEMU, for error messages.
    fn last_words(&self) -> String {
        let tail = |text: &str| {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(15)..].join("\n")
        };
        let log: Vec<&str> = self.log.iter().map(|line| line.text.as_str()).collect();
        let file = |name: &str| fs::read(self.folder.join(name)).unwrap_or_default();
        format!(
            "last lines:\n{}\nconsole:\n{}\nQEMU:\n{}",
            tail(&log.join("\n")),
            tail(&String::from_utf8_lossy(&file("console.log"))),
            tail(&String::from_utf8_lossy(&file("qemu.log"))),
        )
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

/// The file system of an OSD host: cryptsetup, dmsetup, and the program under test, which the guest knows as `kms`.
///
/// # Errors
///
/// If a part that xtask provisions is missing.
pub fn osd_host(program: &Path) -> Result<Initramfs> {
    let mut initramfs = Initramfs::new(&setting(FOLDER)?)?;
    for name in ["cryptsetup", "dmsetup"] {
        initramfs.program(&find_program(name)?)?;
    }
    // Without symbols, which the guest would keep in its memory. `strip` comes with the linker.
    let folder = Scratch::new()?;
    let stripped = folder.path().join("kms");
    let output = Command::new("strip").arg("-o").arg(&stripped).arg(program).output().context("run strip")?;
    if !output.status.success() {
        bail!("strip: {}", String::from_utf8_lossy(&output.stderr));
    }
    initramfs.program(&stripped)?;
    Ok(initramfs)
}

/// The file system of the image.
///
/// # Errors
///
/// If a part that xtask provisions is missing.
pub fn image() -> Result<Initramfs> {
    Initramfs::of_image(&setting(FOLDER)?, &setting(IMAGE)?)
}

/// Creates a folder for one machine.
///
/// # Errors
///
/// If the folder cannot be created.
pub fn folder() -> Result<Scratch> {
    Scratch::new()
}
