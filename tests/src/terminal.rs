//! Runs a program on a pseudo-terminal, as a person does.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    process::{Child, Command, Stdio},
};

use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

/// The program of util-linux that gives a process a controlling terminal. Not by its name: tests replace the search path.
const SETSID: &str = "/usr/bin/setsid";

/// A program whose standard error is a terminal.
#[derive(Debug)]
pub struct OnTerminal {
    child: Child,
    /// The side of the person.
    person: File,
    shown: String,
}

impl OnTerminal {
    /// Starts a command with standard error on a new terminal of 100 columns. Standard output is a pipe.
    ///
    /// # Panics
    ///
    /// If the system has no terminal, or if the program does not start.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        let (person, program) = pair();
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(program).spawn();
        // The command holds the program's side too, and the terminal ends when all have closed it.
        drop(command);
        Self { child: child.expect("start the program"), person, shown: String::new() }
    }

    /// Starts a command whose controlling terminal is a new one, on which it may ask. It is standard error as well.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    #[must_use]
    pub fn start_asking(command: &Command) -> Self {
        let (person, program) = pair();
        let mut session = Command::new(SETSID);
        session.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args()).env_clear();
        session.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(folder) = command.get_current_dir() {
            session.current_dir(folder);
        }
        let stdin = program.try_clone().expect("a second descriptor");
        let child = session.stdin(stdin).stdout(Stdio::piped()).stderr(program).spawn();
        drop(session);
        Self { child: child.expect("start the program"), person, shown: String::new() }
    }

    /// Reads what the program shows until it has shown `text`.
    ///
    /// # Panics
    ///
    /// If the program ends before.
    pub fn until(&mut self, text: &str) {
        while !self.shown.contains(text) {
            assert!(self.read(), "the program does not show {text:?}: {}", self.shown);
        }
    }

    /// Types a line.
    ///
    /// # Panics
    ///
    /// If the terminal is closed.
    pub fn type_line(&mut self, line: &str) {
        self.person.write_all(format!("{line}\n").as_bytes()).expect("type");
    }

    /// Waits for the end of the program. Returns its exit code, standard output, and all that the terminal has shown.
    ///
    /// # Panics
    ///
    /// If the program cannot be awaited.
    #[must_use]
    pub fn end(mut self) -> (i32, String, String) {
        while self.read() {}
        let output = self.child.wait_with_output().expect("wait for the program");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code().unwrap_or(-1), stdout, self.shown)
    }

    /// Reads some more. `false` if the program has closed the terminal.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        // Linux reports the end of a terminal as an error.
        let read = self.person.read(&mut bytes).unwrap_or(0);
        self.shown.push_str(&String::from_utf8_lossy(&bytes[..read]));
        read > 0
    }
}

/// A new terminal: the side of the person, and that of the program.
fn pair() -> (File, File) {
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&person).expect("the rights of the terminal");
    unlockpt(&person).expect("unlock the terminal");
    let path = ptsname(&person, Vec::new()).expect("the name of the terminal");
    let options = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let program =
        File::from(rustix::fs::open(path.as_c_str(), options, Mode::empty()).expect("open the terminal"));
    let size = Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&program, size).expect("the size of the terminal");
    (person.into(), program)
}
