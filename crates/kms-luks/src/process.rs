//! One run of another program: its arguments, descriptors and environment, its time limit, and its output.

use std::{
    ffi::{OsStr, OsString},
    os::{
        fd::{OwnedFd, RawFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use kms_core::{Error, ErrorKind, Kek, Result, Retry};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time::timeout,
};

use crate::key_pipe::{check_new, key_pipe};

/// The most bytes that are kept of the output of a program. The metadata of a LUKS2 header are 4 MiB at most.
const MOST_OUTPUT: usize = 8 << 20;
/// The most bytes that are kept of its messages.
const MOST_MESSAGES: usize = 16 << 10;
/// The most characters of a message in an error.
const MOST_SAID: usize = 200;
/// The longest time for a program to end after an interrupt, and then after a kill.
const GRACE: Duration = Duration::from_secs(5);
/// The first descriptor that a program inherits after standard input, output and error.
const FIRST_FD: i32 = 3;

/// The arguments and the descriptors of a program.
#[derive(Debug)]
pub(crate) struct Call {
    args: Vec<OsString>,
    fds: Vec<OwnedFd>,
    /// Descriptors that the program gets under a number of their own.
    numbered: Vec<FdMapping>,
}

impl Call {
    /// A call of one action with its options.
    pub(crate) fn new<const N: usize>(args: [&str; N]) -> Self {
        Self { args: args.into_iter().map(OsString::from).collect(), fds: Vec::new(), numbered: Vec::new() }
    }

    /// One more argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments.
    pub(crate) fn args(mut self, args: impl IntoIterator<Item = OsString>) -> Self {
        self.args.extend(args);
        self
    }

    /// An argument that names a pipe with this KEK in it.
    pub(crate) fn key(mut self, kek: &Kek) -> Result<Self> {
        let fd = FIRST_FD + i32::try_from(self.fds.len()).unwrap_or(i32::MAX - FIRST_FD);
        self.fds.push(key_pipe(kek)?);
        // Not /dev/fd, which is a link to this that not every container and initramfs has.
        Ok(self.arg(format!("/proc/self/fd/{fd}")))
    }

    /// As [`key`](Self::key), for the KEK of a new slot.
    pub(crate) fn new_key(self, kek: &Kek) -> Result<Self> {
        check_new(kek)?;
        self.key(kek)
    }

    /// Adds a descriptor that stays open as long as the program runs.
    pub(crate) fn inherit(mut self, fd: OwnedFd) -> Self {
        self.fds.push(fd);
        self
    }

    /// Adds a descriptor that the program gets under this number, so that a path may name it. The number must be far above
    /// those of the other descriptors.
    pub(crate) fn inherit_as(mut self, parent_fd: OwnedFd, child_fd: RawFd) -> Self {
        self.numbered.push(FdMapping { parent_fd, child_fd });
        self
    }
}

/// The exit code or the signal of a program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ended {
    Code(i32),
    Signal(i32),
}

/// The end and the output of a program.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    pub(crate) ended: Ended,
    pub(crate) output: Vec<u8>,
    messages: Vec<u8>,
}

impl CommandOutput {
    /// The last line of its messages, without control characters.
    pub(crate) fn said(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.messages);
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
        Some(line.chars().filter(|c| !c.is_control()).take(MOST_SAID).collect())
    }
}

/// The path, the environment and the time limit of a program.
#[derive(Debug)]
pub(crate) struct ProcessEnv<'a> {
    pub(crate) program: &'a Path,
    pub(crate) env: Vec<(&'a OsStr, &'a OsStr)>,
    pub(crate) limit: Duration,
}

/// Runs a program to its end, or ends it with its whole process group at the time limit.
///
/// When the future is dropped, the program continues under the same limit: to end it in the middle of a write would be
/// worse than to wait for it.
pub(crate) async fn run(env: &ProcessEnv<'_>, call: Call) -> Result<CommandOutput> {
    let child = spawn(env, call)?;
    let supervised = tokio::spawn(supervise(child, env.limit));
    supervised.await.map_err(|cause| {
        Error::new(ErrorKind::Unexpected, "the task that waits for cryptsetup ended early").source(cause)
    })?
}

fn spawn(env: &ProcessEnv<'_>, call: Call) -> Result<Child> {
    let Call { args, fds, numbered } = call;
    let mappings =
        fds.into_iter().zip(FIRST_FD..).map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
    let mappings = mappings.chain(numbered);
    let mut command = std::process::Command::new(env.program);
    command
        .args(args)
        .env_clear()
        .envs(env.env.iter().copied())
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let not_run = |cause: std::io::Error| {
        let (kind, what) = match cause.kind() {
            std::io::ErrorKind::NotFound => {
                (ErrorKind::Unsupported, "there is no such program: install cryptsetup 2.4 or newer")
            }
            std::io::ErrorKind::PermissionDenied => {
                (ErrorKind::Unsupported, "there is no permission to run this program")
            }
            _ => (ErrorKind::Unexpected, "the program cannot be run"),
        };
        Error::new(kind, what).context("program", env.program.display().to_string()).source(cause)
    };
    command.fd_mappings(mappings.collect()).map_err(|cause| not_run(std::io::Error::other(cause)))?;
    // Dropping the command at the end of this function closes our side of the pipes.
    Command::from(command).spawn().map_err(not_run)
}

async fn supervise(mut child: Child, limit: Duration) -> Result<CommandOutput> {
    let (output, messages) = (child.stdout.take(), child.stderr.take());
    let ending = async {
        // Read the output before reaping the program: until then the process id, and so the group, belongs to this
        // program.
        let (output, messages) = tokio::join!(read(output, MOST_OUTPUT), read(messages, MOST_MESSAGES));
        (child.wait().await, output, messages)
    };
    let Ok((status, output, messages)) = timeout(limit, ending).await else {
        return Err(stop(child, limit).await);
    };
    let status = status.map_err(|cause| {
        Error::new(ErrorKind::Unexpected, "the exit status of cryptsetup cannot be read").source(cause)
    })?;
    Ok(CommandOutput { ended: ended(status), output, messages })
}

fn ended(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Code(code),
        (None, signal) => Ended::Signal(signal.unwrap_or_default()),
    }
}

/// Reads a stream to its end and keeps its beginning.
async fn read(stream: Option<impl AsyncRead + Unpin>, most: usize) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(stream) = stream else { return kept };
    let mut first = stream.take(u64::try_from(most).unwrap_or(u64::MAX));
    // The caller notices output that could not be read.
    let _ignored = first.read_to_end(&mut kept).await;
    let _ignored = tokio::io::copy(&mut first.into_inner(), &mut tokio::io::sink()).await;
    kept
}

/// Ends a program at its time limit: first by an interrupt, then by a kill.
async fn stop(mut child: Child, limit: Duration) -> Error {
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let signal = |signal| group.map(|group| kill_process_group(group, signal));
    let _ignored = signal(Signal::INT);
    let mut reaped = timeout(limit.min(GRACE), child.wait()).await.is_ok();
    // Kill the group even if the program has ended: a program that it started may still run.
    let _ignored = signal(Signal::KILL);
    if !reaped {
        reaped = timeout(GRACE, child.wait()).await.is_ok();
    }
    let message = if reaped {
        format!("cryptsetup took longer than {limit:?} and was stopped")
    } else {
        format!(
            "cryptsetup took longer than {limit:?} and did not end when killed: it waits in the kernel for the device"
        )
    };
    Error::new(ErrorKind::Timeout, message).retry(Retry::IfIdempotent)
}
